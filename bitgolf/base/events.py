"""Where long work stands, and which process says so."""

import os
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

NOTE = "note"  # the stage of an event that is a line for the reader, under the fact of this name
Step = TypeVar("Step")
Changed = TypeVar("Changed")
Value = TypeVar("Value")


class Event(NamedTuple):
    """Where a long piece of work stands: its stage, how much is done of how much, and facts to show."""

    stage: str
    done: float
    total: float
    facts: dict[str, Any]


def is_first_process() -> bool:
    """Whether this process is the one that writes and speaks; known before the world is joined."""
    return os.environ.get("RANK", "0") == "0"


def finish(
    steps: Generator[Step, None, Value], on_step: Callable[[Step], object] = lambda step: None
) -> Value:
    """Drive some work to its end and return its value. on_step: is given each step."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        on_step(step)


def mapped(
    steps: Generator[Step, None, Value], change: Callable[[Step], Changed | None]
) -> Generator[Changed, None, Value]:
    """The same work with other steps; where `change` gives None, there is none."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        if (changed := change(step)) is not None:
            yield changed


def with_progress(
    steps: Generator[tuple[int, int], None, Value], stage: str
) -> Generator[Event, None, Value]:
    """The (done, total) steps of some work as events of a stage."""
    return mapped(steps, lambda step: Event(stage, *step, {}))
