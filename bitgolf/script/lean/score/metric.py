"""Scores to bits per byte, a ratio of sums in float64."""

import math

import numpy as np


def bits_per_byte(nats: np.ndarray, sizes: np.ndarray) -> float:
    """sum(nats) / ln 2 / sum(bytes), over exactly the scored tokens."""
    return float(nats.sum(dtype=np.float64)) / math.log(2) / int(sizes.sum(dtype=np.int64))
