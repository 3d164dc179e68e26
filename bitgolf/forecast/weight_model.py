"""Simulated trained weights, for forecasts before training: start, distance of travel, unused rows.

How many bytes a matrix takes follows from the shape of its rows and, where scales have a floor, from their
size. A recipe knows both: matrices keep what decay leaves of their start and gain the sum of their updates,
which is normal. Tokens that no text has get all the same updates, and so rows that are nearly equal.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitgolf.net.model import Model, ModelPlan, keyed_generator
from bitgolf.net.parts import Start
from bitgolf.recipe import Recipe
from bitgolf.train.loop import TrainPlan
from bitgolf.train.optim import Frozen, MuonRule, assign_parameters
from bitgolf.train.schedule import Progress

DRAWN_WHOLE = 2**26  # numbers of a tensor
LOOKED_AT_STEPS = 200  # of a training
ADAM_WALK = 0.85  # of the length of a walk whose steps know nothing of each other
MUON_WALK, BATCH_POWER = 0.43, 1 / 18  # the same: 0.68 with 4,096 tokens a batch, 0.89 with 524,288
UNSEEN_TOKENS = 140  # of the 256 bytes of a vocabulary: those that no text in UTF-8 has as tokens
LARGEST = 60_000.0  # number that float16 holds, about
MOST_DECAY = 2.0  # of a step; from here on a weight only grows, which the run will find out
UNSEEN_SPREAD = 0.05  # of their rows around the one that they share


class RandomWalk(NamedTuple):
    """What training makes of a number: the share of its start that is left, and the deviation it gains."""

    kept: float
    length: float


class ExpectedWeights:
    """What to expect of the tensors of a recipe's model after training."""

    def __init__(self, recipe: Recipe) -> None:
        self.model, self.starts = recipe.model, starts_of(recipe.model)
        self.walks: dict[str, RandomWalk] = {}
        whole = {name: torch.empty(start.shape, device="meta") for name, start in self.starts.items()}
        for row, names in zip(recipe.optim.rows, assign_parameters(recipe.optim, whole)):
            kept, length = random_walk(recipe, row.rule)
            for name in names:
                # All rows of an orthogonalised update are about as long.
                columns = whole[name].shape[1] if isinstance(row.rule, MuonRule) else 1
                self.walks[name] = RandomWalk(kept, length / math.sqrt(columns))

    def sample(self, name: str, elements: int) -> Tensor:
        """The first rows of a matrix that hold about so many elements; a vector whole."""
        draws = keyed_generator(0, f"forecast/{name}")
        shape = self.starts[name].shape
        count = max(1, elements // math.prod(shape[1:]))
        # What is larger than any machine needs is not drawn whole: its first rows are then others.
        whole = len(shape) < 2 or math.prod(shape) <= DRAWN_WHOLE
        start = self.starts[name].initialise(shape if whole else (min(count, shape[0]), *shape[1:]), draws)
        if start.ndim > 1:
            start = start[:count]
        moved = torch.randn(start.shape, generator=draws)
        if name == ("tok_emb.weight" if self.model.tied else "lm_head.weight"):
            unseen = round(len(moved) * min(1.0, UNSEEN_TOKENS / self.model.vocabulary_size))
            shared = torch.randn(2, moved.shape[1], generator=draws).prod(dim=0)  # a few are large
            # Side by side, as the bytes of a vocabulary are, with a share in both halves of a sample.
            half = len(moved) // 2
            rows = [*range(unseen - unseen // 2), *range(half, half + unseen // 2)]
            moved[rows] = shared + UNSEEN_SPREAD * moved[rows]
        kept, length = self.walks[name]
        # A rate that is far too high is for the run to find out, with the tensor that it spoils.
        drawn = (kept * start + length * moved).nan_to_num()
        return drawn * min(1.0, LARGEST / max(1.0, float(drawn.abs().max())))


def starts_of(plan: ModelPlan) -> dict[str, Start]:
    """How every tensor of a model starts; nothing is drawn."""
    with torch.device("meta"):
        model = Model(plan)
    own = {
        f"{path}.{local}".lstrip("."): start
        for path, module in model.named_modules()
        for local, start in getattr(module, "starts", {}).items()
    }
    return {name: plan.start.start(name, start, plan.layers) for name, start in own.items()}


def likely_steps(plan: TrainPlan) -> int:
    """Steps to reckon with before training, where tokens or the clock may end it."""
    plan = plan.in_steps()
    counted = min(plan.train_seconds / plan.step_seconds, plan.steps) if plan.step_seconds else 0
    return min(math.ceil(counted) or plan.expected_steps or plan.steps, plan.steps)


def random_walk(recipe: Recipe, rule: Any) -> RandomWalk:
    """What a rule makes of its numbers in all steps of a recipe; with Muon, of a matrix of one column.

    Updates that share a momentum add up before they turn, and a larger batch knows better where to go.
    """
    if isinstance(rule, Frozen):
        return RandomWalk(1.0, 0.0)
    plan, steps, kept, squares = recipe.train.in_steps(), likely_steps(recipe.train), 1.0, 0.0
    stride, seconds = math.ceil(steps / LOOKED_AT_STEPS), plan.step_seconds or plan.train_seconds / steps
    for step in range(0, steps, stride):
        progress = Progress(step, plan.steps, step * seconds, plan.train_seconds)
        rates = rule.rates(recipe.optim.schedule.lr_scale(progress), progress)
        momentum = rates.get("momentum", 0.0)
        decay = min(rates["lr"] * rates.get("weight_decay", rule.weight_decay), MOST_DECAY)
        left = (1 - decay) ** stride
        squares = left**2 * squares + stride * rates["lr"] ** 2 * (1 + momentum) / (1 - momentum)
        kept *= left
    share = MUON_WALK * recipe.train.batch_tokens**BATCH_POWER if isinstance(rule, MuonRule) else ADAM_WALK
    return RandomWalk(kept, share * math.sqrt(squares))
