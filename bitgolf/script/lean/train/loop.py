"""The training loop of a run that is never stopped and resumed."""

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bitgolf.net.model import Model
from bitgolf.squeeze.quantize import QuantizePlan
from bitgolf.train.average import Averager, NoAverage
from bitgolf.train.loop import (
    ShardBatches,
    TrainPlan,
    clipped_step,
    cut,
    gradients_of,
    swapped_weights,
)
from bitgolf.train.optim import Optimizers
from bitgolf.train.qat import Noise, NoNoise
from bitgolf.train.schedule import Progress
from bitgolf.train.world import World


@dataclasses.dataclass
class State:
    """Where a training stands between two steps; seconds: of training so far, whatever else was done."""

    averaged: dict[str, Tensor]
    step: int = 0
    seconds: float = 0.0
    position: int = 0


class StepReport(NamedTuple):
    """What a step did: the loss of its whole batch before it, and running, finished or diverged."""

    nats_per_token: float
    status: str
    reached: State


def train(
    model: Model,
    plan: TrainPlan,
    optimizers: Optimizers,
    averager: Averager,
    batches: ShardBatches,
    world: World,
    noise: Noise,
    quantize: QuantizePlan,
) -> Iterator[StepReport]:
    """Train, yielding a report after every step; the clock stands still while the caller holds one."""
    device = next(model.parameters()).device
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    state = State(averager.start(weights))
    _prime(model, plan, optimizers, batches, world)
    model.train()
    while (before := _progress(plan, state)).fraction < 1.0:
        started = time.perf_counter()
        lr_scale = optimizers.plan.schedule.lr_scale(before)
        tokens, length = plan.staged(before.fraction, batches.length)
        rows = plan.rows(length, world.size, tokens)
        pairs, position = [], state.position
        for _ in range(plan.micro_batches(world.size)):
            inputs, targets, position = batches.next_batch(position, rows, world, length)
            pairs.append((inputs, targets))
        if model.plan.recurrence.varies:
            model.at(before.fraction)
        pieces = cut(pairs, plan.forward_rows(length, device))
        if noise == NoNoise():
            loss, norm = gradients_of(model, optimizers, pieces, world)
        else:
            stand_ins = noise.fake_quantized(optimizers.parameters, quantize, before, lr_scale)
            with swapped_weights(optimizers, stand_ins):
                loss, norm = gradients_of(model, optimizers, pieces, world)
        diverged = not (math.isfinite(loss) and math.isfinite(norm))
        if not diverged:
            clipped_step(plan, optimizers, lr_scale, before, norm)
            state.step, state.position = state.step + 1, position
            if averager != NoAverage():
                reached = _progress(plan, state)
                state.averaged = averager.update(state.averaged, weights, reached, lr_scale)
        if device.type == "cuda":
            torch.cuda.synchronize()  # so that the clock reads what was done, not what was asked for
        state.seconds += world.broadcast(time.perf_counter() - started)
        finished = _progress(plan, state).fraction >= 1.0
        yield StepReport(loss, "diverged" if diverged else "finished" if finished else "running", state)
        if diverged:
            return


def _progress(plan: TrainPlan, state: State) -> Progress:
    seconds = state.step * plan.step_seconds if plan.step_seconds else state.seconds
    return Progress(state.step, plan.steps, seconds, plan.train_seconds)


def _prime(
    model: nn.Module, plan: TrainPlan, optimizers: Optimizers, batches: ShardBatches, world: World
) -> None:
    """Real steps on synthetic batches, so that compilation and first allocations are over; then undone."""
    if plan.priming_steps == 0:
        return
    synthetic = [batches.synthetic(plan.rows(batches.length, world.size))] * plan.micro_batches(world.size)
    device = next(model.parameters()).device
    pieces = cut(synthetic, plan.forward_rows(batches.length, device))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for step in range(plan.priming_steps):
            _, norm = gradients_of(model, optimizers, pieces, world)
            clipped_step(plan, optimizers, 1.0, Progress(step, plan.steps), norm)
    optimizers.zero()
    model.load_state_dict(weights)
    for optimizer in optimizers.optimizers:
        if optimizer is not None:
            optimizer.state.clear()
