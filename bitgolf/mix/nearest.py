"""Retrieval by hidden states (kNN-LM): tokens that followed similar states."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Self

import numpy as np

from bitgolf.base.plan import setting
from bitgolf.mix.trust import Trust, odds_level
from bitgolf.score.mixer import Memory, Mixer
from bitgolf.text.tokenizer import Tokenizer


class Datastore:
    """The last states (count, width) of all lanes, their squared lengths, and the tokens that followed.

    seen: the number of all states so far.
    """

    def __init__(self, count: int) -> None:
        self.states, self.squares = np.zeros((count, 0), np.float32), np.zeros(count, np.float32)
        self.followers, self.seen = np.zeros(count, np.int64), 0

    def add(self, state: np.ndarray, token: int) -> None:
        """Add a state and its token, in place of the oldest."""
        if not self.seen:
            self.states = np.zeros((len(self.squares), len(state)), np.float32)
        slot = self.seen % len(self.squares)
        self.states[slot], self.squares[slot], self.followers[slot] = state, state @ state, token
        self.seen += 1


class _Neighbours(Memory):
    def __init__(self, plan: "NearestStates") -> None:
        self.plan, self.trust, self.store = plan, Trust(plan.start), Datastore(plan.states)
        self.own, self.state = np.zeros(0), np.zeros(0, np.float32)
        self.shares: np.ndarray | None = None
        self.situation = 0

    def beside(self) -> Self:
        lane = copy.copy(self)
        lane.shares = None
        return lane

    def mix(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        self.own, self.state, self.shares = own, state, None
        largest = float(own.max())
        if self.store.seen < self.plan.neighbours or largest > self.plan.certain:
            return own
        shares = self.nearest(state, len(own))
        self.shares, self.situation = shares, odds_level(largest)
        weight = self.trust.of(self.situation)
        return (1 - weight) * own + weight * shares

    def nearest(self, state: np.ndarray, vocabulary_size: int) -> np.ndarray:
        """The kernel-weighted share of each token (vocabulary,) after the nearest states; the sum is one."""
        known = slice(min(self.store.seen, self.plan.states))
        squares = self.store.squares[known] - 2 * (self.store.states[known] @ state)
        chosen = np.argpartition(squares, self.plan.neighbours - 1)[: self.plan.neighbours]
        distances = squares[chosen].astype(np.float64) / (self.plan.bandwidth * len(state))
        weights = np.exp(distances.min() - distances)
        return np.bincount(self.store.followers[chosen], weights / weights.sum(), vocabulary_size)

    def observe(self, token: int) -> None:
        if self.shares is not None:
            self.trust.learn(self.situation, float(self.own[token]), float(self.shares[token]))
        self.store.add(self.state, token)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestStates(Mixer):
    """Tokens that followed the hidden states nearest to this one (kNN-LM).

    What: p = (1 - w) p_model + w sum of k(h, h_i) [y = y_i] over the `neighbours` nearest of the last
        `states` final states, k = exp(-|h - h_i|^2 / (bandwidth width)), normalised; only if the model's
        largest probability is at most `certain`; w is learnt for classes of that probability
    Source: PR #738 (32 of 30,000 states of width 512, temperature 50, weight 0.08; its gate looked at the
        token that came); Khandelwal et al. 2020
    Cost: no bytes; states x width products a token: some 300 microseconds at 8,192 x 192
    Not for: a tight limit on seconds
    Neutral: start=0
    """

    states: int = setting(8192, at_least=1, at_most=1 << 20)
    neighbours: int = setting(32, at_least=1, at_most=4096)
    bandwidth: float = setting(0.03, above=0.0)
    certain: float = setting(0.9, at_least=0.0, at_most=1.0)
    start: float = setting(0.08, at_least=0.0, below=1.0)

    def validate(self) -> Iterator[str]:
        if self.states < self.neighbours:
            yield f"states: at least neighbours {self.neighbours}, found {self.states}"

    @property
    def on(self) -> bool:
        return self.start > 0

    def memory(self, vocabulary_size: int, tokenizer: Tokenizer) -> Memory:
        return _Neighbours(self)
