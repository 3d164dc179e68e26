"""Rounding a row on a trellis: eight states say which of two grids the next code is on.

Codes of both grids are a step apart, the second's half a step nearer to zero than the first's; which of them
holds follows from whether the codes before were odd. Together the two are twice as fine as either, so the
best walk errs less than rounding does, at as many bits. Plain rounding is the walk with a single state.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bitgolf.core.errors import BitgolfError
from bitgolf.core.form import LARGEST_CODE

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]

# Ungerboeck's code of rate 1/2 with the parity checks 13 and 4 (octal). A state is the bits a, b, c: the grid
# is a, and a code that is odd by z leads to the bits a ^ b, c ^ z, a.
EIGHT_STATES = tuple(
    tuple((s ^ s >> 1) & 1 | (s >> 2 ^ z) << 1 | (s & 1) << 2 for z in (0, 1)) for s in range(8)
)
ONE_STATE = ((0, 0),)


def grids_walked(codes: Tensor) -> Tensor:
    """For integer codes (rows, columns) the grid, 0 or 1, that each is on; every row starts in state 0."""
    # A grid is the sum, modulo 2, of the grids 1 and 3 places before and of the code 2 places before.
    # Put into itself, that holds at twice the distances: what is 1 + 3 places off comes twice and vanishes.
    grids = torch.zeros(codes.shape, dtype=torch.uint8, device=codes.device)
    grids[:, 2:] = codes[:, :-2] & 1
    distance = 1
    while distance < codes.shape[1]:
        before = grids.clone()
        for far in (distance, 3 * distance):
            grids[:, far:] ^= before[:, :-far]
        distance *= 2
    return grids


def trellis_values(codes: Tensor) -> Tensor:
    """What codes (rows, columns) stand for, in steps, float32.

    k on the first grid; k - 1/2 above zero and k + 1/2 below on the second, which has a zero too.
    """
    return codes.float() - 0.5 * grids_walked(codes) * codes.sign()


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
    return torch.from_numpy(compiled_walks()(*arrays, following, LARGEST_CODE))


@functools.cache
def compiled_walks() -> Callable[..., np.ndarray]:
    """`best_walks` as machine code; compiling takes some seconds, once in a process."""
    if numba is None:
        raise BitgolfError("rate-aware rounding needs the package numba", way_out="pip install numba")
    return numba.njit(nogil=True)(best_walks)


def best_walks(
    matrix: np.ndarray,
    steps: np.ndarray,
    factor: np.ndarray,
    across: np.ndarray,
    following: np.ndarray,
    largest: int,
) -> np.ndarray:
    """Codes int32 (rows, columns): for each row the walk with the least error (Viterbi).

    following: the state (states, 2) after an even and after an odd code; a state's first bit is its grid.
    Each walk that is still open has made good its own errors in the columns to come.
    """
    (rows, columns), states = matrix.shape, len(following)
    wanted, codes = matrix.copy(), np.zeros((rows, columns), np.int32)
    rest = np.zeros((2, states, columns))  # what the open walks have still to round, and room for their next
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
                place, shift = rest[now, state, j] / steps[i, j], 0.5 * (state & 1)
                size = abs(place)
                for odd in range(2):
                    code = min(2 * round((size + shift - odd) / 2) + odd, largest - 1 + odd)
                    if code == 2 and shift > 0 and size < 0.75:
                        code = 0  # 2 is at 1.5 on the second grid, so zero is nearer than it looks
                    error = (size - max(code - shift, 0.0)) * steps[i, j] / factor[j, j]
                    there, cost = following[state, odd], costs[now, state] + error * error
                    if cost < costs[then, there]:
                        costs[then, there], before[j, there] = cost, state
                        chosen[j, there] = code if place >= 0 else -code
                        errors[there] = error if place >= 0 else -error
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
                size = max(abs(codes[i, j]) - 0.5 * (state & 1), 0.0)
                wanted[i, j] -= steps[i, j] * (size if codes[i, j] > 0 else -size)
                state = following[state, codes[i, j] & 1]
            for later in range(i + 1, rows):
                wanted[later] -= across[i, later] / across[i, i] * wanted[i]
    return codes
