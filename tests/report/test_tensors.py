"""The report of tensors: an alarm for every planted fault, silence when all is well, figures that add up."""

import math

import pytest
import torch

from bitgolf.base.plan import members
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.report.charts import bars, sparkline, trimmed
from bitgolf.report.tensors import (
    LEVELS_SHOWN,
    bits_per_byte_of,
    entropy_bits,
    is_compared,
    levels,
    losses,
    noise_quantizers,
    plain_rounding,
    predicted_gap,
    row_damages,
    same_grid,
    shown_error,
    stored_bits,
    tensor_bytes,
    tensor_row,
    tensor_rows,
)
from bitgolf.squeeze.artifact import pack
from bitgolf.squeeze.clip import ClipSearch
from bitgolf.squeeze.codec import RowColumn
from bitgolf.squeeze.gptq import Gptq
from bitgolf.squeeze.grid import ColumnGroups, Grid
from bitgolf.squeeze.lowrank import CorrectedForm, LowRank
from bitgolf.squeeze.quantize import (
    AbsMax,
    Curvature,
    Keep,
    Percentile,
    Quantizer,
    SdClip,
    absmax_rows,
    int6_rows,
    public_int8,
    quantize_weights,
)
from bitgolf.squeeze.rate import RateAware, expected_damage
from bitgolf.squeeze.rotate import Rotated, TurnedForm
from bitgolf.text.encoder import train_tokenizer
from bitgolf.train.qat import FakeQuantize, NoNoise

INT4, INT6 = AbsMax(grid=Grid(bits=4)), AbsMax()
MODEL = ModelPlan(vocabulary_size=280, layers=2, width=32, heads=4, kv_heads=2)


def problem(rows=48, columns=64, seed=0):
    """A matrix, and the curvature of correlated inputs and gradients of different size."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw) * (0.5 + torch.rand(rows, 1, generator=draw))
    moments = []
    for size in (columns, rows):
        mixing = torch.randn(size, size, generator=draw) * torch.logspace(-0.5, 0.5, size)
        x = torch.randn(400, size, generator=draw) @ mixing
        moments.append(x.T @ x / 400)
    return weight, Curvature(moments[0], 1e-4 * moments[1], 400)


def alarm(quantizer, weight, tensor=None, curvature=None, noise=None):
    tensor = quantizer.quantize(weight, curvature) if tensor is None else tensor
    return tensor_row(quantizer, weight, tensor, curvature, noise)["alarm"]


# ---- plain rounding ----


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_plain_rounding_of_as_many_bits_is_what_rounds_by_rows(bits):
    weight, _ = problem(columns=256)
    tensor = AbsMax(grid=Grid(bits=bits)).quantize(weight)
    plain = plain_rounding(weight, stored_bits(tensor))
    found, expected = (losses(weight, values, None) for values in (plain, tensor.dequantize()))
    assert found["relative_error"] == pytest.approx(expected["relative_error"], rel=0.03)


def test_plain_rounding_gets_finer_with_its_bits():
    weight, _ = problem(rows=16, columns=200)
    bits = (0, 16 * 16, 2_000, 8_000, 30_000)  # two bytes for the step of each row come first
    errors = [losses(weight, plain_rounding(weight, each), None)["relative_error"] for each in bits]
    assert errors[:2] == [1.0, 1.0] and errors == sorted(errors, reverse=True) and errors[-1] < 0.01
    assert not plain_rounding(torch.zeros(3, 5), 1000).any()


def test_what_is_lost_is_measured_in_every_way_there_is():
    weight, curvature = problem()
    tensor = INT4.quantize(weight)
    error = weight - tensor.dequantize()
    found = losses(weight, tensor.dequantize(), curvature)
    assert found["relative_error"] == pytest.approx(float(error.norm() / weight.norm()), rel=1e-4)
    inputs = curvature.inputs.double()
    sizes = [float(torch.trace(m.double() @ inputs @ m.double().T)) for m in (error, weight)]
    assert found["output_error"] == pytest.approx(math.sqrt(sizes[0] / sizes[1]), rel=1e-6)
    assert found["damage_nats"] == expected_damage(weight, tensor.dequantize(), curvature)
    assert [*losses(weight, tensor.dequantize(), None)] == ["relative_error"]
    without = curvature._replace(outputs=None)
    assert [*losses(weight, tensor.dequantize(), without)] == ["relative_error", "output_error"]
    alone = curvature._replace(outputs=curvature.outputs.diagonal())
    assert float(row_damages(error, alone).sum()) == pytest.approx(
        expected_damage(weight, tensor.dequantize(), alone)
    )


# ---- alarms ----


@pytest.mark.parametrize("member", members(Quantizer).values(), ids=lambda member: member.__name__)
@pytest.mark.parametrize("known", ["nothing", "inputs", "gradients"])
def test_no_quantizer_alarms_where_all_is_well(member, known):
    weight, curvature = problem()
    curvature = {"nothing": None, "inputs": curvature._replace(outputs=None), "gradients": curvature}[known]
    assert alarm(member(), weight, curvature=curvature) == ""


@pytest.mark.parametrize("bits", [3, 4, 5, 8])
def test_no_grid_alarms_where_all_is_well(bits):
    weight, _ = problem(columns=512)
    grid = Grid(bits=bits)
    for quantizer in (AbsMax(grid=grid), SdClip(grid=grid), Percentile(grid=grid)):
        assert alarm(quantizer, weight) == "", quantizer
    groups = AbsMax(grid=grid.replace(granularity=ColumnGroups(columns=64)))
    assert alarm(groups, weight) == alarm(ClipSearch(grid=grid), weight) == ""


def test_fresh_weights_and_small_ones_alarm_nobody():
    # Output projections start as zeros, and the preflight packs the model before the first step.
    fresh = {name: tensor.detach() for name, tensor in build_model(MODEL).named_parameters()}
    for plan in (int6_rows(), public_int8()):
        for name, weight in fresh.items():
            quantizer = plan.rule_of(name, weight).quantizer
            row = tensor_row(quantizer, weight, quantizer.quantize(weight))
            assert row["alarm"] == "", name


def test_the_error_that_is_shown_is_that_of_the_outputs_where_they_are_known():
    row = {"relative_error": 0.2, "relative_error_plain": 0.1}
    assert (shown_error(row), shown_error(row, "_plain")) == (0.2, 0.1)
    assert shown_error({**row, "output_error": 0.05}) == 0.05 and shown_error({}, "_plain") is None


def test_too_few_weights_are_not_compared():
    for count, compared in ((4, False), (64, False), (512, True)):
        weight = torch.randn(1, count, generator=torch.Generator().manual_seed(0))
        assert is_compared(INT6.quantize(weight)) == compared
        row = tensor_row(INT6, weight, INT6.quantize(weight))
        assert ("relative_error_plain" in row) == compared and row["alarm"] == ""


def planted(kind, factor):
    """A quantizer, a weight, its curvature, and what it ships with all steps `factor` times too long."""
    weight, curvature = problem()
    if kind == "grid":
        tensor = INT6.quantize(weight)
        return INT6, weight, None, tensor.with_pieces(scales=tensor.pieces["scales"] * factor)
    if kind == "feedback":
        quantizer = Gptq(scales=(INT4,))
        tensor = quantizer.quantize(weight, curvature)
        found = tensor.with_pieces(scales=tensor.pieces["scales"] * factor)
        return quantizer, weight, curvature._replace(outputs=None), found
    if kind == "stepped":
        quantizer = RateAware(step=0.03)
        tensor = quantizer.quantize(weight, curvature)
        return quantizer, weight, curvature, tensor.with_pieces(base=tensor.pieces["base"] * factor)
    weight = weight.clone()
    weight[:, 5] *= 30  # what turning is for, and correcting
    quantizer = Rotated(quantizer=INT4) if kind == "turned" else LowRank(quantizer=INT4)
    tensor = quantizer.quantize(weight)
    assert isinstance(tensor.form, TurnedForm if kind == "turned" else CorrectedForm)
    return quantizer, weight, None, tensor.with_pieces(scales=tensor.pieces["scales"] * factor)


@pytest.mark.parametrize("kind", ["grid", "feedback", "stepped", "turned", "corrected"])
def test_worse_than_plain_rounding_is_an_alarm_for_every_form(kind):
    words = {"feedback": "squared error of outputs", "stepped": "expected damage"}.get(kind, "squared error")
    quantizer, weight, curvature, good = planted(kind, 1)
    assert alarm(quantizer, weight, good, curvature) == ""
    quantizer, weight, curvature, bad = planted(kind, 2)
    found = alarm(quantizer, weight, bad, curvature)
    assert found.startswith("worse than plain rounding of as many bits: ") and found.endswith(f"its {words}")


def test_clipping_half_of_the_weights_is_an_alarm():
    weight, _ = problem()
    assert alarm(Percentile(percentile=0.5), weight).startswith("worse than plain rounding")


def test_collapse_is_an_alarm():
    small = 0.0002 * torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    floor = AbsMax(grid=Grid(bits=6, scale_floor=1 / 31))
    assert "collapsed: 64 of 64 rows are all zeros" in alarm(floor, small)
    assert "collapsed: 64 of 64 rows are all zeros" in alarm(INT6, small / 1e7)  # below float16
    assert alarm(INT6, torch.zeros(3, 4)) == alarm(INT6, small) == ""
    row = small.clone()
    row[7] /= 1e7
    assert alarm(INT6, row) == "collapsed: 1 of 64 rows are all zeros"


def test_a_row_that_does_not_matter_may_be_given_up():
    weight, curvature = problem()
    outputs = curvature.outputs.diagonal().clone()
    outputs[3] = 0  # nothing that the loss sees comes out of this row
    blind = curvature._replace(outputs=outputs)
    quantizer = RateAware(step=0.03)
    tensor = quantizer.quantize(weight, blind)
    for row, expected in ((3, ""), (4, "collapsed: 1 of 48 rows are all zeros")):
        codes, carries = tensor.pieces["codes"].clone(), tensor.pieces["carries"].clone()
        codes[row], carries[row] = 0, 0
        lost = tensor.with_pieces(codes=codes, carries=carries)
        assert alarm(quantizer, weight, lost, blind).partition(";")[0] == expected


def test_a_grid_that_training_did_not_see_is_an_alarm():
    weight, curvature = problem()
    known = {"curvature": curvature}
    assert alarm(INT4, weight, noise=INT4) == alarm(INT4, weight) == ""
    found = alarm(INT6, weight, noise=INT4)
    assert found == "not on the grid it was trained on, that of AbsMax(grid=Grid(bits=4)) without calibration"
    # Feedback rounds otherwise, but on the same steps; rate-aware steps follow from the calibration.
    assert alarm(Gptq(scales=(INT4,)), weight, noise=INT4, **known) == ""
    assert "not on the grid" in alarm(RateAware(), weight, noise=RateAware(), **known)
    assert alarm(RateAware(), weight, noise=RateAware()) == ""
    assert "not on the grid" in alarm(Rotated(quantizer=INT4), weight * torch.logspace(-2, 1, 64), noise=INT4)
    assert "not on the grid" in alarm(INT4, weight, noise=Keep())
    assert alarm(Keep(), weight, noise=Keep()) == ""


def test_grids_are_the_same_by_what_they_stand_for():
    weight, _ = problem()
    tensor = INT6.quantize(weight)
    assert same_grid(tensor, AbsMax(grid=Grid(bits=8, largest=31)).quantize(weight))
    assert same_grid(tensor, tensor.with_pieces(codes=-tensor.pieces["codes"]))
    assert not same_grid(tensor, AbsMax(grid=Grid(bits=6, symmetric=False)).quantize(weight))
    assert not same_grid(tensor, INT6.quantize(2 * weight))


def test_whom_the_noise_reached():
    weights = {name: tensor.detach() for name, tensor in build_model(MODEL).named_parameters()}
    table = absmax_rows(4, 8)
    found = noise_quantizers(FakeQuantize(patterns=("blocks.*.weight",)), table, weights)
    assert set(found) == {name for name in weights if name.startswith("blocks") and name.endswith("weight")}
    assert set(found.values()) == {INT4}
    assert noise_quantizers(FakeQuantize(from_progress=1.0), table, weights) == {}
    assert noise_quantizers(FakeQuantize(under_scale=0.1), table, weights)
    assert noise_quantizers(NoNoise(), table, weights) == {}


# ---- what a row says ----


def test_histograms_are_bounded_and_hold_every_weight():
    weight, curvature = problem()
    tensors = [AbsMax(grid=Grid(bits=bits)).quantize(weight) for bits in (2, 6, 7, 8)]
    tensors.append(RateAware(step=1e-5).quantize(weight, curvature))
    for tensor in tensors:
        found = levels(tensor)["levels"]
        assert len(found["counts"]) <= LEVELS_SHOWN and sum(found["counts"]) == weight.numel()
        assert (
            found["width"] % 2 == 1 and found["first"] % found["width"] == 0
        )  # zero is in the middle of one
    assert [levels(tensor)["levels"]["width"] for tensor in tensors[:4]] == [1, 1, 3, 5]
    assert found["width"] > 50
    exact = levels(tensors[1])["levels"]
    assert exact["counts"][-exact["first"]] == int((tensors[1].pieces["codes"] == 0).sum())
    assert levels(Keep().quantize(weight)) == {}


def test_histograms_as_pictures():
    assert trimmed([1, 0, 5000, 5000, 0, 1]) == (2, [5000, 5000])
    assert trimmed([3]) == (0, [3]) and trimmed([1, 1]) == (0, [1, 1])
    assert bars([0, 2, 1]) == "M0 100V100h1V0h1V50h1V100Z"
    assert sparkline([0, 4, 8]) == " ▄█" and len(sparkline(list(range(63)))) == 15 and sparkline([0]) == " "


def test_coverage_is_the_share_that_the_text_has_reached():
    weight, curvature = problem()
    inputs, outputs = curvature.inputs.clone(), curvature.outputs.diagonal().clone()
    inputs[:16], inputs[:, :16], outputs[:12] = 0, 0, 0
    row = tensor_row(INT4, weight, INT4.quantize(weight), Curvature(inputs, outputs, 77))
    assert (row["calibration_tokens"], row["inputs_seen"], row["outputs_seen"]) == (77, 0.75, 0.75)
    row = tensor_row(INT4, weight, INT4.quantize(weight), Curvature(inputs, None, 77))
    assert row["inputs_seen"] == 0.75 and "outputs_seen" not in row
    assert "inputs_seen" not in tensor_row(INT4, weight, INT4.quantize(weight))


def test_bytes_are_those_of_the_ledger():
    weights = {name: tensor.detach() for name, tensor in build_model(MODEL).named_parameters()}
    tensors, rows = quantize_weights(int6_rows(), weights)
    tokenizer = train_tokenizer([b"to be or not to be, that is the question " * 20], 280)
    artifact = pack(MODEL, tensors, tokenizer.to_bytes())
    found = tensor_rows(int6_rows(), weights, {}, artifact, rows, {})
    others = ("header", "checksums", "plan", "tensors", "tokenizer")
    rest = sum(size for name, size in artifact.ledger if name in others)
    assert sum(row["bytes"] for row in found) + rest == len(artifact.data)
    for before, row in zip(rows, found):
        assert row["coded_bits"] == 8 * row["bytes"] / weights[row["name"]].numel()
        assert {**before, **row} == row | {"seconds": before["seconds"]}
    assert tensor_bytes(artifact)["tok_emb.weight"] == sum(
        size for name, size in artifact.ledger if name.startswith("tok_emb.weight ")
    )
    bits = {row["name"]: row["bits"] for row in found}
    assert (bits["tok_emb.weight"], bits["blocks.0.mlp.fc.weight"], bits["skip_weights"]) == (8, 6, 16)


def test_bits_of_forms():
    weight, curvature = problem()
    for quantizer in (INT4, Rotated(quantizer=INT4), LowRank(quantizer=INT4), Gptq(scales=(INT4,))):
        assert tensor_row(quantizer, weight, quantizer.quantize(weight, curvature))["bits"] == 4
    coarse, fine = (RateAware(step=step) for step in (0.02, 0.002))
    bits = [tensor_row(q, weight, q.quantize(weight, curvature), curvature)["bits"] for q in (coarse, fine)]
    assert bits[0] + 2 < bits[1]


def test_the_predicted_gap_is_a_sum_or_nothing():
    weight, curvature = problem()
    tensor = INT4.quantize(weight)
    known = tensor_row(INT4, weight, tensor, curvature)
    kept, unknown = (tensor_row(q, weight, q.quantize(weight)) for q in (Keep(), INT4))
    assert kept["damage_nats"] == 0 and "damage_nats" not in unknown
    expected = bits_per_byte_of(2 * expected_damage(weight, tensor.dequantize(), curvature), 4.0)
    assert predicted_gap([known, known, kept], 4.0) == pytest.approx(expected)
    assert predicted_gap([known, unknown, kept], 4.0) is None
    assert bits_per_byte_of(math.log(2), 4.0) == pytest.approx(0.25)


def test_coders_that_know_rows_are_not_what_plain_rounding_is_given():
    """Both sides are measured by one entropy, so a better coder makes no quantizer look better."""
    weight, _ = problem()
    tensor = INT6.quantize(weight)
    shapes = (tuple(tensor.pieces["codes"].shape),)
    assert (
        len(RowColumn().encode(tensor.pieces["codes"].numpy().tobytes(), shapes)[1])
        != stored_bits(tensor) / 8
    )
    assert stored_bits(tensor) == entropy_bits(tensor.pieces["codes"]) + 16 * len(weight)
    assert entropy_bits(torch.zeros(100, dtype=torch.int8)) == 0
    assert entropy_bits(torch.arange(-128, 128).to(torch.int8)) == pytest.approx(8 * 256)
