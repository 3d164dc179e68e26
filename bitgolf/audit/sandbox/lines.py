"""What is asked of the sandbox, and what comes out of it: lines of JSON, parsed by type."""

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol, Required

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from bitgolf.inputs.typed import STRICT, Size

SIZES, TINY, UNTRAINED, SHARED = "sizes", "tiny", "untrained", "two processes"
STAGES = (SIZES, TINY, UNTRAINED, SHARED)


class Task(NamedTuple):
    """text: the script. file: what it finds as its own. vocabulary: of its model as written."""

    text: str
    file: str
    seconds: float
    vocabulary: int
    stages: tuple[str, ...] = STAGES


class Report(Protocol):
    """Writes a line: an event, and what is known of it."""

    def __call__(self, event: str, **facts: object) -> None: ...


@STRICT
class Line(TypedDict, total=False):
    """One thing that was seen inside; which keys there are goes by the event."""

    stage: Required[Literal["sizes", "tiny", "untrained", "two processes"]]
    rank: Required[Literal[0, 1]]
    event: Required[str]
    name: str
    ended: str
    why: str
    probe: str
    how: str
    token: int | None
    loss: float
    bits: float | None
    seen: bool
    reloaded: bool
    by_bytes: bool
    saves: Size
    steps: Size
    early: Size
    learnt: Size
    parameters: Size
    layers: Size
    vocabulary: Size
    width: Size


def parsed(output: bytes) -> Iterator[Line]:
    """Lines of the form that is expected; foreign code may have written any."""
    adapter = TypeAdapter(Line)
    for line in output.splitlines():
        try:
            yield adapter.validate_json(line)
        except ValidationError:
            continue
