"""Quantization steps from the curvature of the loss: equal expected damage by every weight of all tensors.

Let H be the second moments of a matrix's inputs and G those of its output gradients. An error E then costs
about tr(G E H E^T) / 2 nats a token. Later columns compensate errors of a column, and later rows those of a
row, so the rest counts: the conditional variances of H and the diagonal of G. A step is one over the root of
their product, times one constant for the whole model, which sets the rate.
"""

import dataclasses
import math
from typing import Self

import torch
from torch import Tensor

from bitgolf.base.errors import ArtifactError
from bitgolf.base.plan import setting
from bitgolf.squeeze.form import (
    LARGEST_CODE,
    Form,
    Pieces,
    PieceTypes,
    QuantizedTensor,
    join_wide,
    split_wide,
)
from bitgolf.squeeze.gptq import inverse_factor
from bitgolf.squeeze.grid import as_matrix
from bitgolf.squeeze.quantize import Curvature, Quantizer
from bitgolf.squeeze.trellis import rounded_codes, trellis_values

EIGHTHS = tuple(2 ** (part / 8) for part in range(8))  # of an octave
SMALLEST, LARGEST = 1e-30, 1e30  # base steps whose products with those of rows and columns fit float32
ROOM = 2.0  # codes reach this many times a row's largest weight, as feedback changes weights
PLAIN_STEP = 0.4145  # in deviations, without curvature: that of 6 bits at 12.85


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stepped(Form):
    """Codes with a step for each row and column: `base` times powers of two of both, in parts of an octave.

    carries: the part of codes beyond int8, in multiples of 256.
    trellis: codes are on the grids of their rows' trellis paths, with `states` states.
    """

    octave_parts: int = setting(8, one_of=(1, 2, 4, 8))  # resolution of steps
    trellis: bool = False
    states: int = setting(8, one_of=(8, 16, 64))

    def steps(self, base: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The step of each weight, float32 (rows, columns)."""
        parts = self.octave_parts
        return base * power_of_two(rows, parts)[:, None] * power_of_two(columns, parts)

    def values(self, codes: Tensor) -> Tensor:
        """The values of codes (rows, columns) in steps, float32."""
        return trellis_values(codes, self.states) if self.trellis else codes.float()

    def pieces(self, shape: tuple[int, ...]) -> PieceTypes:
        rows, columns = as_matrix(torch.empty(shape, device="meta")).shape
        return {
            "codes": (torch.int8, (rows, columns)),
            "carries": (torch.int8, (rows, columns)),
            "rows": (torch.int8, (rows,)),
            "columns": (torch.int8, (columns,)),
            "base": (torch.float32, (1,)),
        }

    def weights(self, pieces: Pieces) -> Tensor:
        steps = self.steps(pieces["base"], pieces["rows"], pieces["columns"])
        return self.values(self.whole_codes(pieces)) * steps

    def whole_codes(self, pieces: Pieces) -> Tensor:
        return join_wide(pieces["codes"], pieces["carries"])

    def check_pieces(self, pieces: Pieces) -> None:
        base = float(pieces["base"])
        if not 0 < base < math.inf:
            raise ArtifactError("a step that is no positive number", value=base)
        if bool((pieces["carries"] == -128).any()):
            raise ArtifactError(f"codes outside {-LARGEST_CODE - 1} to {LARGEST_CODE}")

    def nominal_bits(self, pieces: Pieces) -> float:
        return code_bits(self.whole_codes(pieces)) / max(1, pieces["codes"].numel())

    def tensor(
        self, codes: Tensor, rows: Tensor, columns: Tensor, base: Tensor, shape: tuple[int, ...]
    ) -> QuantizedTensor:
        """The tensor with these codes (rows, columns) of any type and steps of rows and columns."""
        rest, carries = split_wide(codes)
        pieces = {"codes": rest, "carries": carries, "rows": rows, "columns": columns, "base": base}
        return QuantizedTensor(self, pieces, shape)


def power_of_two(steps: Tensor, parts: int) -> Tensor:
    """2^(steps / parts), float32: the same bits on every machine, from a table of eight roots."""
    eighths = steps.int() * (8 // parts)
    roots = torch.tensor(EIGHTHS, dtype=torch.float32, device=steps.device)
    whole = torch.div(eighths, 8, rounding_mode="floor")
    return torch.ldexp(roots[(eighths - 8 * whole).long()], whole)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateAware(Quantizer):
    """More bits for weights that matter more to the loss, with feedback over columns and rows.

    What: the step of a weight is `step` over the root of its row's output-gradient moment times its
        column's conditional input variance, to a part of an octave; no clipping; later columns and,
        with `across_rows`, later rows compensate errors; `trellis` rounds a row along the path of least
        error through `states` states. One `step` for all tensors allocates the bits between them.
    Source: reverse water-filling on the K-FAC curvature; measured here: 15 to 26% fewer bytes than SDClip
        with GPTQ and brotli at equal bits per byte (docs/packing.md).
    Cost: a step for each row and column, 2 to 3 bits each after coding; a forward and a backward pass over
        the calibration text; a second for a million weights, 64 states five, and ten once for compiling.
    Not for: use without TrainText(outputs=True) or OwnText(outputs=True), which is refused; forecasts of
        bytes round by standard deviation alone.
    Neutral: none; step sets the rate
    """

    step: float = setting(0.0002, above=0)
    by_row: bool = True
    by_column: bool = True
    across_rows: bool = True  # never for heads and tables, which have too many rows to invert
    trellis: bool = True
    states: int = setting(8, one_of=(8, 16, 64))
    octave_parts: int = setting(4, one_of=(1, 2, 4, 8))  # resolution of steps
    damping: float = setting(0.003, above=0)  # of the mean of each diagonal, added to it

    def needs_hessian(self) -> bool:
        return True

    def needs_output_grads(self) -> bool:
        return True

    def coarser(self, factor: float) -> Self:
        return self.replace(step=self.step * factor)

    def quantize(self, weight: Tensor, curvature: Curvature | None = None) -> QuantizedTensor:
        matrix = as_matrix(weight).double()
        if curvature is None or curvature.outputs is None or not weight.numel():
            spread = (
                torch.maximum(matrix.std(), matrix.mean().abs()) if weight.numel() > 1 else matrix.abs().sum()
            )
            rows, columns = (torch.zeros(length, dtype=torch.int8) for length in matrix.shape)
            base = (PLAIN_STEP * spread).clamp_min(SMALLEST).float().reshape(1)
            codes = (matrix / base).round().clamp(-LARGEST_CODE, LARGEST_CODE)
            return Stepped().tensor(codes, rows, columns, base.cpu(), tuple(weight.shape))
        inputs, outputs = curvature.inputs.double(), curvature.outputs.double()
        row_moments = outputs if outputs.ndim == 1 else outputs.diagonal()
        if not float(inputs.diagonal().sum()) * float(row_moments.sum()):
            return all_zeros(weight)  # the loss does not depend on it
        factor = feedback_factor(inputs, self.damping)
        row_sizes = (row_moments + self.damping * row_moments.mean()).rsqrt()
        column_sizes = factor.diagonal()  # one over the root of the conditional variance
        form = Stepped(octave_parts=self.octave_parts, trellis=self.trellis, states=self.states)
        rows, row_mean = in_octaves(row_sizes, form.octave_parts * self.by_row)
        columns, column_mean = in_octaves(column_sizes, form.octave_parts * self.by_column)
        base = torch.tensor([min(max(self.step * row_mean * column_mean, SMALLEST), LARGEST)]).float()
        rows = within_reach(rows, matrix, form.steps(base, rows, columns), form.octave_parts)
        across = feedback_factor(outputs, self.damping) if self.across_rows and outputs.ndim == 2 else None
        steps = form.steps(base, rows, columns).double()
        codes = rounded_codes(matrix, steps, factor, across, self.states if self.trellis else 1)
        return form.tensor(codes, rows, columns, base, tuple(weight.shape))


def all_zeros(weight: Tensor) -> QuantizedTensor:
    """Zeros in the shape of a weight, which take no bits."""
    codes = torch.zeros(as_matrix(weight).shape)
    rows, columns = (torch.zeros(length, dtype=torch.int8) for length in codes.shape)
    return Stepped().tensor(codes, rows, columns, torch.ones(1), tuple(weight.shape))


def feedback_factor(moments: Tensor, damping: float) -> Tensor:
    """The `inverse_factor` of moments, with `damping` times the mean diagonal added to the diagonal."""
    return inverse_factor(moments + damping * moments.diagonal().mean() * torch.eye(len(moments)).to(moments))


def in_octaves(sizes: Tensor, parts: int) -> tuple[Tensor, float]:
    """Sizes as int8 powers of two in parts of an octave, and their geometric mean (parts 0: all equal it)."""
    logs = sizes.log2()
    mean = float(logs.mean())
    return ((logs - mean) * parts).round().clamp(-128, 127).to(torch.int8), 2.0**mean


def within_reach(rows: Tensor, matrix: Tensor, steps: Tensor, parts: int) -> Tensor:
    """Row steps, longer for rows with weights out of reach of the largest code."""
    reach = (matrix.abs() / steps.double()).amax(1) * (ROOM / LARGEST_CODE)
    longer = (reach.clamp_min(1).log2() * parts).ceil()
    return (rows + longer).clamp(-128, 127).to(torch.int8)


def expected_damage(weight: Tensor, values: Tensor, curvature: Curvature) -> float:
    """tr(G E H E^T) / 2: the expected cost, in nats per token, of `values` in place of a weight."""
    error = as_matrix(weight.double() - values.double())
    assert curvature.outputs is not None, "gathered with outputs=True"
    outputs = curvature.outputs.double()
    weighed = outputs[:, None] * error if outputs.ndim == 1 else outputs @ error
    return 0.5 * float((weighed * (error @ curvature.inputs.double())).sum())


def code_bits(codes: Tensor) -> float:
    """Bits of codes (a total) for a coder that knows how often each occurs."""
    _, counts = codes.unique(return_counts=True)
    return float(-(counts * (counts / max(1, codes.numel())).log2()).sum())
