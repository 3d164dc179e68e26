"""The small modules of the network, one idea each. Tensor names are those of the public scripts."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.core.backend import Backend
from bitgolf.core.kernels import CompiledKernels, FusedKernels, PlainKernels, attend


class Context(NamedTuple):
    """What every layer of one forward pass may look at besides the residual stream."""

    inputs: Tensor  # token ids (batch, time)
    start: Tensor  # the normalised embedding, mixed back into every layer
    cos: Tensor  # rotation tables (time, half a head), float32
    sin: Tensor
    kernels: PlainKernels
    attention: str


class Part(nn.Module):
    """A module that knows how its own tensors start."""

    def initial(self, name: str, shape: torch.Size, draw: torch.Generator) -> Tensor:
        """Initial values of the tensor called `name` here. The default is ones."""
        return torch.ones(shape)


class Linear(Part):
    """A matrix without bias: float32 at rest, cast to the type of its input when used."""

    def __init__(self, inputs: int, outputs: int, *, zero: bool = False) -> None:
        super().__init__()
        self.zero = zero
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def initial(self, name: str, shape: torch.Size, draw: torch.Generator) -> Tensor:
        if self.zero:
            return torch.zeros(shape)
        return uniform(shape, 1 / math.sqrt(shape[1]), draw)

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The weight as it is used."""
        return self.weight.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.matrix(x.dtype))


class Embedding(Part):
    """A row per token. Float32 at rest; the public script keeps it in bfloat16 on its GPUs."""

    def __init__(self, vocabulary_size: int, width: int, std: float) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(vocabulary_size, width))

    def initial(self, name: str, shape: torch.Size, draw: torch.Generator) -> Tensor:
        return self.std * torch.randn(shape, generator=draw)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.embedding(inputs, self.weight)


class Attention(Part):
    """Causal attention with grouped key-value heads, normalised queries and keys, and a gain per head."""

    def __init__(self, width: int, heads: int, kv_heads: int, qk_gain: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width, self.qk_gain = heads, kv_heads, width // heads, qk_gain
        self.c_q = Linear(width, width)
        self.c_k = Linear(width, kv_heads * self.head_width)
        self.c_v = Linear(width, kv_heads * self.head_width)
        self.proj = Linear(width, width, zero=True)
        self.q_gain = nn.Parameter(torch.empty(heads))

    def initial(self, name: str, shape: torch.Size, draw: torch.Generator) -> Tensor:
        return torch.full(shape, self.qk_gain)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        batch, time, _ = x.shape
        # Three names, one product: the matrices meet only where they are cast.
        matrices = [part.matrix(x.dtype) for part in (self.c_q, self.c_k, self.c_v)]
        mixed = F.linear(x, torch.cat(matrices)).view(batch, time, -1, self.head_width)
        gain = torch.cat((self.q_gain / math.sqrt(self.head_width), self.q_gain.new_ones(self.kv_heads)))
        tables = context.cos.to(x.dtype), context.sin.to(x.dtype)
        heads = context.kernels.heads(mixed, gain.to(x.dtype), *tables)
        return self.proj(attend(heads, self.heads, context.attention))


class SquaredReluMlp(Part):
    """Two matrices with relu squared between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc = Linear(width, hidden)
        self.proj = Linear(hidden, width, zero=True)

    def forward(self, x: Tensor, kernels: PlainKernels) -> Tensor:
        return self.proj(kernels.relu_squared(self.fc(x)))


def uniform(shape: torch.Size, bound: float, draw: torch.Generator) -> Tensor:
    """Values drawn evenly from -bound to bound."""
    return (2 * torch.rand(shape, generator=draw) - 1) * bound


def rotation_tables(
    time: int, width: int, base: float, rounding: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position times frequency, (time, width / 2), in float32.

    rounding: the type that the frequencies are rounded to first. The public script turns the whole model to
    bfloat16 once, which rounds them for good; exact scores of its checkpoints need the same.
    """
    frequencies = 1 / base ** (torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
    times = torch.arange(time, dtype=torch.float32, device=device)
    angles = torch.outer(times, frequencies.to(rounding).float())
    return angles.cos(), angles.sin()


def choose_kernels(backend: Backend) -> PlainKernels:
    """The fast operations, or the plain ones they are checked against."""
    if not backend.fused:
        return PlainKernels()
    return CompiledKernels() if backend.compile else FusedKernels()
