"""Exact-match retrieval: the token after the longest earlier match of the last tokens, as in LZ77."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Self

import numpy as np

from bitgolf.base.plan import setting
from bitgolf.mix.trust import Trust, odds_level
from bitgolf.score.mixer import Memory, Mixer
from bitgolf.text.tokenizer import Tokenizer


class _Matches(Memory):
    """The text so far, tokens of all lanes in the order of observation.

    text: tokens. before: index of the previous token of the same lane, -1 for the first. latest: by
    `shortest` tokens, the index of the last token that followed them; earlier: the index of the follower
    before that, -1 for none. recent: the last `shortest` tokens of this lane. last: index of the last token.
    """

    def __init__(self, plan: "LongestMatch") -> None:
        self.plan, self.trust, self.own = plan, Trust(plan.start), np.zeros(0)
        self.text: list[int] = []
        self.before: list[int] = []
        self.latest: dict[tuple[int, ...], int] = {}
        self.earlier: list[int] = []
        self.recent: tuple[int, ...] = ()
        self.last = -1
        self.match = (0, -1)

    def beside(self) -> Self:
        lane = copy.copy(self)
        lane.recent, lane.last, lane.match = (), -1, (0, -1)
        return lane

    def longest(self) -> tuple[int, int]:
        """Length of the longest match of the last tokens, and the token that followed it; (0, -1) if none."""
        best, follower = 0, -1
        position = self.latest.get(self.recent, -1) if len(self.recent) == self.plan.shortest else -1
        for _ in range(self.plan.tries):
            if position < 0:
                break
            length = self._length(self.before[position])
            if length > best:
                best, follower = length, self.text[position]
            position = self.earlier[position]
        return best, follower

    def _length(self, position: int) -> int:
        """How many tokens up to this position equal the last tokens, at most `longest`."""
        length, end, text, before = 0, self.last, self.text, self.before
        while length < self.plan.longest and position >= 0 and end >= 0 and text[position] == text[end]:
            length, position, end = length + 1, before[position], before[end]
        return length

    def mix(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        self.own, self.match = own, self.longest()
        if self.match[0] == 0:
            return own
        weight = self.trust.of(self.situation())
        mixed = (1 - weight) * own
        mixed[self.match[1]] += weight
        return mixed

    def situation(self) -> tuple[int, int]:
        """The class of a match for its weight: its length, and the model's odds of its token."""
        length, token = self.match
        return length, odds_level(float(self.own[token]))

    def observe(self, token: int) -> None:
        if self.match[0]:
            self.trust.learn(self.situation(), float(self.own[token]), float(token == self.match[1]))
        position, is_full = len(self.text), len(self.recent) == self.plan.shortest
        self.earlier.append(self.latest.get(self.recent, -1) if is_full else -1)
        if is_full:
            self.latest[self.recent] = position
        self.text.append(token)
        self.before.append(self.last)
        self.recent, self.last = (*self.recent, token)[-self.plan.shortest :], position


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongestMatch(Mixer):
    """The token after the longest earlier match of the last tokens, weighted by the length of the match.

    What: p = (1 - w) p_model + w [y = the follower]; the match is the longest among the last `tries`
        occurrences of the last `shortest` tokens, the latest of equal ones; w is learnt for each length, up
        to `longest`, and for the model's odds of that token
    Source: PR #780 (its confidence was min(0.85, 0.3 + length / 20)); Ziv and Lempel 1977
    Cost: no bytes; some 40 microseconds a token
    Not for: texts that do not quote themselves
    Neutral: start=0
    """

    shortest: int = setting(1, at_least=1, at_most=64)
    longest: int = setting(24, at_least=1, at_most=1024)
    tries: int = setting(32, at_least=1, at_most=4096)
    start: float = setting(0.1, at_least=0.0, below=1.0)

    def validate(self) -> Iterator[str]:
        if self.longest < self.shortest:
            yield f"longest: at least shortest {self.shortest}, found {self.longest}"

    @property
    def on(self) -> bool:
        return self.start > 0

    def memory(self, vocabulary_size: int, tokenizer: Tokenizer) -> Memory:
        return _Matches(self)
