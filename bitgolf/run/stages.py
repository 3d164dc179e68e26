"""The stages in order: train, average, quantize, pack, reload, score. All results go into one folder."""

import time
import traceback
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event, is_first_process
from bitgolf.base.files import read_json, sha256_of, write_bytes, write_json
from bitgolf.base.plan import to_json
from bitgolf.base.tensors import write_tensors
from bitgolf.net.backend import Backend, choose_backend, choose_device
from bitgolf.net.model import Model, build_model, count_parameters, model_with, shipped_weights
from bitgolf.recipe import Recipe
from bitgolf.run.evaluation import verdict
from bitgolf.run.folder import CHECKPOINT, claim_folder, describe_run
from bitgolf.run.packer import Packer, Packing
from bitgolf.run.preflight import preflight
from bitgolf.run.result import Outcome, RunResult
from bitgolf.run.scoring import score_variants
from bitgolf.run.spec import RunSpec
from bitgolf.run.start import Start, start_state
from bitgolf.run.training import train_model
from bitgolf.squeeze.artifact import Unpacked
from bitgolf.squeeze.quantize import QuantizeError
from bitgolf.text.shards import Dataset
from bitgolf.train.average import live_and_averaged
from bitgolf.train.loop import State
from bitgolf.train.world import World, join_world, leave_world

HEADLINE = (  # of the last variant, what stands in result.json itself
    "bits_per_byte",
    "nats_per_token",
    "tokens",
    "text_bytes",
    "lossy",
    "warning",
    "windows",
    "query_positions",
    "position_warning",
)
HASHED = ("recipe.json", "train_gpt.py", "metrics.jsonl", "model.bin", "scores.npz")  # what a result is of


def run(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    seed: int,
    *,
    code: bytes,
    resume: bool = False,
    start: Start | None = None,
    clock: Callable[[], float] = time.perf_counter,
    try_out: Callable[[Unpacked], object] = lambda unpacked: None,
) -> Generator[Event, None, Outcome]:
    """All stages of a recipe; yields events and returns the outcome, whose figures stand in result.json too.

    code: the program whose bytes count towards the budget. try_out: what will be done with the packed model,
    done before the training with an untrained one. Whatever fails from training on is a result too (status
    `crash`, with all that is known by then) before the exception goes on; bad input raises BitgolfError
    before that and leaves the folder as it was. start: weights that the first step starts from.
    """
    spec = RunSpec(recipe, dataset, folder, seed, code, clock)
    if is_first_process():
        claim_folder(folder, recipe, resume)
    path = folder / CHECKPOINT
    state = State.load(path, spec.training_identity) if path.is_file() else None
    world = join_world(choose_device(recipe.backend).type)
    facts: RunResult = {"recipe": recipe.name, "recipe_identity": recipe.identity(), "seed": seed}
    begun = False
    try:
        backend = choose_backend(recipe.backend, state.dtype if state else "", world.broadcast)
        facts["dtype"] = backend.dtype_name
        try_out((yield from preflight(recipe, dataset, backend, seed, lambda: world.broadcast(clock()))))
        if start and state is None:
            state = start_state(spec, start, backend, world)
        if world.rank == 0:
            describe_run(folder, recipe, backend, code)
            if start and state and not path.is_file():
                state.save(path)  # so that --resume starts from them too
        begun = True
        return (yield from _stages(spec, backend, world, state, facts))
    except Exception as error:
        if world.rank == 0 and (begun or not isinstance(error, BitgolfError)):
            crash: RunResult = {
                "status": "crash",
                **facts,
                "error": f"{type(error).__name__}: {error}",
                "trace": traceback.format_exc(),
            }
            with suppress(BitgolfError):  # the first error is the one to tell
                write_json(folder / "result.json", crash)
        raise
    finally:
        leave_world(world)


def _stages(
    spec: RunSpec, backend: Backend, world: World, state: State | None, facts: RunResult
) -> Generator[Event, None, Outcome]:
    """facts: what is known of the run, added to in place."""
    recipe, dataset, folder = spec.recipe, spec.dataset, spec.folder
    model = build_model(recipe.network(), spec.seed).use(backend)
    state, status = yield from train_model(spec, model, world, state)
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
    seconds = {"train": state.seconds}
    facts["seconds"] = seconds
    if status == "diverged":
        return _diverged(spec, world, facts, "the loss or its gradient is no number")
    error = ""
    if world.rank == 0:
        try:
            packer, packing = yield from _pack(spec, model, state, seconds)
        except QuantizeError as odd:  # what no rule can hold is the trace of a spike
            error = str(odd)
    if world.broadcast(float(bool(error))):  # the others wait for the files
        return _diverged(spec, world, facts, error)
    started = spec.clock()
    variants, sums = yield from score_variants(spec, backend, world)
    if world.rank:
        return Outcome({"status": "ok", **facts})
    seconds["score"] = spec.clock() - started
    artifact, total = packing.artifact, packer.total_bytes(packing.artifact)
    score: Any = {name: variants[-1][name] for name in HEADLINE if name in variants[-1]}
    score |= verdict(variants, recipe.score.eval_seconds)
    result: RunResult = {
        "status": "ok" if total <= recipe.budget.budget_bytes else "over budget",
        **score,
        "artifact_bytes": len(artifact.data),
        "total_bytes": total,
        **facts,
        "code_bytes": len(spec.code),
        "variants": variants,
        "ledger": [["code", len(spec.code)], *([name, num_bytes] for name, num_bytes in artifact.ledger)],
        "quantization": packing.rows,
        "rules": to_json(packing.plan.rules),
        "environment": read_json(folder / "environment.json"),
        "sha256": {name: sha256_of(folder / name) for name in HASHED},
    }
    write_json(folder / "result.json", result)
    return Outcome(result, packing, sums)


def _pack(
    spec: RunSpec, model: Model, state: State, seconds: dict[str, float]
) -> Generator[Event, None, tuple[Packer, Packing]]:
    """Average, calibrate, allocate, tune, quantize; write weights.safetensors and model.bin.

    seconds: by stage, added to in place. Raises QuantizeError for what nothing can be packed from.
    """
    recipe, dataset, backend = spec.recipe, spec.dataset, model.backend
    # From here on the weights are the CPU's: equal ones are packed to equal bytes, whatever trained them.
    live = {name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()}
    averaged = recipe.average.weights({name: each.cpu() for name, each in state.averaged.items()}, live)
    both = live_and_averaged(live, averaged)
    write_tensors(spec.folder / "weights.safetensors", both, {"recipe": recipe.identity()})
    if odd := [name for name, tensor in both.items() if not bool(tensor.isfinite().all())]:
        raise QuantizeError("weights that are not finite", where=odd[0])
    started = spec.clock()
    yield Event("calibrate", 0, 1, {})
    shipped = recipe.network().shipped()
    weights = shipped_weights(shipped, averaged)
    curvatures = recipe.quantize.curvatures(
        model_with(shipped, weights, backend), dataset.train, recipe.data.sequence_length
    )
    seconds["calibrate"] = spec.clock() - started
    yield Event("calibrate", 1, 1, {})
    yield Event("pack", 0, 1, {})
    packer = Packer(recipe, dataset.tokenizer.to_bytes(), weights, curvatures, len(spec.code))
    packer, plan = yield from packer.allocated(backend, dataset.train)
    rows, artifact = packer.packed(plan)
    write_bytes(spec.folder / "model.bin", artifact.data)
    yield Event("pack", 1, 1, {"artifact_bytes": len(artifact.data)})
    seconds["pack"] = spec.clock() - started - seconds["calibrate"]
    return packer, Packing(plan, curvatures, packer.weights, rows, artifact, seconds)


def _diverged(spec: RunSpec, world: World, facts: RunResult, error: str) -> Outcome:
    """The result of a training that left nothing to pack; error: what is wrong with which tensor."""
    result: RunResult = {"status": "diverged", **facts, "error": error}
    if world.rank == 0:
        write_json(spec.folder / "result.json", result)
    return Outcome(result)
