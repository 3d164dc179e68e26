"""Clip search and ternary groups: better than what they replace, and exactly the grid's map."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.base.errors import PlanError
from bitgolf.report.tensors import nominal_bits
from bitgolf.squeeze.clip import ClipSearch, CoarseCodes, Ternary
from bitgolf.squeeze.gptq import squared_error
from bitgolf.squeeze.grid import ColumnGroups, Grid, PerTensor, RowGroups
from bitgolf.squeeze.quantize import AbsMax, Keep, Percentile


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 6),
    rows=st.integers(1, 9),
    columns=st.integers(1, 400),
    tail=st.floats(1, 6),
    seed=st.integers(0, 10**6),
)
def test_by_row_errs_less_than_by_tensor_than_absmax(bits, rows, columns, tail, seed):
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw)
    weight = weight.sign() * weight.abs() ** tail * torch.rand(rows, 1, generator=draw)
    grid = Grid(bits=bits, scale_dtype="float32")
    row, tensor = (ClipSearch(grid=grid, choice=choice).quantize(weight) for choice in ("row", "tensor"))
    errors = [
        squared_error(weight, each.dequantize()) for each in (row, tensor, AbsMax(grid=grid).quantize(weight))
    ]
    assert errors[0] <= errors[1] * (1 + 1e-5) + 1e-12 and errors[1] <= errors[2] * (1 + 1e-5) + 1e-12


def test_each_row_has_its_best_percentile():
    weight = torch.randn(20, 3000, generator=torch.Generator().manual_seed(0))
    weight[::2] = weight[::2].sign() * weight[::2].abs() ** 3
    search = ClipSearch(grid=Grid(bits=4), percentiles=(0.9, 0.99, 1.0))
    each = [Percentile(grid=search.grid, percentile=share).quantize(weight) for share in search.percentiles]
    errors = torch.stack([(one.dequantize() - weight).square().sum(1) for one in each])
    expected = torch.stack([one.dequantize() for one in each])[errors.argmin(0), torch.arange(20)]
    assert torch.equal(search.quantize(weight).dequantize(), expected)
    assert len(errors.argmin(0).unique()) > 1
    whole = search.replace(choice="tensor").quantize(weight).dequantize()
    assert torch.equal(whole, each[int(errors.sum(1).argmin())].dequantize())


def test_under_a_floor_there_is_nothing_to_search():
    small = 0.05 * torch.randn(8, 500, generator=torch.Generator().manual_seed(1))
    grid = Grid(bits=6, scale_floor=1 / 31)
    for choice in ("row", "tensor"):
        found = ClipSearch(grid=grid, choice=choice).quantize(small)
        assert torch.equal(found.pieces["codes"], AbsMax(grid=grid).quantize(small).pieces["codes"])


def test_groups_of_any_shape():
    weight = torch.randn(11, 50, generator=torch.Generator().manual_seed(2))
    for granularity in (PerTensor(), RowGroups(rows=4), ColumnGroups(columns=16)):
        grid = Grid(bits=3, granularity=granularity)
        search = ClipSearch(grid=grid, percentiles=(0.95, 1.0)).quantize(weight)
        assert squared_error(weight, search.dequantize()) < squared_error(
            weight, AbsMax(grid=grid).quantize(weight).dequantize()
        )
    for bad in ((), (0.0,), (1.5,)):
        with pytest.raises(PlanError, match="percentiles"):
            ClipSearch(percentiles=bad)
    plain = AbsMax(grid=Grid(bits=6))
    assert torch.equal(
        ClipSearch(percentiles=(1.0,)).quantize(weight).pieces["codes"],
        plain.quantize(weight).pieces["codes"],
    )


@pytest.mark.parametrize("shape", [(3, 64), (5, 100), (1, 7), (4, 130)])
def test_ternary_groups_keep_their_mean_size(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    tensor, unscaled = Ternary().quantize(weight), Ternary(rescaled=False).quantize(weight)
    assert torch.equal(tensor.pieces["codes"], unscaled.pieces["codes"]) and set(
        tensor.pieces["codes"].unique().tolist()
    ) <= {-1, 0, 1}
    groups = ColumnGroups(columns=64).groups
    means = [groups(each).abs().mean(1) for each in (weight, tensor.dequantize(), unscaled.dequantize())]
    torch.testing.assert_close(means[1], means[0], rtol=2e-3, atol=0)
    assert bool((means[2] < means[0]).all())
    torch.testing.assert_close(unscaled.pieces["scales"].float(), means[0], rtol=1e-3, atol=0)
    assert torch.equal(Ternary().fake_quantize(weight), tensor.dequantize())


def test_ternary_errs_less_than_the_largest_weight_as_step():
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(4))
    plain = AbsMax(grid=Ternary().grid)
    assert squared_error(weight, Ternary().quantize(weight).dequantize()) < 0.6 * squared_error(
        weight, plain.quantize(weight).dequantize()
    )
    assert not Ternary().quantize(torch.zeros(3, 70)).dequantize().any()
    with pytest.raises(PlanError, match="codes are -1, 0 and 1"):
        Ternary(grid=Grid(bits=3))


def steps_of_four(weight):
    """The same in other words: every share in turn, in float32; the least error keeps its codes."""
    best = (float("inf"), None, None)
    for share in (0.9999, 0.99999, 0.999999, 0.9999984, 1.0):
        bound = torch.quantile(weight.abs(), share, dim=1, keepdim=True)
        step = torch.maximum(bound / 127.0, torch.tensor(1.0 / 127.0))
        codes = torch.round(weight.minimum(bound).maximum(-bound) / step).clamp(-127, 127)
        error = float((weight - codes * step).pow(2).mean())
        if error < best[0]:
            best = (error, codes, step.half())
    fours = torch.round(best[1] / 4) * 4
    return fours.clamp(-127, 127), best[2].squeeze(1)


@pytest.mark.parametrize("size", [0.02, 0.4, 3.0])
def test_int6_as_multiples_of_four_is_the_public_one(size):
    draw = torch.Generator().manual_seed(4)
    weight = size * torch.randn(48, 700, generator=draw) * torch.rand(48, 1, generator=draw)
    weight[3, 5], weight[7] = 9 * size, 0.0
    grid = Grid(bits=8, round_scale_first=False, scale_floor=1 / 127)
    shares = (0.9999, 0.99999, 0.999999, 0.9999984, 1.0)
    eight = ClipSearch(grid=grid, percentiles=shares, choice="tensor", under_floor=True)
    found = CoarseCodes(of=eight, step=4).quantize(weight)
    codes, scales = steps_of_four(weight)
    assert torch.equal(found.pieces["codes"].float(), codes) and torch.equal(found.pieces["scales"], scales)
    assert set(found.pieces["codes"].unique().tolist()) <= {*range(-124, 125, 4), -127, 127}
    assert torch.equal(found.dequantize(), codes * scales.float()[:, None])


def test_int6_with_multiples_alone():
    weight = torch.tensor([[1.0, -0.5, 0.118, 0.0], [0.25, -2.0, 1.95, 0.03]])
    eight = AbsMax(grid=Grid(bits=8, symmetric=False, scale_dtype="float32"))
    coarse = CoarseCodes(of=eight, multiples_only=True)
    assert coarse.quantize(weight).pieces["codes"].tolist() == [[124, -64, 16, 0], [16, -128, 124, 0]]
    assert coarse.replace(multiples_only=False).quantize(weight).pieces["codes"].tolist()[0] == [
        127,
        -64,
        16,
        0,
    ]
    same = AbsMax(grid=Grid(bits=8, scale_dtype="float32"))
    assert CoarseCodes(of=same, multiples_only=True).quantize(weight).pieces["codes"][1].tolist() == [
        16,
        -124,
        124,
        0,
    ]
    assert torch.equal(
        coarse.replace(step=1).quantize(weight).pieces["codes"], eight.quantize(weight).pieces["codes"]
    )


def test_a_weight_beyond_its_percentile_is_clipped_under_a_floor_too_where_told():
    weight = torch.linspace(-0.5, 0.5, 101)[None]
    grid = Grid(bits=8, scale_floor=1 / 127, scale_dtype="float32")
    search = ClipSearch(grid=grid, percentiles=(0.9,))
    assert search.quantize(weight).pieces["codes"].max() == 64
    assert (
        search.replace(under_floor=True).quantize(weight).pieces["codes"].max() == 57
    )  # 0.45 in steps of 1/127


def test_coarse_codes_are_off_at_one_and_refuse_what_does_not_round():
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(5))
    eight = AbsMax(grid=Grid(bits=8))
    assert torch.equal(
        CoarseCodes(of=eight, step=1).quantize(weight).pieces["codes"], eight.quantize(weight).pieces["codes"]
    )
    with pytest.raises(PlanError, match="of: expected one of AbsMax, ClipSearch, .*, found Keep"):
        CoarseCodes(of=Keep())
    with pytest.raises(PlanError, match="step: the largest code is 7, found 8"):
        CoarseCodes(of=AbsMax(grid=Grid(bits=4)), step=8)
    assert nominal_bits(CoarseCodes(of=eight), weight, CoarseCodes(of=eight).quantize(weight)) == 6
