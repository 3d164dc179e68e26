"""The slot of mixers: predictors that grow with the scored text and join the model's own distribution."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.plan import Plan
from bitgolf.score.exam import RuleError
from bitgolf.text.tokenizer import Tokenizer


class Memory:
    """What a mixer has seen of a stream so far."""

    def mix(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        """A weight, at least 0, for every token of the vocabulary; they are divided by their sum afterwards.

        own: float64 (vocabulary), the distribution before this mixer, sums to one. state: float32 (width),
        the model's final state. Neither may be written into. The token that comes is not known here.
        """
        raise NotImplementedError

    def observe(self, token: int) -> None:
        """The token that came, after `mix` was asked for it and it was scored."""
        raise NotImplementedError

    def beside(self) -> "Memory | None":
        """A memory of one more lane of this stream, before its first token; None where there is but one.

        What is learnt is shared by all lanes: each asks for its own token, then each observes it in turn.
        """
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixer(Plan):
    """The slot of what is mixed into the model's distribution: caches, retrieval, byte models.

    Every member gives weights over the whole vocabulary before the token is known, and they are normalised
    here: a mixture that is no distribution (C2 of parameter-golf issue #1017) cannot be written.
    """

    abstract: ClassVar[bool] = True

    @property
    def on(self) -> bool:
        """Whether it changes anything; one that does not is left out, so that off is exact."""
        return True

    def memory(self, vocabulary_size: int, tokenizer: Tokenizer) -> Memory:
        """An empty memory. tokenizer: what the tokens stand for, `pieces`."""
        raise NotImplementedError


def normalised(weights: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Weights as a distribution. Raises RuleError for weights that are none."""
    total = weights.sum()
    if weights.shape != (vocabulary_size,) or not 0 < total < math.inf or weights.min() < 0:
        raise RuleError("a mixer gave weights that are no distribution")
    return weights / total


def mixture_of(mixers: Sequence[Mixer], vocabulary_size: int, tokenizer: Tokenizer) -> "Mixture | None":
    """The mixture of a stream that begins; None where no mixer changes anything."""
    memories = [mixer.memory(vocabulary_size, tokenizer) for mixer in mixers if mixer.on]
    return Mixture(memories, vocabulary_size) if memories else None


class Mixture:
    """The mixers of one stream, one after another; used alike to score and to code it.

    alone: nats, float32, that the model gave by itself to the targets of each call of `nats`.
    """

    def __init__(self, memories: Sequence[Memory], vocabulary_size: int) -> None:
        self.memories, self.vocabulary_size = memories, vocabulary_size
        self.alone: list[np.ndarray] = []

    def distribution(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The distribution (vocabulary) of the coming token, float64. Raises RuleError for what is none."""
        for memory in self.memories:
            own = normalised(memory.mix(own, state), self.vocabulary_size)
        return own

    def beside(self) -> "Mixture | None":
        """The mixers of one more lane; None where one of them knows but one. See `Memory.beside`."""
        memories = [each for memory in self.memories if (each := memory.beside()) is not None]
        return Mixture(memories, self.vocabulary_size) if len(memories) == len(self.memories) else None

    def observe(self, token: int) -> None:
        """Tell all of them what came."""
        for memory in self.memories:
            memory.observe(token)

    def nats(self, logits: Tensor, hidden: Tensor, targets: np.ndarray) -> np.ndarray:
        """Nats, float32, of targets that follow each other; each is observed when it has been scored.

        logits: (scored, vocabulary). hidden: (scored, width). targets: (scored).
        """
        owns, states = torch.softmax(logits.double(), 1).cpu().numpy(), hidden.float().cpu().numpy()
        self.alone.append(-np.log(owns[np.arange(len(targets)), targets]).astype(np.float32))
        nats = np.empty(len(targets), np.float32)
        for position, (own, state, token) in enumerate(zip(owns, states, targets.tolist(), strict=True)):
            nats[position] = -np.log(self.distribution(own, state)[token])
            self.observe(token)
        return nats
