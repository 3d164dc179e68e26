"""The interface of a scorer for probes: scores of a stream, distributions at positions, its state."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """Scores of a stream of n tokens by their targets: row i is that of token i + 1.

    nats: float64 (n - 1), NaN where a target has no score. times: int (n - 1), how often each was scored.
    """

    nats: np.ndarray
    times: np.ndarray

    @classmethod
    def in_order(cls, nats: Sequence[float], targets: int) -> "Rows":
        """Scores without positions, taken as those of the first targets; what is too many is the last's."""
        ordered = np.full(targets, np.nan)
        ordered[: len(nats)] = nats[:targets]
        times = np.where(np.arange(targets) < len(nats), 1, 0)
        times[-1] += max(len(nats) - targets, 0)
        return cls(ordered, times)


class Scorer:
    """Anything that scores tokens; probes ask nothing else of it.

    name: what messages call it. vocabulary_size: ids are below it. tolerance: nats by which scores may
    differ that should be the same bits. shape_tolerance: nats between two shapes of the same work.
    sum_tolerance: how far from one a distribution may sum.
    """

    name = "scorer"
    vocabulary_size = 0
    tolerance = 0.0
    shape_tolerance = 1e-4
    sum_tolerance = 1e-6

    def rows(self, tokens: np.ndarray) -> Rows:
        """Scores of a stream, int64 (n), from a fresh start."""
        raise NotImplementedError

    def rows_one_by_one(self, tokens: np.ndarray) -> Rows | None:
        """The same where every piece of work is done alone, nothing beside it; None where it cannot."""
        return None

    def rows_shared(self, tokens: np.ndarray, processes: int) -> Rows | None:
        """The same where several processes share the work; None where they cannot."""
        return None

    def distributions(self, tokens: np.ndarray, positions: Sequence[int]) -> np.ndarray | None:
        """What is expected after tokens[: position + 1] at each position, float64 (positions, vocabulary).

        The token after a position is told as the scorer is told it; None where it gives none.
        """
        return None

    def every_target(self, tokens: np.ndarray, position: int) -> np.ndarray:
        """Nats (vocabulary) of every token that could come after a position, each scored as if it had."""
        stream = tokens[: position + 2].copy()
        nats = np.empty(self.vocabulary_size)
        for token in range(self.vocabulary_size):
            stream[-1] = token
            nats[token] = self.nats_after(stream, position)
        return nats

    def nats_after(self, tokens: np.ndarray, position: int) -> float:
        """The score of the token after one position alone."""
        return float(self.rows(tokens).nats[position])

    def state(self) -> dict[str, str] | None:
        """What the scorer is made of, by name, each as a hash; None where nobody can see it."""
        return None

    def counted_bytes(self, tokens: np.ndarray) -> int | None:
        """How many bytes of text it counts for a whole stream; None where it counts none."""
        return None
