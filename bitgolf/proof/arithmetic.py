"""The arithmetic of a step. A file is decoded in the arithmetic in which it was coded."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import numba
import torch

from bitgolf.net.model import Model
from bitgolf.net.native import NativeKernels
from bitgolf.net.parts import Linear
from bitgolf.net.products import product
from bitgolf.proof.portable import Portable

Arithmetic = Literal["plain", "portable", "native"]
PLAIN: Arithmetic = "plain"  # torch's operations
PORTABLE: Arithmetic = "portable"  # the same bits on every processor, slower
NATIVE: Arithmetic = "native"  # machine code as in scoring: the fastest


def arithmetic_here(arithmetic: Arithmetic) -> str:
    """Everything that the bits of this arithmetic depend on, as words."""
    if arithmetic == PORTABLE:
        return arithmetic
    return f"{arithmetic} {torch.backends.cpu.get_cpu_capability()} {torch.__version__} {numba.__version__}"


class Native:
    """A context in which a model computes by native operations."""

    def __init__(self, model: Model) -> None:
        self.model, self.kernels = model, NativeKernels()
        self.matrices = [each for each in model.modules() if isinstance(each, Linear)]

    def __enter__(self) -> None:
        self.before = self.model.kernels, [each.multiply for each in self.matrices]
        vars(self.model)["kernels"] = self.kernels
        for each in self.matrices:
            vars(each)["multiply"] = product

    def __exit__(self, *error: object) -> None:
        vars(self.model)["kernels"], products = self.before
        for each, before in zip(self.matrices, products):
            vars(each)["multiply"] = before


def within(arithmetic: Arithmetic, model: Model) -> AbstractContextManager[object]:
    """A context in which this model uses this arithmetic."""
    if arithmetic == PLAIN:
        return nullcontext()
    return Portable() if arithmetic == PORTABLE else Native(model)
