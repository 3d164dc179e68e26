"""Averages of the weights over the steps; always kept in float32."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from bitgolf.core.plan import Plan, setting
from bitgolf.core.schedule import Progress

AverageState = dict[str, Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Averager(Plan):
    """The slot of what is packed instead of the last weights."""

    abstract: ClassVar[bool] = True

    def start(self, weights: dict[str, Tensor]) -> AverageState:
        """The state before the first step."""
        raise NotImplementedError

    def update(self, state: AverageState, weights: dict[str, Tensor], progress: Progress) -> AverageState:
        """The state after a step that left these weights; may change the given state in place."""
        raise NotImplementedError

    def weights(self, state: AverageState, live: dict[str, Tensor]) -> dict[str, Tensor]:
        """The averaged weights, in float32 where they are averaged at all."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoAverage(Averager):
    """The last weights as they are.

    What: nothing is averaged.
    Source: the public baseline.
    Cost: no bytes, no seconds.
    Not for: noisy ends of training, where an average is free.
    Neutral: always.
    """

    def start(self, weights: dict[str, Tensor]) -> AverageState:
        return {}

    def update(self, state: AverageState, weights: dict[str, Tensor], progress: Progress) -> AverageState:
        return state

    def weights(self, state: AverageState, live: dict[str, Tensor]) -> dict[str, Tensor]:
        return live


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ema(Averager):
    """Exponential moving average of all weights.

    What: after every step, average = decay * average + (1 - decay) * weights, from the initial weights on, in
        float32 whatever the dtype of the weights (a bfloat16 sum stands still).
    Source: public records from 2026-03-22 on (0.997); PR #682 uses 0.97 for 200 steps.
    Cost: one more copy of the weights in memory, one pass over them per step.
    Not for: runs shorter than a few times 1 / (1 - decay) steps, which would remember their start.
    Neutral: decay=0
    """

    decay: float = setting(0.997, at_least=0.0, below=1.0)

    def start(self, weights: dict[str, Tensor]) -> AverageState:
        return {name: tensor.detach().float().clone() for name, tensor in weights.items()}

    def update(self, state: AverageState, weights: dict[str, Tensor], progress: Progress) -> AverageState:
        live = [weights[name].detach().float() for name in state]
        torch._foreach_lerp_(list(state.values()), live, 1.0 - self.decay)
        return state

    def weights(self, state: AverageState, live: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(state)
