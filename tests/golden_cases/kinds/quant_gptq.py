"""Rounding with error feedback, on the moments that the case gives."""

import dataclasses
import math

import torch

from bitgolf.squeeze.clip import PUBLIC_PERCENTILES
from bitgolf.squeeze.form import QuantizedTensor
from bitgolf.squeeze.gptq import Gptq, squared_error
from bitgolf.squeeze.quantize import Curvature, Percentile, SdClip
from tests.golden_cases.case import Case, Fields
from tests.golden_cases.compare import limits, same_codes, same_weights
from tests.golden_cases.quantizers import grid_to
from tests.golden_cases.records import date


def check(case: Case) -> None:
    quantizer, weight, moments = public_gptq(case), case.tensors["W"], case.tensors["H"]
    assert list(weight.shape) == case.arguments["shape"]
    check_moments(case)
    packed = quantizer.quantize(weight, Curvature(moments, None, 1))
    assert not packed.is_float
    expected, allowed = case.tensors["out.scale"].float(), limits(case, "out.scale")["rel"]
    lost = expected == 0  # the script loses rows without deviation; ours keeps them
    torch.testing.assert_close(packed.pieces["scales"].float()[~lost], expected[~lost], rtol=allowed, atol=0)
    alive = moments.diagonal() > 0
    torch.testing.assert_close(
        packed.dequantize()[lost][:, alive], weight[lost][:, alive], rtol=0.02, atol=1e-6
    )
    packed = packed.with_pieces(codes=packed.pieces["codes"].masked_fill(lost[:, None], 0))
    if same_codes(packed.pieces["codes"][~lost], case.tensors["out.q"][~lost], 0.02):
        same_weights(packed.dequantize(), case.tensors["out.deq"])
    check_errors(case, weight, packed, moments, lost)


def public_gptq(case: Case) -> Gptq:
    """The record's function with the case's keyword arguments; what is not given has its own default."""
    options, deviations = case.arguments.get("kwargs") or Fields("kwargs", {}), date(case) >= "2026-04-05"
    damping = options.get(
        "percdamp", float(case.knobs.get("GPTQ_DAMP", case.settings.get("gptq_damp", 0.01)))
    )
    largest, block = options.get("clip_range", 63 if deviations else 31), options.get("block_size", 128)
    if deviations:
        sigmas = options.get("clip_sigmas", 3.0)
        strength = options.get("hessian_clip_lambda", 0.0)
        factors = row_factors(case, damping, strength) if strength else ()
        scales = (FactoredSdClip(grid=grid_to(largest), sigmas=sigmas, factors=factors),)
        return Gptq(scales=scales, block=block, damping=damping)
    grid = grid_to(largest, scale_floor=1 / largest)
    tried = tuple(Percentile(grid=grid, percentile=share) for share in PUBLIC_PERCENTILES)
    return Gptq(scales=tried, block=block, damping=damping, measure="weights")


def row_factors(case: Case, damping: float, strength: float) -> tuple[float, ...]:
    """How much wider the clip of each row is in the record whose clip values follow the Hessian."""
    seen = case.tensors["H"].diagonal().clone()
    seen[seen == 0] = 1
    seen = (seen + damping * seen.mean()).clamp_min(1e-8)
    rows = (case.tensors["W"].abs() * seen / seen.mean()).mean(1)
    return tuple((1 + strength * (rows / rows.mean() - 1)).tolist())


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactoredSdClip(SdClip):
    """A number of standard deviations, times a factor for each row."""

    factors: tuple[float, ...] = ()

    def clip(self, groups: torch.Tensor) -> torch.Tensor:
        clip = super().clip(groups) * (torch.tensor(self.factors) if self.factors else 1.0)
        return torch.maximum(clip, groups.float().mean(1).abs())  # constant rows live, as in SdClip


def check_moments(case: Case) -> None:
    """The moments are those of the inputs beside them, damped once by the records that do."""
    inputs, moments = case.tensors["X"].double(), case.tensors["H"].double()
    assert len(inputs) == case.arguments["n_samples"]
    dead = list(case.arguments.get("dead_columns", ()))
    assert not inputs[:, dead].any()
    plain = inputs.T @ inputs / case.arguments["hessian_divisor"]
    damped = plain + 0.01 * plain.diagonal().mean() * torch.eye(len(plain), dtype=torch.float64)
    assert any(torch.allclose(moments, each, rtol=1e-4, atol=1e-4) for each in (plain, damped))


def check_errors(
    case: Case, weight: torch.Tensor, packed: QuantizedTensor, moments: torch.Tensor, lost: torch.Tensor
) -> None:
    allowed = limits(case, "hessian_error_trace_EHEt")["rel"]
    codes = packed.form.quantize_codes(weight, packed.pieces["scales"].float()).masked_fill(lost[:, None], 0)
    nearest = packed.with_pieces(codes=codes)
    names = ("hessian_error_trace_EHEt", "hessian_error_round_to_nearest_same_scales")
    errors = [squared_error(weight, each.dequantize(), moments) for each in (packed, nearest)]
    for name, found in zip(names, errors):
        assert math.isclose(found, case.expected[name], rel_tol=allowed, abs_tol=1e-9), name
    assert errors[0] <= errors[1] * (1 + 1e-9)
    mean = squared_error(weight, packed.dequantize()) / weight.numel()
    assert math.isclose(mean, case.expected["mse"], rel_tol=allowed, abs_tol=1e-12)
