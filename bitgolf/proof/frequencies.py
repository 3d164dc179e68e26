"""Logits as frequencies: whole numbers for the range coder, equal for coder and decoder.

A logit is rounded to a whole number of 1/1024 bits below the largest of its row. A table made of integers
alone turns that into a frequency. No frequency is zero.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

BIT_STEPS = 1024  # steps of a logit in one bit of probability
FREQUENCY_BITS = 40  # of the largest frequency; sums over a vocabulary of 2^12 stay exact in float64
DIGITS = 120  # binary digits after the point while the table is made


@functools.cache
def frequency_table() -> np.ndarray:
    """Frequencies (int64) by steps below the largest logit: 2^(FREQUENCY_BITS - steps / BIT_STEPS) + 1."""
    one = 1 << DIGITS
    step = one // 2  # ten square roots of a half: 2^(-1/1024)
    for _ in range(BIT_STEPS.bit_length() - 1):
        step = math.isqrt(step << DIGITS)
    power, powers = one, []
    for _ in range(BIT_STEPS):
        powers.append(power >> (DIGITS - FREQUENCY_BITS))
        power = power * step >> DIGITS
    octaves = np.arange(FREQUENCY_BITS + 1)[:, None]
    return ((np.array(powers, dtype=np.int64)[None] >> octaves) + 1).reshape(-1)


@functools.cache
def _frequencies() -> Tensor:
    return torch.from_numpy(frequency_table()).double()


def frequencies_of(logits: Tensor) -> np.ndarray:
    """Frequencies (rows, vocabulary), whole numbers in float64, of logits (rows, vocabulary) in nats."""
    table = _frequencies()
    below = (logits.amax(1, keepdim=True) - logits).mul_(BIT_STEPS / math.log(2))
    steps = below.round_().clamp_(max=len(table) - 1).to(torch.int32)
    return table.index_select(0, steps.cpu().flatten()).view(logits.shape).numpy()
