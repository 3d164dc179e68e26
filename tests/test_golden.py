"""Parity with the public scripts: every case below BITGOLF_GOLDEN (default tests/golden)."""

import importlib
import os
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import golden_cases
from tests.golden_cases.case import Case, NotCoveredError

FOLDER = Path(os.environ.get("BITGOLF_GOLDEN", Path(__file__).parent / "golden"))
CASES = [Case(path) for path in sorted(FOLDER.glob("*.json"))]
HANDLERS: dict[str, Callable[[Case], None]] = {}
for found in pkgutil.iter_modules(golden_cases.__path__):
    HANDLERS |= getattr(importlib.import_module(f"{golden_cases.__name__}.{found.name}"), "HANDLERS", {})


def test_there_are_cases():
    assert CASES, f"no golden case in {FOLDER}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden(case):
    assert case.kind in HANDLERS, f"unknown kind {case.kind!r} in {case.path.name}"
    try:
        HANDLERS[case.kind](case)
    except NotCoveredError as technique:
        pytest.skip(f"not yet covered: {technique}")
