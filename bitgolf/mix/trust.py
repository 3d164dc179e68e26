"""How much a predictor is trusted, in situations told apart by the prefix, and learnt from what came."""

import math
from collections.abc import Hashable

PATIENCE = 8  # tokens that the weight at the start is worth
LONGEST_MEMORY = 2000  # tokens that count in a weight; later ones take the place of the first


class Trust:
    """The weight w of a second predictor q beside a first one p, in each situation: (1 - w) p + w q.

    It is an average of how much of each token's probability was the second one's doing,
    w q / ((1 - w) p + w q): expectation-maximisation, one token at a time. A weight that starts at 0 stays.
    Source: Jelinek and Mercer 1980, held-out weights by classes of counts; the prefix is held out here
    """

    def __init__(self, start: float) -> None:
        self.start = start
        self._learnt: dict[Hashable, tuple[float, int]] = {}

    def of(self, situation: Hashable) -> float:
        """The weight, 0 to 1, in a situation."""
        return self._learnt[situation][0] if situation in self._learnt else self.start

    def learn(self, situation: Hashable, first: float, second: float) -> float:
        """The token came that had these two probabilities; returns their mixture, by the weight before."""
        weight, seen = self._learnt.get(situation, (self.start, PATIENCE))
        mixed = (1 - weight) * first + weight * second
        seen = min(seen + 1, LONGEST_MEMORY)
        if mixed > 0:
            weight += (weight * second / mixed - weight) / seen
            self._learnt[situation] = weight, seen
        return mixed


def odds_level(probability: float) -> int:
    """The odds of a probability as one of eleven steps, -5 to 5; each is four times the one before."""
    odds = max(probability, 1e-9) / max(1 - probability, 1e-9)
    return min(max(round(math.log2(odds) / 2), -5), 5)
