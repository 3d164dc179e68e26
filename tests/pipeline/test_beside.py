"""Compressors measured beside a proof: a process that fails or is not needed keeps nobody waiting."""

import os
import time

from bitgolf.base.events import finish
from bitgolf.pipeline import beside


def fail(folder, budget_bytes):
    os._exit(1)


def take_long(folder, budget_bytes):
    time.sleep(600)


def test_what_the_process_cannot_do_is_done_afterwards(dataset, monkeypatch):
    monkeypatch.setattr(beside, "_measure", fail)
    with beside.measuring(dataset.folder, 100_000):
        pass
    rows = finish(beside.stood_beside(dataset, 100_000))["rivals"]
    assert {row["name"] for row in rows} >= {"bzip3 -b 64", "PPMd order 16"}
    assert finish(beside.stood_beside(dataset, 100_000))["rivals"] == rows


def test_it_ends_with_what_it_is_beside(dataset, monkeypatch):
    monkeypatch.setattr(beside, "_measure", take_long)
    started = time.monotonic()
    try:
        with beside.measuring(dataset.folder, 100_000):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert time.monotonic() - started < 60
