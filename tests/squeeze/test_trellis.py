"""Trellis-coded rounding: against a slow twin, against every walk there is, and against theory."""

import itertools

import numpy as np
import pytest
import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.squeeze import trellis as module
from bitgolf.squeeze.form import LARGEST_CODE
from bitgolf.squeeze.rate import code_bits, feedback_factor
from bitgolf.squeeze.trellis import rounded_codes, trellis_values, viterbi
from bitgolf.squeeze.trellis_states import CHECKS, following_states, trellis_grids

STATES = (8, 16, 64)


def eight(state: int, code: int) -> int:
    """The code of eight states from its definition: bits a, b, c of a state and z of a code."""
    a, b, c = state & 1, state >> 1 & 1, state >> 2
    return (a ^ b) + 2 * (c ^ code & 1) + 4 * a


def following(state: int, code: int, states: int = 8) -> int:
    return eight(state, code) if states == 8 else int(following_states(states)[state, code & 1])


def grids_by_parity(row: list[int], states: int) -> list[int]:
    """The grids of a row by the equation of the code: grids and codes of its checks sum to an even number."""
    of_grids, of_codes = CHECKS[states]
    grids: list[int] = []
    for j in range(len(row)):
        before = [grids[j - i] for i in range(1, j + 1) if of_grids >> i & 1]
        before += [row[j - i] for i in range(1, j + 1) if of_codes >> i & 1]
        grids.append(sum(before) % 2)
    return grids


def value_of(code: int, state: int) -> float:
    return code - 0.5 * (state & 1)


def nearest(wanted: float, state: int, odd: int) -> int:
    """The nearest of all codes of this parity, found by looking at them."""
    codes = [code for code in range(-60, 61) if code & 1 == odd]
    return min(codes, key=lambda code: (abs(wanted - value_of(code, state)), abs(code)))


def survivors(row: torch.Tensor, steps: torch.Tensor, factor: torch.Tensor, states: int = 8) -> list[int]:
    """One row, state by state: of the walks into a state the one with less error goes on."""
    walks = {0: (0.0, [], row.clone())}
    for j in range(len(row)):
        found: dict[int, tuple] = {}
        for state, (cost, codes, rest) in walks.items():
            wanted = float(rest[j] / steps[j])
            for odd in (0, 1):
                code = nearest(wanted, state, odd)
                error = (wanted - value_of(code, state)) * float(steps[j] / factor[j, j])
                there, total = following(state, code, states), cost + error * error
                if there not in found or total < found[there][0]:
                    moved = rest.clone()
                    moved[j + 1 :] -= error * factor[j, j + 1 :]
                    found[there] = total, [*codes, code], moved
        walks = found
    return min(walks.values(), key=lambda walk: walk[0])[1]


def problem(rows: int, columns: int, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    matrix = 3 * torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    mixed = torch.randn(columns, columns, generator=draw, dtype=torch.float64)
    factor = feedback_factor(mixed.T @ mixed / columns, 0.1)
    steps = 0.5 + torch.rand(rows, columns, generator=draw, dtype=torch.float64)
    return matrix, steps, factor


@pytest.mark.parametrize(("rows", "columns", "states"), [(5, 7, 8), (2, 150, 8), (3, 40, 16), (1, 60, 64)])
def test_the_fast_walks_equal_the_slow_ones(rows, columns, states):
    matrix, steps, factor = problem(rows, columns)
    expected = [survivors(row, step, factor, states) for row, step in zip(matrix, steps)]
    assert rounded_codes(matrix, steps, factor, None, states).tolist() == expected


def test_walks_that_stay_apart_for_long_equal_the_slow_ones():
    """Weights that lie between two codes make walks that cost the same, and join late."""
    matrix, steps, factor = problem(3, 90)
    matrix, even = (4 * matrix).round() / 4, torch.ones_like(steps)
    for each in (factor, torch.eye(90, dtype=torch.float64)):
        expected = [survivors(row, step, each) for row, step in zip(matrix, even)]
        assert rounded_codes(matrix, even, each, None, 8).tolist() == expected


def test_rows_compensate_the_errors_of_rows_before():
    matrix, steps, factor = problem(6, 9)
    across, rest, expected = problem(4, 6)[2], matrix.clone(), []
    for i, row in enumerate(rest):
        codes, state = survivors(row, steps[i], factor), 0
        for j, code in enumerate(codes):
            rest[i, j] -= value_of(code, state) * steps[i, j]
            state = following(state, code)
        rest[i + 1 :] -= (across[i, i + 1 :] / across[i, i])[:, None] * rest[i]
        expected.append(codes)
    assert rounded_codes(matrix, steps, factor, across, 8).tolist() == expected
    assert rounded_codes(matrix, steps, factor, None, 8).tolist() != expected


def test_machine_code_does_what_the_text_says():
    matrix, steps, factor = problem(3, 20)
    arrays = matrix.numpy(), steps.numpy(), factor.numpy(), np.zeros((0, 0)), following_states(8), 32_639
    assert viterbi(*arrays).tolist() == rounded_codes(matrix, steps, factor, None, 8).tolist()


def test_without_numba_the_error_names_it(monkeypatch):
    monkeypatch.setattr(module, "HAS_NUMBA", False)
    module.compiled_viterbi.cache_clear()
    with pytest.raises(BitgolfError, match="pip install numba"):
        rounded_codes(*problem(2, 3), None, 8)


def test_without_feedback_no_walk_errs_less():
    matrix, steps, _ = problem(2, 5)
    found = rounded_codes(matrix, steps, torch.eye(5, dtype=torch.float64), None, 8)
    for row, step, codes in zip(matrix, steps, found):
        costs = {}
        near = [range(round(float(w / s)) - 2, round(float(w / s)) + 4) for w, s in zip(row, step)]
        for walk in itertools.product(*near):
            state, cost = 0, 0.0
            for code, wanted, size in zip(walk, row, step):
                cost += float((wanted - value_of(code, state) * size) ** 2)
                state = following(state, code)
            costs[walk] = cost
        assert costs[tuple(codes.tolist())] == pytest.approx(min(costs.values()), abs=1e-12)


@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("columns", [*range(10), 50])
def test_codes_say_which_grid_they_are_on(columns, states):
    codes = torch.randint(-5, 6, (4, columns), generator=torch.Generator().manual_seed(1))
    grids, values = trellis_grids((codes & 1).byte().numpy(), states), trellis_values(codes, states)
    for i, row in enumerate(codes.tolist()):
        state = 0
        for j, code in enumerate(row):
            assert grids[i, j] == state & 1
            assert values[i, j] == value_of(code, state)
            state = following(state, code, states)
        assert grids[i].tolist() == grids_by_parity(row, states)


@pytest.mark.parametrize("states", STATES)
def test_every_state_is_entered_from_two(states):
    entered = following_states(states).ravel().tolist()
    assert all(entered.count(state) == 2 for state in range(states))
    assert states > 8 or entered == [eight(state, odd) for state in range(8) for odd in (0, 1)]


@pytest.mark.parametrize("states", [1, *STATES])
def test_no_code_is_beyond_two_bytes(states):
    matrix, flat = torch.tensor([[1e9, -1e9, 3.0]]).double(), torch.eye(3, dtype=torch.float64)
    codes = rounded_codes(matrix, torch.ones_like(matrix), flat, None, states)
    assert codes.abs().max() <= LARGEST_CODE and (codes[0, 0] > 32_000) and (codes[0, 1] < -32_000)


def test_states_are_worth_what_theory_says():
    """Theory: 1.1 dB less error at as many bits, 0.2 more with 64; at a high rate on Gaussian weights."""
    weight = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat, level = torch.eye(1024, dtype=torch.float64), {}
    for states in (1, *STATES):
        steps = torch.full_like(weight, 0.3)
        codes = rounded_codes(weight, steps, flat, None, states)
        values = codes if states == 1 else trellis_values(codes, states)
        error = float((weight - values * steps).square().mean())
        level[states] = error * 4.0 ** (code_bits(codes) / weight.numel())
    gains = {states: 10 * np.log10(level[1] / level[states]) for states in STATES}
    assert 0.9 < gains[8] < 1.2 and gains[8] < gains[16] < gains[64] < 1.4, gains
    assert gains[64] > gains[8] + 0.1, gains
