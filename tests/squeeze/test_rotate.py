"""Turned matrices and low-rank corrections: lossless themselves, kept only where they help, stored whole."""

import pytest
import torch

from bitgolf.base.errors import ArtifactError, PlanError
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.squeeze.artifact import pack, unpack
from bitgolf.squeeze.form import QuantizedTensor
from bitgolf.squeeze.gptq import Gptq, squared_error
from bitgolf.squeeze.grid import Grid, PerTensor
from bitgolf.squeeze.lowrank import CorrectedForm, LowRank, thin_factors
from bitgolf.squeeze.quantize import (
    AbsMax,
    Curvature,
    Keep,
    QuantizeError,
    QuantizePlan,
    QuantRule,
    SdClip,
    quantize_weights,
)
from bitgolf.squeeze.rate import RateAware
from bitgolf.squeeze.rotate import (
    Rotated,
    TurnedForm,
    rotate_columns,
    rotate_columns_back,
    rotated_curvature,
    walsh_hadamard,
)
from bitgolf.text.encoder import train_tokenizer
from tests.conftest import generated_text

INT4 = AbsMax(grid=Grid(bits=4))


def outliers(rows=16, columns=64, seed=0):
    """A matrix with two large columns, and moments of correlated inputs."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw)
    weight[:, [5, 9]] *= 20
    x = torch.randn(200, columns, generator=draw) @ torch.randn(columns, columns, generator=draw)
    return weight, Curvature(x.T @ x / 200, None, 200)


@pytest.mark.parametrize("width", [1, 2, 8, 64, 1024])
def test_the_transform_is_orthogonal_and_its_own_inverse(width):
    unit = walsh_hadamard(torch.eye(width))
    torch.testing.assert_close(unit @ unit.T, torch.eye(width), atol=1e-5, rtol=0)
    weight = torch.randn(5, width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        rotate_columns_back(rotate_columns(weight, 3), 3), weight, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(rotate_columns(weight, 3).norm(dim=1), weight.norm(dim=1))
    assert width < 8 or not torch.equal(rotate_columns(weight, 3), rotate_columns(weight, 4))


def test_the_moments_turn_with_the_matrix():
    weight, curvature = outliers()
    rotated = rotated_curvature(curvature, 1)
    before = torch.trace(weight @ curvature.inputs @ weight.T)
    after = torch.trace(rotate_columns(weight, 1) @ rotated.inputs @ rotate_columns(weight, 1).T)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=0)


def test_kept_where_it_helps_only():
    weight, curvature = outliers()
    plain, rotated = INT4.quantize(weight), Rotated(quantizer=INT4).quantize(weight)
    assert isinstance(rotated.form, TurnedForm)
    assert squared_error(weight, rotated.dequantize()) < 0.5 * squared_error(weight, plain.dequantize())
    even = torch.rand(16, 64, generator=torch.Generator().manual_seed(2)) - 0.5
    assert Rotated(quantizer=INT4).quantize(even).form == INT4.grid  # nothing stands out
    odd = torch.randn(4, 48)
    assert torch.equal(Rotated(quantizer=INT4).quantize(odd).dequantize(), INT4.quantize(odd).dequantize())
    feedback = Gptq(scales=(INT4,))
    both = [each.quantize(weight, curvature) for each in (feedback, Rotated(quantizer=feedback))]
    errors = [squared_error(weight, each.dequantize(), curvature.inputs) for each in both]
    assert errors[1] <= errors[0]
    assert Rotated(quantizer=feedback).notes(weight, both[1]) == {"rotated": True}
    assert Rotated(quantizer=INT4).notes(even, INT4.quantize(even)) == {"rotated": False}


def test_full_rank_factors_give_the_error_back():
    error = torch.randn(7, 12, generator=torch.Generator().manual_seed(1))
    _, curvature = outliers(columns=12)
    for inputs in (None, curvature.inputs):
        left, right = thin_factors(error, 7, inputs)
        torch.testing.assert_close(left.T @ right, error, atol=1e-4, rtol=1e-4)
        left, right = thin_factors(error, 2, inputs)
        assert left.shape == (2, 7) and right.shape == (2, 12)


def test_a_correction_never_makes_it_worse():
    weight, curvature = outliers()
    inner = Gptq(scales=(INT4,))
    for quantizer, known in ((INT4, None), (inner, curvature)):
        metric = None if known is None else known.inputs
        errors = [squared_error(weight, quantizer.quantize(weight, known).dequantize(), metric)]
        for rank in (1, 4, 16):
            lowrank = LowRank(quantizer=quantizer, rank=rank, factors=Grid(bits=8))
            tensor = lowrank.quantize(weight, known)
            errors.append(squared_error(weight, tensor.dequantize(), metric))
            assert isinstance(tensor.form, CorrectedForm) and lowrank.notes(weight, tensor)["corrected"]
        assert errors == sorted(errors, reverse=True)
    coarse = LowRank(quantizer=SdClip(sigmas=4.0), rank=1, factors=Grid(bits=2, granularity=PerTensor()))
    fine = torch.randn(16, 16, generator=torch.Generator().manual_seed(5))
    base = coarse.quantizer.quantize(fine)
    assert squared_error(fine, coarse.quantize(fine).dequantize()) <= squared_error(fine, base.dequantize())


def test_wrappers_hold_quantizers_of_codes_alone():
    for bad in (Keep(), Rotated(), LowRank()):
        for wrapper in (Rotated, LowRank):
            with pytest.raises(PlanError, match="codes and scales alone"):
                wrapper(quantizer=bad)
    assert not Rotated(quantizer=INT4).needs_hessian() and Rotated(quantizer=Gptq()).needs_hessian()
    assert not LowRank(quantizer=INT4).needs_hessian() and LowRank(quantizer=Gptq()).needs_hessian()


@pytest.mark.parametrize("shape", [(), (8,), (6, 4), (3, 2, 2), (0, 4)])
def test_forms_are_read_in_any_shape(shape):
    """An artifact may name them for any tensor."""
    for form in (TurnedForm(seed=2**63 - 1), CorrectedForm(rank=3)):
        kinds = form.pieces(shape).items()
        pieces = {name: torch.ones(size, dtype=dtype) for name, (dtype, size) in kinds}
        form.check_pieces(pieces)
        tensor = QuantizedTensor(form, pieces, shape).dequantize()
        assert tensor.shape == shape and bool(tensor.isfinite().all())
    for shape in ((2, 6), (4, 3, 2)):
        pieces = {"codes": torch.zeros(shape).flatten(1).to(torch.int8)}
        with pytest.raises(ArtifactError, match="power of two.*found 6"):
            TurnedForm().check_pieces(pieces)
    with pytest.raises(PlanError, match="seed: expected a finite number below"):
        TurnedForm(seed=2**63)


@pytest.mark.parametrize("quantizer", [Rotated(quantizer=INT4, seed=3), LowRank(quantizer=INT4, rank=2)])
def test_an_artifact_gives_them_back(quantizer):
    tokenizer = train_tokenizer([generated_text(0, 60).encode()], 280)
    model = ModelPlan(vocabulary_size=280, layers=1, width=16, heads=2, kv_heads=1)
    weights = {name: tensor.detach().clone() for name, tensor in build_model(model).named_parameters()}
    draw = torch.Generator().manual_seed(0)
    weights["blocks.0.mlp.fc.weight"] = torch.randn(32, 16, generator=draw)
    weights["blocks.0.mlp.fc.weight"][:, 3] *= 30
    rules = (QuantRule(patterns=("blocks.*.weight",), axes=2, quantizer=quantizer), QuantRule())
    tensors, _ = quantize_weights(QuantizePlan(rules=rules), weights)
    changed = tensors["blocks.0.mlp.fc.weight"]
    assert isinstance(changed.form, (TurnedForm, CorrectedForm))
    opened = unpack(pack(model, tensors, tokenizer.to_bytes()).data)
    for name, tensor in tensors.items():
        assert torch.equal(opened.weights[name], tensor.dequantize()), name
    with pytest.raises(ArtifactError, match="codes outside"):
        changed.form.check_pieces({**changed.pieces, "codes": torch.full_like(changed.pieces["codes"], 9)})


@pytest.mark.parametrize("wrapper", [Rotated, LowRank])
def test_what_has_no_codes_and_scales_to_wrap_is_refused(wrapper):
    weight, _ = outliers()
    with pytest.raises(QuantizeError, match="not codes and scales.*another quantizer"):
        wrapper(quantizer=RateAware()).quantize(weight)
