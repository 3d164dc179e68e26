"""Rate-aware rounding: the slow twin, what each ingredient is for, and what an artifact gives back."""

import pytest
import torch

from bitgolf.base.errors import ArtifactError
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.report.tensors import tensor_row
from bitgolf.squeeze.artifact import pack, unpack
from bitgolf.squeeze.hessian import TrainText
from bitgolf.squeeze.quantize import Curvature, Keep, QuantizePlan, QuantRule, SdClip, quantize_weights
from bitgolf.squeeze.rate import (
    RateAware,
    Stepped,
    code_bits,
    expected_damage,
    feedback_factor,
    power_of_two,
    within_reach,
)
from bitgolf.squeeze.trellis import rounded_codes
from bitgolf.text.encoder import train_tokenizer

ROWS, COLUMNS = 24, 40


def moments(size: int, seed: int) -> torch.Tensor:
    """Second moments of correlated channels of different size."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=draw, dtype=torch.float64) * torch.logspace(-1, 1, size)
    return mix.T @ mix / size + 0.01 * torch.eye(size, dtype=torch.float64)


def problem(seed: int = 0) -> tuple[torch.Tensor, Curvature]:
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed))
    return weight, Curvature(moments(COLUMNS, seed + 1), moments(ROWS, seed + 2), 1000)


def one_by_one(matrix, steps, factor, across):
    """Every weight in turn: rounded on what all errors before it ask for."""
    rest, codes = matrix.clone(), torch.zeros_like(matrix)
    for i in range(len(matrix)):
        wanted = rest[i].clone()
        for j in range(matrix.shape[1]):
            codes[i, j] = (rest[i, j] / steps[i, j]).round()
            error = (rest[i, j] - codes[i, j] * steps[i, j]) / factor[j, j]
            rest[i, j + 1 :] -= error * factor[j, j + 1 :]
        error = (wanted - codes[i] * steps[i]) / across[i, i]
        rest[i + 1 :] -= across[i, i + 1 :, None] * error
    return codes


def test_the_fast_rounding_equals_its_slow_twin():
    weight, curvature = problem()
    steps = torch.full((ROWS, COLUMNS), 0.3, dtype=torch.float64)
    factor, across = (feedback_factor(m, 0.003) for m in (curvature.inputs, curvature.outputs))
    expected = one_by_one(weight.double(), steps, factor, across)
    assert torch.equal(rounded_codes(weight.double(), steps, factor, across, 1), expected.int())
    assert not torch.equal(rounded_codes(weight.double(), steps, factor, None, 1), expected.int())


def test_without_curvature_in_the_moments_it_is_rounding_to_the_nearest():
    weight, _ = problem()
    flat = Curvature(torch.eye(COLUMNS), torch.eye(ROWS), 1)
    tensor = RateAware(step=0.25, damping=1e-9, trellis=False).quantize(weight, flat)
    assert torch.equal(
        tensor.form.whole_codes(tensor.pieces).float(), (weight / tensor.pieces["base"]).round()
    )
    assert float(tensor.pieces["base"]) == pytest.approx(0.25, rel=1e-6)
    assert not tensor.pieces["rows"].any() and not tensor.pieces["columns"].any()


def test_every_ingredient_lowers_the_damage_at_equal_bits():
    """Damage at 3 bits a weight, from the slope of one bit a quarter; means over several matrices."""

    def damage(quantizer):
        total = 0.0
        for seed in range(6):
            weight, curvature = problem(10 * seed)
            tensor = quantizer.quantize(weight, curvature)
            bits = code_bits(tensor.pieces["codes"]) / weight.numel()
            total += expected_damage(weight, tensor.dequantize(), curvature) * 4.0 ** (bits - 3.0)
        return total

    bare = RateAware(step=0.2, by_row=False, by_column=False, across_rows=False, trellis=False)
    rungs = [
        damage(SdClip()),
        damage(bare),
        damage(bare.replace(by_row=True)),
        damage(bare.replace(by_row=True, by_column=True)),
        damage(bare.replace(by_row=True, by_column=True, across_rows=True)),
        damage(RateAware(step=0.2)),
    ]
    assert rungs == sorted(rungs, reverse=True), rungs
    assert rungs[-1] < 0.2 * rungs[0]


def test_a_smaller_step_takes_more_bits_and_does_less_damage():
    weight, curvature = problem()
    found = []
    for step in (0.8, 0.4, 0.2, 0.1, 0.005):
        tensor = RateAware(step=step).quantize(weight, curvature)
        found.append(
            (
                code_bits(tensor.form.whole_codes(tensor.pieces)),
                expected_damage(weight, tensor.dequantize(), curvature),
            )
        )
    bits, damages = zip(*found)
    assert list(bits) == sorted(bits) and list(damages) == sorted(damages, reverse=True)
    assert (
        tensor.form.whole_codes(tensor.pieces).abs().max() > 127 and tensor.pieces["carries"].any()
    )  # nothing is clipped


def test_steps_are_the_same_bits_everywhere():
    steps = torch.arange(-128, 128, dtype=torch.int8)
    for parts in (1, 2, 4, 8):
        exact = 2.0 ** (steps.double() / parts)
        assert torch.equal(power_of_two(steps, parts)[24:-24], exact.float()[24:-24])


def test_an_artifact_gives_back_exactly_what_was_rounded():
    plan = ModelPlan(vocabulary_size=300, layers=2, width=32, heads=2, kv_heads=1)
    weights = {name: w.detach() + 0.1 for name, w in build_model(plan, seed=3).state_dict().items()}
    rules = (
        QuantRule(patterns=("*.weight",), axes=2, quantizer=RateAware()),
        QuantRule(quantizer=Keep()),
    )
    curvatures = {
        name: Curvature(moments(w.shape[1], 1), moments(len(w), 2), 9)
        for name, w in weights.items()
        if w.ndim == 2 and name.endswith("weight")
    }
    tensors, report = quantize_weights(
        QuantizePlan(rules=rules, calibration=TrainText(outputs=True)), weights, curvatures
    )
    tokenizer = train_tokenizer([b"to be or not to be, that is the question " * 20], 300)
    opened = unpack(pack(plan, tensors, tokenizer.to_bytes()).data)
    for name, tensor in tensors.items():
        assert torch.equal(opened.weights[name], tensor.dequantize()), name
    assert all(row["damage_nats"] > 0 for row in report if "damage_nats" in row)


def test_a_base_that_is_no_step_is_refused():
    pieces = {
        "codes": torch.zeros(2, 3, dtype=torch.int8),
        "carries": torch.zeros(2, 3, dtype=torch.int8),
        "rows": torch.zeros(2, dtype=torch.int8),
        "columns": torch.zeros(3, dtype=torch.int8),
    }
    for base in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ArtifactError, match="no positive number"):
            Stepped().check_pieces(pieces | {"base": torch.tensor([base])})


def test_codes_that_two_bytes_do_not_hold_are_refused():
    matrix = torch.zeros(2, 3, dtype=torch.int8)
    rest = {"rows": matrix[:, 0], "columns": matrix[0], "base": torch.ones(1)}
    lowest = {"codes": matrix - 128, "carries": matrix - 127, **rest}
    Stepped().check_pieces(lowest)
    assert int(Stepped().whole_codes(lowest).min()) == -32_640
    with pytest.raises(ArtifactError, match="outside -32640 to 32639"):
        Stepped().check_pieces({**lowest, "carries": matrix - 128})


def test_columns_have_steps_by_what_the_columns_to_come_leave_of_them():
    """By regressions: the plain variances of the inputs would give other steps."""
    weight, curvature = problem(4)
    tensor = RateAware(octave_parts=8).quantize(weight, curvature)
    inputs = curvature.inputs.double()
    damped = inputs + 0.003 * inputs.diagonal().mean() * torch.eye(COLUMNS)
    left = torch.empty(COLUMNS, dtype=torch.float64)
    for j in range(COLUMNS):
        later = slice(j + 1, None)
        known = torch.linalg.lstsq(damped[later, later], damped[later, j]).solution
        left[j] = damped[j, j] - damped[j, later] @ known

    def steps_of(variances):
        logs = -0.5 * variances.log2()
        return ((logs - logs.mean()) * 8).round().to(torch.int8)

    assert torch.equal(tensor.pieces["columns"], steps_of(left))
    assert (tensor.pieces["columns"] != steps_of(damped.diagonal())).double().mean() > 0.5


@pytest.mark.parametrize("silent", ["inputs", "outputs", "both"])
@pytest.mark.parametrize("head", [False, True])
def test_a_matrix_that_the_loss_does_not_see_takes_no_bits(silent, head):
    weight, curvature = problem(5)
    if head:
        curvature = curvature._replace(outputs=curvature.outputs.diagonal())
    for name in ("inputs", "outputs") if silent == "both" else (silent,):
        curvature = curvature._replace(**{name: torch.zeros_like(getattr(curvature, name))})
    tensor = RateAware().quantize(weight, curvature)
    assert not bool(tensor.dequantize().any()) and tensor.dequantize().shape == weight.shape
    assert code_bits(tensor.form.whole_codes(tensor.pieces)) == 0
    assert (
        tensor_row(RateAware(), weight, tensor, curvature)["alarm"] == "the loss does not see it: it is zeros"
    )


@pytest.mark.parametrize("outlier", [1e3, -1e4, 1e6])
@pytest.mark.parametrize("trellis", [False, True])
def test_a_weight_far_out_is_held(outlier, trellis):
    weight, curvature = problem(6)
    weight[3, 7] = outlier
    tensor = RateAware(trellis=trellis).quantize(weight, curvature)
    assert float(tensor.dequantize()[3, 7]) == pytest.approx(outlier, rel=1e-3)
    others = [row for row in range(ROWS) if row != 3]
    plain = RateAware(trellis=trellis).quantize(
        weight.clone().index_fill_(0, torch.tensor([3]), 0.0), curvature
    )
    assert torch.equal(tensor.pieces["rows"][others], plain.pieces["rows"][others]), "its own steps alone"


def test_what_has_no_outlier_is_rounded_as_before():
    weight, curvature = problem(7)
    tensor = RateAware().quantize(weight, curvature)
    steps = tensor.form.steps(tensor.pieces["base"], tensor.pieces["rows"], tensor.pieces["columns"])
    assert torch.equal(within_reach(tensor.pieces["rows"], weight.double(), steps, 4), tensor.pieces["rows"])


@pytest.mark.parametrize("weight", [torch.full((4, 16), 0.03), torch.full((4, 16), -2.0), torch.ones(1, 1)])
def test_constant_rows_live_without_calibration(weight):
    found = RateAware().quantize(weight).dequantize()
    assert float((found - weight).norm() / weight.norm()) < 0.3
