"""What a tensor is in an artifact: a form with its settings, and named pieces of numbers."""

import dataclasses
from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

from bitgolf.base.plan import Plan, setting

LARGEST_CODE = 32_639  # that two bytes hold, see split_wide
FLOAT_TYPES = {n: getattr(torch, n) for n in ("float16", "bfloat16", "float32", "float8_e4m3fn")}
Pieces = Mapping[str, Tensor]  # what is stored for one tensor, by name
PieceTypes = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # number type and shape of each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form(Plan):
    """How one kind of tensor is stored, and what reads it back.

    The quantizer that makes a tensor names its form, so a script without that quantizer has neither.
    """

    def pieces(self, shape: tuple[int, ...]) -> PieceTypes:
        """Name, number type and shape of everything that is stored for a tensor of this shape.

        int8 with two axes is coded as a matrix; pieces of one name share a stream across tensors.
        """
        raise NotImplementedError

    def weights(self, pieces: Pieces) -> Tensor:
        """The weights that loading gives, float32, of as many elements as the tensor has."""
        raise NotImplementedError

    def in_short(self) -> str:
        """What an artifact has in place of its settings, if it has something shorter."""
        return ""

    def check_pieces(self, pieces: Pieces) -> None:
        """Raise ArtifactError for numbers that the form cannot have."""

    def whole_codes(self, pieces: Pieces) -> Tensor:
        """The whole numbers (rows, columns) that weights are on; not asked of floats."""
        return pieces["codes"]

    def nominal_bits(self, pieces: Pieces) -> float:
        """Bits of a number before any entropy coding; without a grid, the entropy of the codes."""
        raise NotImplementedError

    def scale_groups(self, matrix: Tensor) -> Tensor:
        """A matrix with one row for each scale; rows as they are where steps differ within them."""
        return matrix

    def levels(self) -> Hashable:
        """What decides, beside the steps, which values there can be: equal for forms that have the same."""
        return self


@dataclasses.dataclass(frozen=True)
class QuantizedTensor:
    """A tensor as it is shipped. Its pieces have the names, number types and shapes that its form says."""

    form: Form
    pieces: Pieces
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether it stays a float, without codes."""
        return "codes" not in self.pieces

    def dequantize(self) -> Tensor:
        """The weights that loading gives, float32."""
        return self.form.weights(self.pieces).reshape(self.shape)

    def with_pieces(self, **pieces: Tensor) -> "QuantizedTensor":
        """The same tensor with other numbers in these pieces."""
        return dataclasses.replace(self, pieces={**self.pieces, **pieces})


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloatForm(Form):
    """A tensor that stays a float. Artifacts have the number type in place of its settings."""

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
    """Codes from -32,640 to 32,639 as two matrices of int8: what a multiple of 256 leaves, and the multiple.

    The first is the code itself wherever that is small, so little is lost when each is coded alone.
    """
    carries = (codes.int() + 128) >> 8
    return (codes.int() - 256 * carries).to(torch.int8), carries.to(torch.int8)


def join_wide(rest: Tensor, carries: Tensor) -> Tensor:
    """The codes of `split_wide`, int16."""
    return rest.short() + 256 * carries.short()
