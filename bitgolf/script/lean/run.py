"""The stages in order: train, average, quantize, pack, reload, score."""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import safetensors.torch
from torch import Tensor

from bitgolf.base.events import finish
from bitgolf.net.backend import Backend, choose_backend, choose_device
from bitgolf.net.model import Model, build_model, count_parameters, model_with, shipped_weights
from bitgolf.recipe import Recipe
from bitgolf.script.lean.score.metric import bits_per_byte
from bitgolf.script.lean.score.score import score
from bitgolf.script.lean.squeeze.artifact import Artifact, pack, unpack
from bitgolf.script.lean.text.tokenizer import Tokenizer
from bitgolf.script.lean.train.loop import train
from bitgolf.squeeze.form import QuantizedTensor
from bitgolf.squeeze.quantize import NoTuning, QuantizePlan, quantize_weights
from bitgolf.text.shards import TokenStream
from bitgolf.train.average import live_and_averaged
from bitgolf.train.loop import ShardBatches
from bitgolf.train.optim import make_optimizers
from bitgolf.train.world import World, join_world, leave_world


def main(recipe: Recipe) -> int:
    """Train on a folder of shards, pack, reload, score."""
    parser = argparse.ArgumentParser(description=recipe.name)
    parser.add_argument("--data", type=Path, default=os.environ.get("DATA_PATH"), help="folder of shards")
    parser.add_argument("--tokenizer", type=Path, default=os.environ.get("TOKENIZER_PATH"))
    parser.add_argument("--out", type=Path, default=".", help="folder for model.bin and scores.npz")
    parser.add_argument("--seed", type=int, default=os.environ.get("SEED", "1337"))
    choice = parser.parse_args()
    if choice.data is None:
        parser.error("--data or DATA_PATH: a folder with *train*.bin and *val*.bin")
    world = join_world(choose_device(recipe.backend).type)
    backend = choose_backend(recipe.backend, same=world.from_first)
    train_tokens = TokenStream(sorted(choice.data.glob("*train*.bin")))
    val_tokens = TokenStream(sorted(choice.data.glob("*val*.bin"))).all()
    tokenizer = Tokenizer(choice.tokenizer or choice.data / "tokenizer.bin")
    model = build_model(recipe.network(), choice.seed).use(backend)
    averaged, finished = trained(recipe, model, train_tokens, tokenizer.bos, world)
    leave_world(world)
    if world.rank or not finished:
        return 0 if finished else 1
    choice.out.mkdir(parents=True, exist_ok=True)
    live = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
    averaged = recipe.average.weights(averaged, live)
    safetensors.torch.save_file(live_and_averaged(live, averaged), choice.out / "weights.safetensors")
    weights = shipped_weights(recipe.network().shipped(), averaged)
    code_bytes = Path(sys.argv[0]).stat().st_size
    artifact, tensors = packed(recipe, backend, weights, train_tokens, tokenizer.to_bytes(), code_bytes)
    (choice.out / "model.bin").write_bytes(artifact.data)
    print(f"serialized model: {len(artifact.data)} bytes, code: {code_bytes} bytes")
    reloaded = model_with(recipe.network().shipped(), unpack(artifact, tensors), backend)
    started = time.perf_counter()
    scores = score(reloaded, val_tokens, tokenizer, recipe.score)
    np.savez_compressed(choice.out / "scores.npz", target=scores.target, nats=scores.nats, bytes=scores.bytes)
    print(
        f"final_roundtrip_exact val_loss:{scores.nats.mean(dtype=np.float64):.8f} "
        f"val_bpb:{bits_per_byte(scores):.8f} eval_time:{1000 * (time.perf_counter() - started):.0f}ms"
    )
    return 0 if counted_bytes(recipe, artifact, code_bytes) <= recipe.budget.budget_bytes else 1


def trained(
    recipe: Recipe, model: Model, tokens: TokenStream, bos: int, world: World
) -> tuple[dict[str, Tensor], bool]:
    """Train the model; the averager's tensors, and whether the training came to its end."""
    source = ShardBatches(
        stream=tokens,
        order=recipe.data.order,
        length=recipe.data.sequence_length,
        vocabulary_size=recipe.model.vocabulary_size,
        bos=bos,
    )
    optimizers = make_optimizers(recipe.optim, model, world, model.backend.dtype)
    if world.rank == 0:
        print(f"model_params:{count_parameters(recipe.model)} world_size:{world.size}")
    steps = train(
        model,
        recipe.train,
        optimizers,
        recipe.average,
        source,
        world,
        recipe.noise,
        recipe.quantize,
    )
    for report in steps:
        step = report.state.step
        if world.rank == 0 and (step % recipe.train.log_steps == 0 or report.status != "running"):
            print(
                f"step:{step}/{recipe.train.steps} train_loss:{report.nats_per_token:.4f} "
                f"train_time:{1000 * report.state.seconds:.0f}ms {report.status}",
                flush=True,
            )
    return report.state.averaged, report.status == "finished"


def packed(
    recipe: Recipe,
    backend: Backend,
    weights: dict[str, Tensor],
    stream: TokenStream,
    tokenizer: bytes,
    code_bytes: int,
) -> tuple[Artifact, dict[str, QuantizedTensor]]:
    """The artifact at the rate that the recipe asks for, and the quantized tensors in it."""
    shipped, length = recipe.network().shipped(), recipe.data.sequence_length
    curvatures = recipe.quantize.curvatures(model_with(shipped, weights, backend), stream, length)

    def by(table: QuantizePlan) -> tuple[Artifact, dict[str, QuantizedTensor]]:
        tensors, _ = quantize_weights(table, weights, curvatures)
        return pack(shipped, tensors, tokenizer, recipe.pack), tensors

    def allocated(table: QuantizePlan) -> QuantizePlan:
        budget = recipe.budget.budget_bytes
        steps = table.rate.allocate(
            table, budget, lambda tried: counted_bytes(recipe, by(tried)[0], code_bytes)
        )
        return finish(steps)

    table = allocated(recipe.quantize)
    names = table.tunable(weights)
    if table.tuning != NoTuning() and names:
        rounded = {name: tensor.dequantize() for name, tensor in by(table)[1].items()}
        exact, student = model_with(shipped, weights, backend), model_with(shipped, rounded, backend)
        weights = {**weights, **finish(table.tuning.tune(exact, student, names, stream, length, False))}
        table = allocated(table)
    return by(table)


def counted_bytes(recipe: Recipe, artifact: Artifact, code_bytes: int) -> int:
    """What counts towards the budget: code and artifact, without the tokenizer where that is free."""
    free = 0 if recipe.budget.count_tokenizer else artifact.tokenizer_bytes
    return len(artifact.data) - free + code_bytes
