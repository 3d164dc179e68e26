"""Finished runs read back and held against themselves: what a record folder may be made of."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Required

from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.inputs.typed import (
    STRICT,
    Certificate,
    Count,
    Figure,
    Score,
    Size,
    Step,
    read_as,
    read_lines,
    read_plan,
)
from bitgolf.recipe import Recipe
from bitgolf.study.documents import read_columns

NEEDED = ("result.json", "recipe.json", "metrics.jsonl", "train_gpt.py", "model.bin", "scores.npz")
SAME_BITS = 1e-6  # between a result and its scores added up again


@STRICT
class Finished(Score, total=False):
    """A result.json, as far as a record folder is made of it."""

    seed: Required[Size]
    recipe: Required[str]
    recipe_identity: Required[str]
    parameters: Required[Count]
    budget_bytes: Required[Count]
    code_bytes: Required[Count]
    nats_per_token: Required[Figure]
    windows: str
    dtype: str
    ledger: list[list[Any]]


@STRICT
class Logged(Step):
    """A line of metrics.jsonl."""

    step: Size
    steps: Size
    seconds: Figure


class Run(NamedTuple):
    """One finished run. bits: its score, added up again from scores.npz; nats: the same by token."""

    folder: Path
    result: Finished
    recipe: Recipe
    metrics: list[Logged]
    code: bytes
    bits: float
    nats: float
    certificate: Certificate | None

    @property
    def seed(self) -> int:
        """Of the initial weights."""
        return self.result["seed"]


def gathered(folders: Sequence[Path]) -> list[Run]:
    """The runs of one record, by seed. Raises PlanError with everything that does not fit together."""
    problems = [
        f"{folder}: no {name}; name finished run folders"
        for folder in folders
        for name in NEEDED
        if not (folder / name).is_file()
    ]
    if problems:
        raise PlanError(problems)
    runs = sorted(map(_read, folders), key=lambda run: run.seed)
    problems = [f"{run.folder}: {said}" for run in runs for said in faults(run)]
    problems += [*_between(runs)]
    if problems:
        raise PlanError(problems)
    return runs


def _read(folder: Path) -> Run:
    result = read_as(folder / "result.json", Finished)
    proof = folder / "proof" / "certificate.json"
    columns = read_columns(folder / "scores.npz")
    nats, text = float(columns["nats"].sum(dtype=float)), int(columns["bytes"].sum(dtype=int))
    if not len(columns["nats"]) or text <= 0:
        raise BitgolfError("nothing was scored", where=str(folder / "scores.npz"))
    return Run(
        folder,
        result,
        read_plan(folder / "recipe.json", Recipe),
        [*read_lines(folder / "metrics.jsonl", Logged)],
        (folder / "train_gpt.py").read_bytes(),
        nats / math.log(2) / min(text, result["text_bytes"]),
        nats / len(columns["nats"]),
        read_as(proof, Certificate) if proof.is_file() else None,
    )


def faults(run: Run) -> Iterator[str]:
    """What does not fit together within one run."""
    result = run.result
    if result["status"] != "ok":
        yield f"its status is {result['status']!r}; a record is of runs that ended well and within budget"
    if run.recipe.identity() != result["recipe_identity"]:
        yield "recipe.json is not the recipe of result.json"
    artifact = (run.folder / "model.bin").stat().st_size
    for name, size in (("code_bytes", len(run.code)), ("artifact_bytes", artifact)):
        if result.get(name) != size:
            yield f"{name} is {result.get(name)} in result.json, and {size:,} on the disk"
    whole = len(run.code) + artifact
    if result.get("total_bytes") not in (whole, whole - _uncounted(result)):
        yield f"total_bytes is {result.get('total_bytes')}, and script and artifact have {whole:,}"
    if result.get("total_bytes", whole) > result["budget_bytes"]:
        yield f"{result.get('total_bytes'):,} bytes are over the budget of {result['budget_bytes']:,}"
    if abs(run.bits - result["bits_per_byte"]) > SAME_BITS * run.bits:
        yield f"bits_per_byte is {result['bits_per_byte']:.6f}, and its scores add up to {run.bits:.6f}"
    steps = [line["step"] for line in run.metrics]
    if not steps or steps != sorted(set(steps)) or steps[-1] > result.get("steps", 0):
        yield "the steps of metrics.jsonl are not those of the run"
    clock = [line["seconds"] for line in run.metrics]
    if clock != sorted(clock) or (clock and clock[-1] > 1.01 * result.get("train_seconds", 0) + 0.01):
        yield "the clock of metrics.jsonl is not that of the run"
    if run.certificate:
        held = hashlib.sha256((run.folder / "model.bin").read_bytes()).hexdigest()
        if run.certificate["artifact_sha256"] != held:
            yield "its certificate is of another artifact; prove it again"


def _uncounted(result: Finished) -> int:
    """The bytes of the ledger that the recipe's budget does not count."""
    return sum(size for name, size in result.get("ledger", []) if name == "tokenizer")


def _between(runs: Sequence[Run]) -> Iterator[str]:
    """What does not fit together between the runs of several seeds."""
    seeds = [run.seed for run in runs]
    yield from (f"seed {seed} stands for several runs" for seed in {*seeds} if seeds.count(seed) > 1)
    first = runs[0]
    for run in runs[1:]:
        if run.result["recipe_identity"] != first.result["recipe_identity"]:
            yield f"{run.folder}: another configuration than {first.folder}; see bitgolf compare"
        elif run.code != first.code:
            yield f"{run.folder}: another train_gpt.py than {first.folder}; run both with one bitgolf"
        if run.result.get("dtype") != first.result.get("dtype"):
            yield f"{run.folder}: another number type than {first.folder}"
        if _tokens(run) != _tokens(first):
            yield f"{run.folder}: scored on other tokens than {first.folder}"
        if run.bits == first.bits:
            yield f"{run.folder}: the score of {first.folder} to the last digit; a copy?"


def _tokens(run: Run) -> str | None:
    variants = run.result.get("variants")
    return variants[-1].get("tokens_sha256") if variants else None
