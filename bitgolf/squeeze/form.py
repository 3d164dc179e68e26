"""What a tensor can be in an artifact: a form with its settings, and named pieces of numbers to make it of.

Codes on a grid and kept floats are known to artifact.py; any other is a class that an artifact names.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bitgolf.base.plan import Plan

LARGEST_CODE = 32_639  # that two bytes hold, see split_wide


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form(Plan):
    """How one kind of tensor is stored, and what reads it back.

    A tensor of a form has it as `form`, its pieces as attributes of their names, its `shape`, and the method
    `dequantize`. The quantizer that makes it names the form, so a script without that quantizer has neither.
    """

    def pieces(self, shape: tuple[int, ...]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Name, number type and shape of everything that is stored for a tensor of this shape.

        int8 with two axes is coded as a matrix; pieces of one name share a stream across tensors.
        """
        raise NotImplementedError

    def tensor(self, pieces: Mapping[str, Tensor], shape: tuple[int, ...]) -> Any:
        """The tensor of these pieces. Raises ArtifactError for numbers that the form cannot have."""
        raise NotImplementedError


def split_wide(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Codes from -32,640 to 32,639 as two matrices of int8: what a multiple of 256 leaves, and the multiple.

    The first is the code itself wherever that is small, so little is lost when each is coded alone.
    """
    carries = (codes.int() + 128) >> 8
    return (codes.int() - 256 * carries).to(torch.int8), carries.to(torch.int8)


def join_wide(rest: Tensor, carries: Tensor) -> Tensor:
    """The codes of `split_wide`, int16."""
    return rest.short() + 256 * carries.short()
