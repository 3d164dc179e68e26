"""Trellis-coded rounding: a row's codes walk through eight states that say which grid the next one is on.

Codes of both grids are a step apart, the second's half a step nearer to zero than the first's; which of them
holds follows from whether the codes before were odd. Together the two are twice as fine as either, so the
best walk errs less than rounding does, at as many bits.
"""

import torch
from torch import Tensor

from bitgolf.core.form import LARGEST_CODE

# Ungerboeck's code of rate 1/2 with the parity checks 13 and 4 (octal), state as bits a, b, c:
# the grid is a, and a code that is odd by z leads to the bits a ^ b, c ^ z, a.
STATES = 8
GRID_OF_STATE = tuple(state & 1 for state in range(STATES))
TRELLIS_COLUMNS = 64  # between two updates of the columns after them
TRELLIS_ROWS = 1024  # side by side at most, which bounds memory


def next_states(states: Tensor, odd: Tensor) -> Tensor:
    """Where codes lead from these states; `odd` is 1 for odd ones. Same integer type and shape throughout."""
    a, b, c = states & 1, (states >> 1) & 1, states >> 2
    return (a ^ b) | (c ^ odd) << 1 | a << 2


def grids_walked(codes: Tensor) -> Tensor:
    """For integer codes (rows, columns) the grid, 0 or 1, that each is on; every row starts in state 0."""
    # By `next_states` a grid is the sum, modulo 2, of the grids 1 and 3 places and the code 2 places before.
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


def trellis_values(codes: Tensor, grids: Tensor) -> Tensor:
    """What codes stand for, in steps, float32: k on the first grid; k - 1/2 above zero, k + 1/2 below on the
    second, which has a zero too."""
    return codes.float() - 0.5 * grids * codes.sign()


def nearest_codes(wanted: Tensor, grids: Tensor, odd: int) -> Tensor:
    """The odd or the even code nearest to what is wanted (in steps), on these grids (0 or 1)."""
    sizes, shift = wanted.abs(), 0.5 * grids
    codes = (2 * ((sizes + shift - odd) / 2).round() + odd).clamp_max(LARGEST_CODE - 1 + odd)
    if not odd:
        # On the second grid 2 stands for 1.5, half of which is nearer to 0 than the formula thinks.
        codes = torch.where((codes == 2) & (sizes < 0.75) & (grids > 0), 0.0, codes)
    return torch.where(wanted < 0, -codes, codes)


def trellis_codes(matrix: Tensor, steps: Tensor, factor: Tensor) -> Tensor:
    """Codes (rows, columns) of the walks with the least error, each with feedback over its columns.

    factor: upper (columns, columns), see `feedback_factor`. The eight walks that are still open at a column
    have each made good their own errors in the columns to come. Float64 throughout.
    """
    parts = zip(matrix.split(TRELLIS_ROWS), steps.split(TRELLIS_ROWS))
    return torch.cat([best_walks(*part, factor) for part in parts])


def best_walks(matrix: Tensor, steps: Tensor, factor: Tensor) -> Tensor:
    """As `trellis_codes`, for some rows side by side."""
    rows, columns = matrix.shape
    before, odd_before = merging(matrix.device)
    places = torch.arange(STATES, device=matrix.device)[:, None]
    grids = torch.tensor(GRID_OF_STATE, device=matrix.device, dtype=matrix.dtype)[:, None]
    cost = torch.full((STATES, rows), torch.inf, dtype=matrix.dtype, device=matrix.device)
    cost[0] = 0.0
    rest = matrix.expand(STATES, rows, columns)
    came_from, chosen = [], []
    for start in range(0, columns, TRELLIS_COLUMNS):
        end = min(start + TRELLIS_COLUMNS, columns)
        part = rest[:, :, start:end].clone()  # errors of columns that are rounded, what is left of others
        origin = places.expand(STATES, rows)
        for i, j in enumerate(range(start, end)):
            wanted = part[:, :, i] / steps[:, j]
            codes = torch.stack([nearest_codes(wanted, grids, odd) for odd in (0, 1)])
            errors = wanted - codes + 0.5 * grids * codes.sign()
            errors *= steps[:, j] / factor[j, j]
            ways = (cost + errors.square())[odd_before, before]  # (2, states, rows)
            cost, way = ways.min(dim=0)
            source = before[way, places]
            leaving = odd_before[way, places] * STATES + source
            error = errors.flatten(0, 1).gather(0, leaving)
            chosen.append(codes.flatten(0, 1).gather(0, leaving))
            came_from.append(source)
            origin = origin.gather(0, source)
            part = part.gather(0, source[:, :, None].expand_as(part))
            part[:, :, i] = error
            part[:, :, i + 1 :] -= error[:, :, None] * factor[j, j + 1 : end]
        if end < columns:
            far = rest.gather(0, origin[:, :, None].expand_as(rest)) if start else rest.clone()
            far[:, :, end:] -= part @ factor[start:end, end:]
            rest = far
    return walked_back(cost.argmin(dim=0), chosen, came_from)


def merging(device: torch.device) -> tuple[Tensor, Tensor]:
    """The two states before each state, and whether the code between is odd: (2, states) each."""
    states = torch.arange(STATES).repeat_interleave(2)
    odd = torch.arange(2).repeat(STATES)
    order = next_states(states, odd).argsort(stable=True)
    before, between = states[order].reshape(STATES, 2).T, odd[order].reshape(STATES, 2).T
    return before.contiguous().to(device), between.contiguous().to(device)


def walked_back(last: Tensor, chosen: list[Tensor], came_from: list[Tensor]) -> Tensor:
    """The codes (rows, columns) of the walks that end in the states `last` (rows,)."""
    codes, state = [], last[None]
    for code, source in zip(reversed(chosen), reversed(came_from)):
        codes.append(code.gather(0, state)[0])
        state = source.gather(0, state)
    return torch.stack(codes[::-1], dim=1)
