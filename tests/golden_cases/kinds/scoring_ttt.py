"""Test-time training on chunks that were scored: an evaluation that bitgolf does not have yet."""

from tests.golden_cases.case import AdaptationError, Case


def check(case: Case) -> None:
    raise AdaptationError("test-time training on scored chunks")
