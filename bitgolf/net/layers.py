"""One layer of the network: attention, MLP, and how both join the residual stream."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.base.plan import Plan, setting
from bitgolf.net.heads import HeadsPart
from bitgolf.net.kernels import attend_last
from bitgolf.net.mlp import Mlp
from bitgolf.net.parts import Context, Dimensions, Linear, Module, Part, Start, start_constant
from bitgolf.net.values import ValuePart

Stream = Tensor | tuple[Tensor, Tensor]  # the residual stream (batch, time, width); some members have two


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputScale(Plan):
    """The slot of factors of the normalised inputs of attention and MLP."""

    abstract: ClassVar[bool] = True

    def factor(self, layer: int) -> float:
        """The factor in this layer, counted from 0."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unscaled(InputScale):
    """Normalised inputs without a factor.

    What: the factor is 1 in every layer.
    Source: the public baseline.
    Cost: nothing.
    Not for: nothing known.
    Neutral: this is the neutral one.
    """

    def factor(self, layer: int) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LnScale(InputScale):
    """Smaller inputs in deeper layers (LN scale).

    What: the normalised input of attention and MLP is multiplied by 1 / sqrt(layer + 1). Queries and keys
        are normalised again, so it acts on values (by that factor) and on the squared MLP (by 1 / (layer +
        1)).
    Source: PR #315, record 2026-03-21 (with partial RoPE 1.1271 to 1.1248, not isolated); PR #543, #682.
    Cost: nothing.
    Not for: single layers.
    Neutral: the first layer, whose factor is 1.
    """

    def factor(self, layer: int) -> float:
        return 1 / math.sqrt(layer + 1)


class Attention(Module):
    """Causal attention with grouped key-value heads, normalised queries and keys, and a gain per head."""

    q_gain: Tensor

    def __init__(
        self,
        dimensions: Dimensions,
        layer: int,
        qk_gain: float,
        values: tuple[ValuePart, ...],
        heads_out: tuple[HeadsPart, ...],
    ) -> None:
        super().__init__()
        width, kv_width = dimensions.width, dimensions.kv_width
        self.heads, self.kv_heads = dimensions.heads, dimensions.kv_heads
        self.head_width, self.layer = dimensions.head_width, layer
        self.values = tuple(part for part in values if part.at(layer, dimensions))
        self.heads_out = tuple(part for part in heads_out if part.at(layer, dimensions))
        self.c_q = Linear(width, width)
        self.c_k = Linear(width, kv_width)
        self.c_v = Linear(width, kv_width)
        self.proj = Linear(width, width, zero=True)
        self.adopt({"q_gain": start_constant(qk_gain, dimensions.heads)})
        for part in (*self.values, *self.heads_out):
            self.adopt(part.layer_tensors(dimensions, layer))

    def heads_of(self, x: Tensor, *parts: Linear) -> Tensor:
        """Heads (batch, time, heads, dimension) of x by some matrices, concatenated after their cast."""
        whole = torch.cat([part.matrix(x.dtype) for part in parts])
        return parts[0].multiply(x, whole).unflatten(-1, (-1, self.head_width))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        qkv = self.with_values(self.heads_of(x, self.c_q, self.c_k, self.c_v), context)
        turned = context.kernels.qk_norm_rope(qkv, *self.turns(x.dtype, context))
        y = context.attend(turned, self.heads, context.mask)
        return self.projected(y, qkv, x, qkv[:, :, : self.heads])

    def of_last(self, x: Tensor, context: Context, last: int) -> Tensor:
        """The output of the `last` positions, fewer than all; x (batch, time, width) has all positions."""
        asking, qkv = x[:, -last:], self.with_values(self.heads_of(x, self.c_k, self.c_v), context)
        gain, cos, sin = self.turns(x.dtype, context)
        turned, queries = context.kernels.qk_norm_rope, self.heads_of(asking, self.c_q)
        q = turned(queries, gain[: self.heads], cos[-last:], sin[-last:])
        k, v = turned(qkv, gain[self.heads :], cos, sin).view(2, -1, *x.shape[1:2], self.head_width)
        y = attend_last(q.unflatten(0, (self.kv_heads, -1)), k, v, context.mask)
        return self.projected(y, qkv[:, -last:], asking, queries)

    def with_values(self, qkv: Tensor, context: Context) -> Tensor:
        """The heads, with the parts for values applied to the last heads, which are the values."""
        if self.values:
            v = qkv[:, :, -self.kv_heads :]
            for part in self.values:
                v = part.values(v, self.layer, self, context)
            qkv = torch.cat((qkv[:, :, : -self.kv_heads], v), 2)
        return qkv

    def turns(self, dtype: torch.dtype, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """The gain of every query and key head, and the rotation tables."""
        gain = torch.cat((self.q_gain / math.sqrt(self.head_width), self.q_gain.new_ones(self.kv_heads)))
        return gain.to(dtype), context.cos.to(dtype), context.sin.to(dtype)

    def projected(self, y: Tensor, qkv: Tensor, x: Tensor, queries: Tensor) -> Tensor:
        """The output projection of heads (batch, time, heads * dimension), after the parts for heads."""
        if self.heads_out:
            apart, v = y.unflatten(2, (self.heads, -1)), qkv[:, :, -self.kv_heads :]
            for each in self.heads_out:
                apart = each.heads_out(apart, v, x, queries.flatten(2), self)
            y = apart.flatten(2)
        return self.proj(y)


class Block(Module):
    """One layer: attention, MLP and their scales; `residual` says how they join the stream."""

    attn_scale: Tensor
    mlp_scale: Tensor
    resid_mix: Tensor

    def __init__(
        self,
        attention: Attention,
        mlp: Mlp,
        residual: "Residual",
        factor: float,
        further: Mapping[str, Start],
    ) -> None:
        width = attention.c_q.weight.shape[1]
        keep_stream = Start((2, width), lambda shape, _: torch.tensor([[1.0], [0.0]]).expand(shape))
        scales = {name: start_constant(1.0, width) for name in ("attn_scale", "mlp_scale")}
        super().__init__({**scales, "resid_mix": keep_stream, **further})
        self.attn, self.mlp, self.residual, self.factor = attention, mlp, residual, factor

    def forward(self, x: Stream, context: Context) -> Stream:
        return self.residual.layer(x, self, context)

    def mixed_with_start(self, x: Tensor, context: Context) -> Tensor:
        """The stream mixed with the input of the first layer."""
        return context.kernels.mix(x, context.start, self.resid_mix.to(x.dtype))

    def attended(self, x: Tensor, context: Context) -> Tensor:
        """The output of the attention (batch, time, width) for a stream."""
        if context.read is not None:
            return self.attn.of_last(context.kernels.norm(context.read, self.factor), context, x.shape[1])
        return self.attn(context.kernels.norm(x, self.factor), context)

    def transformed(self, x: Tensor, context: Context) -> Tensor:
        """The output of the MLP (batch, time, width) for a stream."""
        return self.mlp(context.kernels.norm(x, self.factor), context)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Residual(Part):
    """The slot of how attention and MLP join the stream; a stream is one tensor, or two for some members."""

    abstract: ClassVar[bool] = True

    def layer(self, x: Stream, block: Block, context: Context) -> Stream:
        """The stream (batch, time, width) after a layer."""
        assert isinstance(x, Tensor), "one stream"
        kernels, dtype = context.kernels, context.start.dtype
        x = block.mixed_with_start(x, context)
        x = kernels.add_scaled(x, block.attended(x, context), block.attn_scale.to(dtype))
        return kernels.add_scaled(x, block.transformed(x, context), block.mlp_scale.to(dtype))

    def ended(self, x: Stream, block: Block, context: Context, last: int) -> tuple[Stream, Tensor]:
        """The stream's last positions before a layer, and the attention's unnormalised input at all."""
        assert isinstance(x, Tensor), "one stream"
        return x[:, -last:], block.mixed_with_start(x, context)

    def skipped(self, x: Stream, join: Callable[[Tensor], Tensor], layer: int) -> Stream:
        """The stream with a skip joined to it."""
        assert isinstance(x, Tensor), "one stream"
        return join(x)

    def closed(self, x: Stream, root: Module) -> Tensor:
        """The stream after the last layer, as one tensor."""
        assert isinstance(x, Tensor), "one stream"
        return x


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serial(Residual):
    """Attention first, then the MLP on its result.

    What: x + a * attention(norm x), then x + m * mlp(norm x), with a and m learned per channel.
    Source: the public baseline.
    Cost: nothing.
    Not for: nothing known.
    Neutral: this is the neutral one.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelResidual(Residual):
    """Attention and MLP side by side in the last layers.

    What: x + a * attention(norm x) + m * mlp(norm x) from layer `first` on.
    Source: GPT-J; records 2026-04-06 to 04-09 (PARALLEL_RESIDUAL_START=7): a smaller quantization gap.
    Cost: nothing; saves a little on GPUs.
    Not for: float scores, which it hardly changes.
    Neutral: `first` at the number of layers.
    """

    first: int = setting(7, at_least=0)

    def layer(self, x: Stream, block: Block, context: Context) -> Stream:
        if block.attn.layer < self.first:
            return super().layer(x, block, context)
        assert isinstance(x, Tensor), "one stream"
        kernels, dtype = context.kernels, context.start.dtype
        x = block.mixed_with_start(x, context)
        y = kernels.add_scaled(x, block.attended(x, context), block.attn_scale.to(dtype))
        return kernels.add_scaled(y, block.transformed(x, context), block.mlp_scale.to(dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DtgGate(Residual):
    """A gate on the whole change of a layer (DTG), which reads the layer's input stream.

    What: x + g (y - x), where x is the stream mixed with its start, y the stream after attention and MLP, and
        g = sigmoid(w . x + b) one number per token. w starts at zero, b at `start`; no gradient reaches x
        through g.
    Source: records 2026-03-22 to 03-25 (DTG_ENABLED, b 2; off in their runs).
    Cost: width + 1 weights a layer; a pass over the stream.
    Not for: gains that are known: no record switched it on.
    Neutral: start=200, where the gate is 1 and stays.
    """

    start: float = 2.0

    def layer_tensors(self, dimensions: Dimensions, layer: int) -> dict[str, Start]:
        return {
            "dtg_gate.weight": start_constant(0.0, 1, dimensions.width),
            "dtg_gate.bias": start_constant(self.start, 1),
        }

    def layer(self, x: Stream, block: Block, context: Context) -> Stream:
        assert isinstance(x, Tensor), "one stream"
        kernels, dtype = context.kernels, context.start.dtype
        x = block.mixed_with_start(x, context)
        y = kernels.add_scaled(x, block.attended(x, context), block.attn_scale.to(dtype))
        y = kernels.add_scaled(y, block.transformed(y, context), block.mlp_scale.to(dtype))
        weight, bias = (block.own(f"dtg_gate.{name}").to(dtype) for name in ("weight", "bias"))
        return torch.lerp(x, y, F.linear(x.detach(), weight, bias).sigmoid())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lanes(Residual):
    """Two streams from layer `first` on. A stop whose output is used by a skip has one stream; an earlier
    layer that a loop returns to passes both streams on."""

    abstract: ClassVar[bool] = True

    first: int = setting(7, at_least=0)

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        return {
            "parallel_resid_lambdas": start_constant(1.1, dimensions.layers, 2),
            "parallel_post_lambdas": start_constant(1.0, dimensions.layers, 2, 2),
        }

    def layer(self, x: Stream, block: Block, context: Context) -> Stream:
        memory = context.memory
        memory["stops"] = memory.get("stops", -1) + 1
        taken_later = any(source == memory["stops"] for _, source, _ in context.calls)
        if block.attn.layer < self.first or taken_later:
            return x if isinstance(x, tuple) else super().layer(x, block, context)
        return self.in_lanes(self.lanes(x), block, context)

    def in_lanes(self, lanes: tuple[Tensor, Tensor], block: Block, context: Context) -> tuple[Tensor, Tensor]:
        """Both lanes after a layer."""
        raise NotImplementedError

    def lanes(self, x: Stream) -> tuple[Tensor, Tensor]:
        """Both streams; before the first layer with two streams they are equal."""
        return x if isinstance(x, tuple) else (x, x)

    def closed(self, x: Stream, root: Module) -> Tensor:
        return 0.5 * (x[0] + x[1]) if isinstance(x, tuple) else x

    def ended(self, x: Stream, block: Block, context: Context, last: int) -> tuple[Stream, Tensor]:
        if not isinstance(x, tuple):
            return super().ended(x, block, context, last)
        return (x[0][:, -last:], x[1][:, -last:]), block.mixed_with_start(x[0], context)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoLanes(Lanes):
    """Two streams in the last layers: attention reads one, the MLP the other, both write to both.

    What: from layer `first` on, lane0 = r0 lane0 + p00 A + p10 M and lane1 = r1 lane1 + p01 A + p11 M,
        where A is computed from lane 0 mixed with the start and M from lane 1. Skips join only lane 0, in the
        first of these layers too. The output is the mean of the lanes, or one of them. A stop whose output
        is used by a skip has one stream; an earlier layer that a loop returns to passes both on.
    Source: PR #1530 (PARALLEL_START_LAYER 7 or 8, PARALLEL_FINAL_LANE=mean|attn|mlp).
    Cost: 6 weights a layer; a second stream in memory.
    Not for: gains of more than 0.002 bpb (one seed).
    Neutral: `first` at the number of layers.
    """

    leaves: str = setting("mean", one_of=("mean", "attn", "mlp"))

    def in_lanes(self, lanes: tuple[Tensor, Tensor], block: Block, context: Context) -> tuple[Tensor, Tensor]:
        """Both lanes after a layer."""
        read, write = lanes
        index = block.attn.layer
        a = block.attn_scale.to(read.dtype) * block.attended(block.mixed_with_start(read, context), context)
        m = block.mlp_scale.to(read.dtype) * block.transformed(write, context)
        keep = context.root.own("parallel_resid_lambdas")[index].to(read.dtype)
        post = context.root.own("parallel_post_lambdas")[index].to(read.dtype)
        read = keep[0] * read + post[0, 0] * a + post[1, 0] * m
        return read, keep[1] * write + post[0, 1] * a + post[1, 1] * m

    def skipped(self, x: Stream, join: Callable[[Tensor], Tensor], layer: int) -> Stream:
        if layer < self.first:
            return x if isinstance(x, tuple) else join(x)
        read, write = self.lanes(x)
        return join(read), write

    def closed(self, x: Stream, root: Module) -> Tensor:
        if self.leaves == "mean" or not isinstance(x, tuple):
            return super().closed(x, root)
        return x[0] if self.leaves == "attn" else x[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanesInTurn(Lanes):
    """Two streams in the last layers: attention reads one and writes to both, then the MLP reads the other.

    What: as TwoLanes, but the MLP reads lane 1 after the attention has written to it, mixed with the start
        too: lanes = r0 lanes + p0 A, then lanes = r1 lanes + p1 M; skips join both lanes.
    Source: records 2026-03-31 and 2026-04-03 (PARALLEL_RESIDUAL, PARALLEL_START_LAYER=7); not isolated.
    Cost: 6 weights a layer; a second stream in memory.
    Not for: fewer kernels: attention and MLP still wait for each other.
    Neutral: `first` at the number of layers.
    """

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        keep = start_constant(math.sqrt(1.1), dimensions.layers, 2)
        return super().tensors(dimensions) | {"parallel_resid_lambdas": keep}

    def in_lanes(self, lanes: tuple[Tensor, Tensor], block: Block, context: Context) -> tuple[Tensor, Tensor]:
        index, dtype = block.attn.layer, context.start.dtype
        keep, post = (
            context.root.own(f"parallel_{name}_lambdas")[index].to(dtype) for name in ("resid", "post")
        )
        read, write = lanes
        a = block.attn_scale.to(dtype) * block.attended(block.mixed_with_start(read, context), context)
        read, write = keep[0] * read + post[0, 0] * a, keep[0] * write + post[0, 1] * a
        m = block.mlp_scale.to(dtype) * block.transformed(block.mixed_with_start(write, context), context)
        return keep[1] * read + post[1, 0] * m, keep[1] * write + post[1, 1] * m

    def skipped(self, x: Stream, join: Callable[[Tensor], Tensor], layer: int) -> Stream:
        if layer < self.first:
            return x if isinstance(x, tuple) else join(x)
        return (join(x[0]), join(x[1])) if isinstance(x, tuple) else join(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergedLanes(Residual):
    """Two streams in the last layers that meet at the end: attention has one, the MLP the other.

    What: from the first stop of the second half whose layer is `first` or later, lane0 = mix(lane0) +
        attention and lane1 = lane1 + MLP, the second without the start mixed in. The output is m lane0 +
        (1 - m) lane1, with m one learned number that starts at a half. A skip joins before the lanes divide;
        later skips join lane 0 (`late_skips`) or none.
    Source: records 2026-04-04 (late skips lost) and 2026-04-08 (PARALLEL_START_LAYER=7); neither isolates it.
    Cost: one weight; a second stream in memory.
    Not for: gains: attention and MLP of the last layers no longer see each other.
    Neutral: `first` at the number of layers.
    """

    first: int = setting(7, at_least=0)
    late_skips: bool = True

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        return {"lane_merge": start_constant(0.5)}

    def layer(self, x: Stream, block: Block, context: Context) -> Stream:
        memory = context.memory
        memory["stops"] = memory.get("stops", -1) + 1
        if not isinstance(x, tuple):
            if block.attn.layer < self.first or memory["stops"] < len(context.calls) // 2:
                return super().layer(x, block, context)
            x = x, x
        add, dtype = context.kernels.add_scaled, context.start.dtype
        read = block.mixed_with_start(x[0], context)
        read = add(read, block.attended(read, context), block.attn_scale.to(dtype))
        return read, add(x[1], block.transformed(x[1], context), block.mlp_scale.to(dtype))

    def skipped(self, x: Stream, join: Callable[[Tensor], Tensor], layer: int) -> Stream:
        if not isinstance(x, tuple):
            return join(x)
        return (join(x[0]), x[1]) if self.late_skips else x

    def closed(self, x: Stream, root: Module) -> Tensor:
        if not isinstance(x, tuple):
            return x
        return root.own("lane_merge").to(x[0].dtype).mul(x[0] - x[1]).add(x[1])

    def ended(self, x: Stream, block: Block, context: Context, last: int) -> tuple[Stream, Tensor]:
        if not isinstance(x, tuple):
            return super().ended(x, block, context, last)
        return (x[0][:, -last:], x[1][:, -last:]), block.mixed_with_start(x[0], context)
