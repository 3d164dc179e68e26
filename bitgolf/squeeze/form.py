"""A tensor in an artifact: a form with its settings, and named pieces of numbers."""

import dataclasses
from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

from bitgolf.base.plan import Plan, setting

LARGEST_CODE = 32_639  # largest code in two bytes, see split_wide
FLOAT_TYPES = {n: getattr(torch, n) for n in ("float16", "bfloat16", "float32", "float8_e4m3fn")}
Pieces = Mapping[str, Tensor]  # what is stored for one tensor, by name
PieceTypes = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # number type and shape of each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form(Plan):
    """How one kind of tensor is stored and loaded.

    A quantizer names its form, so a script without the quantizer needs neither.
    """

    def pieces(self, shape: tuple[int, ...]) -> PieceTypes:
        """Name, number type and shape of each stored piece of a tensor of this shape.

        int8 with two axes is coded as a matrix. Pieces of equal name share a stream across tensors.
        """
        raise NotImplementedError

    def weights(self, pieces: Pieces) -> Tensor:
        """The loaded weights, float32, with as many elements as the tensor."""
        raise NotImplementedError

    def in_short(self) -> str:
        """A short name that replaces its settings in an artifact; empty if there is none."""
        return ""

    def check_pieces(self, pieces: Pieces) -> None:
        """Raises ArtifactError for numbers that the form cannot have."""

    def whole_codes(self, pieces: Pieces) -> Tensor:
        """The codes (rows, columns) as whole numbers; not for floats."""
        return pieces["codes"]

    def nominal_bits(self, pieces: Pieces) -> float:
        """Bits per number before entropy coding; without a grid, the entropy of the codes."""
        raise NotImplementedError

    def scale_groups(self, matrix: Tensor) -> Tensor:
        """A matrix with one row per scale; unchanged if steps differ within rows."""
        return matrix

    def levels(self) -> Hashable:
        """A key for the possible values in steps; equal for forms with the same values."""
        return self


@dataclasses.dataclass(frozen=True)
class QuantizedTensor:
    """A tensor as it is shipped. Its pieces have the names, number types and shapes of its form."""

    form: Form
    pieces: Pieces
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether it stays a float, without codes."""
        return "codes" not in self.pieces

    def dequantize(self) -> Tensor:
        """The weights after loading, float32."""
        return self.form.weights(self.pieces).reshape(self.shape)

    def with_pieces(self, **pieces: Tensor) -> "QuantizedTensor":
        """The same tensor with other numbers in these pieces."""
        return dataclasses.replace(self, pieces={**self.pieces, **pieces})


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloatForm(Form):
    """A tensor that stays a float. In artifacts the number type replaces its settings."""

    dtype: str = setting("float16", one_of=tuple(FLOAT_TYPES))

    def pieces(self, shape: tuple[int, ...]) -> PieceTypes:
        return {"values": (FLOAT_TYPES[self.dtype], shape)}

    def weights(self, pieces: Pieces) -> Tensor:
        return pieces["values"].float()

    def in_short(self) -> str:
        return self.dtype

    def nominal_bits(self, pieces: Pieces) -> float:
        return 8 * pieces["values"].element_size()


def split_wide(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Codes from -32,640 to 32,639 as two int8 matrices: remainder and quotient by 256.

    The remainder is the code itself if that is small, so coding both separately loses little.
    """
    carries = (codes.int() + 128) >> 8
    return (codes.int() - 256 * carries).to(torch.int8), carries.to(torch.int8)


def join_wide(rest: Tensor, carries: Tensor) -> Tensor:
    """The codes of `split_wide`, int16."""
    return rest.short() + 256 * carries.short()
