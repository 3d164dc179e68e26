import pytest
import torch

from bitgolf.base.errors import ArtifactError, PlanError
from bitgolf.base.plan import from_json, members, to_json
from bitgolf.net.model import ModelPlan, parameter_shapes
from bitgolf.report.tensors import tensor_row
from bitgolf.squeeze.between import Between, BetweenForm
from bitgolf.squeeze.clip import ClipSearch, Ternary
from bitgolf.squeeze.gptq import Gptq
from bitgolf.squeeze.grid import Grid, PerTensor
from bitgolf.squeeze.hessian import TrainText
from bitgolf.squeeze.lowrank import LowRank
from bitgolf.squeeze.presets import (
    clip_searched,
    deviations,
    feedback_deviations,
    feedback_rows,
    int5_mlp,
)
from bitgolf.squeeze.quantize import (
    AbsMax,
    Curvature,
    Keep,
    Percentile,
    QuantizeError,
    QuantizePlan,
    Quantizer,
    QuantRule,
    SdClip,
    absmax_rows,
    int6_rows,
    public_int8,
    quantize_weights,
)
from bitgolf.squeeze.rate import RateAware
from bitgolf.squeeze.rotate import Rotated
from bitgolf.train.qat import FakeQuantize
from bitgolf.train.schedule import Progress

# Relative error of Gaussian weights where it is not that of six bits or more.
COARSE = {
    RateAware: 0.13,
    SdClip: 0.13,
    Gptq: 0.13,
    Rotated: 0.13,
    LowRank: 0.13,
    Ternary: 0.6,
}  # 12.85 deviations of 63 codes
MODEL = ModelPlan(vocabulary_size=300, layers=2, width=32, heads=4, kv_heads=2)


@pytest.fixture(scope="module")
def weights():
    draw = torch.Generator().manual_seed(0)
    return {
        name: 0.05 * torch.randn(shape, generator=draw) for name, shape in parameter_shapes(MODEL).items()
    }


def test_int6_rows_gives_every_tensor_its_form(weights):
    tensors, rows = quantize_weights(int6_rows(), weights)
    assert list(tensors) == list(weights) == [row["name"] for row in rows]
    for row, (name, tensor) in zip(rows, tensors.items()):
        bits = 8 if name == "tok_emb.weight" else 6 if name.startswith("blocks") and "weight" in name else 16
        assert tensor.shape == tuple(weights[name].shape)
        assert row["seconds"] >= 0 and row["rule"] == (
            "2: Keep" if bits == 16 else f"{4 - bits // 2}: AbsMax"
        )
        error = (tensor.dequantize() - weights[name]).norm() / weights[name].norm()
        assert error < {16: 0.0005, 8: 0.01, 6: 0.03}[bits]
    bits = {name: tensor.form.bits for name, tensor in tensors.items() if not tensor.is_float}
    assert set(bits.values()) == {6, 8}


def test_mixed_bits_are_one_call_or_one_rule(weights):
    tensors, _ = quantize_weights(absmax_rows(matrix_bits=4, embedding_bits=7), weights)
    assert tensors["tok_emb.weight"].form.bits == 7 and tensors["blocks.1.mlp.fc.weight"].form.bits == 4
    mlp = QuantRule(patterns=("blocks.*.mlp.*",), quantizer=AbsMax(grid=Grid(bits=5)))
    mixed = int6_rows().replace(rules=(mlp, *int6_rows().rules))
    tensors, _ = quantize_weights(mixed, weights)
    assert tensors["blocks.0.mlp.fc.weight"].form.bits == 5
    assert tensors["blocks.0.attn.proj.weight"].form.bits == 6


def test_the_first_rule_that_matches_wins():
    everything = QuantRule(quantizer=Keep(dtype="float32"))
    one = QuantRule(patterns=("a",), quantizer=Keep())
    found = {"a": torch.zeros(3), "b": torch.zeros(3)}
    assert QuantizePlan(rules=(one, everything)).assign(found) == {"a": 0, "b": 1}
    with pytest.raises(PlanError, match=r"rules\.1: a decides no tensor"):
        QuantizePlan(rules=(everything, one)).assign(found)


def test_every_gap_of_the_table_is_in_one_error():
    plan = QuantizePlan(rules=(QuantRule(patterns=("x.*",)), QuantRule(patterns=("blocks.*",))))
    with pytest.raises(PlanError) as caught:
        plan.assign({"blocks.0": torch.zeros(2), "tok_emb.weight": torch.zeros(2), "skip": torch.zeros(2)})
    text = str(caught.value)
    for part in ("no rule for tok_emb.weight", "no rule for skip", "rules.0: x.* decides no tensor"):
        assert part in text


def test_conditions_of_a_rule():
    large, matrix = QuantRule(more_than=6), QuantRule(axes=2)
    assert not large.matches("w", torch.zeros(6)) and large.matches("w", torch.zeros(7))
    assert matrix.matches("w", torch.zeros(2, 3)) and not matrix.matches("w", torch.zeros(6))


def test_public_int8_follows_the_public_rule():
    found = {
        "tok_emb.weight": torch.randn(300, 256),
        "blocks.0.attn.c_q.weight": torch.randn(256, 256),  # 65,536 elements: not more than the limit
        "blocks.0.attn.q_gain": torch.randn(4),
        "long_vector": torch.randn(70_000),
        "blocks.0.resid_mix": torch.randn(2, 40_000),
    }
    tensors, _ = quantize_weights(public_int8(), found)
    embedding, vector = tensors["tok_emb.weight"], tensors["long_vector"]
    assert embedding.pieces["scales"].dtype == torch.float16 and embedding.pieces["scales"].shape == (300,)
    assert vector.pieces["scales"].dtype == torch.float32 and vector.pieces["scales"].shape == (1,)
    assert tensors["blocks.0.attn.c_q.weight"].pieces["values"].dtype == torch.float16
    assert tensors["blocks.0.attn.q_gain"].pieces["values"].dtype == torch.float32
    assert not tensors["blocks.0.resid_mix"].is_float  # size comes before the name
    again, _ = quantize_weights(public_int8(), {"long_vector": torch.zeros(70_000)})
    assert float(again["long_vector"].pieces["scales"][0]) == 1.0


def test_between_the_ends_of_a_row_steps_follow_what_is_there():
    gains = 1 + 0.1 * torch.randn((2, 64), generator=torch.Generator().manual_seed(1))
    gains[1] -= 0.9
    tensor = Between().quantize(gains)
    low, step = tensor.form.low_and_step(tensor.pieces["ends"])
    assert (tensor.pieces["codes"].amin(1) == -128).all() and (tensor.pieces["codes"].amax(1) == 127).all()
    error = (tensor.dequantize() - gains).abs()
    assert (error <= 0.5 * step + 1e-3 * gains.abs().amax(1, keepdim=True)).all()  # float16 moves the ends
    around_zero = (AbsMax(grid=Grid(bits=8)).quantize(gains).dequantize() - gains).norm(dim=1)
    assert (error.norm(dim=1) < torch.tensor([0.5, 0.8]) * around_zero).all()
    assert Between(bits=2).quantize(gains[0]).dequantize().unique().numel() == 4
    for same in (torch.full((5,), 1.5), torch.zeros(3), torch.zeros(1)):
        assert torch.equal(Between().quantize(same).dequantize(), same)
    for beyond in (1e6, -1e6):
        with pytest.raises(QuantizeError, match="ends that float16 cannot hold"):
            Between().quantize(torch.tensor([0.5, beyond]))
    with pytest.raises(ArtifactError, match="codes outside -2 to 1"):
        BetweenForm(bits=2).check_pieces({"codes": torch.tensor([[0, 2]], dtype=torch.int8)})


def test_what_cannot_be_written_is_refused_by_name():
    plan = QuantizePlan()
    wanted = (
        r"big: values that float16 cannot hold \(found 1000000.0\); use Keep\(dtype='float32'\); "
        r"now Keep\(dtype='float16'\)"
    )
    with pytest.raises(QuantizeError, match=wanted):
        quantize_weights(plan, {"big": torch.tensor([1e6])})
    byte = Keep(dtype="float8_e4m3fn")  # whose cast ends at 448 without a word
    assert float(byte.quantize(torch.tensor([-448.0])).dequantize()) == -448
    for beyond in (460.0, 1e6, -1e30):
        with pytest.raises(QuantizeError, match="values that float8_e4m3fn cannot hold"):
            byte.quantize(torch.tensor([0.5, beyond]))
    noise = FakeQuantize(patterns=("big",))
    with pytest.raises(QuantizeError, match=wanted):  # in training too
        noise.fake_quantized({"big": torch.tensor([1e6])}, plan, Progress(1, 1), 0.0)
    rules = (QuantRule(quantizer=RateAware(step=0.003)),)
    table = QuantizePlan(rules=rules, calibration=TrainText(outputs=True))
    unsound = Curvature(-torch.eye(3), torch.eye(2), 9)
    with pytest.raises(QuantizeError, match=r"w: second moments .*more damping.*RateAware\(step=0.003"):
        quantize_weights(table, {"w": torch.ones(2, 3)}, {"w": unsound})
    for bad in (float("nan"), float("inf")):
        with pytest.raises(QuantizeError, match="w: weights that are not finite"):
            quantize_weights(plan, {"w": torch.tensor([bad])})


@pytest.mark.parametrize("member", members(Quantizer).values(), ids=lambda member: member.__name__)
def test_behaviour_of_every_quantizer(member):
    quantizer = member()
    weight = torch.randn(7, 33, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert from_json(Quantizer, to_json(quantizer)) == quantizer
    packed = quantizer.quantize(weight.detach())
    assert torch.equal(quantizer.quantize(weight.detach()).dequantize(), packed.dequantize())
    fake = quantizer.fake_quantize(weight)
    assert torch.equal(fake.detach(), packed.dequantize())
    fake.square().sum().backward()
    assert torch.equal(weight.grad, 2 * fake.detach())
    coarse = COARSE.get(member, 0.03)
    assert float((fake - weight).detach().norm() / weight.detach().norm()) < coarse
    for shape in [(), (1,), (0, 5), (5, 0), (2, 3, 4)]:
        assert quantizer.quantize(torch.ones(shape)).dequantize().shape == shape


def test_settings_bite():
    weight = torch.randn(4, 4000, generator=torch.Generator().manual_seed(3))
    pairs = [
        (Keep(), Keep(dtype="bfloat16")),
        (Keep(), Keep(dtype="float8_e4m3fn")),
        (Keep(), Keep(dtype="float32")),
        (AbsMax(), AbsMax(grid=Grid(bits=5))),
        (AbsMax(), AbsMax(grid=Grid(bits=6, granularity=PerTensor()))),
        (Percentile(), Percentile(percentile=0.99)),
        (SdClip(), SdClip(sigmas=9.0)),
        (Percentile(percentile=1.0), Percentile(percentile=0.9999)),
    ]
    for one, other in pairs:
        assert not torch.equal(one.quantize(weight).dequantize(), other.quantize(weight).dequantize())
    assert torch.equal(
        Percentile(percentile=1.0).quantize(weight).dequantize(),
        AbsMax(grid=Grid(bits=8)).quantize(weight).dequantize(),
    )


def test_the_step_of_a_row_follows_its_deviation():
    weight = torch.randn(3, 2000, generator=torch.Generator().manual_seed(4))
    one, two = (SdClip().quantize(scale * weight) for scale in (1.0, 2.0))
    assert torch.equal(one.pieces["codes"], two.pieces["codes"]) and torch.equal(
        2 * one.pieces["scales"], two.pieces["scales"]
    )
    steps = 12.85 * weight.std(dim=1) / 31
    torch.testing.assert_close(one.pieces["scales"].float(), steps, rtol=1e-3, atol=0)
    assert len(one.pieces["codes"].unique()) < 30  # of 63: the deviations, not the bits, set the rate


@pytest.mark.parametrize("bits", [3, 6])
def test_a_matrix_of_another_size_has_the_same_codes_under_deviations(bits):
    weight = torch.randn(5, 300, generator=torch.Generator().manual_seed(6))
    for rule in (SdClip(grid=Grid(bits=bits)), AbsMax(grid=Grid(bits=bits))):
        one, other = rule.quantize(weight), rule.quantize(8 * weight)
        assert torch.equal(one.pieces["codes"], other.pieces["codes"]) and torch.equal(
            8 * one.pieces["scales"], other.pieces["scales"]
        )


@pytest.mark.parametrize("make", [clip_searched, deviations, feedback_deviations, feedback_rows, int5_mlp])
def test_ready_tables_cover_a_model_and_can_be_written(make, weights):
    plan = make()
    tensors, report = quantize_weights(plan, weights)
    assert from_json(QuantizePlan, to_json(plan)) == plan
    kinds = {row["name"]: row["rule"] for row in report}
    assert not tensors["tok_emb.weight"].is_float and tensors["skip_weights"].is_float
    assert kinds["blocks.0.mlp.fc.weight"].split()[1] == kinds["blocks.1.attn.proj.weight"].split()[1]
    if make is int5_mlp:
        assert tensors["blocks.0.mlp.fc.weight"].form.bits == 5
        assert tensors["blocks.0.attn.c_q.weight"].form.bits == 6


ALIKE = {
    "constant": torch.full((4, 64), 0.03),
    "negative": torch.full((4, 64), -0.03),
    "nearly": 0.03 + 1e-6 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0)),
    "one column": torch.randn(5, 1, generator=torch.Generator().manual_seed(1)),
    "some rows": torch.cat(
        (torch.full((2, 64), 0.5), torch.randn(2, 64, generator=torch.Generator().manual_seed(2)))
    ),
    "zeros among them": torch.cat((torch.zeros(2, 64), torch.full((2, 64), -0.5))),
}


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize(
    "quantizer",
    [SdClip(), Gptq(), AbsMax(), Percentile(), ClipSearch(), Ternary(), Rotated(quantizer=Gptq())],
    ids=lambda quantizer: type(quantizer).__name__,
)
def test_rows_whose_weights_are_alike_survive(quantizer, name):
    """Planted: a clip value of so many deviations is zero for them."""
    weight = ALIKE[name]
    curvature = Curvature(torch.eye(weight.shape[1]), None, 100)
    for given in (None, curvature):
        tensor = quantizer.quantize(weight, given)
        error = float((tensor.dequantize() - weight).norm() / weight.norm())
        assert error < (0.8 if isinstance(quantizer, Ternary) else 0.2), (name, error)
        alive = weight.abs().amax(1) > 0
        assert bool((tensor.dequantize().abs().amax(1) > 0)[alive].all())


def test_what_scales_and_floats_cannot_reach_alarms():
    """Planted: weights out of reach of the largest float16 scale, or below the least, were lost unsaid."""
    weight = 1e7 * torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    for quantizer in (AbsMax(), SdClip(), Ternary()):
        alarm = tensor_row(quantizer, weight, quantizer.quantize(weight))["alarm"]
        assert "8 of 8 scales are the largest that float16 holds" in alarm
        assert "scales" not in tensor_row(quantizer, weight / 1e7, quantizer.quantize(weight / 1e7))["alarm"]
    tiny = torch.full((4,), 1e-9)
    assert tensor_row(Keep(), tiny, Keep().quantize(tiny))["alarm"] == "too small for float16: it is zeros"
    zeros = torch.zeros(4)
    assert tensor_row(Keep(), zeros, Keep().quantize(zeros))["alarm"] == ""
