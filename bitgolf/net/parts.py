"""Building blocks of the network: tensors with their initial values, and the base of every part.

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

# Heads (heads, batch, time, dimension), number of query heads, mask -> (batch, time, width).
Attend = Callable[[Tensor, int, AttentionMask], Tensor]


class Dimensions(NamedTuple):
    """The sizes that parts are made for. bos_id: the token that starts a document, -1 if there is none."""

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
    """Shape and initial values of a tensor. linear: a matrix whose values `Initialisation` may replace."""

    shape: tuple[int, ...]
    initialise: Callable[[tuple[int, ...], torch.Generator], Tensor]
    linear: bool = False


def start_constant(value: float, *shape: int, linear: bool = False) -> Start:
    """A tensor filled with one value."""
    return Start(shape, lambda shape, _: torch.full(shape, value), linear)


def start_normal(std: float, *shape: int) -> Start:
    """A tensor of normal values with mean 0."""
    return Start(shape, lambda shape, generator: std * torch.randn(shape, generator=generator))


def start_uniform(outputs: int, inputs: int) -> Start:
    """A matrix of uniform values within 1 / sqrt(inputs), as in torch's Linear."""
    bound = 1 / math.sqrt(inputs)

    def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return (2 * torch.rand(shape, generator=generator) - 1) * bound

    return Start((outputs, inputs), uniform, True)


class Module(nn.Module):
    """A module that makes its parameters from `Start`s."""

    def __init__(self, starts: Mapping[str, Start] | None = None) -> None:
        super().__init__()
        self.starts: dict[str, Start] = {}
        self.adopt(starts or {})

    def adopt(self, starts: Mapping[str, Start]) -> None:
        """Make parameters; a name with dots makes the modules on its path."""
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
        """The tensor of a part by its name here; see `Part.tensors` and `layer_tensors`."""
        return operator.attrgetter(name)(self)


class Linear(Module):
    """A matrix without bias: stored in float32, cast to the type of its input when used."""

    weight: Tensor
    multiply: Callable[[Tensor, Tensor], Tensor] = staticmethod(F.linear)  # x and the matrix

    def __init__(self, inputs: int, outputs: int, *, zero: bool = False) -> None:
        start = start_constant(0.0, outputs, inputs) if zero else start_uniform(outputs, inputs)
        super().__init__({"weight": start})

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The weight in the type in which it is used."""
        return self.weight.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x, self.matrix(x.dtype))


class Embedding(Module):
    """A row per token, stored in float32; the public script stores it in bfloat16 on its GPUs."""

    weight: Tensor

    def __init__(self, vocabulary_size: int, width: int, std: float) -> None:
        super().__init__({"weight": start_normal(std, vocabulary_size, width)})

    def forward(self, inputs: Tensor) -> Tensor:
        return F.embedding(inputs, self.weight)


class Context(NamedTuple):
    """What every layer of one forward pass may read besides the residual stream."""

    inputs: Tensor  # token ids (batch, time)
    start: Tensor  # input of the first layer, mixed back into every layer
    cos: Tensor  # rotation tables (time, half of the rotated dimensions), float32
    sin: Tensor
    kernels: PlainKernels
    attend: Attend
    mask: AttentionMask
    root: Module  # the model, which holds the tensors that layers share
    memory: dict[str, Any]  # what a layer stores for later ones
    calls: Sequence[tuple[int, int, int]] = ()  # the route, see LayerCall
    read: Tensor | None = None  # if the stream has only its last positions: attention's input at all of them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part(Plan):
    """Base of the slots of the network: settings, the tensors they need, and the computation.

    looks_back: whether a residual or a part for heads needs positions other than its own.
    """

    abstract: ClassVar[bool] = True
    looks_back: ClassVar[bool] = False

    def validate_for(self, dimensions: Dimensions) -> list[str]:
        """Why this part does not fit a model of these sizes, as sentences."""
        return []

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        """Tensors that the part has once in the model, by their names in the model."""
        return {}

    def lookups(self, inputs: Tensor, bos_id: int) -> dict[str, Tensor]:
        """The rows looked up for token ids (batch, time), by the name of their table."""
        return {}

    def layer_tensors(self, dimensions: Dimensions, layer: int) -> dict[str, Start]:
        """Tensors in one layer, by their names in its attention (those of a residual: in the layer)."""
        return {}
