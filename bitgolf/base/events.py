"""Progress of long work as events, and which process reports them."""

import os
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

NOTE = "note"  # the stage of an event whose fact `note` is a line for the reader
Step = TypeVar("Step")
Changed = TypeVar("Changed")
Value = TypeVar("Value")


class Event(NamedTuple):
    """Progress of a long piece of work: its stage, how much is done of the total, and facts to show."""

    stage: str
    done: float
    total: float
    facts: dict[str, Any]


def is_first_process() -> bool:
    """Whether this process writes files and messages; known before the processes are connected."""
    return os.environ.get("RANK", "0") == "0"


def finish(
    steps: Generator[Step, None, Value], on_step: Callable[[Step], object] = lambda step: None
) -> Value:
    """Run a generator to its end and return its value. on_step: called with each step."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        on_step(step)


def mapped(
    steps: Generator[Step, None, Value], change: Callable[[Step], Changed | None]
) -> Generator[Changed, None, Value]:
    """The same generator with changed steps; a step that `change` maps to None is skipped."""
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
