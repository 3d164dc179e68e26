"""Exact-match retrieval: the token after the longest earlier match of the last ones, as LZ77 finds it."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from bitgolf.base.plan import setting
from bitgolf.mix.trust import Trust, odds_level
from bitgolf.score.mixer import Memory, Mixer
from bitgolf.text.tokenizer import Tokenizer


class _Matches(Memory):
    def __init__(self, plan: "LongestMatch") -> None:
        self.plan, self.trust, self.own = plan, Trust(plan.start), np.zeros(0)
        self.text: list[int] = []
        self.latest: dict[tuple[int, ...], int] = {}  # where the `shortest` tokens last ended
        self.earlier: list[int] = []  # where the ones that end here ended before, -1 for never
        self.found = (0, -1)

    def longest(self) -> tuple[int, int]:
        """How many of the last tokens came before, and what followed them there; (0, -1) if too few."""
        best, follower = 0, -1
        position = self.earlier[-1] if self.earlier else -1
        for _ in range(self.plan.tries):
            if position < 0:
                break
            length = self._length(position)
            if length > best:
                best, follower = length, self.text[position + 1]
            position = self.earlier[position]
        return best, follower

    def _length(self, position: int) -> int:
        """How many tokens up to this position equal the last ones; `shortest` are known to."""
        length, end = self.plan.shortest, len(self.text) - 1
        most = min(position + 1, self.plan.longest)
        while length < most and self.text[position - length] == self.text[end - length]:
            length += 1
        return length

    def mix(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        self.own = own
        if self.found[0] == 0:
            return own
        weight = self.trust.of(self.situation())
        mixed = (1 - weight) * own
        mixed[self.found[1]] += weight
        return mixed

    def situation(self) -> tuple[int, int]:
        """What the weight of a match depends on: its length, and how likely the model finds its token."""
        length, token = self.found
        return length, odds_level(float(self.own[token]))

    def observe(self, token: int) -> None:
        if self.found[0]:
            self.trust.learn(self.situation(), float(self.own[token]), float(token == self.found[1]))
        self.text.append(token)
        recent = tuple(self.text[-self.plan.shortest :])
        is_full = len(recent) == self.plan.shortest
        self.earlier.append(self.latest.get(recent, -1) if is_full else -1)
        if is_full:
            self.latest[recent] = len(self.text) - 1
        self.found = self.longest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongestMatch(Mixer):
    """The token after the longest earlier match of the last tokens, trusted by how long the match is.

    What: p = (1 - w) p_model + w [y = the follower]; the match is the longest of the last `tries` positions
        where the last `shortest` tokens stood, the latest of equal ones; w is learnt for each length, up to
        `longest`, and for how likely the model finds that token
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
