"""Heads of files name the dictionary that they need, and dictionaries never change."""

import hashlib
import zlib

import pytest

from bitgolf.base.errors import ArtifactError
from bitgolf.proof import plan_words
from bitgolf.proof.plan_words import DICTIONARIES, deflated_plan, inflated_plan

PLAN = b'{"adapter":{"class":"NoAdapter"},"mixers":[]}'
# The check sum that files hold, and the SHA-256; only new ones may be added.
PINNED = {
    "13771968": "26335ad84bf8deb104912a7feafffbf7bfb4aed7c3de588a612aadf311d0e970"
}  # check sum in files, and SHA-256; only new ones may be added


def test_dictionaries_are_those_that_files_were_written_with():
    found = {f"{zlib.adler32(each):08x}": hashlib.sha256(each).hexdigest() for each in DICTIONARIES}
    assert found == PINNED, "a file needs the very bytes: leave them, and add a further dictionary"


def test_a_plan_comes_back_by_the_dictionary_that_it_names(monkeypatch):
    first = deflated_plan(PLAN)
    assert len(first) < 25 and first[2:6].hex() in PINNED
    assert inflated_plan(zlib.compress(PLAN), 1000, "") == PLAN
    monkeypatch.setattr(plan_words, "DICTIONARIES", (*DICTIONARIES, b"another"))
    second = deflated_plan(PLAN)
    assert first != second and {inflated_plan(each, 1000, "") for each in (first, second)} == {PLAN}


def test_an_unknown_dictionary_and_damage_are_said_in_words(monkeypatch):
    packed = deflated_plan(PLAN)
    monkeypatch.setattr(plan_words, "DICTIONARIES", (b"another",))
    with pytest.raises(ArtifactError, match="x.golf: its plan needs a dictionary .*later one"):
        inflated_plan(packed, 1000, "x.golf")
    with pytest.raises(ArtifactError, match="x.golf: how its model adapted cannot be read"):
        inflated_plan(b"NO STREAM", 1000, "x.golf")
