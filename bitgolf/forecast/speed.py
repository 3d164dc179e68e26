"""How fast this machine trains a recipe, measured for a second."""

import dataclasses
import time
from collections.abc import Callable

import torch
from torch import Tensor

from bitgolf.net.backend import choose_backend
from bitgolf.net.model import build_model, keyed_generator
from bitgolf.recipe import Recipe
from bitgolf.train.loop import train
from bitgolf.train.optim import make_optimizers
from bitgolf.train.world import World

MEASURED_SECONDS = 1.0
WARM_STEPS = 2  # whose first allocations are over before anything is measured


@dataclasses.dataclass(frozen=True)
class RandomBatches:
    """Batches of random tokens, which take as long as those of a text."""

    vocabulary_size: int
    length: int

    def next_batch(self, position: int, rows: int, world: World, length: int) -> tuple[Tensor, Tensor, int]:
        """Inputs and targets (rows, length), int64."""
        draws = keyed_generator(position, "speed")
        ids = torch.randint(self.vocabulary_size, (rows, length + 1), generator=draws)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), position + 1

    def synthetic(self, rows: int) -> tuple[Tensor, Tensor]:
        """The same for priming."""
        inputs, targets, _ = self.next_batch(0, rows, World(), self.length)
        return inputs, targets


def training_speed(
    recipe: Recipe, seconds: float = MEASURED_SECONDS, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Tokens a second in training steps of a recipe, measured for about so many seconds on this machine."""
    model = build_model(recipe.network()).use(choose_backend(recipe.backend))
    plan = recipe.train.replace(train_seconds=0.0, tokens=0, steps=10**6, priming_steps=0)
    steps = train(
        model,
        plan,
        make_optimizers(recipe.optim, model, World(), model.backend.dtype),
        recipe.average,
        RandomBatches(recipe.model.vocabulary_size, recipe.data.sequence_length),
        clock=clock,
    )
    spent, tokens = 0.0, 0
    for report in steps:
        if report.step == WARM_STEPS:
            spent, tokens = report.seconds, report.tokens
        elif report.step > WARM_STEPS and report.seconds - spent >= seconds:
            break
    return (report.tokens - tokens) / max(report.seconds - spent, 1e-9)
