"""Changes of the outputs of attention heads before the output projection."""

import dataclasses
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from bitgolf.base.plan import setting
from bitgolf.net.parts import Dimensions, Module, Part, Start, start_constant, start_normal

SMALLEST_LENGTH = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadsPart(Part):
    """The slot of changes of the heads' outputs; several in a tuple act one after another."""

    abstract: ClassVar[bool] = True

    def at(self, layer: int, dimensions: Dimensions) -> bool:
        """Whether it acts in this layer."""
        return True

    def heads_out(self, y: Tensor, values: Tensor, x: Tensor, queries: Tensor, attention: Module) -> Tensor:
        """The changed outputs y (batch, time, heads, dimension).

        values: (batch, time, key heads, dimension) as attended to. x: (batch, time, width), what attention
        read. queries: (batch, time, width) before norm and rotation. attention: the layer's own module.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Xsa(HeadsPart):
    """Exclusive self-attention: the output minus its component along the token's own value.

    What: y - (y . v) v, where v is the token's own value scaled to length 1, shared by the head's group; in
        the `last` layers.
    Source: PR #265, #287 (last 3 and 4 layers), PR #478 (all); PR #543 has the last 4.
    Cost: no bytes; a pass over outputs and values in its layers.
    Not for: the first token of a sequence: it sees only itself, so its output becomes zero.
    Neutral: last=0
    """

    last: int = setting(4, at_least=0)

    def at(self, layer: int, dimensions: Dimensions) -> bool:
        return layer >= dimensions.layers - self.last

    def heads_out(self, y: Tensor, values: Tensor, x: Tensor, queries: Tensor, attention: Module) -> Tensor:
        return without_own_value(y, values)


def without_own_value(y: Tensor, values: Tensor) -> Tensor:
    """y (batch, time, heads, dim) minus its component along values (batch, time, key heads, dim)."""
    direction = F.normalize(values, dim=-1, eps=SMALLEST_LENGTH)[:, :, :, None]
    grouped = y.unflatten(2, (values.shape[2], -1))
    return (grouped - (grouped * direction).sum(-1, keepdim=True) * direction).flatten(2, 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionOutputGate(HeadsPart):
    """A gate per head that reads a few channels; it starts open.

    What: y * 2 sigmoid(W . u[:channels]), W (heads, channels) starts at zero; u is the input of the
        attention, or its queries before their norm.
    Source: PR #1667 (GATE_ATTN_OUT, GATE_WIDTH=12, GATE_ATTN_SRC=proj|q).
    Cost: heads * channels weights a layer, about 1.5% of the seconds of a step.
    Not for: single layers, where its gain is within the noise of seeds.
    Neutral: W=0, where it starts.
    """

    channels: int = setting(12, at_least=1)
    source: str = setting("input", one_of=("input", "queries"))

    def validate_for(self, dimensions: Dimensions) -> list[str]:
        width = dimensions.width
        return [f"channels: at most the width {width}, found {self.channels}"] * (self.channels > width)

    def layer_tensors(self, dimensions: Dimensions, layer: int) -> dict[str, Start]:
        return {"attn_gate_proj.weight": start_constant(0.0, dimensions.heads, self.channels)}

    def heads_out(self, y: Tensor, values: Tensor, x: Tensor, queries: Tensor, attention: Module) -> Tensor:
        seen = (x if self.source == "input" else queries)[..., : self.channels]
        return y * 2 * F.linear(seen, attention.own("attn_gate_proj.weight").to(x.dtype)).sigmoid()[..., None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedAttention(HeadsPart):
    """A gate per head that reads all channels; it starts half open.

    What: y * sigmoid(W . u), W (heads, width) starts near zero, u is the input of the attention.
    Source: PR #1736 (GATED_ATTN_ENABLED, GATED_ATTN_INIT_STD 0.01 and 0.005).
    Cost: heads * width weights a layer (4,096 at full size), kept at 8 bits in the records.
    Not for: small models: SparseGate reaches the same with 96 weights a layer.
    Neutral: none in its weights (they halve the branch at first); leave it out.
    """

    std: float = setting(0.01, at_least=0.0)

    def layer_tensors(self, dimensions: Dimensions, layer: int) -> dict[str, Start]:
        return {"attn_gate_w": start_normal(self.std, dimensions.heads, dimensions.width)}

    def heads_out(self, y: Tensor, values: Tensor, x: Tensor, queries: Tensor, attention: Module) -> Tensor:
        return y * F.linear(x, attention.own("attn_gate_w").to(x.dtype)).sigmoid()[..., None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BiasedGate(HeadsPart):
    """A gate per head that reads all channels and has a bias; it starts nearly open.

    What: y * sigmoid(W . u + b), W (heads, width) starts at zero, b at `start`, u is the attention's input.
    Source: record 2026-03-23 (GATED_ATTENTION, b 4; off in its run). GatedAttention is the later form.
    Cost: heads * (width + 1) weights a layer (4,104 at full size).
    Not for: known gains: no record switched it on.
    Neutral: start=200, where the gate is 1 and stays.
    """

    start: float = 4.0

    def layer_tensors(self, dimensions: Dimensions, layer: int) -> dict[str, Start]:
        return {
            "attn_gate.weight": start_constant(0.0, dimensions.heads, dimensions.width),
            "attn_gate.bias": start_constant(self.start, dimensions.heads),
        }

    def heads_out(self, y: Tensor, values: Tensor, x: Tensor, queries: Tensor, attention: Module) -> Tensor:
        weight, bias = (attention.own(f"attn_gate.{name}").to(x.dtype) for name in ("weight", "bias"))
        return y * F.linear(x, weight, bias).sigmoid()[..., None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseGate(HeadsPart):
    """A gate per head that reads a few channels; it starts half open.

    What: y * sigmoid(scale * W . u[:channels]), W (heads, channels) starts at zero.
    Source: PR #1787 (scale 1), PR #1855 (scale 0.5).
    Cost: heads * channels weights a layer.
    Not for: use beside another gate: their effects are the same.
    Neutral: none in its weights (they halve the branch at first); leave it out.
    """

    channels: int = setting(12, at_least=1)
    scale: float = setting(1.0, above=0)
    std: float = setting(0.0, at_least=0.0)

    def validate_for(self, dimensions: Dimensions) -> list[str]:
        width = dimensions.width
        return [f"channels: at most the width {width}, found {self.channels}"] * (self.channels > width)

    def layer_tensors(self, dimensions: Dimensions, layer: int) -> dict[str, Start]:
        return {"attn_gate_w": start_normal(self.std, dimensions.heads, self.channels)}

    def heads_out(self, y: Tensor, values: Tensor, x: Tensor, queries: Tensor, attention: Module) -> Tensor:
        logits = self.scale * F.linear(x[..., : self.channels], attention.own("attn_gate_w").to(x.dtype))
        return y * logits.sigmoid()[..., None]
