"""Finished runs read back and checked for consistency, as the source of a record folder."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, Required

from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.base.files import sha256_of
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
from bitgolf.net.model import count_parameters
from bitgolf.recipe import Recipe
from bitgolf.run.stages import HASHED
from bitgolf.script.flatten import flatten
from bitgolf.study.documents import read_columns
from bitgolf.study.receipt import RECEIPT, receipt_of
from bitgolf.study.runs import code_of

NEEDED = ("result.json", *HASHED)
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
    evaluation_seconds: Figure
    sha256: dict[str, str]


@STRICT
class Logged(Step):
    """A line of metrics.jsonl."""

    step: Size
    steps: Size
    seconds: Figure
    val_bits_per_byte: NotRequired[float | None]


class Run(NamedTuple):
    """One finished run. bits: its score, added up again from scores.npz; nats: the same by token."""

    folder: Path
    result: Finished
    recipe: Recipe
    metrics: list[Logged]
    code: bytes
    bits: float
    nats: float
    tokens: int
    certificate: Certificate | None

    @property
    def seed(self) -> int:
        """Of the initial weights."""
        return self.result["seed"]

    def total_bytes(self, script: bytes) -> int:
        """What counts towards the budget when this is the script."""
        return self.result["total_bytes"] - len(self.code) + len(script)

    def variant(self, *names: str) -> Any:
        """The score by other weights that comes first among these names; {} where there is none."""
        rows = {row["name"]: row for row in reversed(self.result.get("variants", []))}
        return next((rows[name] for name in names if name in rows), {})


class Planned(NamedTuple):
    """A study that a run is of, by its folder. seeds: of the run's arm; each is as much a result as it is."""

    folder: Path
    arm: str
    seeds: list[int]


def gathered(folders: Sequence[Path], declared: Sequence[int] = ()) -> list[Run]:
    """The runs of one record, by seed. Raises PlanError with everything that does not fit together.

    declared: the seeds that were announced; a record tells of each of them.
    """
    problems = [
        f"{folder}: no {name}; name finished run folders"
        for folder in folders
        for name in NEEDED
        if not (folder / name).is_file()
    ]
    if problems:
        raise PlanError(problems)
    runs = sorted(map(_read, folders), key=lambda run: run.seed)
    problems = [f"{run.folder}: {fault}" for run in runs for fault in faults(run)]
    problems += [*_between(runs), *_missing(runs, declared)]
    if problems:
        raise PlanError(problems)
    return runs


def script_for(runs: Sequence[Run], readable: bool) -> bytes:
    """The script of a record: the bytes that the runs counted, or the text that they are packed from.

    Raises BitgolfError where that text is not known or does not fit into the budget.
    """
    packed, first = runs[0].code, runs[0]
    if not readable:
        return packed
    if code_of(first.recipe) != packed:
        raise BitgolfError(
            "its script is not what this bitgolf makes of its recipe",
            where=str(first.folder / "train_gpt.py"),
            way_out="write the record without --readable",
        )
    script = flatten(first.recipe).encode()
    for run in runs:
        if (total := run.total_bytes(script)) > run.result["budget_bytes"]:
            raise BitgolfError(
                f"with the readable script over the budget of {run.result['budget_bytes']:,} bytes",
                where=str(run.folder),
                value=f"{total:,}",
                way_out="write the record without --readable",
            )
    return script


def studies_of(run: Run) -> list[Planned]:
    """The studies that planned a run, which lie beside the folder of its runs."""
    own, studies = run.folder.resolve(), []
    for path in sorted(own.parent.parent.glob(f"*/{RECEIPT}")):
        try:
            rows = receipt_of(path.parent)["runs"]
        except BitgolfError:
            continue  # a broken neighbour
        arms = {row["arm"] for row in rows if (path.parent / row["folder"]).resolve() == own}
        studies += [
            Planned(path.parent, arm, sorted(row["seed"] for row in rows if row["arm"] == arm))
            for arm in sorted(arms)
        ]
    return studies


def beside(runs: Sequence[Run]) -> list[Path]:
    """Finished runs of the same recipe in the folders of these runs that are not among them."""
    named, identity = {run.folder.resolve() for run in runs}, runs[0].result["recipe_identity"]
    folders = []
    for path in sorted({each for folder in named for each in folder.parent.glob("*/result.json")}):
        try:
            other = read_as(path, Finished)
        except BitgolfError:
            continue  # a run of another kind, or one that crashed
        if path.parent not in named and other["recipe_identity"] == identity:
            folders.append(path.parent)
    return folders


def _missing(runs: Sequence[Run], declared: Sequence[int]) -> Iterator[str]:
    """Seeds that were announced, or planned by a study, and are not here."""
    there = {run.seed for run in runs}
    for seed in sorted({*declared} - there):
        yield f"--seeds: seed {seed} was declared, and no run here has it"
    if declared:
        yield from (f"--seeds: seed {seed} was not declared" for seed in sorted(there - {*declared}))
    plans = {(str(each.folder), each.arm): each.seeds for run in runs for each in studies_of(run)}
    for (folder, arm), seeds in plans.items():
        for seed in sorted({*seeds} - there):
            yield f"{folder}: arm {arm!r} has seed {seed} too; a record tells of every seed that was planned"


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
        len(columns["nats"]),
        read_as(proof, Certificate) if proof.is_file() else None,
    )


def faults(run: Run) -> Iterator[str]:
    """What does not fit together within one run."""
    result = run.result
    if result["status"] != "ok":
        yield f"its status is {result['status']!r}; a record is of runs that ended well and within budget"
    if run.recipe.identity() != result["recipe_identity"]:
        yield "recipe.json is not the recipe of result.json, or another version of bitgolf wrote it"
    if run.recipe.budget.budget_bytes != result["budget_bytes"]:
        yield f"budget_bytes is {result['budget_bytes']:,}, in recipe.json {run.recipe.budget.budget_bytes:,}"
    if result["parameters"] != (counted := count_parameters(run.recipe.model.shipped())):
        yield f"parameters is {result['parameters']:,}, and the recipe's model has {counted:,}"
    for name, written in result.get("sha256", {}).items():
        if name in HASHED and sha256_of(run.folder / name) != written:
            yield f"{name} is not the file that the run wrote, by its SHA-256"
    artifact = (run.folder / "model.bin").stat().st_size
    for name, num_bytes in (("code_bytes", len(run.code)), ("artifact_bytes", artifact)):
        if result.get(name) != num_bytes:
            yield f"{name} is {result.get(name)} in result.json, and {num_bytes:,} on the disk"
    whole = len(run.code) + artifact
    if result.get("total_bytes") not in (whole, whole - _uncounted(result)):
        yield f"total_bytes is {result.get('total_bytes')}, and script and artifact have {whole:,}"
    if result.get("total_bytes", whole) > result["budget_bytes"]:
        yield f"{result.get('total_bytes'):,} bytes are over the budget of {result['budget_bytes']:,}"
    if abs(run.bits - result["bits_per_byte"]) > SAME_BITS * run.bits:
        yield f"bits_per_byte is {result['bits_per_byte']:.6f}, and its scores add up to {run.bits:.6f}"
    if abs(run.nats - result["nats_per_token"]) > SAME_BITS * run.nats:
        yield f"nats_per_token is {result['nats_per_token']:.6f}, and the mean of its scores {run.nats:.6f}"
    if run.tokens != result["tokens"]:
        yield f"tokens is {result['tokens']:,}, and scores.npz has {run.tokens:,}"
    steps = [line["step"] for line in run.metrics]
    due = {*range(run.recipe.train.log_steps, result.get("steps", 0), run.recipe.train.log_steps)}
    if not steps or steps != sorted({*steps}) or steps[-1] != result.get("steps", 0) or due - {*steps}:
        yield "the steps of metrics.jsonl are not those of the run"
    clock = [line["seconds"] for line in run.metrics]
    if clock != sorted(clock) or (clock and clock[-1] > 1.01 * result.get("train_seconds", 0) + 0.01):
        yield "the clock of metrics.jsonl is not that of the run"
    yield from _certificate_faults(run)


def _certificate_faults(run: Run) -> Iterator[str]:
    """What its certificate says and is not so."""
    if run.certificate is None:
        return
    if run.certificate["artifact_sha256"] != sha256_of(run.folder / "model.bin"):
        yield "its certificate is of another artifact; prove it again"
    coded, coded_bytes = run.folder / "proof" / "coded.bin", run.certificate["coded_bytes"]
    if coded.is_file() and run.certificate["coded_sha256"] != sha256_of(coded):
        yield "its certificate is of another coded file; prove it again"
    bits = 8 * coded_bytes / run.certificate["text_bytes"]
    if abs(bits - run.certificate["bits_per_byte"]) > SAME_BITS * bits:
        yield f"its certificate says {run.certificate['bits_per_byte']:.6f}, and its sizes {bits:.6f}"


def _uncounted(result: Finished) -> int:
    """The bytes of the ledger that the recipe's budget does not count."""
    return sum(num_bytes for name, num_bytes in result.get("ledger", []) if name == "tokenizer")


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
