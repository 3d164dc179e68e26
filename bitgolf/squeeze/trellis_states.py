"""Which of two grids each code of a row is on: the trellis of its path.

Codes of both grids are a step apart, those of the second half a step below those of the first. Which of them
holds follows from whether the codes before were odd, so nothing is stored for it.
"""

import numpy as np

# Ungerboeck's codes of rate 1/2 for amplitudes: by the number of states the parity checks of the grids and of
# odd codes, octal. The bit of value 2^i stands for what was i places before. A single state is always on the
# first grid: plain rounding.
CHECKS = {1: (0, 0), 8: (0o13, 0o04), 16: (0o23, 0o04), 64: (0o103, 0o024)}


def following_states(states: int) -> np.ndarray:
    """The state (states, 2) after an even and after an odd code; a state's first bit is its grid."""
    grids, codes = (check >> 1 for check in CHECKS[states])
    return np.array([[s >> 1 ^ (s & 1) * grids ^ odd * codes for odd in (0, 1)] for s in range(states)])


def trellis_grids(odd: np.ndarray, states: int = 8) -> np.ndarray:
    """The grid, 0 or 1, of each code, uint8; every row starts in state 0.

    odd: (rows, columns) uint8, 1 where a code is odd.
    """
    # A grid is the sum, modulo 2, of the grids and codes that stand before it by the places of the checks.
    # Put into itself, that holds at twice the distances of the grids: what is off by the sum of two of them
    # comes twice and vanishes.
    of_grids, of_codes = ([i for i in range(1, 8) if check >> i & 1] for check in CHECKS[states])
    grids = np.zeros(odd.shape, np.uint8)
    for far in of_codes:
        grids[:, far:] ^= odd[:, :-far]
    distance = 1
    while distance < odd.shape[1]:
        before = grids.copy()
        for far in of_grids:
            grids[:, far * distance :] ^= before[:, : -far * distance]
        distance *= 2
    return grids
