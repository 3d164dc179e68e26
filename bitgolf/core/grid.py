"""What a quantized number may be: one map, used for training noise, for export and for loading.

A grid turns the clip value of a row into a step, weights into integer codes, and codes back into weights.
`fake_quantize` is `dequantize(quantize_codes(...))` itself, so what training sees is what is shipped.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from bitgolf.core.plan import Plan, setting

FLOAT_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Granularity(Plan):
    """How many weights share one scale."""

    abstract: ClassVar[bool] = True

    def groups(self, matrix: Tensor) -> Tensor:
        """The same weights with one row for each scale."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerRow(Granularity):
    """One scale for each row (output) of a matrix.

    What: rows of trained matrices differ in size by an octave or two; a scale each follows them
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
class Grid(Plan):
    """Evenly spaced values around zero: code times scale."""

    bits: int = setting(8, at_least=2, at_most=8)
    symmetric: bool = True  # codes from -qmax to qmax; otherwise one more below
    granularity: Granularity = PerRow()
    scale_dtype: str = setting("float16", one_of=("float16", "float32"))
    # Codes are best made with the scale that is stored; the public int8 uses the one before rounding.
    round_scale_first: bool = True
    # The public rules never let a step go below 1/qmax, which makes small weights coarse (0: no floor).
    scale_floor: float = setting(0.0, at_least=0)
    zero_scale: float = setting(0.0, at_least=0)  # the scale of a group that is all zeros

    def problems(self) -> Iterator[str]:
        largest = float(torch.finfo(FLOAT_TYPES[self.scale_dtype]).max)
        for name in ("scale_floor", "zero_scale"):
            if getattr(self, name) > largest:
                yield f"{name}: {getattr(self, name)} is more than {self.scale_dtype} holds ({largest})"

    @property
    def qmax(self) -> int:
        """The largest code."""
        return 2 ** (self.bits - 1) - 1

    @property
    def qmin(self) -> int:
        """The smallest code."""
        return -self.qmax if self.symmetric else -self.qmax - 1

    def choose_scales(self, clip: Tensor) -> Tensor:
        """Steps that codes are made with: one for each clip value (the weight that gets the largest code)."""
        scales = torch.where(
            clip > 0, clip.float() / self.qmax, torch.full_like(clip.float(), self.zero_scale)
        )
        scales = scales.clamp_min(self.scale_floor)
        return self.stored_scales(scales).float() if self.round_scale_first else scales

    def stored_scales(self, scales: Tensor) -> Tensor:
        """The steps in the type that is shipped, never infinite."""
        kind = FLOAT_TYPES[self.scale_dtype]
        return scales.clamp_max(torch.finfo(kind).max).to(kind)

    def quantize_codes(self, matrix: Tensor, scales: Tensor, clip: Tensor | None = None) -> Tensor:
        """Nearest codes, int8, halves to even. A group whose step is zero gets zeros."""
        groups = self.granularity.groups(matrix.float())
        if clip is not None:
            groups = torch.maximum(torch.minimum(groups, clip[:, None]), -clip[:, None])
        steps = scales[:, None]
        codes = torch.where(steps > 0, groups / steps, torch.zeros_like(groups))
        return codes.round().clamp(self.qmin, self.qmax).to(torch.int8).reshape(matrix.shape)

    def dequantize(self, codes: Tensor, scales: Tensor) -> Tensor:
        """Codes times stored scales in float32: the only way back."""
        groups = self.granularity.groups(codes.float()) * scales.float()[:, None]
        return groups.reshape(codes.shape)

    def fake_quantize(self, matrix: Tensor, clip: Tensor) -> Tensor:
        """The weights as they will be after loading; the gradient passes as if nothing had happened."""
        with torch.no_grad():
            scales = self.choose_scales(clip)
            codes = self.quantize_codes(matrix, scales, clip)
            result = self.dequantize(codes, self.stored_scales(scales))
        return StraightThrough.apply(matrix, result.to(matrix.dtype))


class StraightThrough(torch.autograd.Function):
    """Forward gives the second tensor exactly, backward passes the gradient to the first unchanged."""

    @staticmethod
    def forward(context: Any, matrix: Tensor, replacement: Tensor) -> Tensor:
        return replacement.clone()

    @staticmethod
    def backward(context: Any, *gradients: Any) -> tuple[Any, None]:
        return gradients[0], None


def as_matrix(tensor: Tensor) -> Tensor:
    """Rows and columns: a matrix as it is, a vector or a number as one row, more axes joined."""
    return tensor.reshape(1, -1) if tensor.ndim < 2 else tensor.flatten(1)


def absmax_clip(groups: Tensor) -> Tensor:
    """The largest size of a weight in each group."""
    return groups.float().abs().amax(dim=1) if groups.shape[1] else groups.new_zeros(groups.shape[0])


def percentile_clip(groups: Tensor, percentile: float) -> Tensor:
    """The size that this share of each group's weights does not exceed, linear between order statistics.

    The place is computed in float32, as torch.quantile does (which refuses more than 16M values).
    """
    sizes = groups.float().abs()
    if not sizes.shape[1]:
        return sizes.new_zeros(sizes.shape[0])
    place = float(torch.tensor(percentile, dtype=torch.float32) * (sizes.shape[1] - 1))
    low = min(int(place), sizes.shape[1] - 1)
    top = sizes.topk(sizes.shape[1] - low, dim=1).values
    below, above = top[:, -1], top[:, max(0, top.shape[1] - 2)]
    return torch.lerp(below, above, place - low)
