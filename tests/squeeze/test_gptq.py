"""Error feedback against a slow twin, against plain rounding, and where it must change nothing."""

import pytest
import torch

from bitgolf.base.errors import PlanError
from bitgolf.squeeze.clip import ClipSearch
from bitgolf.squeeze.gptq import Gptq, feedback, squared_error
from bitgolf.squeeze.grid import ColumnGroups, Grid, PerColumn, PerTensor, RowGroups
from bitgolf.squeeze.quantize import (
    AbsMax,
    Curvature,
    Keep,
    Percentile,
    QuantizeError,
    QuantizePlan,
    QuantRule,
    SdClip,
    quantize_weights,
)

SCALES = {
    "absmax": AbsMax(grid=Grid(bits=4)),
    "search": ClipSearch(grid=Grid(bits=4)),
    "deviations": SdClip(grid=Grid(bits=5), sigmas=8.0),
    "tensor": AbsMax(grid=Grid(bits=5, granularity=PerTensor())),
    "columns": AbsMax(grid=Grid(bits=4, granularity=PerColumn())),
    "row groups": AbsMax(grid=Grid(bits=4, granularity=RowGroups(rows=4))),
    "column groups": AbsMax(grid=Grid(bits=4, granularity=ColumnGroups(columns=8))),
    "ternary grid": AbsMax(grid=Grid(bits=2)),
}


def drawn(rows=12, columns=40, tokens=300, seed=0):
    """A matrix and the second moments of correlated inputs of different sizes."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=draw) * torch.rand(columns, generator=draw)
    x = torch.randn(tokens, columns, generator=draw) @ mixing
    weight = torch.randn(rows, columns, generator=draw) * (0.1 + torch.rand(rows, 1, generator=draw))
    return weight, Curvature(x.T @ x / tokens, None, tokens)


def slow_codes(weight, plain, inputs, damping=0.01, sort=True):
    """The same in float64, one column after another, with the whole inverse updated each time."""
    hessian = inputs.double().clone()
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    hessian += damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    order = hessian.diagonal().argsort(descending=True, stable=True).tolist() if sort else range(len(hessian))
    inverse, left = torch.linalg.inv(hessian), weight.double().clone()
    left[:, dead] = 0
    codes = torch.zeros_like(plain.pieces["codes"])
    steps = plain.form.granularity.spread(plain.pieces["scales"].double(), weight.shape).expand(weight.shape)
    for j in order:
        safe = torch.where(steps[:, j] > 0, steps[:, j], 1.0)
        code = (left[:, j] / safe).round().clamp(plain.form.qmin, plain.form.qmax)
        code = torch.where(steps[:, j] > 0, code, 0.0)
        codes[:, j] = code.to(torch.int8)
        error = (left[:, j] - code * steps[:, j]) / inverse[j, j]
        left -= error[:, None] * inverse[j]
        inverse = inverse - inverse[:, j : j + 1] * inverse[j : j + 1] / inverse[j, j]
    return codes


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("sort", [True, False])
def test_equals_its_slow_twin(name, sort):
    weight, curvature = drawn()
    rule = SCALES[name]
    fast = Gptq(scales=(rule,), sort=sort, block=16).quantize(weight, curvature)
    slow = slow_codes(weight, rule.quantize(weight), curvature.inputs, sort=sort)
    assert int((fast.pieces["codes"].int() - slow.int()).abs().max()) <= 1
    assert (
        float((fast.pieces["codes"] != slow).float().mean()) <= 0.005
    )  # a tie in float32 may fall the other way


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("seed", range(3))
def test_outputs_err_less_than_with_plain_rounding(name, seed):
    weight, curvature = drawn(rows=9, columns=33, seed=seed)
    rule = SCALES[name]
    fast, plain = Gptq(scales=(rule,)).quantize(weight, curvature), rule.quantize(weight)
    assert torch.equal(fast.pieces["scales"], plain.pieces["scales"]) and fast.form == plain.form
    inputs = curvature.inputs
    assert squared_error(weight, fast.dequantize(), inputs) < squared_error(
        weight, plain.dequantize(), inputs
    )
    assert squared_error(weight, fast.dequantize()) > squared_error(
        weight, plain.dequantize()
    )  # at the cost of the weights
    assert (
        int(fast.pieces["codes"].max()) <= rule.grid.qmax
        and int(fast.pieces["codes"].min()) >= rule.grid.qmin
    )


@pytest.mark.parametrize("scale", [1.0, 37.0])
def test_inputs_that_are_not_correlated_change_nothing(scale):
    weight, _ = drawn()
    for rule in SCALES.values():
        fast = Gptq(scales=(rule,)).quantize(weight, Curvature(scale * torch.eye(40), None, 1))
        nearest = rule.grid.quantize_codes(weight, rule.quantize(weight).pieces["scales"])
        assert torch.equal(fast.pieces["codes"], nearest)


def test_the_block_changes_nothing_but_the_speed():
    weight, curvature = drawn()
    found = [Gptq(block=block).quantize(weight, curvature).pieces["codes"] for block in (1, 7, 40, 128)]
    assert all(float((codes != found[0]).float().mean()) <= 0.005 for codes in found)


def test_dead_columns_become_zero():
    weight, curvature = drawn()
    curvature.inputs[[3, 17]] = 0
    curvature.inputs[:, [3, 17]] = 0
    tensor = Gptq().quantize(weight, curvature)
    assert not tensor.pieces["codes"][:, [3, 17]].any() and tensor.pieces["codes"][:, 4].any()
    nothing = Gptq().quantize(weight, Curvature(torch.zeros(40, 40), None, 1))
    assert not nothing.pieces["codes"].any()


def test_of_several_scale_rules_the_best_is_kept():
    weight, curvature = drawn()
    rules = tuple(Percentile(grid=Grid(bits=4), percentile=share) for share in (0.8, 0.97, 1.0))
    each = [Gptq(scales=(rule,)).quantize(weight, curvature) for rule in rules]
    for measure, inputs in (("outputs", curvature.inputs), ("weights", None)):
        kept = Gptq(scales=rules, measure=measure).quantize(weight, curvature)
        errors = [squared_error(weight, one.dequantize(), inputs) for one in each]
        assert squared_error(weight, kept.dequantize(), inputs) == min(errors)
    same = Gptq(scales=rules[:1] * 3).quantize(weight, curvature)
    assert torch.equal(same.pieces["codes"], each[0].pieces["codes"])


def test_settings_bite_and_bad_ones_are_refused():
    weight, curvature = drawn()
    base = Gptq(scales=(SCALES["absmax"],))
    for change in ({"damping": 1.0}, {"sort": False}, {"scales": (SCALES["search"],)}):
        other = base.replace(change).quantize(weight, curvature)
        assert not torch.equal(base.quantize(weight, curvature).dequantize(), other.dequantize()), change
    for scales in ((), (Keep(),), (AbsMax(), Gptq())):
        with pytest.raises(PlanError, match="rules that round|expected a list of one of"):
            Gptq(scales=scales)


def test_without_inputs_and_in_training_it_rounds_to_the_nearest():
    weight, curvature = drawn()
    quantizer, plain = Gptq(scales=(SCALES["search"],)), SCALES["search"].quantize(weight)
    assert torch.equal(quantizer.quantize(weight).pieces["codes"], plain.pieces["codes"])
    assert torch.equal(quantizer.fake_quantize(weight), plain.dequantize())
    assert not torch.equal(quantizer.quantize(weight, curvature).pieces["codes"], plain.pieces["codes"])


def test_moments_that_no_text_has_are_refused():
    weight, curvature = drawn()
    bad = curvature._replace(inputs=torch.full((40, 40), float("nan")))
    with pytest.raises(QuantizeError, match="cannot be inverted"):
        Gptq().quantize(weight, bad)
    with pytest.raises(QuantizeError, match="w: second moments"):
        quantize_weights(QuantizePlan(rules=(QuantRule(quantizer=Gptq()),)), {"w": weight}, {"w": bad})
    order, factor = feedback(curvature.inputs, 0.01, True)
    assert sorted(order.tolist()) == list(range(40)) and bool((factor.triu() == factor).all())
