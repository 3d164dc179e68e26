"""A training small enough for tests; run as a program it is what the tests kill, resume and distribute."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitgolf.base.tensors import write_tensors
from bitgolf.net.model import Model, ModelPlan, build_model
from bitgolf.text.batches import Order, ShuffledBlocks
from bitgolf.text.shards import TokenStream, write_shard
from bitgolf.train.average import Averager, Ema
from bitgolf.train.loop import ShardBatches, State, StepReport, TrainPlan, train
from bitgolf.train.optim import Optimizers, OptimPlan, make_optimizers
from bitgolf.train.schedule import Schedule, WarmdownFraction
from bitgolf.train.world import World, join_world, leave_world

VOCABULARY = 64
MODEL = ModelPlan(vocabulary_size=VOCABULARY, layers=2, width=32, heads=2, kv_heads=1)
PLAN = TrainPlan(steps=20, train_seconds=0, batch_tokens=256, accumulation=1)
LENGTH = 16


class Ticking:
    """A clock on which every look takes a quarter of a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now


def token_stream(folder: Path) -> TokenStream:
    path = folder / "train_000000.bin"
    if not path.exists():
        steps = np.random.default_rng(0).integers(1, 4, 5000)
        write_shard(path, (np.cumsum(steps) % VOCABULARY).astype(np.uint16))
    return TokenStream([path])


def batches(folder: Path, order: Order | None = None) -> ShardBatches:
    return ShardBatches(
        stream=token_stream(folder),
        order=order or ShuffledBlocks(),
        length=LENGTH,
        vocabulary_size=VOCABULARY,
    )


def start(
    folder: Path,
    plan: TrainPlan = PLAN,
    *,
    model: torch.nn.Module | None = None,
    optim: OptimPlan | None = None,
    schedule: Schedule | None = None,
    average: Averager | None = None,
    order: Order | None = None,
    clock=None,
    world: World | None = None,
    state: State | None = None,
    iteration_dtype: torch.dtype = torch.bfloat16,
    **settings: Any,
) -> tuple[torch.nn.Module, Optimizers, Iterator[StepReport]]:
    """A model, its optimizers, and the generator that trains it."""
    model = model or build_model(MODEL, seed=1)
    optim = optim or OptimPlan(schedule=schedule or WarmdownFraction(fraction=0.5))
    optimizers = make_optimizers(optim, model, world, iteration_dtype)
    reports = train(
        model,
        plan,
        optimizers,
        average or Ema(decay=0.9),
        batches(folder, order),
        clock=clock or Ticking(),
        world=world or World(),
        state=state,
        identity="small",
        **settings,
    )
    return model, optimizers, reports


def run_until_done(folder: Path) -> None:
    """Train and store the state after every step, going on from what an earlier process stored."""
    path = folder / "state.safetensors"
    state = State.load(path, "small") if path.exists() else None
    _, _, reports = start(folder, PLAN.replace(steps=150, train_seconds=30.0), state=state)
    for report in reports:
        report.state.save(path)
        print(report.step, flush=True)


def run_together(folder: Path) -> None:
    """Train as one of several processes; each writes what it ends with."""
    world = join_world("cpu")
    model, optimizers, reports = start(folder, world=world, iteration_dtype=torch.float32)
    losses = [report.nats_per_token for report in reports]
    tensors: dict = dict(model.state_dict()) | {f"state/{k}": v for k, v in optimizers.state().items()}
    write_tensors(folder / f"rank{world.rank}", tensors, {"losses": losses, "size": world.size})
    leave_world(world)


def tensors_of(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    {"resume": run_until_done, "together": run_together}[sys.argv[1]](Path(sys.argv[2]))
