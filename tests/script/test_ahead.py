"""Scripts made beside the data: both are there when they are needed, and a failure is the run's own."""

import os
from pathlib import Path

import pytest

from bitgolf.base.events import NOTE, Event
from bitgolf.script import ahead, kept
from bitgolf.script.ahead import Ahead
from bitgolf.script.counted import plainly_packed

READ = Event("read", 0, 1, {})


def make_nothing(recipe, has_first):
    os._exit(1)


def test_a_process_that_fails_keeps_nobody_waiting(recipe, monkeypatch):
    monkeypatch.setattr(ahead, "_make", make_nothing)
    beside = Ahead(recipe)
    assert beside.beside(READ) is READ and beside.beside(READ) is READ
    beside.wait(first=True)
    beside.wait()
    assert not beside.has_first.is_set()


def test_data_that_is_there_begins_no_process(recipe, monkeypatch):
    monkeypatch.setattr(ahead, "_make", lambda *_: 1 / 0)  # which could not even be handed on
    beside = Ahead(recipe)
    beside.beside(Event(NOTE, 1, 1, {}))
    beside.wait(first=True)
    beside.wait()


@pytest.mark.slow
def test_both_scripts_are_kept(recipe, own_cache, monkeypatch):
    (own_cache / "scripts").unlink()
    beside = Ahead(recipe)
    beside.beside(READ)
    beside.wait(first=True)
    assert beside.has_first.is_set()
    beside.wait()
    assert len([*Path(own_cache, "scripts").glob("*.zlib")]) == 2
    monkeypatch.setattr(kept, "flatten", lambda _: 1 / 0)
    kept._minified.cache_clear()
    for each in (recipe, plainly_packed(recipe)):
        assert b"def " in kept.minified(each)
