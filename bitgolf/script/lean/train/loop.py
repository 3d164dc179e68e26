"""The training loop of a run that is never stopped and resumed."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from bitgolf.train.average import Averager
from bitgolf.train.loop import _random_state
from bitgolf.train.optim import Optimizers


@dataclasses.dataclass(kw_only=True)
class State:
    """All of a training between two steps. The tensors are the live ones, not copies."""

    step: int = 0
    seconds: float = 0.0
    position: int = 0
    tokens: int = 0
    weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    optimizer: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    averaged: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    random: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def copy(self) -> "State":
        """The same values in memory of their own."""
        parts = {name: part for name, part in self.__dict__.items() if isinstance(part, dict)}
        copies: dict[str, Any] = {
            name: {k: v.detach().clone() for k, v in part.items()} for name, part in parts.items()
        }
        return dataclasses.replace(self, **copies)

    def restore(self, model: nn.Module, optimizers: Optimizers) -> None:
        """Bring a model and its optimizers to this state."""
        model.load_state_dict(self.weights)
        optimizers.restore(self.optimizer)
        torch.set_rng_state(self.random["cpu"])
        if "cuda" in self.random:
            torch.cuda.set_rng_state(self.random["cuda"])


def _begin(
    model: nn.Module, optimizers: Optimizers, averager: Averager, saved: State | None, identity: str
) -> State:
    """A state that holds the live tensors, at the start."""
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return State(
        weights=weights,
        optimizer=optimizers.state(),
        averaged=averager.start(weights),
        random=_random_state(),
    )
