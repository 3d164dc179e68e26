"""The trellis: which of two grids each code of a row is on.

Both grids have the same step; the second lies half a step below the first. The parities of earlier codes
determine the grid of a code, so no bits are stored for it.
"""

import numpy as np

# Ungerboeck's codes of rate 1/2 for amplitude modulation: for each number of states the parity checks of
# grids and of odd codes, octal. Bit i stands for i places before. A single state is always on the first grid:
# plain rounding.
CHECKS = {1: (0, 0), 8: (0o13, 0o04), 16: (0o23, 0o04), 64: (0o103, 0o024)}


def following_states(states: int) -> np.ndarray:
    """The next state (states, 2) after an even and an odd code; a state's first bit is its grid."""
    grids, codes = (check >> 1 for check in CHECKS[states])
    return np.array([[s >> 1 ^ (s & 1) * grids ^ odd * codes for odd in (0, 1)] for s in range(states)])


def trellis_grids(odd: np.ndarray, states: int = 8) -> np.ndarray:
    """The grid, 0 or 1, of each code, uint8; every row starts in state 0.

    odd: (rows, columns) uint8, 1 where a code is odd.
    """
    # A grid is the sum, modulo 2, of earlier grids and codes at the distances of the checks. Substituted into
    # itself, this also holds at twice the distances of the grids: terms at the sum of two distances occur
    # twice and cancel.
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
