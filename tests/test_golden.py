"""Parity with the public scripts: every case below BITGOLF_GOLDEN (default tests/golden)."""

import importlib
import os
from pathlib import Path

import pytest

from tests.golden_cases import kinds
from tests.golden_cases.case import Case

FOLDER = Path(os.environ.get("BITGOLF_GOLDEN", Path(__file__).parent / "golden"))
CASES = sorted(FOLDER.glob("*.json"))


def test_there_are_cases():
    assert CASES, f"no golden case in {FOLDER}"


def test_our_copies_stay_small():
    sizes = [path.stat().st_size for path in Path(__file__).parent.glob("golden/*")]
    assert sum(sizes) < 4_000_000


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden(path):
    case = Case(path)
    known = [name.stem for name in Path(kinds.__file__).parent.glob("[!_]*.py")]
    assert case.kind in known, f"unknown kind {case.kind!r} in {path.name}"
    importlib.import_module(f"{kinds.__name__}.{case.kind}").check(case)
    assert not case.unused(), f"{path.name}: the handler does not use {', '.join(case.unused())}"
