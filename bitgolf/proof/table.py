"""Logits as whole numbers that a coder can divide its range by, the same on both sides.

A logit becomes a whole number of 1/1024 bits below the largest one of its row, and that a whole number of
shares, from a table that is made of integers alone. No share is zero.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

BIT_STEPS = 1024  # steps of a logit in one bit of probability
SHARE_BITS = 40  # of the largest share; sums over a vocabulary of 2^12 stay exact in float64
DIGITS = 120  # binary digits behind the point while the table is made


@functools.cache
def share_table() -> np.ndarray:
    """Shares (int64) by the steps below the largest logit: 2^(SHARE_BITS - steps / BIT_STEPS) + 1."""
    one = 1 << DIGITS
    step = one // 2  # the root of a half, ten times: 2^(-1/1024)
    for _ in range(BIT_STEPS.bit_length() - 1):
        step = math.isqrt(step << DIGITS)
    power, powers = one, []
    for _ in range(BIT_STEPS):
        powers.append(power >> (DIGITS - SHARE_BITS))
        power = power * step >> DIGITS
    octaves = np.arange(SHARE_BITS + 1)[:, None]
    return ((np.array(powers, dtype=np.int64)[None] >> octaves) + 1).reshape(-1)


@functools.cache
def _shares() -> Tensor:
    return torch.from_numpy(share_table()).double()


def shares_of(logits: Tensor) -> np.ndarray:
    """Shares (rows, vocabulary), whole numbers in float64, of logits (rows, vocabulary) in nats."""
    table = _shares()
    below = (logits.amax(1, keepdim=True) - logits).mul_(BIT_STEPS / math.log(2))
    steps = below.round_().clamp_(max=len(table) - 1).to(torch.int32)
    return table.index_select(0, steps.cpu().flatten()).view(logits.shape).numpy()
