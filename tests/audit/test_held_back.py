"""Faults and their legal neighbours as changes of one script, written without a look at the checks."""

import tomllib
from pathlib import Path

import pytest

from bitgolf.audit.audit import audit
from bitgolf.audit.finding import CANNOT_TELL
from bitgolf.audit.rules import rules_named

FOLDER = Path(__file__).parent / "held_back"
SCRIPT = (FOLDER / "script.txt").read_text(encoding="utf-8")
CHANGES = tomllib.loads((FOLDER / "plants.toml").read_text(encoding="utf-8"))
RULES = rules_named()
MISSED = pytest.mark.xfail(reason="not named so far", strict=True)


def named(change):
    marks = [MISSED] if change.get("missed") else []
    return pytest.param(change, id=f"{change['code']} {change['name']}", marks=marks)


def codes(tmp_path, change):
    """What is found in the changed script."""
    text = SCRIPT
    for old, new in change["edits"]:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "train_gpt.py"
    path.write_text(text, encoding="utf-8")
    return {each.code for each in audit(path, RULES).findings if each.sure != CANNOT_TELL}


def test_the_script_itself_is_clean(tmp_path):
    assert codes(tmp_path, {"edits": []}) == set()


@pytest.mark.parametrize("change", [named(each) for each in CHANGES["plants"]])
def test_what_is_named(tmp_path, change):
    assert change["code"] in codes(tmp_path, change)


@pytest.mark.parametrize("change", [named(each) for each in CHANGES["neighbours"]])
def test_what_is_legal(tmp_path, change):
    assert codes(tmp_path, change) == set()
