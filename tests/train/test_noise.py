"""Training on quantized weights: exactly what export makes of them, on when told, never folded away."""

import math

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from bitgolf.net.backend import Backend
from bitgolf.net.model import ModelPlan, build_model, model_with
from bitgolf.net.route import Looped
from bitgolf.report.tensors import noise_quantizers
from bitgolf.squeeze.grid import Grid
from bitgolf.squeeze.quantize import AbsMax, QuantRule, absmax_rows, quantize_weights
from bitgolf.train.loop import swapped_weights
from bitgolf.train.optim import OptimPlan, make_optimizers
from bitgolf.train.qat import FakeQuantize, NoNoise, SigmoidRound, SoftRound, soft_rounded
from bitgolf.train.schedule import Progress, WarmdownFraction
from tests.small_training import PLAN, start, tensors_of

PLAIN = ModelPlan(vocabulary_size=64, layers=3, width=32, heads=2, kv_heads=1)
RULES = absmax_rows(matrix_bits=3, embedding_bits=4)
HALFWAY = Progress(10, 20)
IDS = torch.randint(64, (2, 33), generator=torch.Generator().manual_seed(0))


def moved(plan: ModelPlan = PLAIN, seed: int = 1):
    """A model whose projections are not zero."""
    model = build_model(plan, seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("proj.weight"):
                tensor.normal_(0, 0.2, generator=torch.Generator().manual_seed(len(name)))
    return model


def losses(model, noise, progress=HALFWAY, scale=1.0):
    """Loss and gradients with the noise in place."""
    optimizers = make_optimizers(OptimPlan(), model)
    with swapped_weights(optimizers, noise.fake_quantized(optimizers.parameters, RULES, progress, scale)):
        loss = model(IDS[:, :-1], IDS[:, 1:])
        loss.backward()
    return loss.item(), {name: tensor.grad for name, tensor in model.named_parameters()}


def test_the_loss_is_that_of_the_exported_model_bit_for_bit():
    model = moved()
    weights = tensors_of(model)
    noisy, _ = losses(model, FakeQuantize(patterns=("*",)))
    tensors, _ = quantize_weights(RULES, weights)
    loaded = model_with(PLAIN, {name: tensor.dequantize() for name, tensor in tensors.items()}, Backend())
    assert noisy == loaded.train().loss(IDS[:, :-1], IDS[:, 1:]).item()
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, weights[name])  # the masters are back


def test_gradients_are_those_at_the_quantized_weights():
    model = moved()
    _, found = losses(model, FakeQuantize(patterns=("*",)))
    tensors, _ = quantize_weights(RULES, tensors_of(model))
    other = moved()
    other.load_state_dict({name: tensor.dequantize() for name, tensor in tensors.items()})
    _, expected = losses(other, NoNoise())
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_only_what_the_patterns_name_is_replaced():
    model = moved()
    parameters = dict(model.named_parameters())
    matrices = FakeQuantize(patterns=("blocks.*.weight",)).fake_quantized(parameters, RULES, HALFWAY, 1.0)
    assert set(matrices) == {name for name in parameters if name.startswith("blocks") and "weight" in name}
    everything = FakeQuantize(patterns=("*",)).fake_quantized(parameters, RULES, HALFWAY, 1.0)
    assert set(everything) == set(parameters)
    problems = FakeQuantize(patterns=("block.*",)).validate_for(parameters)
    assert len(problems) == 1 and "block.*" in problems[0]
    assert FakeQuantize().validate_for(parameters) == []


@pytest.mark.parametrize(
    ("noise", "active"),
    [
        (FakeQuantize(), [True, True, True]),
        (FakeQuantize(from_progress=0.85), [False, False, True]),
        (FakeQuantize(under_scale=0.15), [False, False, True]),
        (FakeQuantize(under_scale=0.5), [False, True, True]),
        (FakeQuantize(from_progress=1.0), [False, False, False]),
        (NoNoise(), [False, False, False]),
    ],
)
def test_it_begins_when_told(noise, active):
    schedule, model = WarmdownFraction(fraction=1.0), moved()
    parameters = dict(model.named_parameters())
    for step, expected in zip((0, 12, 18), active):
        progress = Progress(step, 20)
        fake_quantized = noise.fake_quantized(parameters, RULES, progress, schedule.lr_scale(progress))
        assert bool(fake_quantized) == expected, step


def test_neutral_noise_changes_no_bit_of_a_training_and_noise_changes_it(tmp_path):
    plan = PLAN.replace(steps=6)

    def weights(noise):
        model, _, reports = start(tmp_path, plan, model=moved(), noise=noise, quantize=RULES)
        list(reports)
        return tensors_of(model)

    plain, off, late = (weights(n) for n in (NoNoise(), FakeQuantize(from_progress=1.0), FakeQuantize()))
    assert all(torch.equal(plain[name], off[name]) for name in plain)
    assert any(not torch.equal(plain[name], late[name]) for name in plain)


def test_a_compiled_step_sees_the_noise_without_compiling_again():
    counter = CompileCounter()
    model = moved()
    model.compiled_loss = torch.compile(model.eager_loss, backend=counter)
    quiet, _ = losses(model, NoNoise())
    noisy, _ = losses(model, FakeQuantize())
    again, _ = losses(model, NoNoise())
    assert quiet == again != noisy
    assert counter.frame_count == 1


def test_a_flag_that_was_folded_at_the_first_trace_would_be_caught():
    """The public late QAT: a class attribute read while tracing keeps its first value for good."""

    class Folded(torch.nn.Module):
        active = False

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([0.3, 0.6]))
            self.traced = torch.jit.trace(
                lambda w: w.round().sum() if Folded.active else w.sum(), self.weight
            )

        def forward(self):
            return self.traced(self.weight)

    folded = Folded()
    before = folded().item()
    Folded.active = True
    assert folded().item() == before  # printed "enabled", changed nothing


def test_the_number_of_graphs_is_bounded_by_the_number_of_routes():
    counter = CompileCounter()
    model = moved(PLAIN.replace(recurrence=Looped(first=1, last=1, loops=2, enable_at=0.4, more_at=0.7)))
    model.compiled_loss = torch.compile(model.eager_loss, backend=counter)
    noise, schedule = FakeQuantize(from_progress=0.5), WarmdownFraction(fraction=0.5)
    for step in range(20):
        progress = Progress(step, 20)
        model.at(progress.fraction)
        losses(model, noise, progress, schedule.lr_scale(progress))
    assert counter.frame_count == 3


def test_noise_may_have_rules_of_its_own():
    weights = tensors_of(moved())
    eight = AbsMax(grid=Grid(bits=8))
    own = FakeQuantize(patterns=("*.weight",), rules=(QuantRule(patterns=("blocks.*",), quantizer=eight),))
    found = own.fake_quantized(weights, RULES, HALFWAY, 1.0)
    assert set(found) == {name for name in weights if name.startswith("blocks.") and name.endswith("weight")}
    for name, values in found.items():
        assert torch.equal(values, eight.quantize(weights[name]).dequantize())
    assert noise_quantizers(own, RULES, weights) == dict.fromkeys(found, eight)
    assert own.replace(rules=()).noise_plan(RULES) == RULES


def soft_twin(y: float, a: float, smallest: int, largest: int) -> float:
    """The public curve for one weight in steps."""
    below = math.floor(y)
    soft = below + 0.5 * math.tanh(a * (y - below - 0.5)) / math.tanh(a / 2) + 0.5
    return min(max(soft, smallest), largest)


@pytest.mark.parametrize("sharpness", [1.0, 4.0, 16.0])
def test_soft_rounding_is_the_public_curve_with_its_own_gradient(sharpness):
    quantizer = AbsMax(grid=Grid(bits=3, scale_dtype="float32"))
    weight = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    soft, backward = soft_rounded(weight, quantizer, sharpness)
    for row, found, slopes in zip(weight.tolist(), soft.tolist(), backward(torch.ones_like(soft)).tolist()):
        step = max(map(abs, row)) / 3
        for w, f, slope in zip(row, found, slopes):
            assert f == pytest.approx(step * soft_twin(w / step, sharpness, -3, 3), abs=1e-4)
            if 1e-3 < (w / step) % 1 < 1 - 1e-3 and abs(w / step) < 2.99:
                ahead, behind = (soft_twin(w / step + d, sharpness, -3, 3) for d in (1e-4, -1e-4))
                assert slope == pytest.approx((ahead - behind) / 2e-4, rel=1e-2, abs=1e-4)


def test_hard_soft_rounding_is_rounding_and_the_softest_hardly_moves_a_weight():
    quantizer, weight = AbsMax(grid=Grid(bits=4)), moved().get_parameter("blocks.0.mlp.fc.weight").detach()
    hard = quantizer.quantize(weight).dequantize()
    clear = ((weight / hard - 1).abs() < 0.05) & (hard != 0)  # not near the middle between two values
    assert torch.allclose(soft_rounded(weight, quantizer, 100.0).values[clear], hard[clear], rtol=1e-3)
    assert torch.allclose(soft_rounded(weight, quantizer, 1e-3).values, weight, atol=1e-3)


def test_soft_gradients_are_those_of_the_curve_at_the_soft_weights():
    model, noise = moved(), SoftRound(patterns=("blocks.*.weight",))
    _, found = losses(model, noise)
    soft = noise.fake_quantized(dict(model.named_parameters()), RULES, HALFWAY, 1.0)
    other = moved()
    other.load_state_dict({**tensors_of(other), **{name: one.values for name, one in soft.items()}})
    _, expected = losses(other, NoNoise())
    for name, gradient in expected.items():
        wanted = soft[name].backward(gradient) if name in soft else gradient
        assert torch.allclose(found[name], wanted, rtol=1e-5, atol=1e-8), name
    quiet, again = losses(model, NoNoise()), losses(moved(), NoNoise())
    assert quiet[0] == again[0]  # nothing stays behind, no hook either
    optimizers = make_optimizers(OptimPlan(), model)
    assert not any(tensor._backward_hooks for tensor in optimizers.parameters.values())


@pytest.mark.parametrize(
    ("noise", "sharpness"),
    [
        (SoftRound(under_scale=0.5), [1.0, 4.0, 13.0]),
        (SoftRound(from_progress=0.5), [1.0, 4.0, 13.0]),
        (SoftRound(softest=2.0, hardest=2.0), [2.0, 2.0, 2.0]),
    ],
)
def test_it_hardens_as_the_training_ends(noise, sharpness):
    schedule = WarmdownFraction(fraction=1.0)
    for step, expected in zip((0, 12, 18), sharpness):
        progress = Progress(step, 20)
        assert noise.sharpness(progress, schedule.lr_scale(progress)) == pytest.approx(expected, rel=1e-6)


def test_soft_rounding_off_changes_no_bit_and_on_trains(tmp_path):
    plan = PLAN.replace(steps=6)

    def weights(noise):
        model, _, reports = start(tmp_path, plan, model=moved(), noise=noise, quantize=RULES)
        list(reports)
        return tensors_of(model)

    plain, off, on = (weights(n) for n in (NoNoise(), SoftRound(from_progress=1.0), SoftRound()))
    assert all(torch.equal(plain[name], off[name]) for name in plain)
    assert any(not torch.equal(plain[name], on[name]) for name in plain)
    assert all(tensor.isfinite().all() for tensor in on.values())


def test_a_compiled_step_passes_the_soft_gradient_on():
    model, plain = moved(), moved()
    model.compiled_loss = torch.compile(model.eager_loss, backend="aot_eager")
    for noise in (NoNoise(), SoftRound(), NoNoise(), SoftRound()):
        (loss, found), (same, expected) = losses(model, noise), losses(plain, noise)
        assert loss == pytest.approx(same, rel=1e-5)
        for name, gradient in expected.items():
            assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-6), name


def test_sigmoid_rounding_of_rows_of_zeros_has_a_gradient():
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    used, backward = SigmoidRound().rounded(weight, AbsMax(grid=Grid(bits=6)), 2.0)
    pulled = backward(torch.ones_like(weight))
    assert pulled.isfinite().all() and not used[1].any() and not pulled[1].any() and pulled[0].any()
