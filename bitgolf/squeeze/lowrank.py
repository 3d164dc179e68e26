"""What rounding did to a matrix, repaired by a product of two thin ones."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from bitgolf.base.plan import setting
from bitgolf.squeeze.form import Form
from bitgolf.squeeze.gptq import squared_error
from bitgolf.squeeze.grid import Grid, as_matrix
from bitgolf.squeeze.quantize import (
    AbsMax,
    Curvature,
    Keep,
    Quantizer,
    QuantTensor,
    SdClip,
    Shipped,
    check_codes_of,
    code_pieces,
)

FACTOR_DAMPING = 0.01  # of the mean diagonal of the inputs' moments


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorrectedForm(Form):
    """Codes and scales of a matrix, and of two thin ones whose product is added."""

    grid: Grid = Grid()
    factors: Grid = Grid()
    rank: int = setting(1, at_least=1)

    def pieces(self, shape: tuple[int, ...]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        rows, columns = as_matrix(torch.empty(shape, device="meta")).shape
        thin = {"left": (self.rank, rows), "right": (self.rank, columns)}
        found = code_pieces(self.grid, shape)
        for side, size in thin.items():
            found |= {f"{side}_{name}": piece for name, piece in code_pieces(self.factors, size).items()}
        return found

    def tensor(self, pieces: Mapping[str, Tensor], shape: tuple[int, ...]) -> "CorrectedTensor":
        for name, grid in (("codes", self.grid), ("left_codes", self.factors), ("right_codes", self.factors)):
            check_codes_of(grid, pieces[name])
        return CorrectedTensor(form=self, shape=shape, **pieces)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorrectedTensor:
    """A quantized matrix and what is added to it: the transpose of left (rank, rows) times right (rank,
    columns)."""

    form: CorrectedForm
    shape: tuple[int, ...]
    codes: Tensor
    scales: Tensor
    left_codes: Tensor
    left_scales: Tensor
    right_codes: Tensor
    right_scales: Tensor

    @property
    def base(self) -> QuantTensor:
        """The matrix without its correction."""
        return QuantTensor(self.codes, self.scales, self.form.grid, tuple(self.codes.shape))

    @property
    def thin(self) -> tuple[QuantTensor, QuantTensor]:
        """left and right."""
        pairs = (self.left_codes, self.left_scales), (self.right_codes, self.right_scales)
        left, right = (QuantTensor(*pair, self.form.factors, tuple(pair[0].shape)) for pair in pairs)
        return left, right

    def dequantize(self) -> Tensor:
        """The weights that loading gives, float32."""
        left, right = self.thin
        return (self.base.dequantize() + left.dequantize().T @ right.dequantize()).reshape(self.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRank(Quantizer):
    """The error of another quantizer, corrected at a low rank (LQER).

    What: the largest singular parts of the error, as the inputs weigh it where they are known, are kept in
        two thin matrices that loading adds again; left out where they do not help.
    Source: PR #1797, #1855 (rank 4 in the three matrices of the largest error, factors of 2 and 4 bits)
    Cost: rank * (rows + columns) numbers of `factors`
    Not for: errors without large singular parts, which rounding to six bits leaves; every matrix: give it
        to a few, by the patterns of a rule
    Neutral: a correction that does not help is left out
    """

    quantizer: Quantizer = SdClip()
    rank: int = setting(4, at_least=1)
    factors: Grid = Grid(bits=4)

    def problems(self) -> Iterator[str]:
        if isinstance(self.quantizer, Keep) or hasattr(self.quantizer, "quantizer"):
            yield f"quantizer: expected one of codes and scales alone, found {type(self.quantizer).__name__}"

    def needs_hessian(self) -> bool:
        return self.quantizer.needs_hessian()

    def needs_output_grads(self) -> bool:
        return self.quantizer.needs_output_grads()

    def coarser(self, factor: float) -> "LowRank":
        return self.replace(quantizer=self.quantizer.coarser(factor))

    def quantize(self, weight: Tensor, curvature: Curvature | None = None) -> Shipped:
        base = self.quantizer.quantize(weight, curvature)
        if weight.ndim != 2 or not weight.numel():
            return base
        inputs = None if curvature is None else curvature.inputs.to(weight.device)
        thin = thin_factors(weight.float() - base.dequantize(), self.rank, inputs)
        left, right = (AbsMax(grid=self.factors).quantize(factor) for factor in thin)
        corrected = CorrectedTensor(
            form=CorrectedForm(grid=base.grid, factors=self.factors, rank=len(thin[0])),
            shape=tuple(weight.shape),
            codes=base.codes,
            scales=base.scales,
            left_codes=left.codes,
            left_scales=left.scales,
            right_codes=right.codes,
            right_scales=right.scales,
        )
        return min((base, corrected), key=lambda tensor: squared_error(weight, tensor, inputs))

    def notes(self, weight: Tensor, tensor: Shipped) -> dict[str, Any]:
        return {"corrected": isinstance(tensor, CorrectedTensor)}


def thin_factors(error: Tensor, rank: int, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    """left (rank, rows) and right (rank, columns), float32, whose product left^T right is nearest the error.

    Near is meant in the outputs where the inputs' second moments are given.
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
