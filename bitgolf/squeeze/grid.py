"""Grids of quantized values: one map for training noise, for export and for loading.

A grid turns the clip value of a row into a step, weights into integer codes, and codes back into weights.
`fake_quantize` is exactly `dequantize(quantize_codes(...))`, so training sees the shipped weights.
"""

import dataclasses
from collections.abc import Hashable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.base.errors import ArtifactError
from bitgolf.base.plan import Plan, setting
from bitgolf.squeeze.form import FLOAT_TYPES, Form, Pieces, PieceTypes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Granularity(Plan):
    """The slot of which weights share one scale. An incomplete last group is padded with zeros."""

    abstract: ClassVar[bool] = True

    def groups(self, matrix: Tensor) -> Tensor:
        """The weights with one row per scale."""
        raise NotImplementedError

    def spread(self, values: Tensor, shape: torch.Size) -> Tensor:
        """One value per scale, expanded to broadcast to the shape of the matrix."""
        return values[:, None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerRow(Granularity):
    """One scale for each row (output) of a matrix.

    What: rows of trained matrices differ in size by an octave or two; each row has its scale
    Source: the public baseline
    Cost: two bytes a row, about 1.3 after packing
    Not for: vectors, where it would be one scale a weight or one for all
    Neutral: rows of equal size
    """

    def groups(self, matrix: Tensor) -> Tensor:
        return matrix


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerTensor(Granularity):
    """One scale for a whole tensor.

    What: the largest weight sets the step for all
    Source: the public baseline (vectors)
    Cost: one scale
    Not for: matrices with a few large rows
    Neutral: a tensor of one row
    """

    def groups(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(1, -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerColumn(Granularity):
    """One scale for each column (input) of a matrix.

    What: follows inputs of different size where rows are alike
    Source: none
    Cost: two bytes a column
    Not for: trained matrices of the blocks, whose rows differ more than their columns
    Neutral: columns of equal size
    """

    def groups(self, matrix: Tensor) -> Tensor:
        return matrix.T

    def spread(self, values: Tensor, shape: torch.Size) -> Tensor:
        return values[None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowGroups(Granularity):
    """One scale for `rows` consecutive rows.

    What: the largest weight of the rows sets their step
    Source: PR #488 (INT6_SCALE_GROUP_ROWS=8)
    Cost: two bytes for `rows` rows: 7/8 of the bytes of the scales are saved at 8
    Not for: small rows beside large ones, which lose their resolution
    Neutral: rows=1, which is PerRow
    """

    rows: int = setting(8, at_least=1)

    def groups(self, matrix: Tensor) -> Tensor:
        shape = -(-matrix.shape[0] // self.rows), self.rows * matrix.shape[1]
        return filled(matrix, self.rows, 0).reshape(shape)

    def spread(self, values: Tensor, shape: torch.Size) -> Tensor:
        return values.repeat_interleave(min(self.rows, shape[0]))[: shape[0], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnGroups(Granularity):
    """One scale for `columns` consecutive weights of a row.

    What: finer than one step per row, for grids with few levels
    Source: record 2026-03-24 (ternary, groups of 64)
    Cost: two bytes for `columns` weights: a quarter of a bit a weight at 64
    Not for: five bits and more, where scales by row are as good
    Neutral: columns at the width of the matrix, which is PerRow
    """

    columns: int = setting(64, at_least=1)

    def groups(self, matrix: Tensor) -> Tensor:
        return filled(matrix, self.columns, 1).reshape(-1, self.columns)

    def spread(self, values: Tensor, shape: torch.Size) -> Tensor:
        by_row = values.reshape(shape[0], -(-shape[1] // self.columns))
        return by_row.repeat_interleave(min(self.columns, shape[1]), dim=1)[:, : shape[1]]


def filled(matrix: Tensor, multiple: int, axis: int) -> Tensor:
    """The matrix padded with zeros to a multiple of rows (axis 0) or columns (1)."""
    missing = -matrix.shape[axis] % multiple
    return F.pad(matrix, (0, 0, 0, missing) if axis == 0 else (0, missing))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid(Form):
    """Evenly spaced values around zero: code times scale."""

    bits: int = setting(8, at_least=2, at_most=8)
    largest: int = setting(0, at_least=0)  # the largest code, if it is less than the bits allow (0: all)
    symmetric: bool = True  # codes from -qmax to qmax; otherwise one more below
    granularity: Granularity = PerRow()
    scale_dtype: str = setting("float16", one_of=("float16", "float32"))
    # Best is the stored scale; the public int8 computes codes with the scale before rounding.
    round_scale_first: bool = True
    # The public rules never use a step below 1/qmax, which makes small weights coarse (0: no floor).
    scale_floor: float = setting(0.0, at_least=0)
    zero_scale: float = setting(0.0, at_least=0)  # the scale of a group that is all zeros

    def validate(self) -> Iterator[str]:
        largest = float(torch.finfo(FLOAT_TYPES[self.scale_dtype]).max)
        for name in ("scale_floor", "zero_scale"):
            if getattr(self, name) > largest:
                yield f"{name}: {getattr(self, name)} is more than {self.scale_dtype} holds ({largest})"

    @property
    def qmax(self) -> int:
        """The largest code."""
        return min(self.largest or 127, 2 ** (self.bits - 1) - 1)

    @property
    def qmin(self) -> int:
        """The smallest code."""
        return -self.qmax if self.symmetric else -self.qmax - 1

    def choose_scales(self, clip: Tensor) -> Tensor:
        """Steps for computing codes, one per clip value (the weight that gets the largest code)."""
        scales = torch.where(clip > 0, clip.float() / self.qmax, self.zero_scale).clamp_min(self.scale_floor)
        return self.stored_scales(scales).float() if self.round_scale_first else scales

    def stored_scales(self, scales: Tensor) -> Tensor:
        """The steps in the stored type, never infinite."""
        kind = FLOAT_TYPES[self.scale_dtype]
        return scales.clamp_max(torch.finfo(kind).max).to(kind)

    def quantize_codes(self, matrix: Tensor, scales: Tensor, clip: Tensor | None = None) -> Tensor:
        """Nearest codes, int8, halves to even; zeros if the step is zero. Weights are clipped to `clip`."""
        weights, steps = matrix.float(), self.granularity.spread(scales, matrix.shape)
        if clip is not None:
            limit = self.granularity.spread(clip, matrix.shape)
            weights = weights.clamp(-limit, limit)
        return torch.where(steps > 0, weights / steps, 0.0).round().clamp(self.qmin, self.qmax).to(torch.int8)

    def dequantize(self, codes: Tensor, scales: Tensor) -> Tensor:
        """Weights, float32: codes times stored scales."""
        return codes.float() * self.granularity.spread(scales.float(), codes.shape)

    def pieces(self, shape: tuple[int, ...]) -> PieceTypes:
        matrix = as_matrix(torch.empty(shape, device="meta"))
        scales = FLOAT_TYPES[self.scale_dtype], self.granularity.groups(matrix).shape[:1]
        return {"codes": (torch.int8, matrix.shape), "scales": scales}

    def weights(self, pieces: Pieces) -> Tensor:
        return self.dequantize(pieces["codes"], pieces["scales"])

    def check_pieces(self, pieces: Pieces) -> None:
        self.check_codes(pieces["codes"])

    def check_codes(self, codes: Tensor) -> None:
        """Raises ArtifactError for codes outside the grid."""
        if codes.numel() and not (self.qmin <= int(codes.min()) and int(codes.max()) <= self.qmax):
            code_range = [int(codes.min()), int(codes.max())]
            raise ArtifactError(f"codes outside {self.qmin} to {self.qmax}", value=code_range)

    def nominal_bits(self, pieces: Pieces) -> float:
        return self.bits

    def scale_groups(self, matrix: Tensor) -> Tensor:
        return self.granularity.groups(matrix)

    def levels(self) -> Hashable:
        return self.qmin, self.qmax, self.granularity

    def fake_quantize(self, matrix: Tensor, clip: Tensor) -> Tensor:
        """The weights as after loading; gradients pass unchanged (straight-through)."""
        with torch.no_grad():
            scales = self.choose_scales(clip)
            codes = self.quantize_codes(matrix, scales, clip)
            result = self.dequantize(codes, self.stored_scales(scales))
        return StraightThrough.apply(matrix, result.to(matrix.dtype))


class StraightThrough(torch.autograd.Function):
    """Forward gives the second tensor exactly, backward passes the gradient to the first unchanged."""

    @staticmethod
    def forward(context: object, matrix: Tensor, replacement: Tensor) -> Tensor:
        return replacement.clone()

    @staticmethod
    def backward(context: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def as_matrix(tensor: Tensor) -> Tensor:
    """A tensor as (rows, columns): vectors and numbers as one row, further axes joined."""
    return tensor.reshape(1, -1) if tensor.ndim < 2 else tensor.flatten(1)


def absmax_clip(groups: Tensor) -> Tensor:
    """The largest magnitude in each group."""
    return groups.float().abs().amax(dim=1) if groups.shape[1] else groups.new_zeros(groups.shape[0])


def percentile_clip(groups: Tensor, percentile: float) -> Tensor:
    """This percentile (0 to 1) of the magnitudes in each group, linear between order statistics.

    The rank is computed in float32, as torch.quantile does (which refuses more than 16M values).
    """
    sizes = groups.float().abs()
    if not sizes.shape[1]:
        return sizes.new_zeros(sizes.shape[0])
    rank = float(torch.tensor(percentile, dtype=torch.float32) * (sizes.shape[1] - 1))
    low = min(int(rank), sizes.shape[1] - 1)
    top = sizes.topk(sizes.shape[1] - low, dim=1).values
    below, above = top[:, -1], top[:, max(0, top.shape[1] - 2)]
    return torch.lerp(below, above, rank - low)
