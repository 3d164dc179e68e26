"""The stages in order: train, average, quantize, pack, reload, score."""

import argparse
import ast
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from bitgolf.base.events import finish
from bitgolf.net.backend import Backend, choose_backend, choose_device
from bitgolf.net.model import Model, ModelPlan, build_model, count_parameters, model_with, shipped_weights
from bitgolf.recipe import Recipe
from bitgolf.score.adapter import NoAdapter
from bitgolf.score.windows import Chunked
from bitgolf.script.lean.score.metric import bits_per_byte
from bitgolf.script.lean.score.score import adapted_nats, score
from bitgolf.script.lean.squeeze.artifact import Artifact, pack, unpack
from bitgolf.script.lean.squeeze.quantize import quantize_weights
from bitgolf.script.lean.text.tokenizer import Tokenizer
from bitgolf.script.lean.train.loop import train
from bitgolf.squeeze.quantize import (
    Curvatures,
    Fixed,
    NoCalibration,
    NoTuning,
    QuantizePlan,
    TuningTask,
)
from bitgolf.text.shards import TokenStream
from bitgolf.train.average import live_and_averaged
from bitgolf.train.loop import ShardBatches
from bitgolf.train.optim import Optimizers
from bitgolf.train.world import World, join_world, leave_world

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

FIRST_STEPS = 10  # each of them is logged, as in public
EVALUATION_SECONDS = 600.0  # the public rule


def env(name: str, value: float) -> float:
    """What the environment says instead of a setting, under its public name; of the setting's type."""
    return type(value)(os.environ.get(name, value))


def env_list(name: str, value: tuple[int, ...]) -> tuple[int, ...]:
    """The same of a list of whole numbers, written as 9,10."""
    text = os.environ.get(name)
    return value if text is None else tuple(int(item) for item in text.split(",") if item.strip())


def main(recipe: Recipe) -> int:
    """Train on a folder of shards, pack, reload, score."""
    parser = argparse.ArgumentParser(description=recipe.name)
    parser.add_argument("--data", type=Path, default=os.environ.get("DATA_PATH"), help="folder of shards")
    parser.add_argument("--tokenizer", type=Path, default=os.environ.get("TOKENIZER_PATH"))
    parser.add_argument("--out", type=Path, default=".", help="folder for what is written")
    parser.add_argument("--seed", type=int, default=os.environ.get("SEED", "1337"))
    choice = parser.parse_args()
    if choice.data is None:
        parser.error("--data or DATA_PATH: a folder with *train*.bin and *val*.bin")
    world = join_world(choose_device(recipe.backend).type)
    code, logs = Path(sys.argv[0]).read_bytes(), choice.out / "logs"
    source = getattr(sys.modules["__main__"], "SOURCE", b"")  # the packed form has its text there
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / (os.environ.get("RUN_ID", f"{recipe.name}-{choice.seed}") + ".txt")
    if world.rank == 0:
        path.write_bytes(ast.unparse(ast.parse(source)).encode() if source else code)

    def log(line: str) -> None:
        if world.rank == 0:
            print(line, flush=True)
            with path.open("a") as file:
                print(line, file=file)

    backend = choose_backend(recipe.backend, same=world.broadcast)
    log(f"Running Python {sys.version}, PyTorch {torch.__version__} on {backend.device}")
    stream = TokenStream(sorted(choice.data.glob("*train*.bin")))
    tokens = TokenStream(sorted(choice.data.glob("*val*.bin"))).all()
    tokenizer = Tokenizer(choice.tokenizer or choice.data / "tokenizer.bin")
    model = build_model(recipe.network(), choice.seed).use(backend)
    log(f"model_params:{count_parameters(recipe.model)} world_size:{world.size} seed:{choice.seed}")
    averaged, finished = trained(recipe, model, stream, tokens, tokenizer, world, log)
    if not finished:
        leave_world(world)
        return 1
    allocated, reserved = peak_memory(backend)
    log(f"peak memory allocated: {allocated >> 20} MiB reserved: {reserved >> 20} MiB")
    shipped, packed_path, total = recipe.network().shipped(), choice.out / "model.bin", 0
    if world.rank == 0:
        live = {name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()}
        averaged = recipe.average.weights({name: each.cpu() for name, each in averaged.items()}, live)
        safetensors.torch.save_file(live_and_averaged(live, averaged), choice.out / "weights.safetensors")
        artifact = packed(
            recipe, backend, shipped_weights(shipped, averaged), stream, tokenizer.to_bytes(), len(code)
        )
        packed_path.write_bytes(artifact.data)
        total = counted_bytes(recipe, artifact, len(code))
        log(f"Code size: {len(code)} bytes")
        log(f"Serialized model quantized: {len(artifact.data)} bytes")
        log(f"Total submission size quantized: {total} bytes")
    world.broadcast(total)  # the others wait for the file
    reloaded = model_with(shipped, unpack(packed_path.read_bytes(), shipped), backend)
    scores = evaluated(recipe, reloaded, tokens, tokenizer, world, log)
    leave_world(world)
    if scores and world.rank == 0:
        np.savez_compressed(choice.out / "scores.npz", **scores)  # type: ignore[arg-type]
    return 0 if scores and total <= recipe.budget.budget_bytes else 1


def peak_memory(backend: Backend) -> tuple[int, int]:
    """The most bytes allocated and reserved so far: on a GPU, or of the process."""
    if backend.device.type == "cuda":
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    if resource is None:
        return 0, 0
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return resident, resident


def trained(
    recipe: Recipe,
    model: Model,
    stream: TokenStream,
    tokens: np.ndarray,
    tokenizer: Tokenizer,
    world: World,
    log: Callable[[str], None],
) -> tuple[dict[str, Tensor], bool]:
    """Train the model; the averager's tensors, and whether the training came to its end."""
    plan, length, order = recipe.train, recipe.data.sequence_length, recipe.data.order
    vocab = recipe.model.vocabulary_size
    source = ShardBatches(stream=stream, order=order, length=length, vocabulary_size=vocab, bos=tokenizer.bos)
    optimizers = Optimizers(recipe.optim, model, world, model.backend.dtype)
    chunked = recipe.score.replace(windows=Chunked(length=length))

    def log_validation(step: int, seconds: float) -> None:
        model.eval()
        loss, bits = loss_and_bits(score(model, tokens, tokenizer, chunked, world, math.inf)[0])
        model.train()
        log(f"{step_of(step)} val_loss:{loss:.4f} val_bpb:{bits:.4f} {clock(step, seconds)}")

    def step_of(step: int) -> str:
        return f"step:{step}/{plan.steps}"

    def clock(step: int, seconds: float) -> str:
        return f"train_time:{1000 * seconds:.0f}ms step_avg:{1000 * seconds / max(step, 1):.2f}ms"

    if plan.validate_steps:
        log_validation(0, 0.0)
    steps = train(model, plan, optimizers, recipe.average, source, world, recipe.noise, recipe.quantize)
    averaged, status = model.state_dict(), "finished"  # of a training without a step
    for report in steps:
        averaged, status = report.reached.averaged, report.status
        step, seconds, ended = report.reached.step, report.reached.seconds, status != "running"
        if step <= FIRST_STEPS or step % plan.log_steps == 0 or ended:
            log(f"{step_of(step)} train_loss:{report.nats_per_token:.4f} {clock(step, seconds)}")
        if plan.validates(step, status == "finished"):
            log_validation(step, seconds)
        if ended and step < plan.steps:
            why = "wallclock_cap" if status == "finished" else "diverged"
            log(f"stopping_early: {why} train_time:{1000 * seconds:.0f}ms {step_of(step)}")
    return averaged, status == "finished"


def evaluated(
    recipe: Recipe,
    model: Model,
    tokens: np.ndarray,
    tokenizer: Tokenizer,
    world: World,
    log: Callable[[str], None],
) -> dict[str, np.ndarray]:
    """The scores of the reloaded model; nothing where the time for it ends first."""
    limit = env("MAX_EVAL_SECONDS", EVALUATION_SECONDS)
    started = time.perf_counter()
    until = started + (limit or math.inf)
    scores, share = score(model, tokens, tokenizer, recipe.score, world, until)
    if recipe.score.adapter != NoAdapter() or recipe.score.mixers:
        log(f"before it adapts val_bpb:{loss_and_bits(scores)[1]:.8f}")
        nats, share = adapted_nats(model, tokens, tokenizer, recipe.score, world, until)
        scores = {**scores, "nats": nats}
    spent = time.perf_counter() - started
    if share < 1:
        log(f"stopping_early: evaluation_cap eval_time:{1000 * spent:.0f}ms scored:{share:.2%}")
        return {}
    loss, bits = loss_and_bits(scores)
    log(
        f"final_quantized_roundtrip val_loss:{loss:.4f} val_bpb:{bits:.4f} "
        f"eval_time:{1000 * spent:.0f}ms of at most {1000 * limit:.0f}ms"
    )
    log(f"final_quantized_roundtrip_exact val_loss:{loss:.8f} val_bpb:{bits:.8f}")
    return scores


def loss_and_bits(scores: dict[str, np.ndarray]) -> tuple[float, float]:
    """Nats per token, and bits per byte."""
    return scores["nats"].mean(dtype=np.float64), bits_per_byte(scores["nats"], scores["bytes"])


def packed(
    recipe: Recipe,
    backend: Backend,
    weights: dict[str, Tensor],
    stream: TokenStream,
    tokenizer: bytes,
    code_bytes: int,
) -> Artifact:
    """The artifact at the rate that the recipe asks for."""
    shipped, length, plan = recipe.network().shipped(), recipe.data.sequence_length, recipe.quantize
    curvatures: Curvatures = {}
    if recipe.quantize.calibration != NoCalibration():
        curvatures = recipe.quantize.curvatures(model_with(shipped, weights, backend), stream, length)
    if recipe.quantize.rate != Fixed():
        plan = allocated(recipe, plan, weights, curvatures, tokenizer, code_bytes)
    if recipe.quantize.tuning != NoTuning() and (small := plan.tunable(weights)):
        weights, before = tuned(backend, shipped, plan, weights, curvatures, small, stream, length), weights
        if recipe.quantize.rate != Fixed():
            fitting = allocated(recipe, plan, weights, curvatures, tokenizer, code_bytes)
            if fitting != plan and plan.tuning.one_rate:
                weights = tuned(backend, shipped, fitting, before, curvatures, small, stream, length)
                fitting = allocated(recipe, fitting, weights, curvatures, tokenizer, code_bytes)
            plan = fitting
    return pack(shipped, quantize_weights(plan, weights, curvatures), tokenizer, recipe.pack)


def tuned(
    backend: Backend,
    shipped: ModelPlan,
    plan: QuantizePlan,
    weights: dict[str, Tensor],
    curvatures: Curvatures,
    small: list[str],
    stream: TokenStream,
    length: int,
) -> dict[str, Tensor]:
    """Weights as the table's tuning leaves them."""

    rules = {name: plan.rules[rule] for name, rule in plan.assign(weights).items()}

    def rounded(names: Iterable[str], changed: dict[str, Tensor]) -> dict[str, Tensor]:
        new = {**weights, **changed}
        return {
            name: rules[name].quantizer.quantize(new[name], curvatures.get(name)).dequantize()
            for name in names
        }

    exact, student = model_with(shipped, weights, backend), model_with(shipped, weights, backend)
    return weights | finish(plan.tuning.tune(TuningTask(exact, student, small, rounded, stream, length)))


def allocated(
    recipe: Recipe,
    plan: QuantizePlan,
    weights: dict[str, Tensor],
    curvatures: Curvatures,
    tokenizer: bytes,
    code_bytes: int,
) -> QuantizePlan:
    """The table with the grids that fill the budget."""
    shipped = recipe.network().shipped()

    def total_bytes(tried: QuantizePlan) -> int:
        tensors = quantize_weights(tried, weights, curvatures)
        return counted_bytes(recipe, pack(shipped, tensors, tokenizer, recipe.pack), code_bytes)

    return finish(plan.rate.allocate(plan, recipe.budget.budget_bytes, total_bytes))


def counted_bytes(recipe: Recipe, artifact: Artifact, code_bytes: int) -> int:
    """What counts towards the budget: code and artifact, without the tokenizer where that is free."""
    free = 0 if recipe.budget.count_tokenizer else artifact.tokenizer_bytes
    return len(artifact.data) - free + code_bytes
