"""How matrices are initialised."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from bitgolf.base.plan import Plan, setting
from bitgolf.net.parts import Start


@dataclasses.dataclass(frozen=True, kw_only=True)
class Initialisation(Plan):
    """The slot of the initial values of all matrices that do not start at zero on purpose."""

    abstract: ClassVar[bool] = True

    def start(self, name: str, start: Start, layers: int) -> Start:
        """The initial values of the tensor `name`; start: those that its part asks for."""
        return start


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformStart(Initialisation):
    """Matrices as torch initialises them.

    What: uniform values within 1 / sqrt(inputs); output projections are zero.
    Source: the public baseline.
    Cost: nothing.
    Not for: nothing known; the other start learns a little faster at first.
    Neutral: this is the neutral one.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrthogonalStart(Initialisation):
    """Orthogonal matrices, added projections scaled down with depth.

    What: matrices of at least `smallest` rows and columns start with all singular values 1; of these,
        projections that are not zero (those of BigramHash and ValueEmbedding) are then divided by sqrt(2
        layers).
    Source: record 2026-03-19_smeargate, PR #162, #198: "OrthoInit + muP"; inert for attention and MLP
        outputs.
    Cost: a QR decomposition of each matrix, once.
    Not for: widths under 64, which it leaves alone.
    Neutral: `smallest` above the width.
    """

    smallest: int = setting(64, at_least=1)

    def start(self, name: str, start: Start, layers: int) -> Start:
        if not start.linear or min(start.shape) < self.smallest:
            return start
        gain = (2 * layers) ** -0.5 if name.endswith("proj.weight") else 1.0
        return start_orthogonal(*start.shape, gain=gain)


def start_orthogonal(outputs: int, inputs: int, *, gain: float = 1.0) -> Start:
    """A matrix whose singular values are all `gain`."""
    return Start((outputs, inputs), lambda shape, generator: gain * orthogonal_matrix(shape, generator), True)


def orthogonal_matrix(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A random matrix with orthonormal rows or columns, whichever are fewer; made on the CPU."""
    tall = torch.randn(max(shape), min(shape), generator=generator)
    Q, R = torch.linalg.qr(tall)
    Q = Q * R.diagonal().sign()  # makes the decomposition unique
    return Q if shape[0] >= shape[1] else Q.T
