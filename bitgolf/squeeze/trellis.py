"""Trellis-coded quantization of rows: the path through two grids with the least error.

Together the two grids are twice as fine as each, so the best path has less error than plain rounding at the
same bits. Plain rounding is a trellis with a single state.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.compiled import HAS_NUMBA, kept_compiled
from bitgolf.base.errors import BitgolfError
from bitgolf.squeeze.form import LARGEST_CODE
from bitgolf.squeeze.trellis_states import following_states, trellis_grids

LOOK_BACK = 16  # columns between two checks up to where open paths are equal


def trellis_values(codes: Tensor, states: int = 8) -> Tensor:
    """Values of integer codes (rows, columns) in steps, float32: k, or k - 1/2 on the second grid."""
    grids = torch.from_numpy(trellis_grids((codes & 1).to(torch.uint8).cpu().numpy(), states))
    return codes.float() - 0.5 * grids.to(codes.device)


def rounded_codes(
    matrix: Tensor, steps: Tensor, factor: Tensor, across: Tensor | None, states: int
) -> Tensor:
    """Codes (rows, columns) int32 of a matrix with feedback over its columns, and over its rows.

    factor: upper (columns, columns), from `rate.feedback_factor`; across: the same for rows, None for no
    feedback over rows. All float64, on the CPU. states: of the trellis; 1 is plain rounding.
    """
    across = matrix.new_zeros(0, 0) if across is None else across
    arrays = (each.contiguous().numpy() for each in (matrix, steps, factor, across))
    return torch.from_numpy(compiled_viterbi()(*arrays, following_states(states), LARGEST_CODE))


@functools.cache
def compiled_viterbi() -> Callable[..., np.ndarray]:
    """`viterbi`, compiled; this takes some seconds, once per machine."""
    if not HAS_NUMBA:
        raise BitgolfError("rate-aware rounding needs the package numba", way_out="pip install numba")
    return kept_compiled(viterbi)


@kept_compiled
def compensate_rows(
    wanted: np.ndarray, codes: np.ndarray, steps: np.ndarray, across: np.ndarray, following: np.ndarray
) -> None:
    """Change the rows after the first, in place, against the errors of the first row's codes."""
    state = 0
    for j in range(len(codes)):
        wanted[0, j] -= steps[j] * (codes[j] - 0.5 * (state & 1))
        state = following[state, codes[j] & 1]
    for later in range(1, len(wanted)):
        wanted[later] -= across[later] / across[0] * wanted[0]


def viterbi(
    matrix: np.ndarray,
    steps: np.ndarray,
    factor: np.ndarray,
    across: np.ndarray,
    following: np.ndarray,
    largest: int,
) -> np.ndarray:
    """Codes int32 (rows, columns): for each row the path with the least error (Viterbi algorithm).

    following: the next state (states, 2) after an even and an odd code; a state's first bit is its grid.
    Every open path has fed its own errors back to later columns.
    """
    (rows, columns), states = matrix.shape, len(following)
    wanted, codes = matrix.copy(), np.zeros((rows, columns), np.int32)
    chosen, before = np.zeros((columns, states), np.int32), np.zeros((columns, states), np.int64)
    costs, left, errors = np.zeros((2, states)), np.zeros(states), np.zeros((2, columns, states))
    reached = factor.T.copy()  # weights of earlier columns' errors in each column
    for i in range(rows):
        # Open paths are equal before `apart`: errors before it are fed back in `rest`, later ones per path.
        rest, apart = wanted[i].copy(), 0
        costs[0], costs[0, 0] = np.inf, 0.0
        for j in range(columns):
            now, then = j % 2, 1 - j % 2
            left[:] = rest[j]
            for k in range(apart, j):
                for state in range(states):
                    left[state] -= errors[now, k, state] * reached[j, k]
            costs[then] = np.inf
            for state in range(states):
                if costs[now, state] == np.inf:
                    continue
                scaled = left[state] / steps[i, j] + 0.5 * (state & 1)
                for odd in range(2):
                    code, farthest = 2 * round((scaled - odd) / 2) + odd, largest - 1 + odd
                    code = max(-farthest, min(farthest, code))
                    error = (scaled - code) * steps[i, j] / factor[j, j]
                    there, cost = following[state, odd], costs[now, state] + error * error
                    if cost < costs[then, there]:
                        costs[then, there], before[j, there] = cost, state
                        chosen[j, there], errors[then, j, there] = code, error
            for k in range(apart, j):
                for state in range(states):
                    errors[then, k, state] = errors[now, k, before[j, state]]
            if j % LOOK_BACK == LOOK_BACK - 1:
                open_paths = np.flatnonzero(costs[then] < np.inf)
                origins, joined = open_paths.copy(), j + 1
                while joined > apart and (origins != origins[0]).any():
                    joined -= 1
                    origins = before[joined, origins]
                for k in range(apart, joined):
                    rest[j + 1 :] -= errors[then, k, open_paths[0]] * factor[k, j + 1 :]
                apart = max(apart, joined)
        state = int(np.argmin(costs[columns % 2]))
        for j in range(columns - 1, -1, -1):
            codes[i, j] = chosen[j, state]
            state = before[j, state]
        if len(across):
            compensate_rows(wanted[i:], codes[i], steps[i], across[i, i:], following)
    return codes
