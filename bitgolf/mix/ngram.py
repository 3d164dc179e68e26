"""N-gram caches: counts of the tokens that followed the last tokens in this text."""

import dataclasses
import math
from typing import Self

import numpy as np

from bitgolf.base.compiled import kept_compiled
from bitgolf.base.errors import DataError
from bitgolf.base.plan import setting
from bitgolf.mix.counts import (
    BEGINNING,
    FOLLOWED,
    NOTHING,
    TOKEN,
    TOP,
    UNIQUE,
    ContextCounts,
    Counts,
    add_counts,
)
from bitgolf.mix.trust import LONGEST_MEMORY, PATIENCE
from bitgolf.score.mixer import Memory, Mixer
from bitgolf.text.tokenizer import Tokenizer

# The class of a weight: length of the context, log2 of its counts and of their distinct tokens, and the
# model's odds of the most frequent of them.
BITS, MOST_ODDS, LEAST_ODDS = 32, 5, 1e-9
ODDS_LEVELS = 2 * MOST_ODDS + 1


class _Fixed(ContextCounts):
    def __init__(self, plan: "NgramCache", vocabulary_size: int) -> None:
        super().__init__(vocabulary_size, plan.order - 1)
        self.plan = plan

    def mix(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        node, counts = self.longest_seen(), self.counts
        total = int(counts.nodes[node, FOLLOWED]) if node >= 0 else 0
        share = self.plan.weight / (total + self.plan.kappa * len(own))
        mixed = (1 - self.plan.weight) * own + share * self.plan.kappa
        if total:
            add_counts(self.contexts[-1:], np.array([share]), counts.nodes, counts.rows, mixed)
        return mixed


@dataclasses.dataclass(frozen=True, kw_only=True)
class NgramCache(Mixer):
    """Counts of the tokens that followed the last `order` - 1 tokens, mixed in with a fixed weight.

    What: p = (1 - weight) p_model + weight (n(context, y) + kappa) / (n(context) + kappa V), exact counts of
        only the scored text
    Source: PR #1718 (bigrams, weight 0.02, kappa 0.5, never run there)
    Cost: no bytes; microseconds a token
    Not for: a strong model or a short text: the weight is the same for many counts and for none
    Neutral: weight=0
    """

    order: int = setting(2, at_least=1, at_most=64)
    weight: float = setting(0.02, at_least=0.0, below=1.0)
    kappa: float = setting(0.5, above=0.0)

    @property
    def on(self) -> bool:
        return self.weight > 0

    def memory(self, vocabulary_size: int, tokenizer: Tokenizer) -> Memory:
        return _Fixed(self, vocabulary_size)


@kept_compiled
def weigh_contexts(
    own: np.ndarray,
    contexts: np.ndarray,
    nodes: np.ndarray,
    weights: np.ndarray,
    situations: np.ndarray,
    factors: np.ndarray,
) -> tuple[int, float]:
    """The number of contexts with counts, and the remaining share of the model.

    situations: int64, output: the index of each context's class in `weights`.
    factors: float64, output: the factors of each context's counts.
    """
    known = 0
    for node in contexts:
        if node < 0 or nodes[node, FOLLOWED] == 0:
            break  # longer contexts have no counts either
        situation = known
        for number in (nodes[node, FOLLOWED], nodes[node, UNIQUE]):
            level = 0
            while number > 0:
                number, level = number >> 1, level + 1
            situation = situation * BITS + level
        likely = own[nodes[nodes[node, TOP], TOKEN]]
        odds = max(likely, LEAST_ODDS) / max(1 - likely, LEAST_ODDS)
        level = min(max(round(math.log2(odds) / 2), -MOST_ODDS), MOST_ODDS)
        situations[known] = situation * ODDS_LEVELS + level + MOST_ODDS
        known += 1
    left = 1.0
    for length in range(known - 1, -1, -1):
        weight = weights[situations[length]]
        factors[length] = left * weight / nodes[contexts[length], FOLLOWED]
        left *= 1 - weight
    return known, left


@kept_compiled
def move_weights(
    probability: float, shares: np.ndarray, situations: np.ndarray, weights: np.ndarray, seen: np.ndarray
) -> None:
    """Update the weights of contexts with counts, as `Trust` does.

    probability: the model's, of the observed token. shares: this token's share of the counts of each context.
    """
    for length in range(len(situations)):
        situation = situations[length]
        weight, share = weights[situation], shares[length]
        mixed = (1 - weight) * probability + weight * share
        if mixed > 0:
            seen[situation] = min(seen[situation] + 1, LONGEST_MEMORY)
            weights[situation] += (weight * share / mixed - weight) / seen[situation]
        probability = mixed


class _Interpolated(ContextCounts):
    def __init__(self, plan: "InterpolatedNgrams", vocabulary_size: int, bos: int) -> None:
        super().__init__(vocabulary_size, plan.order - 1)
        self.own, self.bos, self.known_contexts = np.zeros(vocabulary_size), bos, 0
        self.weights = np.full(plan.order * BITS**2 * ODDS_LEVELS, plan.start)
        self.seen = np.full(len(self.weights), PATIENCE)
        self.situations, self.factors = np.zeros(plan.order, np.int64), np.zeros(plan.order)

    def beside(self) -> Self:
        lane = super().beside()
        lane.situations, lane.factors = self.situations.copy(), self.factors.copy()
        lane.known_contexts = 0
        if self.bos >= 0:
            lane.counts = Counts(self.counts.rows.shape[1])
        return lane

    def mix(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        self.own, counts = own, self.counts
        given = own, self.contexts, counts.nodes, self.weights
        self.known_contexts, left = weigh_contexts(*given, self.situations, self.factors)
        mixed = left * own
        add_counts(self.contexts[: self.known_contexts], self.factors, counts.nodes, counts.rows, mixed)
        return mixed

    def observe(self, token: int) -> None:
        super().observe(token)
        situations = self.situations[: self.known_contexts]
        move_weights(self.own[token], self.shares, situations, self.weights, self.seen)
        if token == self.bos:
            self.counts, self.contexts = Counts(len(self.own)), np.full_like(self.contexts, -1)
            self.contexts[:2] = (NOTHING, BEGINNING)[: len(self.contexts)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterpolatedNgrams(Mixer):
    """Counts after the last 0 to `order` - 1 tokens, with weights learnt from their success so far.

    What: p_n = (1 - w) p_(n-1) + w n(context, y) / n(context), from p_0 of the model up to the longest
        context with counts; w is learnt from the scored text, for classes of length, count, number of
        distinct tokens and the model's odds of the most frequent one. per_document: counts start anew in each
        document
    Source: Jelinek and Mercer 1980; in place of the fixed weight of PR #1718 and the hashed tables of #779
    Cost: no bytes; some 10 microseconds and half a kB of memory a token
    Not for: texts of a few thousand tokens, where nothing repeats yet
    Neutral: start=0
    """

    order: int = setting(5, at_least=1, at_most=64)
    start: float = setting(0.02, at_least=0.0, below=1.0)
    per_document: bool = False

    @property
    def on(self) -> bool:
        return self.start > 0

    def memory(self, vocabulary_size: int, tokenizer: Tokenizer) -> Memory:
        if self.per_document and tokenizer.bos < 0:
            raise DataError(
                "this tokenizer has no BOS, so documents cannot be told apart",
                where="InterpolatedNgrams",
                value="per_document=True",
                way_out="per_document=False, which counts over the whole text",
            )
        return _Interpolated(self, vocabulary_size, tokenizer.bos if self.per_document else -1)
