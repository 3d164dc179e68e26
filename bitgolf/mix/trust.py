"""Learnt mixing weights of a predictor, one for each class of situations that the prefix defines."""

import math
from collections.abc import Hashable

PATIENCE = 8  # the initial weight counts as this many tokens
LONGEST_MEMORY = 2000  # tokens in the average of a weight; later ones replace the first


class Trust:
    """The weight w of a second predictor q beside a first one p, in each situation: (1 - w) p + w q.

    It is the average of the second predictor's share of each token's probability,
    w q / ((1 - w) p + w q): expectation-maximisation, one token at a time. A weight that starts at 0 stays 0.
    Source: Jelinek and Mercer 1980, held-out weights by classes of counts; the prefix is held out here
    """

    def __init__(self, start: float) -> None:
        self.start = start
        self._learnt: dict[Hashable, tuple[float, int]] = {}

    def of(self, situation: Hashable) -> float:
        """The weight, 0 to 1, of a situation."""
        return self._learnt[situation][0] if situation in self._learnt else self.start

    def learn(self, situation: Hashable, first: float, second: float) -> float:
        """Learn from a token with these two probabilities; returns their mixture by the weight before."""
        weight, seen = self._learnt.get(situation, (self.start, PATIENCE))
        mixed = (1 - weight) * first + weight * second
        seen = min(seen + 1, LONGEST_MEMORY)
        if mixed > 0:
            weight += (weight * second / mixed - weight) / seen
            self._learnt[situation] = weight, seen
        return mixed


def odds_level(probability: float) -> int:
    """The odds of a probability in eleven classes, -5 to 5; each spans a factor of four."""
    odds = max(probability, 1e-9) / max(1 - probability, 1e-9)
    return min(max(round(math.log2(odds) / 2), -5), 5)
