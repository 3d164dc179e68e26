"""Clip values of a grid found by search, coarser codes, and grids with three levels."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bitgolf.base.plan import setting
from bitgolf.squeeze.form import QuantizedTensor
from bitgolf.squeeze.grid import ColumnGroups, Grid, PerRow, percentile_clip
from bitgolf.squeeze.quantize import Curvature, Quantizer, Rounding

PUBLIC_PERCENTILES = (0.999, 0.9995, 0.9999, 0.99999, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSearch(Rounding):
    """Rounding with the percentile of least squared error (GPTQ-lite).

    What: the clip values of every percentile are tried. Each row keeps its best, or with choice="tensor" all
        rows use the one that is best for the whole matrix.
    Source: record 2026-03-22 (by tensor, under a floor of 1/31 that leaves nothing to search); PR #543 (by
        tensor, int8, `under_floor`); PR #682.
    Cost: a rounding for each percentile; no bytes (0.2% more after packing, as codes spread wider).
    Not for: gains: none at 6 and 5 bits (int6 0.0005 bpb with and without, int5 0.0029 against 0.0031).
    Neutral: percentiles=(1.0,), which is AbsMax
    """

    grid: Grid = Grid(bits=6)
    percentiles: tuple[float, ...] = PUBLIC_PERCENTILES
    choice: str = setting("row", one_of=("row", "tensor"))
    under_floor: bool = False  # clip weights also where the floor makes the step longer (PR #543)

    def validate(self) -> Iterator[str]:
        if not self.percentiles or not all(0 < share <= 1 for share in self.percentiles):
            yield f"percentiles: expected one or more in (0, 1], found {self.percentiles}"

    def clip(self, groups: Tensor) -> Tensor:
        smallest = 0.0 if self.under_floor else self.grid.scale_floor * self.grid.qmax
        clips = [percentile_clip(groups, share).clamp_min(smallest) for share in self.percentiles]
        if self.choice == "tensor":
            return min(clips, key=lambda clip: float(self.squares(groups, clip).mean()))
        best = torch.stack([self.squares(groups, clip).sum(dim=1) for clip in clips]).argmin(0)
        return torch.stack(clips).gather(0, best[None])[0]

    def squares(self, groups: Tensor, clip: Tensor) -> Tensor:
        """The squared error of each weight, with the steps before they are stored."""
        rows = self.grid.replace(granularity=PerRow())
        steps = rows.choose_scales(clip)
        return (rows.dequantize(rows.quantize_codes(groups, steps, clip), steps) - groups.float()).square()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoarseCodes(Quantizer):
    """The codes of another rule rounded to multiples of a step: fewer values on the same scales.

    What: code' = step * round(code / step), halves to even, never beyond the grid. Int8 in steps of four has
        the 63 values of int6 and both ends.
    Source: PR #543 ("int6 step rounding": layers 1 to 9); record 2026-03-19 (MLP3x, multiples_only: with one
        more code below zero it has -128 to 124).
    Cost: the bytes of six bits after packing; rounding twice adds up to 1/8 of a step of error.
    Not for: grids of six bits and fewer: use those directly.
    Neutral: step=1
    """

    of: Rounding = ClipSearch(grid=Grid(bits=8))
    step: int = setting(4, at_least=1)
    multiples_only: bool = False  # codes beyond the grid become its last multiple, not its last code

    def validate(self) -> Iterator[str]:
        if self.step > self.of.grid.qmax:
            yield f"step: the largest code is {self.of.grid.qmax}, found {self.step}"

    def quantize(self, weight: Tensor, curvature: Curvature | None = None) -> QuantizedTensor:
        fine = self.of.quantize(weight)
        codes = (fine.pieces["codes"].float() / self.step).round() * self.step
        low, high = self.of.grid.qmin, self.of.grid.qmax
        if self.multiples_only:
            low, high = -(-low // self.step * self.step), high // self.step * self.step
        return fine.with_pieces(codes=codes.clamp(low, high).to(torch.int8))

    def notes(self, weight: Tensor, tensor: QuantizedTensor) -> dict[str, Any]:
        return {"bits": self.of.grid.bits - math.log2(self.step)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ternary(Rounding):
    """Three levels: minus, zero, plus one step for each group of a row.

    What: weights above half of their group's mean size get a sign, the others zero; loading rescales the
        group to its mean size (`rescaled`).
    Source: record 2026-03-24 (74M ternary, groups of 64), after BitNet b1.58; its training does not
        rescale, so it trained on other weights than it shipped.
    Cost: log2(3) bits a weight at most and 16 bits for each group; about half of a weight is error.
    Not for: models that were not trained on ternary weights
    Neutral: none; choose AbsMax
    """

    grid: Grid = Grid(bits=2, granularity=ColumnGroups(columns=64))
    rescaled: bool = True

    def validate(self) -> Iterator[str]:
        if self.grid.qmax != 1 or self.grid.qmin != -1:
            yield f"grid: codes are -1, 0 and 1; found {self.grid.qmin} to {self.grid.qmax}"

    def clip(self, groups: Tensor) -> Tensor:
        return groups.float().abs().mean(dim=1) if groups.shape[1] else groups.new_zeros(groups.shape[0])

    def quantize(self, weight: Tensor, curvature: Curvature | None = None) -> QuantizedTensor:
        tensor = super().quantize(weight)
        if not self.rescaled:
            return tensor
        codes, scales = tensor.pieces["codes"], tensor.pieces["scales"].float()
        used = self.clip(self.grid.granularity.groups(codes))  # the share that is not zero
        return tensor.with_pieces(
            scales=self.grid.stored_scales(torch.where(used > 0, scales / used, scales))
        )
