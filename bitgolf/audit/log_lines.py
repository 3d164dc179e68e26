"""What single lines of a training log say: a score, a size, a step."""

from typing import NamedTuple


class Score(NamedTuple):
    """A line with a score. step: of a score while training; None of one after it. seconds: what it took."""

    line: int
    tag: str
    nats: float
    bits: float
    decimals: int
    step: int | None
    seconds: float | None


class Size(NamedTuple):
    """A line with a size. kind: total, model or code; form: what stands with it, e.g. int6+zstd."""

    line: int
    kind: str
    form: str
    bytes: int


class Step(NamedTuple):
    """A line of training. of: how many are planned, 0 if it does not say. seconds: on the clock; average_ms:
    as the line says, not computed.
    """

    line: int
    step: int
    of: int
    nats: float | None
    seconds: float | None
    average_ms: float | None
    coarse: bool

    @property
    def milliseconds(self) -> float:
        """What a step takes: by the clock, else as the line says; 0 where neither is known."""
        return 1000 * self.seconds / self.step if self.seconds and self.step else self.average_ms or 0.0
