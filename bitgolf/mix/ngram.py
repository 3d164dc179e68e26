"""Counts of what followed the last tokens, so far in this text."""

import dataclasses
from collections import defaultdict

import numpy as np

from bitgolf.base.plan import setting
from bitgolf.score.mixer import Memory, Mixer
from bitgolf.text.tokenizer import Tokenizer


class _Counts(Memory):
    def __init__(self, plan: "NgramCache", vocabulary_size: int) -> None:
        self.plan = plan
        self.uniform = np.full(vocabulary_size, 1 / vocabulary_size)
        self.history: tuple[int, ...] = ()
        self.counts: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)

    def mix(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        if not self.plan.weight:
            return own
        seen, kappa = self.counts.get(self.history, {}), self.plan.kappa
        total = sum(seen.values())
        cache = self.uniform * (kappa * len(own) / (total + kappa * len(own)))
        cache[list(seen)] += np.array(list(seen.values())) / (total + kappa * len(own))
        return (1 - self.plan.weight) * own + self.plan.weight * cache

    def observe(self, token: int) -> None:
        if len(self.history) == self.plan.order - 1:
            seen = self.counts[self.history]
            seen[token] = seen.get(token, 0) + 1
        self.history = (*self.history, token)[-(self.plan.order - 1) :] if self.plan.order > 1 else ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NgramCache(Mixer):
    """Counts of the tokens that followed the last `order` - 1 ones, mixed in with a fixed weight.

    What: p = (1 - weight) p_model + weight (n(context, y) + kappa) / (n(context) + kappa V), exact counts of
        the scored text alone
    Source: PR #1718 (bigrams, weight 0.02, kappa 0.5, never run there)
    Cost: no bytes; microseconds a token
    Not for: models with a longer context that copy by themselves
    Neutral: weight=0
    """

    order: int = setting(2, at_least=1, at_most=64)
    weight: float = setting(0.02, at_least=0.0, below=1.0)
    kappa: float = setting(0.5, above=0.0)

    def memory(self, vocabulary_size: int, tokenizer: Tokenizer) -> Memory:
        return _Counts(self, vocabulary_size)
