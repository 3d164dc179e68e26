"""Clip search and ternary groups: better than what they replace, and exactly the grid's map."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.core.clip import ClipSearch, Ternary
from bitgolf.core.errors import PlanError
from bitgolf.core.gptq import squared_error
from bitgolf.core.grid import ColumnGroups, Grid, PerTensor, RowGroups
from bitgolf.core.quantize import AbsMax, Percentile


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
    errors = [squared_error(weight, each) for each in (row, tensor, AbsMax(grid=grid).quantize(weight))]
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
    whole = search.but(choice="tensor").quantize(weight).dequantize()
    assert torch.equal(whole, each[int(errors.sum(1).argmin())].dequantize())


def test_under_a_floor_there_is_nothing_to_search():
    small = 0.05 * torch.randn(8, 500, generator=torch.Generator().manual_seed(1))
    grid = Grid(bits=6, scale_floor=1 / 31)
    for choice in ("row", "tensor"):
        found = ClipSearch(grid=grid, choice=choice).quantize(small)
        assert torch.equal(found.codes, AbsMax(grid=grid).quantize(small).codes)


def test_groups_of_any_shape():
    weight = torch.randn(11, 50, generator=torch.Generator().manual_seed(2))
    for granularity in (PerTensor(), RowGroups(rows=4), ColumnGroups(columns=16)):
        grid = Grid(bits=3, granularity=granularity)
        search = ClipSearch(grid=grid, percentiles=(0.95, 1.0)).quantize(weight)
        assert squared_error(weight, search) < squared_error(weight, AbsMax(grid=grid).quantize(weight))
    for bad in ((), (0.0,), (1.5,)):
        with pytest.raises(PlanError, match="percentiles"):
            ClipSearch(percentiles=bad)
    plain = AbsMax(grid=Grid(bits=6))
    assert torch.equal(ClipSearch(percentiles=(1.0,)).quantize(weight).codes, plain.quantize(weight).codes)


@pytest.mark.parametrize("shape", [(3, 64), (5, 100), (1, 7), (4, 130)])
def test_ternary_groups_keep_their_mean_size(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    tensor, unscaled = Ternary().quantize(weight), Ternary(rescaled=False).quantize(weight)
    assert torch.equal(tensor.codes, unscaled.codes) and set(tensor.codes.unique().tolist()) <= {-1, 0, 1}
    groups = ColumnGroups(columns=64).groups
    means = [groups(each).abs().mean(1) for each in (weight, tensor.dequantize(), unscaled.dequantize())]
    torch.testing.assert_close(means[1], means[0], rtol=2e-3, atol=0)
    assert bool((means[2] < means[0]).all())
    torch.testing.assert_close(unscaled.scales.float(), means[0], rtol=1e-3, atol=0)
    assert torch.equal(Ternary().fake_quantize(weight), tensor.dequantize())


def test_ternary_errs_less_than_the_largest_weight_as_step():
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(4))
    plain = AbsMax(grid=Ternary().grid)
    assert squared_error(weight, Ternary().quantize(weight)) < 0.6 * squared_error(
        weight, plain.quantize(weight)
    )
    assert not Ternary().quantize(torch.zeros(3, 70)).dequantize().any()
    with pytest.raises(PlanError, match="codes are -1, 0 and 1"):
        Ternary(grid=Grid(bits=3))
