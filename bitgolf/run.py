"""The stages in order: train, average, quantize, pack, reload, score. Everything lands in one folder."""

import argparse
import hashlib
import json
import math
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.errors import BitgolfError, DataError, PlanError
from bitgolf.base.events import Event, is_first_process
from bitgolf.base.files import read_json, write_bytes, write_json
from bitgolf.base.plan import to_json
from bitgolf.base.tensors import write_tensors
from bitgolf.net.backend import Backend, choose_backend, choose_device
from bitgolf.net.model import Model, ModelPlan, build_model, count_parameters, parameter_shapes
from bitgolf.recipe import Recipe
from bitgolf.score.metric import summary
from bitgolf.score.score import ScorePlan, Scores, scoring
from bitgolf.score.windows import Chunked
from bitgolf.squeeze.artifact import Artifact, Unpacked, pack, unpack
from bitgolf.squeeze.quantize import Curvatures, NoTuning, QuantizeError, QuantizePlan, quantize_weights
from bitgolf.text.shards import Dataset, TokenStream
from bitgolf.train.loop import ShardBatches, State, train
from bitgolf.train.optim import make_optimizers
from bitgolf.train.world import World, join_world, leave_world

CHECKPOINT = Path("checkpoint") / "state.safetensors"
PREFLIGHT_WINDOWS = 8
Result = TypeVar("Result")


def run(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    seed: int,
    *,
    code: bytes,
    resume: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    show: Callable[[str, Any], Any] = lambda name, value: None,
) -> Generator[Event, None, dict[str, Any]]:
    """All stages of a recipe; yields events and returns the result, which also stands in result.json.

    code: the program whose bytes count towards the budget. show: sees by name what a report needs and no
    file holds, the curvatures and the scores of each stage. Whatever fails from training on is a result too
    (status `crash`, with all that is known by then) before the exception goes on; bad input raises
    BitgolfError before that and leaves the folder as it was.
    """
    if is_first_process():
        claim_folder(folder, recipe, resume)
    path = folder / CHECKPOINT
    state = State.load(path, training_identity(recipe, dataset, seed)) if path.is_file() else None
    world = join_world(choose_device(recipe.backend).type)
    facts: dict[str, Any] = {"recipe": recipe.name, "recipe_identity": recipe.identity(), "seed": seed}
    begun = False
    try:
        backend = choose_backend(recipe.backend, state.dtype if state else "", world.from_first)
        facts["dtype"] = backend.dtype_name
        yield from preflight(recipe, dataset, backend, seed, show)
        if world.rank == 0:
            describe_run(folder, recipe, backend, code)
        begun = True
        return (
            yield from _stages(recipe, dataset, folder, seed, code, backend, world, clock, show, state, facts)
        )
    except Exception as error:
        if world.rank == 0 and (begun or not isinstance(error, BitgolfError)):
            said = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
            with suppress(BitgolfError):  # the first error is the one to tell
                write_json(folder / "result.json", {"status": "crash", **facts, **said})
        raise
    finally:
        leave_world(world)


def _stages(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    seed: int,
    code: bytes,
    backend: Backend,
    world: World,
    clock: Callable[[], float],
    show: Callable[[str, Any], Any],
    state: State | None,
    facts: dict[str, Any],
) -> Generator[Event, None, dict[str, Any]]:
    seconds: dict[str, float] = {}
    model = build_model(recipe.network(), seed).use(backend)
    state, status = yield from _train(recipe, dataset, folder, seed, model, world, clock, state)
    facts |= {
        "parameters": count_parameters(recipe.model.shipped()),
        "budget_bytes": recipe.budget.budget_bytes,
        "train_seconds": state.seconds,
        "steps": state.step,
        "train_tokens": state.tokens,
        "tokens_per_second": state.tokens / max(state.seconds, 1e-9),
        "dataset": str(dataset.folder),
        "data": dataset.passport,
    }
    if world.rank:
        return {"status": "diverged" if status == "diverged" else "ok", **facts}
    seconds["train"] = state.seconds
    if status == "diverged":
        return _diverged(folder, {**facts, "seconds": seconds}, "the loss or its gradient is no number")
    live = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
    averaged = recipe.average.weights(state.averaged, live)
    both = _both(live, averaged)
    write_tensors(folder / "weights.safetensors", both, {"recipe": recipe.identity()})
    if odd := [name for name, tensor in both.items() if not bool(tensor.isfinite().all())]:
        return _diverged(folder, {**facts, "seconds": seconds}, f"{odd[0]}: weights that are not finite")
    started = clock()
    yield Event("pack", 0, 1, {})
    shipped, length = recipe.network().shipped(), recipe.data.sequence_length
    weights = shipped_weights(shipped, averaged)
    curvatures = recipe.quantize.curvatures(model_with(shipped, weights, backend), dataset.train, length)
    show("curvatures", curvatures)
    seconds["calibrate"] = clock() - started
    packer = Packer(recipe, dataset.tokenizer.to_bytes(), weights, curvatures, len(code))
    try:
        packer, table = yield from packer.allocated(backend, dataset.train)
        show("packed weights", packer.weights)
        rows, artifact = packer.packed(table)
    except QuantizeError as error:  # what no rule can hold is the trace of a spike
        return _diverged(folder, {**facts, "seconds": seconds}, str(error))
    write_bytes(folder / "model.bin", artifact.data)
    yield Event("pack", 1, 1, {"artifact_bytes": len(artifact.data)})
    seconds["pack"] = clock() - started - seconds["calibrate"]
    started = clock()
    variants = yield from _score_all(recipe, dataset, folder, live, averaged, backend, clock, show)
    seconds["score"] = clock() - started
    result = {
        **_verdict(recipe, artifact, packer.total_bytes(artifact), variants[-1]),
        **facts,
        "code_bytes": len(code),
        "variants": variants,
        "ledger": [["code", len(code)], *([name, size] for name, size in artifact.ledger)],
        "quantization": rows,
        "rules": to_json(table.rules),
        "seconds": seconds,
        "environment": read_json(folder / "environment.json"),
    }
    write_json(folder / "result.json", result)
    return result


def _diverged(folder: Path, facts: dict[str, Any], error: str) -> dict[str, Any]:
    """The result of a training that left nothing to pack; error: what is wrong with which tensor."""
    result = {"status": "diverged", **facts, "error": error}
    write_json(folder / "result.json", result)
    return result


def claim_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Refuse to write over another run, and to resume another recipe's; where nothing is, a run begins."""
    known = folder / "recipe.json"
    if not known.is_file():
        return
    if not resume:
        raise BitgolfError(
            "this folder holds a run already", where=str(folder), way_out="use --resume, or another --out"
        )
    if read_json(known) != to_json(recipe):
        raise BitgolfError(
            "this folder holds a run of another recipe",
            where=str(folder),
            way_out=f"resume it with the recipe it was started with: bitgolf run {known} --resume",
        )


def describe_run(folder: Path, recipe: Recipe, backend: Backend, code: bytes) -> None:
    """Write what is known before training: the recipe, the program, the machine."""
    write_json(folder / "environment.json", environment(backend))
    write_bytes(folder / "train_gpt.py", code)
    write_json(folder / "recipe.json", to_json(recipe))


def environment(backend: Backend) -> dict[str, Any]:
    """The machine and the choices made on it."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "backend": backend.reasons,
    }


def processor_name() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def preflight(
    recipe: Recipe,
    dataset: Dataset,
    backend: Backend,
    seed: int,
    show: Callable[[str, Any], Any] = lambda name, value: None,
) -> Iterator[Event]:
    """What would fail after an hour fails now: data, tables, one trip through the artifact, a few scores.

    show: sees the unpacked artifact.
    """
    yield Event("preflight", 0, 1, {})
    pieces = dataset.tokenizer.vocabulary_size
    if pieces > recipe.model.vocabulary_size:
        raise DataError(
            f"the tokenizer has {pieces} pieces, the model {recipe.model.vocabulary_size}",
            where=str(dataset.folder),
            way_out=f"--set model.vocabulary_size={pieces}, or data made with another tokenizer",
        )
    length = recipe.data.sequence_length
    for name, stream in (("training", dataset.train), ("validation", dataset.val)):
        if stream.tokens <= length:
            raise DataError(
                f"the {name} text is shorter than one sequence",
                where=str(dataset.folder),
                value=f"{stream.tokens:,} tokens, sequence_length {length}",
                way_out="use more text or a smaller data.sequence_length",
            )
    bos = dataset.tokenizer.bos
    if bos not in (-1, recipe.model.bos_id):
        raise DataError(
            f"documents open with token {bos}, the model takes {recipe.model.bos_id} for that",
            where=str(dataset.folder),
            way_out=f"--set model.bos_id={bos}",
        )
    model = build_model(recipe.network(), seed)
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    make_optimizers(recipe.optim, model)
    if problems := recipe.noise.misfits(weights):
        raise PlanError(f"noise.{problem}" for problem in problems)
    shipped = recipe.network().shipped()
    weights = shipped_weights(shipped, weights)
    model = model_with(shipped, weights, backend)
    curvatures = recipe.quantize.curvatures(model, dataset.train, length, trial=True)
    trial = Packer(recipe, b"", weights, curvatures, 0)
    for _ in trial.tuned(recipe.quantize, backend, dataset.train, trial=True):
        pass
    tensors, _ = quantize_weights(recipe.quantize, weights, curvatures)
    unpacked = unpack(pack(shipped, tensors, dataset.tokenizer.to_bytes(), recipe.pack).data)
    for name, tensor in tensors.items():
        if not torch.equal(unpacked.weights[name], tensor.dequantize()):
            raise BitgolfError("the artifact does not give back what was packed", where=name)
    model, tokens = load_model(unpacked, backend), dataset.scored_tokens()
    steps = scoring(model, tokens, dataset.tokenizer, recipe.score, sample=PREFLIGHT_WINDOWS)
    summary((yield from with_progress(steps, "preflight")))
    show("preflight", unpacked)
    yield Event("preflight", 1, 1, {"parameters": count_parameters(recipe.model)})


class Packer(NamedTuple):
    """Everything that decides the bytes of a packed model but the table of quantizers."""

    recipe: Recipe
    tokenizer: bytes
    weights: dict[str, Tensor]
    curvatures: Curvatures
    code_bytes: int

    def packed(self, table: QuantizePlan) -> tuple[list[dict[str, Any]], Artifact]:
        """The report of the tensors by a table, and the artifact."""
        tensors, rows = quantize_weights(table, self.weights, self.curvatures)
        return rows, pack(self.recipe.network().shipped(), tensors, self.tokenizer, self.recipe.pack)

    def total_bytes(self, artifact: Artifact) -> int:
        """What counts towards the budget: code and artifact, without the tokenizer where that is free."""
        free = 0 if self.recipe.budget.count_tokenizer else dict(artifact.ledger).get("tokenizer", 0)
        return len(artifact.data) - free + self.code_bytes

    def allocate(self, table: QuantizePlan) -> Generator[Event, None, QuantizePlan]:
        """The table at its rate."""
        steps = table.rate.allocate(
            table, self.recipe.budget.budget_bytes, lambda tried: self.total_bytes(self.packed(tried)[1])
        )
        while True:
            try:
                facts = next(steps)
            except StopIteration as end:
                return end.value
            yield Event("fill", 0, 1, facts)

    def tuned(
        self, table: QuantizePlan, backend: Backend, stream: TokenStream, trial: bool = False
    ) -> Generator[Event, None, "Packer"]:
        """The same with small tensors as the table's tuning leaves them; itself where there is none."""
        names = table.tunable(self.weights)
        if table.tuning == NoTuning() or not names:
            return self
        tensors, _ = quantize_weights(table, self.weights, self.curvatures)
        shipped, length = self.recipe.network().shipped(), self.recipe.data.sequence_length
        rounded = model_with(shipped, {name: each.dequantize() for name, each in tensors.items()}, backend)
        exact = model_with(shipped, self.weights, backend)
        steps = table.tuning.tune(exact, rounded, names, stream, length, trial)
        found = yield from with_progress(steps, "tune")
        return self._replace(weights={**self.weights, **found})

    def allocated(
        self, backend: Backend, stream: TokenStream
    ) -> Generator[Event, None, tuple["Packer", QuantizePlan]]:
        """The packer with tuned tensors and the recipe's table, both at the rate that the table asks for."""
        table = yield from self.allocate(self.recipe.quantize)
        tuned = yield from self.tuned(table, backend, stream)
        return tuned, table if tuned is self else (yield from tuned.allocate(table))


def shipped_weights(shipped: ModelPlan, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that a packed model needs, without those that only training did."""
    return {name: weights[name] for name in parameter_shapes(shipped)}


def load_model(unpacked: Unpacked, backend: Backend) -> Model:
    """The model that a packed artifact describes, with exactly its weights."""
    return model_with(unpacked.model, unpacked.weights, backend)


def model_with(plan: Any, weights: dict[str, Tensor], backend: Backend) -> Model:
    """A model of this shape with these weights, ready to score."""
    model = Model(plan)
    model.load_state_dict(weights)
    return model.use(backend).eval()


def _train(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    seed: int,
    model: Model,
    world: World,
    clock: Callable[[], float],
    state: State | None,
) -> Generator[Event, None, tuple[State, str]]:
    path, metrics = folder / CHECKPOINT, folder / "metrics.jsonl"
    if world.rank == 0:
        keep_metrics(metrics, state.step if state else 0)
    optimizers = make_optimizers(recipe.optim, model, world, model.backend.dtype)
    source = ShardBatches(
        stream=dataset.train,
        order=recipe.data.order,
        length=recipe.data.sequence_length,
        vocabulary_size=recipe.model.vocabulary_size,
        bos=dataset.tokenizer.bos,
    )
    steps = train(
        model,
        recipe.train,
        optimizers,
        recipe.average,
        source,
        clock=clock,
        world=world,
        state=state,
        identity=training_identity(recipe, dataset, seed),
        noise=recipe.noise,
        quantize=recipe.quantize,
    )
    status, saved = "finished", clock()
    with (metrics if world.rank == 0 else Path(os.devnull)).open("a") as log:
        for report in steps:
            state, status = report.state, report.status
            state.dtype = model.backend.dtype_name
            if world.rank == 0 and (report.step % recipe.train.log_steps == 0 or status != "running"):
                log.write(json.dumps(finite(report.row())) + "\n")
            shown = {"nats": report.nats_per_token, "tokens_per_second": round(report.tokens_per_second)}
            yield Event("train", report.progress, 1, shown)
            due = status == "finished" or clock() - saved >= recipe.train.checkpoint_seconds
            if world.rank == 0 and due:
                log.flush()
                state.save(path)
                saved = clock()
    assert state is not None, "a plan has at least one step"
    return state, status


def training_identity(recipe: Recipe, dataset: Dataset, seed: int) -> str:
    """Names a training: its state may go on in, or end in, any run that has the same."""
    return f"{recipe.training().identity()}-{seed}-{data_identity(dataset)}"


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with null for numbers that JSON cannot say."""
    odd = {name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    return {name: None if name in odd else value for name, value in row.items()}


def data_identity(dataset: Dataset) -> str:
    """16 hex digits that name the training tokens."""
    hashes = [shard["sha256"] for shard in dataset.passport["splits"]["train"]["shards"]]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def keep_metrics(path: Path, steps: int) -> None:
    """Drop what a killed run wrote after its last checkpoint, to be written again, and what is no line."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    write_bytes(path, b"".join(line + b"\n" for line in lines if 0 < logged_step(line) <= steps))


def logged_step(line: bytes) -> int:
    """The step of a line of metrics; 0 of what a power cut has made of one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return 0
    step = row.get("step") if isinstance(row, dict) else 0
    return step if type(step) is int else 0


def _both(live: dict[str, Tensor], averaged: dict[str, Tensor]) -> dict[str, Tensor]:
    """Live and averaged weights under their names; only the live ones where nothing was averaged."""
    kept = {f"live/{name}": tensor for name, tensor in live.items()}
    return kept if averaged is live else kept | {f"averaged/{name}": t for name, t in averaged.items()}


def _score_all(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    live: dict[str, Tensor],
    averaged: dict[str, Tensor],
    backend: Backend,
    clock: Callable[[], float],
    show: Callable[[str, Any], Any],
) -> Generator[Event, None, list[dict[str, Any]]]:
    """Live, averaged and quantized weights on equal windows; last, the packed bytes as the recipe scores."""
    unpacked = unpack((folder / "model.bin").read_bytes())
    packed = load_model(unpacked, backend)
    chunked = recipe.score.replace(windows=Chunked(length=recipe.data.sequence_length))
    network = recipe.network()
    cases: list[tuple[str, Model, ScorePlan]] = [
        ("live", model_with(network, live, backend), chunked),
        *([] if averaged is live else [("averaged", model_with(network, averaged, backend), chunked)]),
        ("quantized", packed, chunked),
        *([] if recipe.score == chunked else [("quantized", packed, recipe.score)]),
    ]
    rows: list[dict[str, Any]] = []
    for name, model, plan in cases:
        started = clock()
        stage = f"score {name}" if plan == chunked else "score final"
        scores = yield from score_split(model, dataset, plan, stage)
        show(stage, scores)
        rows.append({"name": name, **summary(scores), "seconds": clock() - started})
    scores.save(folder / "scores.npz")
    return rows


def score_split(
    model: Model, dataset: Dataset, plan: ScorePlan, stage: str
) -> Generator[Event, None, Scores]:
    """Score the validation split of a dataset; its passport says how many bytes must be accounted for."""
    tokens, facts = dataset.scored_tokens(), dataset.passport["splits"]["val"]
    sizes = facts["text_bytes"], facts.get("differing_bytes")
    scores = yield from with_progress(scoring(model, tokens, dataset.tokenizer, plan, *sizes), stage)
    return scores


def with_progress(
    steps: Generator[tuple[int, int], None, Result], stage: str
) -> Generator[Event, None, Result]:
    """The (done, total) steps of some work as events of a stage."""
    while True:
        try:
            done, total = next(steps)
        except StopIteration as end:
            return end.value
        yield Event(stage, done, total, {})


def _verdict(recipe: Recipe, artifact: Artifact, total: int, score: dict[str, Any]) -> dict[str, Any]:
    figures = ("bits_per_byte", "nats_per_token", "tokens", "text_bytes", "lossy", "warning", "windows")
    return {
        "status": "ok" if total <= recipe.budget.budget_bytes else "over budget",
        **{name: score[name] for name in figures if name in score},
        "artifact_bytes": len(artifact.data),
        "total_bytes": total,
    }


def main(recipe: Recipe) -> int:
    """The command line of a generated script: train on a dataset folder, pack, reload, score."""
    parser = argparse.ArgumentParser(description=f"bitgolf {recipe.name}, {recipe.identity()}")
    parser.add_argument("--data", type=Path, required=True, help="dataset folder with passport.json")
    parser.add_argument("--out", type=Path, required=True, help="run folder to write")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--resume", action="store_true", help="continue a run that was stopped")
    choice = parser.parse_args()
    try:
        code = Path(sys.argv[0]).read_bytes()
        steps = run(
            recipe, Dataset.open(choice.data), choice.out, choice.seed, code=code, resume=choice.resume
        )
        result = print_events(steps)
    except (BitgolfError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if is_first_process():
        shown = {name: value for name, value in result.items() if not isinstance(value, (dict, list))}
        print(json.dumps(shown))
    return 0 if result["status"] == "ok" else 1


def print_events(steps: Generator[Event, None, dict[str, Any]]) -> dict[str, Any]:
    """Drive a run to its end with one line for every tenth of each stage, and return its result."""
    spoken: tuple[str, int] = ("", -1)
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            return end.value
        tenth = math.floor(10 * event.done / event.total) if event.total else 10
        if (event.stage, tenth) != spoken and is_first_process():
            facts = " ".join(f"{name}={value}" for name, value in event.facts.items())
            print(f"{event.stage} {10 * tenth}% {facts}", file=sys.stderr, flush=True)
            spoken = (event.stage, tenth)
