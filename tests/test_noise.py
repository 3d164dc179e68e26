"""Training on quantized weights: exactly what export makes of them, on when told, never folded away."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from bitgolf.core.backend import Backend
from bitgolf.core.grid import Grid
from bitgolf.core.model import ModelPlan, build_model
from bitgolf.core.noise import FakeQuantize, NoNoise
from bitgolf.core.optim import OptimPlan, make_optimizers
from bitgolf.core.quantize import AbsMax, QuantRule, absmax_rows, quantize_weights
from bitgolf.core.route import Looped
from bitgolf.core.run import model_with
from bitgolf.core.schedule import Progress, WarmdownFraction
from bitgolf.core.train import standing_in
from bitgolf.lab.tensors import noise_quantizers
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
    with standing_in(optimizers, noise.replaced(optimizers.parameters, RULES, progress, scale)):
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
    matrices = FakeQuantize(patterns=("blocks.*.weight",)).replaced(parameters, RULES, HALFWAY, 1.0)
    assert set(matrices) == {name for name in parameters if name.startswith("blocks") and "weight" in name}
    everything = FakeQuantize(patterns=("*",)).replaced(parameters, RULES, HALFWAY, 1.0)
    assert set(everything) == set(parameters)
    problems = FakeQuantize(patterns=("block.*",)).misfits(parameters)
    assert len(problems) == 1 and "block.*" in problems[0]
    assert FakeQuantize().misfits(parameters) == []


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
        replaced = noise.replaced(parameters, RULES, progress, schedule.scale(progress))
        assert bool(replaced) == expected, step


def test_neutral_noise_changes_no_bit_of_a_training_and_noise_changes_it(tmp_path):
    plan = PLAN.but(steps=6)

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
    model = moved(PLAIN.but(recurrence=Looped(first=1, last=1, loops=2, enable_at=0.4, more_at=0.7)))
    model.compiled_loss = torch.compile(model.eager_loss, backend=counter)
    noise, schedule = FakeQuantize(from_progress=0.5), WarmdownFraction(fraction=0.5)
    for step in range(20):
        progress = Progress(step, 20)
        model.at(progress.fraction)
        losses(model, noise, progress, schedule.scale(progress))
    assert counter.frame_count == 3


def test_noise_may_have_rules_of_its_own():
    weights = tensors_of(moved())
    eight = AbsMax(grid=Grid(bits=8))
    own = FakeQuantize(patterns=("*.weight",), rules=(QuantRule(patterns=("blocks.*",), quantizer=eight),))
    found = own.replaced(weights, RULES, HALFWAY, 1.0)
    assert set(found) == {name for name in weights if name.startswith("blocks.") and name.endswith("weight")}
    for name, values in found.items():
        assert torch.equal(values, eight.quantize(weights[name]).dequantize())
    assert noise_quantizers(own, RULES, weights) == dict.fromkeys(found, eight)
    assert own.but(rules=()).table(RULES) == RULES
