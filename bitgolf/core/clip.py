"""Where a grid should end: clip values that are searched for, and the steps of grids with three levels."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from bitgolf.core.grid import ColumnGroups, Grid, PerRow, as_matrix, percentile_clip
from bitgolf.core.plan import setting
from bitgolf.core.quantize import Curvature, QuantTensor, Rounding

PUBLIC_PERCENTILES = (0.999, 0.9995, 0.9999, 0.99999, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSearch(Rounding):
    """Rounding with the percentile that makes the least squared error (GPTQ-lite).

    What: every percentile's clip values are tried; each row keeps its best, or with choice="tensor" all rows
        the one that is best for the whole matrix.
    Source: record 2026-03-22, PR #543, #682; the published code chooses by tensor, with a floor of 1/31 under
        which nothing is left to search.
    Cost: a rounding for each percentile; no bytes (0.2% more after packing, as codes spread wider).
    Not for: gains: none at 6 and 5 bits (int6 0.0005 bpb with and without, int5 0.0029 against 0.0031).
    Neutral: percentiles=(1.0,), which is AbsMax
    """

    grid: Grid = Grid(bits=6)
    percentiles: tuple[float, ...] = PUBLIC_PERCENTILES
    choice: str = setting("row", one_of=("row", "tensor"))

    def problems(self) -> Iterator[str]:
        if not self.percentiles or not all(0 < share <= 1 for share in self.percentiles):
            yield f"percentiles: expected one or more in (0, 1], found {self.percentiles}"

    def clip(self, groups: Tensor) -> Tensor:
        rows, smallest = self.grid.but(granularity=PerRow()), self.grid.scale_floor * self.grid.qmax
        clips = [percentile_clip(groups, share).clamp_min(smallest) for share in self.percentiles]
        errors = [(rows.fake_quantize(groups, clip) - groups).square().sum(dim=1) for clip in clips]
        table = torch.stack(errors)  # (percentiles, groups)
        best = (
            table.sum(dim=1).argmin().expand(table.shape[1]) if self.choice == "tensor" else table.argmin(0)
        )
        return torch.stack(clips).gather(0, best[None])[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ternary(Rounding):
    """Three levels: minus, zero, plus one step for each group of a row.

    What: weights above half of their group's mean size get a sign, the others zero; loading then gives the
        group its mean size back (`rescaled`).
    Source: record 2026-03-24 (74M ternary, groups of 64), after BitNet b1.58; its training leaves the step as
        it is, so what it trained on is not what it shipped.
    Cost: log2(3) bits a weight at most and 16 bits for each group; about half of a weight is error.
    Not for: models that were not trained on ternary weights
    Neutral: none; choose AbsMax
    """

    grid: Grid = Grid(bits=2, granularity=ColumnGroups(columns=64))
    rescaled: bool = True

    def problems(self) -> Iterator[str]:
        if self.grid.qmax != 1 or self.grid.qmin != -1:
            yield f"grid: codes are -1, 0 and 1; found {self.grid.qmin} to {self.grid.qmax}"

    def clip(self, groups: Tensor) -> Tensor:
        return groups.float().abs().mean(dim=1) if groups.shape[1] else groups.new_zeros(groups.shape[0])

    def quantize(self, weight: Tensor, curvature: Curvature | None = None) -> QuantTensor:
        tensor = super().quantize(weight)
        if not self.rescaled:
            return tensor
        used = self.clip(self.grid.granularity.groups(as_matrix(tensor.codes)))  # the share that is not zero
        scales = torch.where(used > 0, tensor.scales.float() / used, tensor.scales.float())
        return dataclasses.replace(tensor, scales=self.grid.stored_scales(scales))
