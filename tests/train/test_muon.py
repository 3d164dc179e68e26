"""Batched orthogonalisation and the optimizer against their definitions written out."""

import math

import pytest
import torch

from bitgolf.train.muon import (
    CACHE_ELEMENTS,
    FIVE_STEPS,
    NEWTON_SCHULZ,
    POLAR_EXPRESS,
    Muon,
    equal_rows,
    matrices_at_once,
    orthogonal_updates,
    orthogonalise,
    orthogonalise_reference,
)
from bitgolf.train.world import World

SHAPES = [(48, 32), (32, 48), (40, 40), (32, 48), (96, 24), (24, 96), (48, 32)]


def draw(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def relative(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def scaled_reference(matrix, coefficients=FIVE_STEPS):
    scale = math.sqrt(max(1, matrix.shape[0] / matrix.shape[1]))
    return orthogonalise_reference(matrix, coefficients) * scale


ITERATIONS = [FIVE_STEPS, (NEWTON_SCHULZ,) * 3, POLAR_EXPRESS, POLAR_EXPRESS[:2]]


@pytest.mark.parametrize("coefficients", ITERATIONS)
def test_batches_equal_the_loop(coefficients):
    found = orthogonal_updates(draw(SHAPES), coefficients, torch.float32)
    for update, matrix in zip(found, draw(SHAPES)):
        assert update.shape == matrix.shape
        assert relative(update, scaled_reference(matrix, coefficients)) < 1e-4


@pytest.mark.parametrize("coefficients", ITERATIONS)
def test_bfloat16_is_no_further_from_float64_than_the_loop(coefficients):
    found = orthogonal_updates(draw(SHAPES), coefficients, torch.bfloat16)
    for update, matrix in zip(found, draw(SHAPES)):
        exact = scaled_reference(matrix.double(), coefficients)
        assert update.dtype == torch.bfloat16
        loop = scaled_reference(matrix.bfloat16(), coefficients)
        assert relative(update, exact) < 1.5 * relative(loop, exact)


@pytest.mark.parametrize("coefficients, least, most", [(FIVE_STEPS, 0.6, 1.25), (POLAR_EXPRESS, 0.84, 1.16)])
@pytest.mark.parametrize("shape", [(256, 512), (512, 256)])
def test_singular_values_are_about_one_whatever_the_scale(coefficients, least, most, shape):
    (matrix,) = draw([shape])
    result = orthogonalise(matrix.bfloat16()[None], coefficients)[0]
    values = torch.linalg.svdvals(result.float())
    assert values.min() > least and values.max() < most
    larger = orthogonalise((matrix * 1024).bfloat16()[None], coefficients)[0]
    assert relative(larger, result) < 1e-2


@pytest.mark.parametrize("value, expected", [(1e-3, 0.859), (1e-2, 1.027), (1e-1, 1.059), (1.0, 0.859)])
def test_what_polar_express_makes_of_a_singular_value(value, expected):
    """Catalogue C4. A second value makes the norm 1, so that the first is iterated from what it is."""
    matrix = torch.diag(torch.tensor([value, math.sqrt(1 - value**2)], dtype=torch.float64))
    found = orthogonalise(matrix[None], POLAR_EXPRESS)[0, 0, 0]
    assert float(found) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_row_lengths_do_not_matter_once_rows_are_equal(shape):
    """MuonEq-R: rows are those of the matrix as it is stored, tall or wide."""
    (matrix,) = draw([shape])
    stretched = matrix.clone()
    stretched[3] *= 100
    assert relative(equal_rows(stretched), equal_rows(matrix)) < 1e-6
    assert torch.allclose(equal_rows(matrix).norm(dim=1), torch.ones(shape[0]))
    of_columns = stretched.clone()
    of_columns[:, 3] *= 100
    assert relative(equal_rows(of_columns), equal_rows(matrix)) > 0.1
    matrix[3] = 0
    assert not equal_rows(matrix)[3].any() and equal_rows(matrix)[2].any()


def test_zero_gradient_stays_zero():
    assert not orthogonalise(torch.zeros(2, 8, 16)).any()


def test_large_matrices_are_iterated_a_few_at_a_time():
    assert matrices_at_once((512, 1024), torch.empty(18, 1, 1)) == 2
    assert matrices_at_once((4096, CACHE_ELEMENTS), torch.empty(18, 1, 1)) == 1
    assert matrices_at_once((128, 256), torch.empty(8, 1, 1)) >= 8
    shapes = [(600, 700)] * 5
    found = orthogonal_updates(draw(shapes), FIVE_STEPS[:2], torch.float32)
    for update, matrix in zip(found, draw(shapes)):
        assert relative(update, orthogonalise_reference(matrix, FIVE_STEPS[:2])) < 1e-4


def written_out(
    weights,
    gradients,
    *,
    lr,
    momenta,
    nesterov=True,
    weight_decay=0.0,
    row_normalize=False,
    coefficients=FIVE_STEPS,
):
    """The public update, one matrix and one step at a time."""
    buffers = [torch.zeros_like(weight) for weight in weights]
    for momentum, step_gradients in zip(momenta, gradients):
        for weight, buffer, gradient in zip(weights, buffers, step_gradients):
            buffer.mul_(momentum).add_(gradient)
            direction = gradient + momentum * buffer if nesterov else buffer
            if row_normalize:
                direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-7)
            weight.mul_(1 - lr * weight_decay)
            weight.sub_(lr * scaled_reference(direction, coefficients))
    return weights


def steps(muon, gradients, momenta):
    for momentum, step_gradients in zip(momenta, gradients):
        muon.param_groups[0]["momentum"] = momentum
        for parameter, gradient in zip(muon.param_groups[0]["params"], step_gradients):
            parameter.grad = gradient.clone()
        muon.step()


MOMENTA = (0.85, 0.9, 0.95)
GRADIENTS = [draw(SHAPES, seed) for seed in (1, 2, 3)]


def updated(world=None, **settings):
    parameters = [torch.nn.Parameter(weight) for weight in draw(SHAPES)]
    muon = Muon(parameters, lr=0.1, iteration_dtype=torch.float32, world=world, **settings)
    steps(muon, GRADIENTS, MOMENTA)
    return [parameter.detach() for parameter in parameters], muon


CHANGES = [
    {"nesterov": False},
    {"weight_decay": 0.5},
    {"row_normalize": True},
    {"coefficients": POLAR_EXPRESS},
    {"coefficients": FIVE_STEPS[:4]},
]


@pytest.mark.parametrize("settings", [{}, *CHANGES, {"row_normalize": True, "coefficients": POLAR_EXPRESS}])
def test_the_public_update(settings):
    expected = written_out(draw(SHAPES), GRADIENTS, lr=0.1, momenta=MOMENTA, **settings)
    for found, wanted, start in zip(updated(**settings)[0], expected, draw(SHAPES)):
        assert relative(found - start, wanted - start) < 1e-4


def test_settings_bite_and_neutral_ones_are_exact():
    plain, _ = updated()
    for settings in CHANGES:
        assert not torch.equal(plain[0], updated(**settings)[0][0])
    neutral, _ = updated(weight_decay=0.0, row_normalize=False, coefficients=FIVE_STEPS)
    assert all(torch.equal(a, b) for a, b in zip(plain, neutral))


def test_decay_without_gradient_is_geometric():
    parameter = torch.nn.Parameter(torch.ones(4, 8))
    muon = Muon([parameter], lr=0.1, weight_decay=0.5)
    for _ in range(7):
        parameter.grad = torch.zeros(4, 8)
        muon.step()
    assert torch.allclose(parameter, torch.full((4, 8), (1 - 0.1 * 0.5) ** 7))


def test_parameters_without_gradient_are_left_alone():
    parameters = [torch.nn.Parameter(weight) for weight in draw(SHAPES[:2])]
    muon = Muon(parameters, lr=0.1, weight_decay=0.5)
    parameters[0].grad = torch.ones_like(parameters[0])
    muon.step()
    assert torch.equal(parameters[1].detach(), draw(SHAPES[:2])[1])
    assert not torch.equal(parameters[0].detach(), draw(SHAPES[:2])[0])


class Paired(World):
    """A process of two whose sum is handed over by the test, one message after the other."""

    def __init__(self, rank, others=None):
        super().__init__(rank=rank, size=2)
        object.__setattr__(self, "sent", [])
        object.__setattr__(self, "others", iter(others or []))

    def sum(self, tensor):
        self.sent.append(tensor.clone())
        return tensor.add_(next(self.others, 0))


def test_each_process_does_its_share_and_the_sum_is_the_whole():
    alone, muon = updated()
    first_message = Paired(rank=0)
    parameters = [torch.nn.Parameter(weight) for weight in draw(SHAPES)]
    other = Muon(parameters, lr=0.1, iteration_dtype=torch.float32, world=first_message)
    directions = draw(SHAPES, 9)
    other._shared_updates(directions)
    even = first_message.sent[0].split([direction.numel() for direction in directions])
    assert [bool(part.any()) for part in even] == [index % 2 == 0 for index in range(len(SHAPES))]
    other.world = Paired(rank=1, others=first_message.sent)
    whole = orthogonal_updates(directions, FIVE_STEPS, torch.float32)
    for found, wanted in zip(other._shared_updates(directions), whole):
        assert relative(found, wanted) < 1e-5


def test_momentum_of_every_matrix_is_on_every_process():
    for rank in (0, 1):
        _, muon = updated(world=Paired(rank))
        assert all(muon.state[parameter]["momentum"].any() for parameter in muon.param_groups[0]["params"])
