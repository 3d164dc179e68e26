"""Rounding with error feedback (GPTQ): columns not yet rounded compensate the error of each column.

The second moments of the inputs give order and feedback; a rounding rule has chosen the steps before.
`tests/squeeze/test_gptq.py` has the slow reference, column by column in float64.
"""

import dataclasses
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from bitgolf.base.plan import setting
from bitgolf.squeeze.form import QuantizedTensor
from bitgolf.squeeze.grid import Grid, PerRow, as_matrix
from bitgolf.squeeze.quantize import Curvature, QuantizeError, Quantizer, Rounding, SdClip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gptq(Quantizer):
    """Rounding with error feedback over the columns of a matrix, most used inputs first.

    What: columns are rounded one by one, those with the largest inputs first, on the steps that `scales`
        choose for the whole matrix. Later columns are changed against the error, by the inputs' second
        moments. Of several scale rules the one with the least error (`measure`) is kept. Columns whose inputs
        are always zero become zero. Without calibration: the plain rounding of the first scale rule.
    Source: Frantar et al. 2022; records 2026-03-25 and 03-29 (five percentiles, measure="weights"), 04-05
        (SdClip at 12.85).
    Cost: no bytes; a pass over the calibration text and about a second for a million weights.
    Not for: 8 bits, where nothing is left to gain; training noise, which rounds to nearest; a tied table of
        8192 tokens, whose use as input it ignores (gap 0.0038 against 0.0022 bpb at 20 deviations).
    Neutral: uncorrelated inputs: the nearest codes
    """

    scales: tuple[Rounding, ...] = setting((SdClip(),))
    damping: float = setting(0.01, above=0)  # of the mean of the diagonal, added to it
    sort: bool = True  # largest inputs first; otherwise in the order of the columns
    block: int = setting(128, at_least=1)  # columns between two updates of the rest; changes speed only
    measure: str = setting("outputs", one_of=("outputs", "weights"))

    def validate(self) -> Iterator[str]:
        if not self.scales:
            yield "scales: expected rules that round, such as AbsMax, ClipSearch or SdClip"

    def needs_hessian(self) -> bool:
        return True

    def coarser(self, factor: float) -> Self:
        return self.replace(scales=tuple(rule.coarser(factor) for rule in self.scales))

    def quantize(self, weight: Tensor, curvature: Curvature | None = None) -> QuantizedTensor:
        plain = [rule.quantize(weight) for rule in self.scales]
        if curvature is None or not weight.numel():
            return plain[0]
        inputs = curvature.inputs.to(weight.device)
        order, factor = feedback(inputs, self.damping, self.sort)
        alive = torch.diagonal(inputs) > 0
        matrix, tensors = as_matrix(weight) * alive, []
        for rule, each in zip(self.scales, plain):
            scales = each.pieces["scales"]
            codes = feedback_codes(matrix, rule.grid, scales, order, factor, self.block)
            tensors.append(each.with_pieces(codes=codes))
        metric = inputs if self.measure == "outputs" else None
        return min(tensors, key=lambda tensor: squared_error(weight, tensor.dequantize(), metric))


def feedback(inputs: Tensor, damping: float, sort: bool) -> tuple[Tensor, Tensor]:
    """The order of the columns, and the `inverse_factor` of the damped moments in that order, float32."""
    hessian = inputs.double().clone()
    diagonal = torch.diagonal(hessian)  # a view
    diagonal[diagonal == 0] = 1  # inputs that are always zero; the public code includes them in the mean
    diagonal += damping * diagonal.mean()
    order = torch.argsort(diagonal, descending=True, stable=True) if sort else torch.arange(len(diagonal))
    order = order.to(hessian.device)
    return order, inverse_factor(hessian[order][:, order]).float()


def inverse_factor(moments: Tensor) -> Tensor:
    """Upper U with U^T U the inverse of damped second moments; U[j, j:] / U[j, j] compensates an error in j.

    Raises QuantizeError if the moments are not positive definite.
    """
    lower, failed = torch.linalg.cholesky_ex(moments)
    if bool(failed) or not bool(lower.isfinite().all()):
        raise QuantizeError("second moments that cannot be inverted", way_out="more damping, or more text")
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)


def feedback_codes(
    matrix: Tensor, grid: Grid, scales: Tensor, order: Tensor, factor: Tensor, block: int
) -> Tensor:
    """Codes (rows, columns) int8 on a grid with these scales, with error feedback to later columns."""
    steps = grid.granularity.spread(scales.float(), matrix.shape).expand(matrix.shape)[:, order]
    weights = matrix.float()[:, order]
    codes = torch.empty_like(weights, dtype=torch.int8)
    grid = grid.replace(granularity=PerRow())  # of a single column: a step for each row
    for start in range(0, len(order), block):
        end = min(start + block, len(order))
        part, errors = weights[:, start:end], torch.empty_like(weights[:, start:end])
        for i, j in enumerate(range(start, end)):
            column, step = part[:, i : i + 1], steps[:, j]
            codes[:, j : j + 1] = grid.quantize_codes(column, step)
            errors[:, i : i + 1] = (column - codes[:, j : j + 1] * step[:, None]) / factor[j, j]
            part[:, i + 1 :] -= errors[:, i : i + 1] * factor[j, j + 1 : end]
        weights[:, end:] -= errors @ factor[start:end, end:]
    return codes[:, torch.argsort(order)]


def squared_error(weight: Tensor, values: Tensor, inputs: Tensor | None = None) -> float:
    """tr(E H E^T) with E the error of `values` and H the second moments of the inputs; without H the sum of
    squares."""
    error = as_matrix(weight.float() - values).double()
    return float((error * (error if inputs is None else error @ inputs.double().to(error.device))).sum())
