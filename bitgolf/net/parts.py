"""What the parts of the network are made of: tensors that know how they start, and the slot of every part.

Tensor names are those of the public scripts.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.base.plan import Plan
from bitgolf.net.kernels import AttentionMask, PlainKernels

# Heads (heads, batch, time, dimension), how many of them are queries, what these see: (batch, time, width).
Attend = Callable[[Tensor, int, AttentionMask], Tensor]


class Dimensions(NamedTuple):
    """The sizes that parts are made for. bos_id: the token that opens a document, -1 if none does."""

    vocabulary_size: int
    layers: int
    width: int
    embedding_width: int
    heads: int
    kv_heads: int
    bos_id: int

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_width


class Start(NamedTuple):
    """Shape and initial values of a tensor. linear: a matrix that another initialisation may replace."""

    shape: tuple[int, ...]
    initialise: Callable[[tuple[int, ...], torch.Generator], Tensor]
    linear: bool = False


def start_constant(value: float, *shape: int, linear: bool = False) -> Start:
    """The same value everywhere."""
    return Start(shape, lambda shape, _: torch.full(shape, value), linear)


def start_normal(std: float, *shape: int) -> Start:
    """Normal with mean 0."""
    return Start(shape, lambda shape, generator: std * torch.randn(shape, generator=generator))


def start_uniform(outputs: int, inputs: int) -> Start:
    """A matrix with values drawn evenly up to 1 / sqrt(inputs), as torch starts its own."""
    bound = 1 / math.sqrt(inputs)

    def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return (2 * torch.rand(shape, generator=generator) - 1) * bound

    return Start((outputs, inputs), uniform, True)


class Module(nn.Module):
    """A module whose tensors know how they start."""

    def __init__(self, starts: Mapping[str, Start] | None = None) -> None:
        super().__init__()
        self.starts: dict[str, Start] = {}
        self.adopt(starts or {})

    def adopt(self, starts: Mapping[str, Start]) -> None:
        """Make parameters; a name with dots makes modules on its way."""
        for name, start in starts.items():
            first, dot, rest = name.partition(".")
            if not dot:
                self.starts[name] = start
                self.register_parameter(name, nn.Parameter(torch.empty(start.shape)))
                continue
            if first not in self._modules:
                self.add_module(first, Module())
            getattr(self, first).adopt({rest: start})

    def own(self, name: str) -> Tensor:
        """The tensor that a part has here under this name; see `Part.tensors` and `layer_tensors`."""
        return operator.attrgetter(name)(self)


class Linear(Module):
    """A matrix without bias: float32 at rest, cast to the type of its input when used."""

    weight: Tensor
    multiply: Callable[[Tensor, Tensor], Tensor] = staticmethod(F.linear)  # x and the matrix

    def __init__(self, inputs: int, outputs: int, *, zero: bool = False) -> None:
        start = start_constant(0.0, outputs, inputs) if zero else start_uniform(outputs, inputs)
        super().__init__({"weight": start})

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The weight as it is used."""
        return self.weight.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x, self.matrix(x.dtype))


class Embedding(Module):
    """A row per token. Float32 at rest; the public script keeps it in bfloat16 on its GPUs."""

    weight: Tensor

    def __init__(self, vocabulary_size: int, width: int, std: float) -> None:
        super().__init__({"weight": start_normal(std, vocabulary_size, width)})

    def forward(self, inputs: Tensor) -> Tensor:
        return F.embedding(inputs, self.weight)


class Context(NamedTuple):
    """What every layer of one forward pass may look at besides the residual stream."""

    inputs: Tensor  # token ids (batch, time)
    start: Tensor  # what enters the first layer, mixed back into every one
    cos: Tensor  # rotation tables (time, half of what turns), float32
    sin: Tensor
    kernels: PlainKernels
    attend: Attend
    mask: AttentionMask
    root: Module  # the model, which holds the tensors that layers share
    memory: dict[str, Any]  # what one layer leaves for later ones
    calls: Sequence[tuple[int, int, int]] = ()  # the route, see LayerCall
    read: Tensor | None = None  # where the stream is its end alone: what attention reads, at all positions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part(Plan):
    """Base of the slots of the network: settings, the tensors they need, and what is done with them.

    looks_back: whether a residual, or what is done with heads, needs other positions than its own.
    """

    abstract: ClassVar[bool] = True
    looks_back: ClassVar[bool] = False

    def validate_for(self, dimensions: Dimensions) -> list[str]:
        """What keeps this part from a model of these sizes, as sentences."""
        return []

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        """The tensors of the whole model that this part needs, by their names in the model."""
        return {}

    def lookups(self, inputs: Tensor, bos_id: int) -> dict[str, Tensor]:
        """The rows that it looks up for token ids (batch, time), by the name of their table."""
        return {}

    def layer_tensors(self, dimensions: Dimensions, layer: int) -> dict[str, Start]:
        """Those that it needs in one layer, by their names in its attention; a residual's in the layer."""
        return {}
