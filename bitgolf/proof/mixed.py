"""Mixers in lanes: every lane is asked for its own token, then all tokens are observed in turn.

So no lane knows a token of the same step, and the decoder has at each step what the coder had.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.errors import ArtifactError
from bitgolf.score.mixer import Mixture


class MixedLanes:
    """The mixers of new lanes. Raises ArtifactError for mixers without lanes."""

    def __init__(self, mixture: Mixture, lanes: int) -> None:
        self.lanes = [each for _ in range(lanes) if (each := mixture.beside()) is not None]
        if len(self.lanes) < lanes:
            raise ArtifactError("mixers that know but one lane", value=f"{lanes} lanes")

    def logits(self, logits: Tensor, states: Tensor) -> Tensor:
        """The mixed logits of the first lanes; see `mixed_logits`."""
        return mixed_logits(self.lanes, logits, states)

    def observe(self, tokens: Iterable[int]) -> None:
        """Observe the next tokens of the first lanes."""
        for lane, token in zip(self.lanes, tokens, strict=False):
            lane.observe(token)


def mixed_logits(mixtures: Iterable[Mixture], logits: Tensor, states: Tensor) -> Tensor:
    """Mixed logits (lanes, vocabulary), float64, from a model's logits and hidden states (lanes, ...).

    There may be more states than logits.
    """
    distributions, states_of_lanes = (
        torch.softmax(logits.double(), 1).cpu().numpy(),
        states.float().cpu().numpy(),
    )
    mixed = [
        mixture.distribution(*inputs)
        for mixture, *inputs in zip(mixtures, distributions, states_of_lanes, strict=False)
    ]
    return torch.from_numpy(np.log(np.maximum(mixed, np.finfo(float).tiny)))
