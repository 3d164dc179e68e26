"""Work beside other work: the same steps and result, its own error, an end when nobody waits for it."""

import threading

import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event, finish
from bitgolf.pipeline.beside import Beside

STEPS = [Event("rivals", done, 3, {}) for done in range(4)]


def counted(ended):
    yield from STEPS
    ended.append("whole")
    return "rows"


def test_the_steps_that_were_taken_meanwhile_come_first_and_the_result_last():
    seen, ended = [], []
    with Beside(counted(ended)) as others:
        assert finish(others.rest(), seen.append) == "rows"
    assert seen == STEPS and ended == ["whole"]


def test_an_error_is_raised_where_the_result_is_asked_for():
    def broken():
        yield STEPS[0]
        raise BitgolfError("no validation text")

    seen = []
    with Beside(broken()) as others, pytest.raises(BitgolfError, match="no validation text"):
        finish(others.rest(), seen.append)
    assert seen == STEPS[:1]


def test_it_ends_at_its_next_step_once_nobody_waits_for_it():
    going, closed = threading.Event(), threading.Event()

    def endless():
        try:
            while True:
                going.wait(10)
                yield STEPS[0]
        finally:
            closed.set()

    with pytest.raises(KeyboardInterrupt), Beside(endless()):
        raise KeyboardInterrupt
    assert not closed.is_set()
    going.set()
    assert closed.wait(10)
