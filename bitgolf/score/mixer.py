"""The slot of mixers: predictors that grow with the scored text and join the model's own distribution."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.plan import Plan
from bitgolf.net.model import Model
from bitgolf.score.exam import RuleError
from bitgolf.text.tokenizer import Tokenizer


class Memory:
    """What a mixer has seen of a stream so far."""

    def mix(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        """A weight, at least 0, for every token of the vocabulary; they are divided by their sum afterwards.

        own: float64 (vocabulary), the distribution before this mixer, sums to one. state: float32 (width),
        the model's final state. The token that comes is not known here.
        """
        raise NotImplementedError

    def observe(self, token: int) -> None:
        """The token that came, after it was scored."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixer(Plan):
    """The slot of what is mixed into the model's distribution: caches, retrieval, byte models.

    Every member gives weights over the whole vocabulary before the token is known, and they are normalised
    here: a mixture that is no distribution (C2 of parameter-golf issue #1017) cannot be written.
    """

    abstract: ClassVar[bool] = True

    def memory(self, vocabulary_size: int, tokenizer: Tokenizer) -> Memory:
        """An empty memory."""
        raise NotImplementedError


def normalised(weights: np.ndarray) -> np.ndarray:
    """Weights as a distribution. Raises RuleError for weights that are none."""
    total = weights.sum()
    if not np.isfinite(total) or total <= 0 or weights.min() < 0:
        raise RuleError("a mixer gave weights that are no distribution")
    return weights / total


class Mixture:
    """The mixers of one stream, one after another; used alike to score and to code it."""

    def __init__(self, mixers: Sequence[Mixer], vocabulary_size: int, tokenizer: Tokenizer) -> None:
        self.memories = [mixer.memory(vocabulary_size, tokenizer) for mixer in mixers]

    def distribution(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The distribution (vocabulary) of the coming token, float64."""
        for memory in self.memories:
            own = normalised(memory.mix(own, state))
        return own

    def observe(self, token: int) -> None:
        """Tell all of them what came."""
        for memory in self.memories:
            memory.observe(token)

    def nats(self, model: Model, hidden: Tensor, targets: np.ndarray) -> np.ndarray:
        """Nats (windows, scored), float32, of targets in the order of the stream.

        hidden: (windows, scored, width). Each target is observed when it has been scored.
        """
        states, nats = hidden.flatten(0, 1), np.empty(targets.size, np.float32)
        own = torch.softmax(model.logits_of(states).double(), 1).cpu().numpy()
        for place, token in enumerate(targets.reshape(-1).tolist()):
            probability = self.distribution(own[place], states[place].float().cpu().numpy())[token]
            nats[place] = -np.log(probability)
            self.observe(token)
        return nats.reshape(targets.shape)
