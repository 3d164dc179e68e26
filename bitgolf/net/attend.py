"""Attention in compiled code, without gradients: tile by tile, so that scores stay in the cache.

Torch uses MKL for batched float32 products, whose AVX512 code runs only on Intel's processors.
"""

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.compiled import HAS_NUMBA, Looping, kept_compiled
from bitgolf.base.threads import in_parts
from bitgolf.net.kernels import AttentionMask
from bitgolf.net.machine import BITS_OF_E
from bitgolf.net.softcap import BIAS, HALF, LOWEST, MANTISSA, ONE, P1, P2, P3, P4, P5, P6, P7

QUERIES = 128  # of one tile, adjacent in memory, so that a vector has one number of each
KEYS = 64  # of one tile
TOGETHER = 4  # rows per pass over the rows they are added to
FEWEST_QUERIES = 32  # with fewer, a tile is mostly empty

UNSEEN = np.float32(-1e30)  # the score of a key that a query does not see


def takes(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> bool:
    """Whether `attend_tiles` is for these."""
    enough = q.shape[1] * q.shape[3] >= FEWEST_QUERIES and q.shape[4] % TOGETHER == 0
    plain = all(each.dtype == torch.float32 and each.device.type == "cpu" for each in (q, k, v))
    return HAS_NUMBA and enough and plain and not mask.score_mods and not torch.is_grad_enabled()


def attend_tiles(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention of the last positions; see `attend_last` of the kernels, its reference."""
    count, group, batch, last, width = q.shape
    out = q.new_empty(batch, last, count, group, width)

    def attend(start: int, end: int) -> None:
        work = torch.zeros(2 * width + KEYS + 5, QUERIES)
        attend_pairs(q.numpy(), k.numpy(), v.numpy(), out.numpy(), work.numpy(), window, start, end)

    in_parts(attend, count * batch)
    return out.view(batch, last, -1)


def attend_pairs_plainly(
    q: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    out: np.ndarray,
    work: np.ndarray,
    window: int,
    first_pair: int,
    last_pair: int,
) -> None:
    """Attention for some pairs of a key head and a row of the batch.

    q: (key heads, group, batch, last, dimension). keys, values: (key heads * batch, time, dimension). out:
    (batch, last, key heads, group, dimension). work: memory with rows aligned to vectors. A row has one
    number per query: queries (dimension), results (dimension), scores (keys), the largest score and the sum
    of weights so far, the same two for a tile, and a power of two.
    """
    _, group, batch, last, width = q.shape
    places = keys.shape[1] - last  # with keys but without queries
    rows, flat = work.reshape(-1, QUERIES), work.reshape(-1)
    asking, answer = flat[: width * QUERIES], flat[width * QUERIES : 2 * width * QUERIES]
    scores = flat[2 * width * QUERIES : (2 * width + KEYS) * QUERIES]
    state = rows[-5:]
    top, total = state[0], state[1]
    some_keys = np.zeros((KEYS, width), np.float32)
    some_values = np.zeros((width, KEYS), np.float32)
    for pair in range(first_pair, last_pair):
        head, row = pair // batch, pair % batch
        for start in range(0, group * last, QUERIES):
            count = min(QUERIES, group * last - start)
            for r in range(count):
                position, member = (start + r) // group, (start + r) % group
                for i in range(width):
                    asking[i * QUERIES + r] = q[head, member, row, position, i]
            answer[:] = 0
            total[:] = 0
            top[:] = UNSEEN
            lowest, highest = places + start // group, places + (start + count - 1) // group
            first = max(0, lowest + 1 - window) if window else 0
            for begin in range(first, highest + 1, KEYS):
                for t in range(min(KEYS, highest + 1 - begin)):  # the rest of an earlier tile is not used
                    for i in range(width):
                        some_keys[t, i] = keys[pair, begin + t, i]
                        some_values[i, t] = values[pair, begin + t, i]
                scores[:] = 0
                add_product(some_keys, asking, scores)
                if begin + KEYS > lowest + 1 or (window and begin <= highest - window):
                    hide_keys(scores, places * group + start, group, begin, window)
                merge(scores, answer, state)
                add_product(some_values, scores, answer)
            for r in range(count):
                position, member = (start + r) // group, (start + r) % group
                for i in range(width):
                    out[row, position, head, member, i] = answer[i * QUERIES + r] / total[r]


def hide_keys_plainly(scores: np.ndarray, start: int, group: int, begin: int, window: int) -> None:
    """Mask scores (KEYS * QUERIES) of keys from position `begin` on that a query does not see.

    start: the position of the first query times `group`, queries at each position.
    """
    for r in range(QUERIES):
        position = (start + r) // group
        for t in range(KEYS):
            if begin + t > position or (window and begin + t <= position - window):
                scores[t * QUERIES + r] = UNSEEN


def merge_plainly(scores: np.ndarray, answer: np.ndarray, state: np.ndarray) -> None:
    """Turn scores into weights relative to all tiles so far, and rescale the result; see `attend_pairs`."""
    top, total, peak, total_here, powers = state[0], state[1], state[2], state[3], state[4]
    peak[:] = top
    for start in range(0, len(scores), QUERIES):
        own = scores[start : start + QUERIES]
        for r in range(QUERIES):
            peak[r] = max(peak[r], own[r])
    to_shares(top, peak, powers, total_here)
    for start in range(0, len(answer), QUERIES):
        own = answer[start : start + QUERIES]
        for r in range(QUERIES):
            own[r] *= top[r]
    total_here[:] = 0
    to_shares(scores, peak, powers, total_here)
    for r in range(QUERIES):
        total[r] = total[r] * top[r] + total_here[r]
        top[r] = peak[r]


def to_shares_plainly(x: np.ndarray, top: np.ndarray, powers: np.ndarray, total: np.ndarray) -> None:
    """Replace x (keys * QUERIES) by e^(x - top), and add it to total. powers: memory."""
    whole_powers = powers.view(np.int32)
    for start in range(0, len(x), QUERIES):
        own = x[start : start + QUERIES]
        for r in range(QUERIES):
            f = max((own[r] - top[r]) * BITS_OF_E, LOWEST)
            whole = np.floor(f + HALF)
            f -= whole
            own[r] = ((((((P7 * f + P6) * f + P5) * f + P4) * f + P3) * f + P2) * f + P1) * f + ONE
            whole_powers[r] = (np.int32(whole) + BIAS) << MANTISSA
        for r in range(QUERIES):
            own[r] *= powers[r]
            total[r] += own[r]


def add_product_plainly(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """out += left @ right, both sides of TOGETHER.

    left: (rows, inner). right: (inner * QUERIES). out: (rows * QUERIES). They are flat and QUERIES is a
    constant, so the compiler knows all strides.
    """
    rows, inner = left.shape
    for t in range(0, rows, 4):
        own = out[t * QUERIES : (t + 4) * QUERIES]
        for i in range(0, inner, 4):
            a0, a1, a2, a3 = left[t, i], left[t, i + 1], left[t, i + 2], left[t, i + 3]
            b0, b1, b2, b3 = left[t + 1, i], left[t + 1, i + 1], left[t + 1, i + 2], left[t + 1, i + 3]
            c0, c1, c2, c3 = left[t + 2, i], left[t + 2, i + 1], left[t + 2, i + 2], left[t + 2, i + 3]
            d0, d1, d2, d3 = left[t + 3, i], left[t + 3, i + 1], left[t + 3, i + 2], left[t + 3, i + 3]
            some = right[i * QUERIES : (i + 4) * QUERIES]
            for r in range(QUERIES):
                k, m = some[r], some[QUERIES + r]
                n, o = some[2 * QUERIES + r], some[3 * QUERIES + r]
                one = own[r] + a0 * k + a1 * m + a2 * n + a3 * o
                two = own[QUERIES + r] + b0 * k + b1 * m + b2 * n + b3 * o
                three = own[2 * QUERIES + r] + c0 * k + c1 * m + c2 * n + c3 * o
                four = own[3 * QUERIES + r] + d0 * k + d1 * m + d2 * n + d3 * o
                own[r], own[QUERIES + r] = one, two
                own[2 * QUERIES + r], own[3 * QUERIES + r] = three, four


def in_tiles(function: Looping) -> Looping:
    """The function, compiled; the compiler may reorder sums and assumes finite numbers."""
    return kept_compiled(function, fastmath={"reassoc", "contract", "nnan", "nsz"})


hide_keys = in_tiles(hide_keys_plainly)
to_shares = in_tiles(to_shares_plainly)
merge = in_tiles(merge_plainly)
add_product = in_tiles(add_product_plainly)
attend_pairs = in_tiles(attend_pairs_plainly)
