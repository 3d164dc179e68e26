"""Quantizing a matrix in a rotated basis without outliers among its inputs."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from bitgolf.base.errors import ArtifactError
from bitgolf.base.plan import setting
from bitgolf.squeeze.form import Form, Pieces, PieceTypes, QuantizedTensor
from bitgolf.squeeze.gptq import squared_error
from bitgolf.squeeze.grid import Grid
from bitgolf.squeeze.quantize import Curvature, Improved, QuantizeError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnedForm(Form):
    """Codes and scales of a matrix whose columns were rotated by a seed. Artifacts store its class name."""

    grid: Grid = Grid()
    seed: int = setting(0, at_least=0, below=2**63)

    def pieces(self, shape: tuple[int, ...]) -> PieceTypes:
        return self.grid.pieces(shape)

    def weights(self, pieces: Pieces) -> Tensor:
        return rotate_columns_back(self.grid.weights(pieces), self.seed)

    def check_pieces(self, pieces: Pieces) -> None:
        self.grid.check_pieces(pieces)
        width = pieces["codes"].shape[1]
        if width & (width - 1):
            raise ArtifactError("only a width that is a power of two can be rotated", value=width)

    def nominal_bits(self, pieces: Pieces) -> float:
        return self.grid.bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotated(Improved):
    """Quantized in a rotated basis if that reduces the error (adaptive Hadamard).

    What: columns get seeded signs and a Walsh-Hadamard transform before `quantizer`; loading inverts both.
        Each tensor keeps the better basis, by output error if its inputs are known.
    Source: PR #1718 (its prototype had no error feedback); QuIP#
    Cost: a flag for each tensor; a second quantization
    Not for: matrices trained with Muon, which have no outliers (PR #1718: no gain; 0.03 bit a weight
        with error feedback); widths that are no power of two are not rotated
    Neutral: every tensor that it does not help
    """

    seed: int = setting(0, at_least=0, below=2**63)

    def quantize(self, weight: Tensor, curvature: Curvature | None = None) -> QuantizedTensor:
        plain = self.quantizer.quantize(weight, curvature)
        if weight.ndim != 2 or not weight.numel() or weight.shape[1] & (weight.shape[1] - 1):
            return plain
        inputs = None if curvature is None else curvature.inputs.to(weight.device)
        other = self.quantizer.quantize(
            rotate_columns(weight, self.seed), rotated_curvature(curvature, self.seed)
        )
        if not isinstance(other.form, Grid):
            raise QuantizeError("a rotation of what is not codes and scales", way_out="another quantizer")
        form = TurnedForm(grid=other.form, seed=self.seed)
        rotated = QuantizedTensor(form, other.pieces, other.shape)
        return min((plain, rotated), key=lambda each: squared_error(weight, each.dequantize(), inputs))

    def notes(self, weight: Tensor, tensor: QuantizedTensor) -> dict[str, Any]:
        return {"rotated": isinstance(tensor.form, TurnedForm)}


def rotate_columns(matrix: Tensor, seed: int) -> Tensor:
    """Each row with seeded signs and transformed; lengths and angles of rows are kept."""
    return walsh_hadamard(matrix.float() * seeded_signs(matrix.shape[1], seed).to(matrix.device))


def rotated_curvature(curvature: Curvature | None, seed: int) -> Curvature | None:
    """The curvature of a matrix whose rows are rotated."""
    if curvature is None:
        return None
    return curvature._replace(inputs=rotate_columns(rotate_columns(curvature.inputs, seed).T, seed))


def rotate_columns_back(matrix: Tensor, seed: int) -> Tensor:
    """The inverse of `rotate_columns`."""
    return walsh_hadamard(matrix) * seeded_signs(matrix.shape[1], seed).to(matrix.device)


def seeded_signs(columns: int, seed: int) -> Tensor:
    """Minus or plus one for each column."""
    return 2.0 * torch.randint(2, (columns,), generator=torch.Generator().manual_seed(seed)) - 1


def walsh_hadamard(rows: Tensor) -> Tensor:
    """The normalised Walsh-Hadamard transform of each row, its own inverse. The width is a power of two."""
    result, width = rows, rows.shape[1]
    for half in (1 << power for power in range(width.bit_length() - 1)):
        pairs = result.reshape(len(rows), width // (2 * half), 2, half)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        result = torch.stack((first + second, first - second), 2).reshape(rows.shape)
    return result / width**0.5
