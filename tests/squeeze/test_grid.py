import zlib

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bitgolf.base.errors import PlanError
from bitgolf.base.plan import from_json, members, to_json
from bitgolf.squeeze.grid import (
    ColumnGroups,
    Granularity,
    Grid,
    PerColumn,
    PerRow,
    PerTensor,
    RowGroups,
    absmax_clip,
    as_matrix,
    percentile_clip,
)

GRANULARITIES = [PerRow(), PerTensor(), PerColumn(), RowGroups(rows=4), ColumnGroups(columns=5)]
GRIDS = st.builds(
    Grid,
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    largest=st.sampled_from([0, 0, 1, 2, 11]),
    granularity=st.sampled_from(GRANULARITIES),
    scale_dtype=st.sampled_from(["float16", "float32"]),
    round_scale_first=st.booleans(),
    scale_floor=st.sampled_from([0.0, 1 / 127, 1 / 31, 2.0**-14]),
    zero_scale=st.sampled_from([0.0, 1.0]),
)


@st.composite
def matrices(draw):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    size = 10.0 ** draw(st.integers(-9, 6))
    matrix = torch.randn(rows, columns, generator=generator) * size
    if draw(st.booleans()):
        matrix[draw(st.integers(0, rows - 1))] = 0
    return matrix


def clip_of(grid, matrix):
    return absmax_clip(grid.granularity.groups(matrix))


@settings(max_examples=200, deadline=None)
@given(grid=GRIDS, matrix=matrices())
def test_fake_equals_dequantize_of_quantize_exactly(grid, matrix):
    clip = clip_of(grid, matrix)
    scales = grid.choose_scales(clip)
    codes = grid.quantize_codes(matrix, scales, clip)
    shipped = grid.dequantize(codes, grid.stored_scales(scales))
    assert torch.equal(grid.fake_quantize(matrix, clip), shipped)
    assert shipped.shape == matrix.shape and len(scales) == len(clip)
    assert codes.dtype == torch.int8 and int(codes.min()) >= grid.qmin and int(codes.max()) <= grid.qmax
    assert bool(shipped.isfinite().all())


@settings(max_examples=100, deadline=None)
@given(bits=st.integers(2, 8), granularity=st.sampled_from(GRANULARITIES), matrix=matrices())
def test_no_weight_moves_by_more_than_half_a_step(bits, granularity, matrix):
    grid = Grid(bits=bits, scale_dtype="float32", granularity=granularity)
    clip = clip_of(grid, matrix)
    steps = granularity.spread(grid.choose_scales(clip), matrix.shape)
    error = (grid.fake_quantize(matrix, clip) - matrix).abs()
    assert bool((error <= steps * 0.5001).all())


@settings(max_examples=100, deadline=None)
@given(granularity=st.sampled_from(GRANULARITIES), rows=st.integers(0, 13), columns=st.integers(0, 13))
def test_a_group_is_where_its_scale_is(granularity, rows, columns):
    matrix = 1.0 + torch.arange(rows * columns).reshape(rows, columns)
    groups = granularity.groups(matrix)
    numbers = 1.0 + torch.arange(len(groups))
    places = granularity.spread(numbers, matrix.shape).expand(matrix.shape)
    for number, group in zip(numbers, groups):
        inside = matrix[places == number]
        assert sorted(group[group > 0].tolist()) == sorted(inside.tolist())
    meta = granularity.groups(torch.empty(rows, columns, device="meta"))
    assert meta.shape == groups.shape  # an artifact asks how many scales there are


@pytest.mark.parametrize("member", members(Granularity).values(), ids=lambda member: member.__name__)
def test_every_granularity_is_tried(member):
    assert any(isinstance(granularity, member) for granularity in GRANULARITIES)
    assert from_json(Granularity, to_json(member())) == member()


@pytest.mark.parametrize("rows", [1, 3, 8, 17])
def test_rows_that_share_a_scale(rows):
    # PR #488: padded with rows of zeros to a multiple, one scale from the largest weight of the rows.
    matrix = torch.randn(rows, 30, generator=torch.Generator().manual_seed(rows))
    grid = Grid(bits=6, symmetric=False, scale_floor=1 / 31, granularity=RowGroups(rows=8))
    padded = torch.cat([matrix, torch.zeros(-rows % 8, 30)]).reshape(-1, 8, 30)
    scales = (padded.abs().amax((1, 2)) / 31).clamp_min(1 / 31).half().float()
    expected = ((padded / scales[:, None, None]).round().clamp(-32, 31) * scales[:, None, None]).flatten(0, 1)
    assert torch.equal(grid.fake_quantize(matrix, clip_of(grid, matrix)), expected[:rows])
    one, row = grid.replace(granularity=RowGroups(rows=1)), grid.replace(granularity=PerRow())
    clip = clip_of(row, matrix)
    assert torch.equal(one.fake_quantize(matrix, clip), row.fake_quantize(matrix, clip))
    wide = grid.replace(granularity=ColumnGroups(columns=30))
    assert torch.equal(wide.fake_quantize(matrix, clip), row.fake_quantize(matrix, clip))


@pytest.mark.parametrize("granularity", [RowGroups(rows=10**15), ColumnGroups(columns=10**15)])
def test_groups_beyond_any_machine_cost_no_more_than_the_matrix(granularity):
    codes = torch.ones(3, 4, dtype=torch.int8)
    scales = torch.full((1 if isinstance(granularity, RowGroups) else 3,), 0.5)
    assert torch.equal(Grid(granularity=granularity).dequantize(codes, scales), torch.full((3, 4), 0.5))


@pytest.mark.parametrize(
    ("grid", "levels"),
    [
        (Grid(bits=2), 3),
        (Grid(bits=2, symmetric=False), 4),
        (Grid(bits=3, largest=2), 5),
        (Grid(bits=4, largest=5, symmetric=False), 12),
        (Grid(bits=4, largest=100), 15),
        (Grid(bits=8), 255),
    ],
)
def test_any_number_of_levels(grid, levels):
    assert grid.qmax - grid.qmin + 1 == levels
    matrix = torch.linspace(-1, 1, 4001)[None]
    codes = grid.quantize_codes(matrix, torch.tensor([1 / (grid.qmax + 0.4)]))
    assert len(codes.unique()) == min(levels, 2 * grid.qmax + 1)


@settings(max_examples=100, deadline=None)
@given(bits=st.integers(3, 8), matrix=matrices())
def test_quantizing_again_changes_nothing_when_the_scale_is_rounded_first(bits, matrix):
    grid = Grid(bits=bits)
    clip = clip_of(grid, matrix)
    scales = grid.choose_scales(clip)
    assume(bool(((scales == 0) | ((scales > 2.0**-14) & (scales < 60_000))).all()))
    once = grid.fake_quantize(matrix, clip)
    assert torch.equal(grid.fake_quantize(once, clip_of(grid, once)), once)


def test_the_public_int8_makes_codes_with_a_scale_it_does_not_store():
    matrix = torch.randn(64, 300, generator=torch.Generator().manual_seed(0)) * 3
    public = Grid(bits=8, round_scale_first=False, scale_floor=1 / 127)
    ours = public.replace(round_scale_first=True)
    clip = clip_of(public, matrix)
    exact, rounded = public.choose_scales(clip), ours.choose_scales(clip)
    assert not torch.equal(exact, rounded) and torch.equal(exact.half(), rounded.half())
    assert not torch.equal(public.fake_quantize(matrix, clip), ours.fake_quantize(matrix, clip))


def test_gradient_passes_unchanged():
    matrix = torch.randn(4, 9, requires_grad=True)
    weight = torch.randn(4, 9)
    grid = Grid(bits=3)
    (grid.fake_quantize(matrix, clip_of(grid, matrix.detach()) / 2) * weight).sum().backward()
    assert torch.equal(matrix.grad, weight)


def test_every_setting_bites():
    matrix = torch.randn(6, 40, generator=torch.Generator().manual_seed(1)) * 0.05
    matrix[0] = 0
    matrix[1] *= 10
    base = Grid(bits=6)

    def result(grid):
        clip = clip_of(grid, matrix) * 0.8
        scales = grid.choose_scales(clip)
        codes = grid.quantize_codes(matrix, scales)
        return codes, grid.stored_scales(scales)

    for name, value in {
        "bits": 5,
        "largest": 20,
        "symmetric": False,
        "granularity": PerTensor(),
        "scale_dtype": "float32",
        "round_scale_first": False,
        "scale_floor": 1 / 31,
        "zero_scale": 1.0,
    }.items():
        before, after = result(base), result(base.replace({name: value}))
        if name == "round_scale_first":
            clip = clip_of(base, matrix)
            assert not torch.equal(base.choose_scales(clip), base.replace({name: value}).choose_scales(clip))
            continue
        same_codes = torch.equal(before[0], after[0])
        same_scales = before[1].dtype == after[1].dtype and torch.equal(before[1], after[1])
        assert not (same_codes and same_scales), name


def test_scales_never_become_infinite_and_zero_rows_stay_zero():
    matrix = torch.tensor([[1e30, -1e30], [0.0, 0.0], [1e-30, 0.0]])
    grid = Grid(bits=8)
    result = grid.fake_quantize(matrix, clip_of(grid, matrix))
    assert bool(result.isfinite().all())
    assert torch.equal(result[1:], torch.zeros(2, 2))
    codes = grid.quantize_codes(matrix, grid.choose_scales(clip_of(grid, matrix)))
    assert codes.tolist() == [[127, -127], [0, 0], [0, 0]]  # also where the scale is below float16


@pytest.mark.parametrize("columns", [1, 2, 17, 300, 5000])
@pytest.mark.parametrize("percentile", [0.5, 0.9, 0.9999984, 1.0])
def test_percentile_is_that_of_torch(columns, percentile):
    matrix = torch.randn(5, columns, generator=torch.Generator().manual_seed(2))
    expected = torch.quantile(matrix.abs(), percentile, dim=1)
    torch.testing.assert_close(percentile_clip(matrix, percentile), expected, rtol=1e-6, atol=0)


def test_matrices_of_any_number_of_axes():
    assert as_matrix(torch.zeros(())).shape == (1, 1)
    assert as_matrix(torch.zeros(5)).shape == (1, 5)
    assert as_matrix(torch.zeros(2, 3, 4)).shape == (2, 12)
    empty = torch.zeros(3, 0)
    assert absmax_clip(empty).shape == percentile_clip(empty, 1.0).shape == (3,)


@pytest.mark.parametrize(
    ("sigma", "floor", "levels", "error", "bytes_per_weight"),
    [(0.02, 1 / 31, 7, 0.217, 0.232), (0.02, 0.0, 63, 0.0009, 0.696), (0.1, 1 / 31, 29, 0.0086, 0.533)],
)
def test_the_floor_makes_small_weights_coarse(sigma, floor, levels, error, bytes_per_weight):
    # The figures of the catalogue, D2: 512 x 512 Gaussian weights, int6 by row, zlib 9.
    matrix = torch.randn(512, 512, generator=torch.Generator().manual_seed(3)) * sigma
    grid = Grid(bits=6, scale_floor=floor)
    clip = clip_of(grid, matrix)
    codes = grid.quantize_codes(matrix, grid.choose_scales(clip), clip)
    shipped = grid.fake_quantize(matrix, clip)
    assert abs(codes.unique().numel() - levels) <= 2
    assert float((shipped - matrix).square().mean() / matrix.square().mean()) == pytest.approx(
        error, rel=0.06
    )
    packed = len(zlib.compress(codes.numpy().tobytes(), 9)) / codes.numel()
    assert packed == pytest.approx(bytes_per_weight, rel=0.02)


def test_a_floor_that_its_type_cannot_hold_is_refused():
    with pytest.raises(PlanError, match="scale_floor"):
        Grid(scale_floor=1e6)
    with pytest.raises(PlanError, match="bits"):
        Grid(bits=9)
