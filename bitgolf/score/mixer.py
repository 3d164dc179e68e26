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
    """The state of a mixer: what it has seen of a stream."""

    def mix(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Weights of at least 0 (vocabulary,) for all tokens; they are divided by their sum afterwards.

        own: float64 (vocabulary,), the distribution before this mixer; its sum is one. state: float32
        (width,), the model's final hidden state. Neither may be changed. The next token is not known here.
        """
        raise NotImplementedError

    def observe(self, token: int) -> None:
        """Learn the next token, after `mix` was asked and the token was scored."""
        raise NotImplementedError

    def beside(self) -> "Memory | None":
        """The memory of one more lane of this stream, before its first token; None if lanes are not possible.

        All lanes share what is learnt. First every lane is asked for its token, then each observes its own.
        """
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixer(Plan):
    """The slot of predictors that are mixed into the model's distribution: caches, retrieval, byte models.

    Every member gives weights over the whole vocabulary before the token is known, and this module normalises
    them. So a mixture that is no distribution (C2 of parameter-golf issue #1017) cannot be written.
    """

    abstract: ClassVar[bool] = True

    @property
    def on(self) -> bool:
        """Whether it changes anything; otherwise it is skipped, so that off is exact."""
        return True

    def memory(self, vocabulary_size: int, tokenizer: Tokenizer) -> Memory:
        """An empty memory. tokenizer: has the bytes of the tokens, `pieces`."""
        raise NotImplementedError


def normalised(weights: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Weights divided by their sum. Raises RuleError if they are negative, not finite, or all zero."""
    total = weights.sum()
    if weights.shape != (vocabulary_size,) or not 0 < total < math.inf or weights.min() < 0:
        raise RuleError("a mixer gave weights that are no distribution")
    return weights / total


def mixture_of(mixers: Sequence[Mixer], vocabulary_size: int, tokenizer: Tokenizer) -> "Mixture | None":
    """The mixture for a new stream; None if no mixer changes anything."""
    memories = [mixer.memory(vocabulary_size, tokenizer) for mixer in mixers if mixer.on]
    return Mixture(memories, vocabulary_size) if memories else None


class Mixture:
    """The mixers of one stream, as a chain; used both to score and to code it.

    alone: the model's own nats, float32, of the targets of each call of `nats`.
    """

    def __init__(self, memories: Sequence[Memory], vocabulary_size: int) -> None:
        self.memories, self.vocabulary_size = memories, vocabulary_size
        self.alone: list[np.ndarray] = []

    def distribution(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The distribution (vocabulary,) of the next token, float64. Raises RuleError for invalid weights."""
        for memory in self.memories:
            own = normalised(memory.mix(own, state), self.vocabulary_size)
        return own

    def beside(self) -> "Mixture | None":
        """The mixers of one more lane; None if one of them has no lanes. See `Memory.beside`."""
        memories = [each for memory in self.memories if (each := memory.beside()) is not None]
        return Mixture(memories, self.vocabulary_size) if len(memories) == len(self.memories) else None

    def observe(self, token: int) -> None:
        """Give the next token to all mixers."""
        for memory in self.memories:
            memory.observe(token)

    def nats(self, logits: Tensor, hidden: Tensor, targets: np.ndarray) -> np.ndarray:
        """Nats, float32, of consecutive targets; each is observed once it is scored.

        logits: (scored, vocabulary). hidden: (scored, width). targets: (scored).
        """
        owns, states = torch.softmax(logits.double(), 1).cpu().numpy(), hidden.float().cpu().numpy()
        self.alone.append(-np.log(owns[np.arange(len(targets)), targets]).astype(np.float32))
        nats = np.empty(len(targets), np.float32)
        for position, (own, state, token) in enumerate(zip(owns, states, targets.tolist(), strict=True)):
            nats[position] = -np.log(self.distribution(own, state)[token])
            self.observe(token)
        return nats
