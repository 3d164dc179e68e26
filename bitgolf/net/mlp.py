"""The MLP of a layer: two matrices with an activation between them."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from bitgolf.base.plan import Plan, setting
from bitgolf.net.kernels import FusedLeakySquared, PlainKernels
from bitgolf.net.parts import Context, Linear, Module, Start, start_constant


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activation(Plan):
    """The slot of activations of the MLP.

    looks_back: whether a position needs positions other than its own.
    """

    abstract: ClassVar[bool] = True
    looks_back: ClassVar[bool] = False

    def validate_for(self, width: int) -> list[str]:
        """Why it does not fit a model of this width, as sentences."""
        return []

    def tensors(self, width: int) -> dict[str, Start]:
        """Its tensors beside the two matrices, by their names in the MLP."""
        return {}

    def apply(self, x: Tensor, kernels: PlainKernels) -> Tensor:
        """The activations of the hidden units."""
        raise NotImplementedError

    def mlp(self, x: Tensor, mlp: "Mlp", kernels: PlainKernels) -> Tensor:
        """The output of an MLP for its input x (batch, time, width)."""
        return mlp.proj(self.apply(mlp.fc(x), kernels))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReluSquared(Activation):
    """Relu, squared.

    What: max(x, 0)^2
    Source: So et al. 2021; the public baseline; 0.024 bpb better than relu (record 2026-03-24).
    Cost: nothing.
    Not for: nothing known at these sizes.
    Neutral: this is the neutral one.
    """

    def apply(self, x: Tensor, kernels: PlainKernels) -> Tensor:
        return kernels.relu_squared(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeakyReluSquared(Activation):
    """A leaky relu, squared: negative inputs give positive outputs too.

    What: x^2 where x is positive, (slope x)^2 where it is not
    Source: PR #493, record 2026-03-23 (slope 0.5, about -0.003 bpb); PR #1427 uses 0.75.
    Cost: nothing.
    Not for: gains above the noise of a few seeds.
    Neutral: slope=0 is ReluSquared.
    """

    slope: float = setting(0.5, at_least=0.0, at_most=1.0)

    def apply(self, x: Tensor, kernels: PlainKernels) -> Tensor:
        return FusedLeakySquared.apply(x, self.slope)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedMlp(Activation):
    """A gate on the output of the MLP that reads a few channels; it starts open.

    What: y * 2 sigmoid(w . u[:channels]), one number per token, w starts at zero, u is the MLP's input; the
        activation is `inner`.
    Source: PR #1667 (GATE_MLP_OUT, GATE_WIDTH=12; off in its record).
    Cost: `channels` weights a layer; a pass over the MLP's output.
    Not for: gains above the noise of seeds: no one is published.
    Neutral: w=0, where it starts.
    """

    inner: Activation = LeakyReluSquared()
    channels: int = setting(12, at_least=1)

    def validate(self) -> Iterator[str]:
        if isinstance(self.inner, GatedMlp):
            yield "inner: one gate is enough, choose another activation"

    def validate_for(self, width: int) -> list[str]:
        return [f"channels: at most the width {width}, found {self.channels}"] * (self.channels > width)

    def tensors(self, width: int) -> dict[str, Start]:
        return {"mlp_gate_proj.weight": start_constant(0.0, 1, self.channels)}

    def apply(self, x: Tensor, kernels: PlainKernels) -> Tensor:
        return self.inner.apply(x, kernels)

    def mlp(self, x: Tensor, mlp: "Mlp", kernels: PlainKernels) -> Tensor:
        gate = F.linear(x[..., : self.channels], mlp.own("mlp_gate_proj.weight").to(x.dtype)).sigmoid()
        return super().mlp(x, mlp, kernels) * 2 * gate


class Mlp(Module):
    """Two matrices with an activation between them."""

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.fc = Linear(width, hidden)
        self.proj = Linear(hidden, width, zero=True)
        self.adopt(activation.tensors(width))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.activation.mlp(x, self, context.kernels)
