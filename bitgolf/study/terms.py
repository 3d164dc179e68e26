"""What figures and verdicts are called, and the file that a study leaves behind."""

import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Required

from pydantic import Field
from typing_extensions import TypedDict

from bitgolf.inputs.typed import STRICT, Figure, read_as

BASELINE = "baseline"
TESTS = ("welch", "paired", "sign-flip")  # that a study may declare
METRICS = {
    "bits_per_byte": "bits per byte of the packed model, scored as the recipe says",
    "quantized_bits_per_byte": "bits per byte of the packed model in chunks",
    "float_bits_per_byte": "bits per byte before quantization, averaged weights where there are any",
    "live_bits_per_byte": "bits per byte of the last weights, never averaged",
    "adapted_bits_per_byte": "bits per byte with what learns or is mixed in while it scores",
    "fixed_bits_per_byte": "bits per byte of the packed model on the same windows without that",
    "quantization_gap": "bits per byte that quantization costs, in chunks",
    "artifact_bytes": "bytes of the packed model",
    "total_bytes": "bytes that count towards the budget, code included",
    "train_seconds": "seconds of training",
    "steps": "steps that the training took",
}
IN_BITS = tuple(name for name in METRICS if "bits" in name or name == "quantization_gap")
Verdict = Literal["better", "worse", "equivalent", "no evidence", "invalid", "unfinished"]
VERDICTS: tuple[str, ...] = typing.get_args(Verdict)


def is_study(data: Any) -> bool:
    """Whether what was read from JSON has the parts of a study's result."""
    return isinstance(data, dict) and {"comparisons", "arms"} <= data.keys()


@STRICT
class Compared(TypedDict, total=False):
    """A line of a study's table."""

    name: Required[str]
    kind: Required[str]
    verdict: Required[Verdict]
    against: str | None
    why: str | None
    n: Figure | None
    effect: float | None
    low: float | None
    high: float | None
    p_corrected: float | None
    detectable: float | None


@STRICT
class ChangedPath(TypedDict):
    """A setting that an arm changes, with its value after the change in words."""

    path: str
    after: str


@STRICT
class ArmResult(TypedDict, total=False):
    """An arm, as far as the ledger tells of it."""

    name: Required[str]
    changes: Required[list[ChangedPath]]
    levels: list[str]


@STRICT
class Factor(TypedDict):
    """A factor with its levels, the first of which is the baseline's."""

    name: str
    levels: Annotated[list[str], Field(min_length=1)]


@STRICT
class Scale(TypedDict, total=False):
    """How large the runs were."""

    parameters: Figure | None
    steps: Figure | None
    train_tokens: Figure | None
    data: str | None


@STRICT
class StudyResult(TypedDict, total=False):
    """A study.json, as far as the ledger reads it."""

    study: Required[str]
    metric: Required[str]
    scale: Required[Scale]
    arms: Required[list[ArmResult]]
    comparisons: Required[list[Compared]]
    factors: list[Factor]


def read_study(path: Path) -> StudyResult:
    """A study.json. Raises BitgolfError for another file, naming key and value."""
    return read_as(path, StudyResult, "not the result of a study; write it again with `bitgolf study`")
