"""Attention of one new token per lane, in compiled code: one pass over the cached keys and values."""

import math

import numpy as np
from torch import Tensor

from bitgolf.base.compiled import kept_compiled
from bitgolf.net.kernels import AttentionMask
from bitgolf.net.native import fits

TOGETHER = 4  # rows of keys in one pass over the scores
BITS_OF_E = np.float32(math.log2(math.e))
LOWEST = np.float32(-126)  # the least power of two in float32 that is not denormal
HALF, ONE = np.float32(0.5), np.float32(1)
BIAS, MANTISSA = np.int32(127), np.int32(23)  # of the parts of a float32
# 2^x = 1 + P1 x + P2 x^2 ..., whose rest is below 6e-9 between -0.5 and 0.5
P1, P2, P3, P4, P5, P6, P7 = (np.float32(math.log(2) ** k / math.factorial(k)) for k in range(1, 8))


def supports(q: Tensor, keys: Tensor, values: Tensor, mask: AttentionMask) -> bool:
    """Whether `attend_step` can compute these."""
    supported = q.shape[3] == 1 and q.shape[4] % TOGETHER == 0 and not mask.score_mods
    return supported and q.device.type == "cpu" and fits(q, keys.mT, values.mT)


def attend_step(q: Tensor, keys: Tensor, values: Tensor, end: int, mask: AttentionMask) -> Tensor:
    """Attention of one query per lane over the first `end` places; see `attend_last`, its reference.

    q: (key heads, group, lanes, 1, dimension). keys, values: (key heads * lanes, tokens, dimension), in
    memory by dimension. Returns (lanes, 1, query heads * dimension).
    """
    count, group, lanes, _, width = q.shape
    output = q.new_empty(lanes, count, group, width)
    first = max(0, end - mask.window) if mask.window else 0
    attend_rows(q[:, :, :, 0].numpy(), keys.mT.numpy(), values.mT.numpy(), first, end, output.numpy())
    return output.view(lanes, 1, -1)


def attend_rows_plainly(
    q: np.ndarray, keys: np.ndarray, values: np.ndarray, first: int, end: int, output: np.ndarray
) -> None:
    """q: (key heads, group, lanes, dimension). keys, values: (key heads * lanes, dimension, tokens)."""
    heads, group, lanes, width = q.shape
    num_keys = end - first
    shares, powers = np.empty(num_keys, np.float32), np.empty(num_keys, np.int32)
    scale = powers.view(np.float32)
    for head in range(heads):
        for lane in range(lanes):
            key, value = keys[head * lanes + lane], values[head * lanes + lane]
            for member in range(group):
                query, result = q[head, member, lane], output[lane, head, member]
                shares[:] = 0
                for i in range(0, width, TOGETHER):
                    a, b, c, d = query[i], query[i + 1], query[i + 2], query[i + 3]
                    k, m = key[i, first:end], key[i + 1, first:end]
                    n, o = key[i + 2, first:end], key[i + 3, first:end]
                    for t in range(num_keys):
                        shares[t] += a * k[t] + b * m[t] + c * n[t] + d * o[t]
                top = shares[0]
                for t in range(num_keys):
                    top = max(top, shares[t])
                for t in range(num_keys):
                    x = max((shares[t] - top) * BITS_OF_E, LOWEST)
                    whole = np.floor(x + HALF)
                    x -= whole
                    shares[t] = ((((((P7 * x + P6) * x + P5) * x + P4) * x + P3) * x + P2) * x + P1) * x + ONE
                    powers[t] = (np.int32(whole) + BIAS) << MANTISSA
                total = np.float32(0)
                for t in range(num_keys):
                    shares[t] *= scale[t]
                    total += shares[t]
                for i in range(width):
                    k, dot = value[i, first:end], np.float32(0)
                    for t in range(num_keys):
                        dot += shares[t] * k[t]
                    result[i] = dot / total


attend_rows = kept_compiled(attend_rows_plainly, fastmath={"reassoc", "contract", "nnan", "nsz"})
