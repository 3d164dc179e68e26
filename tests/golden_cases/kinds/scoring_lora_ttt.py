"""Low-rank test-time training for each document: an evaluation that bitgolf does not have yet."""

from tests.golden_cases.case import AdaptationError, Case


def check(case: Case) -> None:
    raise AdaptationError("low-rank test-time training for each document")
