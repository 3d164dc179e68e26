"""The result of a run: the figures of result.json, and data for the report that is in no file."""

import math
from typing import Any, NamedTuple, TypedDict

import numpy as np

from bitgolf.run.packer import Packing
from bitgolf.score.score import Scores


class RunResult(TypedDict, total=False):
    """result.json. Of a run that ends early only what was known by then.

    status: ok, over budget, diverged or crash. variants: a score each, the last one is the run's. ledger: a
    line with its bytes for everything that counts. What stands after `environment` is added by the report.
    """

    status: str
    error: str
    trace: str
    recipe: str
    recipe_identity: str
    seed: int
    dtype: str
    parameters: int
    budget_bytes: int
    train_seconds: float
    steps: int
    train_tokens: int
    tokens_per_second: float
    dataset: str
    data: dict[str, Any]
    bits_per_byte: float
    nats_per_token: float
    tokens: int
    text_bytes: int
    lossy: str
    warning: str
    windows: str
    query_positions: dict[str, float]
    position_warning: str
    evaluation_seconds: float
    evaluation_verdict: str
    artifact_bytes: int
    total_bytes: int
    code_bytes: int
    variants: list[dict[str, Any]]
    ledger: list[list[Any]]
    quantization: list[dict[str, Any]]
    rules: Any
    seconds: dict[str, float]
    environment: dict[str, Any]
    sha256: dict[str, str]
    gap: float
    gap_error: float | None
    kl_gap: float
    kl_gap_error: float
    predicted_gap: float | None
    alarms: int
    sample: str
    rivals: list[dict[str, Any]]
    public_models: list[dict[str, Any]]
    run: str
    report: str
    public_variables: dict[str, str]
    resumed: str
    overfitting: str
    proof: dict[str, Any]
    chosen: list[str]
    continued_from: str


class Sums(NamedTuple):
    """Scores by sequence: bits that were spent, bytes and tokens of text."""

    bits: np.ndarray
    bytes: np.ndarray
    tokens: np.ndarray


def by_sequence(scores: Scores) -> Sums:
    """The sums of windows that lie side by side."""
    sequences = np.cumsum(scores.context == 1) - 1
    bits = np.bincount(sequences, scores.nats.astype(float)) / math.log(2)
    return Sums(bits, np.bincount(sequences, scores.bytes), np.bincount(sequences))


class Outcome(NamedTuple):
    """A run that has ended. packing: how its weights were packed, None where they were not.

    sums: by the name of the weights (live, averaged, quantized), over windows that lie side by side.
    """

    result: RunResult
    packing: Packing | None = None
    sums: dict[str, Sums] = {}
