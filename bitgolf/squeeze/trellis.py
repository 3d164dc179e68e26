"""Rounding a row on a trellis: the path through two grids whose errors are least.

Together the two grids are twice as fine as either, so the best path errs less than rounding does,
at as many bits. Plain rounding is the path with a single state.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.compiled import HAS_NUMBA, kept_compiled
from bitgolf.base.errors import BitgolfError
from bitgolf.squeeze.form import LARGEST_CODE
from bitgolf.squeeze.trellis_states import EIGHT_STATES, ONE_STATE, trellis_grids


def trellis_values(codes: Tensor) -> Tensor:
    """What integer codes (rows, columns) stand for, in steps, float32: k, or k - 1/2 on the second grid."""
    grids = torch.from_numpy(trellis_grids((codes & 1).to(torch.uint8).cpu().numpy()))
    return codes.float() - 0.5 * grids.to(codes.device)


def rounded_codes(
    matrix: Tensor, steps: Tensor, factor: Tensor, across: Tensor | None, trellis: bool
) -> Tensor:
    """Codes (rows, columns) int32 of a matrix with feedback over its columns, and over its rows.

    factor: upper (columns, columns), as `rate.feedback_factor` gives it; across: the same of the rows, None
    for no feedback over them. All float64, on the CPU.
    """
    across = matrix.new_zeros(0, 0) if across is None else across
    arrays = (each.contiguous().numpy() for each in (matrix, steps, factor, across))
    following = np.array(EIGHT_STATES if trellis else ONE_STATE)
    return torch.from_numpy(compiled_viterbi()(*arrays, following, LARGEST_CODE))


@functools.cache
def compiled_viterbi() -> Callable[..., np.ndarray]:
    """`viterbi` as machine code; compiling takes some seconds, once on a machine."""
    if not HAS_NUMBA:
        raise BitgolfError("rate-aware rounding needs the package numba", way_out="pip install numba")
    return kept_compiled(viterbi)


def viterbi(
    matrix: np.ndarray,
    steps: np.ndarray,
    factor: np.ndarray,
    across: np.ndarray,
    following: np.ndarray,
    largest: int,
) -> np.ndarray:
    """Codes int32 (rows, columns): for each row the path with the least error (Viterbi).

    following: the state (states, 2) after an even and after an odd code; a state's first bit is its grid.
    Each path that is still open has made good its own errors in the columns to come.
    """
    (rows, columns), states = matrix.shape, len(following)
    wanted, codes = matrix.copy(), np.zeros((rows, columns), np.int32)
    rest = np.zeros((2, states, columns))  # what the open paths have still to round, and room for their next
    chosen, before = np.zeros((columns, states), np.int32), np.zeros((columns, states), np.int32)
    costs, errors = np.zeros((2, states)), np.zeros(states)
    for i in range(rows):
        rest[0, 0], costs[0], costs[0, 0] = wanted[i], np.inf, 0.0
        for j in range(columns):
            now, then = j % 2, 1 - j % 2
            costs[then] = np.inf
            for state in range(states):
                if costs[now, state] == np.inf:
                    continue
                shift = 0.5 * (state & 1)
                scaled = rest[now, state, j] / steps[i, j] + shift
                for odd in range(2):
                    code, farthest = 2 * round((scaled - odd) / 2) + odd, largest - 1 + odd
                    code = max(-farthest, min(farthest, code))
                    error = (scaled - code) * steps[i, j] / factor[j, j]
                    there, cost = following[state, odd], costs[now, state] + error * error
                    if cost < costs[then, there]:
                        costs[then, there], before[j, there] = cost, state
                        chosen[j, there], errors[there] = code, error
            for state in range(states):
                if costs[then, state] < np.inf:
                    origin, error = before[j, state], errors[state]
                    for k in range(j + 1, columns):
                        rest[then, state, k] = rest[now, origin, k] - error * factor[j, k]
        state = int(np.argmin(costs[columns % 2]))
        for j in range(columns - 1, -1, -1):
            codes[i, j] = chosen[j, state]
            state = before[j, state]
        if len(across):
            state = 0
            for j in range(columns):
                wanted[i, j] -= steps[i, j] * (codes[i, j] - 0.5 * (state & 1))
                state = following[state, codes[i, j] & 1]
            for later in range(i + 1, rows):
                wanted[later] -= across[i, later] / across[i, i] * wanted[i]
    return codes
