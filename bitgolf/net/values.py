"""Changes of the values before attention sums them."""

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.base.plan import setting
from bitgolf.net.parts import (
    Context,
    Dimensions,
    Module,
    Part,
    Start,
    start_constant,
    start_normal,
    start_uniform,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValuePart(Part):
    """The slot of changes of the values before attention; several in a tuple act one after another."""

    abstract: ClassVar[bool] = True

    def at(self, layer: int, dimensions: Dimensions) -> bool:
        """Whether it acts in this layer."""
        return True

    def values(self, v: Tensor, layer: int, attention: Module, context: Context) -> Tensor:
        """The changed values (batch, time, key heads, dimension)."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueEmbedding(ValuePart):
    """A second embedding of each token, added to the values of chosen layers.

    What: v + lambda_layer * scale * (proj @ table[id]), with one table and one projection for all its
        layers. Without `shared_scale` there is only the layer's scale, and every layer of the model has one,
        used or not.
    Source: PR #374 (VE128 in layers 9 and 10); PR #543 (std=1, no shared scale, a projection that does not
        start at zero; table and projection were in no optimizer: see Frozen).
    Cost: vocabulary * dimension + key-value width * dimension weights; a lookup and a small product a pass.
    Not for: large vocabularies: at 8192 the table is a million weights (dropped in record 2026-04-05).
    Neutral: no layers; projection zero, where it starts without OrthogonalStart.
    """

    dimension: int = setting(128, at_least=1, at_most=2**16)
    layers: tuple[int, ...] = (9, 10)
    std: float = setting(0.01, above=0)
    scale: float = 0.1
    shared_scale: bool = True
    zero_projection: bool = True

    def validate_for(self, dimensions: Dimensions) -> list[str]:
        wrong = [layer for layer in self.layers if not 0 <= layer < dimensions.layers]
        return [f"layers: {layer} is none of layers 0 to {dimensions.layers - 1}" for layer in wrong]

    def at(self, layer: int, dimensions: Dimensions) -> bool:
        return layer in self.layers

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        if not self.layers:
            return {}
        embedding = start_normal(self.std, dimensions.vocabulary_size, self.dimension)
        starts = {"ve_shared.embed.weight": embedding}
        if self.dimension != dimensions.kv_width:
            sizes = dimensions.kv_width, self.dimension
            zero = start_constant(0.0, *sizes, linear=True)
            starts["ve_shared.proj.weight"] = zero if self.zero_projection else start_uniform(*sizes)
        if not self.shared_scale:
            return starts | {f"ve_scales.{i}": start_constant(self.scale) for i in range(dimensions.layers)}
        starts["ve_shared.scale"] = start_constant(self.scale)
        return starts | {f"ve_layer_scales.{i}": start_constant(1.0, 1) for i in range(len(self.layers))}

    def lookups(self, inputs: Tensor, bos_id: int) -> dict[str, Tensor]:
        return {"ve_shared.embed.weight": inputs} if self.layers else {}

    def values(self, v: Tensor, layer: int, attention: Module, context: Context) -> Tensor:
        own = context.root.own
        if "value embedding" not in context.memory:
            rows = F.embedding(context.inputs, own("ve_shared.embed.weight")).to(v.dtype)
            if self.dimension != v.shape[2] * v.shape[3]:
                rows = F.linear(rows, own("ve_shared.proj.weight").to(v.dtype))
            context.memory["value embedding"] = (
                own("ve_shared.scale").to(v.dtype) * rows if self.shared_scale else rows
            )
        name = f"ve_layer_scales.{self.layers.index(layer)}" if self.shared_scale else f"ve_scales.{layer}"
        return v + own(name).to(v.dtype) * context.memory["value embedding"].view_as(v)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueResidual(ValuePart):
    """The values of the first layer, mixed into those of all other layers.

    What: lambda_0 * v_first + lambda_1 * v, both starting at a half, learned for each layer.
    Source: Zhou et al. 2024; VALUE_RESIDUAL in record 2026-03-23, removed in record 2026-04-01.
    Cost: two weights a layer; a pass over the values.
    Not for: isolated gains: nobody has shown one.
    Neutral: start=0 for the first layer's share.
    """

    start: float = setting(0.5, at_least=0.0, at_most=1.0)

    def layer_tensors(self, dimensions: Dimensions, layer: int) -> dict[str, Start]:
        pair = [self.start, 1.0 - self.start]
        return {"vr_lambda": Start((2,), lambda shape, _: torch.tensor(pair))} if layer else {}

    def values(self, v: Tensor, layer: int, attention: Module, context: Context) -> Tensor:
        if layer == 0:
            context.memory.setdefault("first values", v)
            return v
        weight = attention.own("vr_lambda").to(v.dtype)
        return weight[0] * context.memory["first values"] + weight[1] * v
