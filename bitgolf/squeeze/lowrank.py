"""Low-rank correction of the rounding error of a matrix."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from bitgolf.base.plan import setting
from bitgolf.squeeze.form import Form, Pieces, PieceTypes, QuantizedTensor
from bitgolf.squeeze.gptq import squared_error
from bitgolf.squeeze.grid import Grid, as_matrix
from bitgolf.squeeze.quantize import AbsMax, Curvature, Improved, QuantizeError

FACTOR_DAMPING = 0.01  # of the mean diagonal of the inputs' moments


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorrectedForm(Form):
    """Codes and scales of a matrix and of two thin factors; their product left^T (rows, rank) right
    (rank, columns) is added."""

    grid: Grid = Grid()
    factors: Grid = Grid()
    rank: int = setting(1, at_least=1)

    def pieces(self, shape: tuple[int, ...]) -> PieceTypes:
        rows, columns = as_matrix(torch.empty(shape, device="meta")).shape
        piece_types = self.grid.pieces(shape)
        for side, length in (("left", rows), ("right", columns)):
            thin = self.factors.pieces((self.rank, length))
            piece_types |= {f"{side}_{name}": piece for name, piece in thin.items()}
        return piece_types

    def weights(self, pieces: Pieces) -> Tensor:
        left, right = (
            self.factors.dequantize(pieces[f"{side}_codes"], pieces[f"{side}_scales"])
            for side in ("left", "right")
        )
        return self.grid.weights(pieces) + left.T @ right

    def check_pieces(self, pieces: Pieces) -> None:
        self.grid.check_pieces(pieces)
        self.factors.check_codes(pieces["left_codes"])
        self.factors.check_codes(pieces["right_codes"])

    def nominal_bits(self, pieces: Pieces) -> float:
        return self.grid.bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRank(Improved):
    """The error of another quantizer, corrected at a low rank (LQER).

    What: the largest singular components of the error, weighted by the inputs if they are known, are stored
        in two thin matrices and added when loading; left out if they do not help.
    Source: PR #1797, #1855 (rank 4 in the three matrices of the largest error, factors of 2 and 4 bits)
    Cost: rank * (rows + columns) numbers of `factors`
    Not for: errors without large singular values, as after rounding to six bits; all matrices: use it for a
        few, by the patterns of a rule
    Neutral: a correction that does not help is left out
    """

    rank: int = setting(4, at_least=1)
    factors: Grid = Grid(bits=4)

    def quantize(self, weight: Tensor, curvature: Curvature | None = None) -> QuantizedTensor:
        base = self.quantizer.quantize(weight, curvature)
        if weight.ndim != 2 or not weight.numel():
            return base
        inputs = None if curvature is None else curvature.inputs.to(weight.device)
        if not isinstance(base.form, Grid):
            raise QuantizeError("a correction of what is not codes and scales", way_out="another quantizer")
        thin = thin_factors(weight.float() - base.dequantize(), self.rank, inputs)
        form, pieces = CorrectedForm(grid=base.form, factors=self.factors, rank=len(thin[0])), {**base.pieces}
        for side, factor in zip(("left", "right"), thin):
            small = AbsMax(grid=self.factors).quantize(factor)
            pieces |= {f"{side}_{name}": piece for name, piece in small.pieces.items()}
        corrected = QuantizedTensor(form, pieces, base.shape)
        return min((base, corrected), key=lambda each: squared_error(weight, each.dequantize(), inputs))

    def notes(self, weight: Tensor, tensor: QuantizedTensor) -> dict[str, Any]:
        return {"corrected": "left_codes" in tensor.pieces}


def thin_factors(error: Tensor, rank: int, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    """left (rank, rows) and right (rank, columns), float32, with left^T right nearest to the error.

    inputs: second moments; if given, the distance is measured at the outputs.
    """
    error = error.double()
    root = None
    if inputs is not None:
        damped = inputs.double().clone()
        damped.diagonal().add_(FACTOR_DAMPING * damped.diagonal().mean().clamp_min(1e-12))
        root = torch.linalg.cholesky(damped)
    u, s, v = torch.linalg.svd(error if root is None else error @ root, full_matrices=False)
    half = s[:rank].sqrt()
    right = half[:, None] * v[:rank]
    if root is not None:
        right = torch.linalg.solve_triangular(root, right, upper=False, left=False)
    return (half[:, None] * u[:, :rank].T).float(), right.float()
