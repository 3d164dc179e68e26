"""Scores to bits per byte, a ratio of sums in float64."""

import math

import numpy as np

from bitgolf.script.lean.score.score import Scores


def bits_per_byte(scores: Scores) -> float:
    """sum(nats) / ln 2 / sum(bytes), over exactly the scored tokens."""
    nats = float(scores.nats.sum(dtype=np.float64))
    return nats / math.log(2) / int(scores.bytes.sum(dtype=np.int64))
