"""Machine code that is kept is not used when what it was made of has changed, in whichever file."""

import importlib
import os
import sys

import pytest

from bitgolf.base import compiled as module
from bitgolf.base.compiled import Compiled

CONSTANTS = "STEP = {}\n"
INNER = """
from bitgolf.base.compiled import kept_compiled
from kept_constants import STEP
@kept_compiled
def step(x):
    return x + STEP
"""
OUTER = """
from bitgolf.base.compiled import kept_compiled
from kept_inner import step
@kept_compiled
def twice(x):
    return step(step(x))
"""
NAMES = ("kept_constants", "kept_inner", "kept_outer")


def forget():
    for name in NAMES:
        sys.modules.pop(name, None)


def found(folder, value):
    """What kept code gives in a new process, as far as modules go, once the constant is this."""
    (folder / "kept_constants.py").write_text(CONSTANTS.format(value))
    os.utime(folder / "kept_constants.py", (value, value))  # Python's own kept code looks at seconds
    forget()
    importlib.invalidate_caches()
    twice = importlib.import_module("kept_outer").twice
    assert isinstance(twice, Compiled)
    return twice(1), sum(twice.machine_code.stats.cache_hits.values())


@pytest.mark.parametrize("fault", [False, True])
def test_a_changed_constant_of_another_file_is_noticed(tmp_path, monkeypatch, fault):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "kept_inner.py").write_text(INNER)
    (tmp_path / "kept_outer.py").write_text(OUTER)
    if fault:
        monkeypatch.setattr(module, "content_of", lambda function: "the same")
    assert found(tmp_path, 10) == (21, 0)
    assert found(tmp_path, 10) == (21, 1)  # kept
    assert found(tmp_path, 700) == ((21, 1) if fault else (1401, 0))
    forget()
