"""Faults and their legal neighbours as changes of one script, written without a look at the checks."""

import tomllib
from pathlib import Path

import pytest

from bitgolf.audit.audit import audit
from bitgolf.audit.finding import CANNOT_TELL
from bitgolf.audit.rules import rules_named

FOLDER = Path(__file__).parent / "held_back"
SETS = {  # the quickest first
    "fourth.txt": "fourth.toml",
    "fifth_a.txt": "fifth_a.toml",
    "fifth_c.txt": "fifth_c.toml",
    "fifth_b.txt": "fifth_b.toml",
    "script.txt": "plants.toml",
    "second.txt": "second.toml",
    "third.txt": "third.toml",
    "sixth_a.txt": "sixth_a.toml",
    "sixth_b.txt": "sixth_b.toml",
    "sixth_c": "sixth_c.toml",  # a folder, whose script is sixth_a.txt
}
RULES = rules_named()
MISSED = pytest.mark.xfail(reason="not named so far", strict=True)


def changes(kind):
    """Each change of every script, with the script's file; of each row the first that is right is quick."""
    params, seen = [], set()
    for script, listed in SETS.items():
        for change in tomllib.loads((FOLDER / listed).read_text(encoding="utf-8"))[kind]:
            code, missed = change["code"], bool(change.get("missed"))
            marks = [MISSED] * missed + [pytest.mark.slow] * (code in seen)
            params.append(pytest.param(script, change, id=f"{code} {change['name']}", marks=marks))
            seen |= set() if missed else {code}
    return params


def codes(tmp_path, script, change):
    """What is found in the changed script; with files or sizes of zeros beside it, in its folder."""
    base, beside = FOLDER / script, {}
    if base.is_dir():
        beside = {each.name: each.read_text(encoding="utf-8") for each in base.iterdir()}
        base = FOLDER / f"{script[: script.index('_')]}_a.txt"
    texts = beside | {"train_gpt.py": base.read_text(encoding="utf-8")}
    for name, edits in [("train_gpt.py", change["edits"]), *change.get("within", {}).items()]:
        for old, new in edits:
            assert old in texts[name]
            texts[name] = texts[name].replace(old, new)
    texts |= change.get("files", {})
    for name, text in texts.items():
        if text:
            (tmp_path / name).write_text(text, encoding="utf-8")
    for name, size in change.get("sizes", {}).items():
        (tmp_path / name).write_bytes(bytes(size))
    beside = len(texts) > 1 or change.get("sizes")
    found = audit(tmp_path if beside else tmp_path / "train_gpt.py", RULES).findings
    return {each.code for each in found if each.sure != CANNOT_TELL}


@pytest.mark.parametrize("script", SETS)
def test_the_script_itself_is_clean(tmp_path, script):
    assert codes(tmp_path, script, {"edits": []}) == set()


@pytest.mark.parametrize(("script", "change"), changes("plants"))
def test_what_is_named(tmp_path, script, change):
    assert change["code"] in codes(tmp_path, script, change)


@pytest.mark.parametrize(("script", "change"), changes("neighbours"))
def test_what_is_legal(tmp_path, script, change):
    assert codes(tmp_path, script, change) == set()
