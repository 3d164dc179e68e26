"""What followed each context, counted exactly: a context is the tokens themselves, never a hash of them."""

import numpy as np

from bitgolf.score.mixer import Memory

FEW = 1 / 16  # of the vocabulary: with more kinds of tokens than this, counts become an array


class Followers:
    """How often each token followed one context. total: all tokens; kinds: how many different ones.

    top: the most frequent one, of equal ones the first to become that; -1 at the start.
    """

    __slots__ = ("total", "kinds", "top", "_few", "_all")

    def __init__(self) -> None:
        self.total, self.kinds, self.top = 0, 0, -1
        self._few: dict[int, int] | None = None  # counts, once there are two kinds
        self._all: np.ndarray | None = None  # counts (vocabulary), once there are many

    def count(self, token: int) -> int:
        """How often this one came."""
        if self._all is not None:
            return int(self._all[token])
        return self._few.get(token, 0) if self._few else self.total * (token == self.top)

    def add(self, token: int, vocabulary_size: int) -> None:
        """One more."""
        before = self.count(token)
        if self.kinds == 1 and not before:
            self._few = {self.top: self.total}
        if self._all is not None:
            self._all[token] += 1
        elif self._few is not None:
            self._few[token] = before + 1
        if before >= self.count(self.top):
            self.top = token
        self.total, self.kinds = self.total + 1, self.kinds + (before == 0)
        if self._few and self.kinds > FEW * vocabulary_size:
            counted = np.zeros(vocabulary_size)
            self.add_to(counted, 1.0)
            self._few, self._all = None, counted

    def add_to(self, weights: np.ndarray, factor: float) -> None:
        """Add each count times the factor to its place in weights (vocabulary)."""
        if self._all is not None:
            weights += factor * self._all
        elif self._few:
            count = len(self._few)
            tokens = np.fromiter(self._few, np.int64, count)
            weights[tokens] += factor * np.fromiter(self._few.values(), np.float64, count)
        else:
            weights[self.top] += factor * self.total


class ContextCounts(Memory):
    """What followed the last `shortest` to `longest` tokens, for each of these lengths."""

    def __init__(self, vocabulary_size: int, shortest: int, longest: int) -> None:
        self.vocabulary_size, self.shortest, self.longest = vocabulary_size, shortest, longest
        self.history: tuple[int, ...] = ()
        self.followers: dict[tuple[int, ...], Followers] = {}

    def contexts(self) -> list[tuple[int, ...]]:
        """What the coming token follows, the shortest context first."""
        ends = range(self.shortest, min(self.longest, len(self.history)) + 1)
        return [self.history[len(self.history) - length :] for length in ends]

    def observe(self, token: int) -> None:
        for context in self.contexts():
            if context not in self.followers:
                self.followers[context] = Followers()
            self.followers[context].add(token, self.vocabulary_size)
        self.history = (*self.history, token)[-self.longest :] if self.longest else ()
