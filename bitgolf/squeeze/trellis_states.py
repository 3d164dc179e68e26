"""Which of two grids each code of a row is on: the trellis of its path.

Codes of both grids are a step apart, those of the second half a step below those of the first. Which of them
holds follows from whether the codes before were odd, so nothing is stored for it.
"""

import numpy as np

# Ungerboeck's code of rate 1/2 with the parity checks 13 and 4 (octal). A state is the bits a, b, c: the grid
# is a, and a code that is odd by z leads to the bits a ^ b, c ^ z, a.
EIGHT_STATES = tuple(
    tuple((s ^ s >> 1) & 1 | (s >> 2 ^ z) << 1 | (s & 1) << 2 for z in (0, 1)) for s in range(8)
)
ONE_STATE = ((0, 0),)  # always on the first grid: plain rounding


def trellis_grids(odd: np.ndarray) -> np.ndarray:
    """The grid, 0 or 1, of each code, uint8; every row starts in state 0.

    odd: (rows, columns) uint8, 1 where a code is odd.
    """
    # A grid is the sum, modulo 2, of the grids 1 and 3 places before and of the code 2 places before.
    # Put into itself, that holds at twice the distances: what is 1 + 3 places off comes twice and vanishes.
    grids = np.zeros(odd.shape, np.uint8)
    grids[:, 2:] = odd[:, :-2]
    distance = 1
    while distance < odd.shape[1]:
        before = grids.copy()
        for far in (distance, 3 * distance):
            grids[:, far:] ^= before[:, :-far]
        distance *= 2
    return grids
