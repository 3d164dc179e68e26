"""Grids between the smallest and largest number of a row, for gains and mixes, which lie around one."""

import dataclasses

import torch
from torch import Tensor

from bitgolf.base.errors import ArtifactError
from bitgolf.base.plan import setting
from bitgolf.squeeze.form import Form, Pieces, PieceTypes, QuantizedTensor
from bitgolf.squeeze.grid import as_matrix
from bitgolf.squeeze.quantize import Curvature, QuantizeError, Quantizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class BetweenForm(Form):
    """Codes count equal steps from the lower end of a row to its upper end; both ends are float16."""

    bits: int = setting(8, at_least=2, at_most=8)

    def pieces(self, shape: tuple[int, ...]) -> PieceTypes:
        rows, columns = as_matrix(torch.empty(shape, device="meta")).shape
        return {"codes": (torch.int8, (rows, columns)), "ends": (torch.float16, (rows, 2))}

    def low_and_step(self, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Lower ends and steps of rows, both float32 (rows, 1)."""
        low, high = ends.float().split(1, dim=1)
        return low, (high - low) / (2**self.bits - 1)

    def weights(self, pieces: Pieces) -> Tensor:
        low, step = self.low_and_step(pieces["ends"])
        return low + step * (pieces["codes"].float() + 2 ** (self.bits - 1))

    def check_pieces(self, pieces: Pieces) -> None:
        codes, half = pieces["codes"], 2 ** (self.bits - 1)
        if codes.numel() and not (-half <= int(codes.min()) and int(codes.max()) < half):
            raise ArtifactError(f"codes outside {-half} to {half - 1}", value=[*map(int, codes.aminmax())])

    def nominal_bits(self, pieces: Pieces) -> float:
        return self.bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Between(Quantizer):
    """Rounded to equal steps between the smallest and the largest number of each row.

    What: for numbers around one, such as gains, a grid around zero leaves most codes unused; here the steps
        are about a third as long with the same bits. A vector is one row.
    Source: none for gains; min-max is the usual grid that is not symmetric
    Cost: four bytes a row beside the codes, two more than AbsMax
    Not for: matrices, whose rows lie around zero
    Neutral: a row of equal numbers, which become their float16 value
    """

    bits: int = setting(8, at_least=2, at_most=8)

    def quantize(self, weight: Tensor, curvature: Curvature | None = None) -> QuantizedTensor:
        form, matrix = BetweenForm(bits=self.bits), as_matrix(weight).float()
        ends = torch.stack(matrix.aminmax(dim=1), 1) if matrix.shape[1] else matrix.new_zeros(len(matrix), 2)
        if not bool(ends.half().isfinite().all()):
            largest = float(ends.abs().max())
            raise QuantizeError("ends that float16 cannot hold", value=largest, way_out="another quantizer")
        low, step = form.low_and_step(ends.half())
        counts = torch.where(step > 0, (matrix - low) / step, 0.0).round().clamp(0, 2**self.bits - 1)
        codes = (counts - 2 ** (self.bits - 1)).to(torch.int8)
        return QuantizedTensor(form, {"codes": codes, "ends": ends.half()}, tuple(weight.shape))
