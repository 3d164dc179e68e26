"""The few operations a step spends its time in: in plain torch, and again by hand, faster.

PlainKernels is the reference; FusedKernels computes the same with fewer passes over memory and hand-written
backward passes. Heads travel as (heads, batch, time, dimension), queries first, then keys, then values: each
of the three is then one contiguous block, and rotation tables repeat over contiguous memory.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

NORM_EPSILON = torch.finfo(torch.float32).eps  # also in bfloat16, whose own 0.0078 would swamp the embedding
CHUNK_SHORT = 64  # queries handled together up to CHUNK_SHORT_TIME tokens of context
CHUNK_LONG = 256
CHUNK_SHORT_TIME = 512
KEEP_BYTES = 256 << 20  # attention weights of one layer above this size are computed again when needed
HEAD_ROWS = 512  # tokens whose logits are made together
LARGEST_CAP = 37.0  # no share of a vocabulary under it, down to exp(-2 cap) / size, vanishes in float32


class PlainKernels:
    """The operations as one would write them in torch."""

    def norm(self, x: Tensor) -> Tensor:
        """RMS norm over the last dimension, without a learned weight."""
        return F.rms_norm(x, (x.shape[-1],), eps=NORM_EPSILON)

    def mix(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """weight[0] * x + weight[1] * y, per channel."""
        return weight[0] * x + weight[1] * y

    def add_scaled(self, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        """x + scale * y, per channel."""
        return x + scale * y

    def relu_squared(self, x: Tensor) -> Tensor:
        return F.relu(x).square()

    def heads(self, mixed: Tensor, gain: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(batch, time, heads, dimension) to (heads, batch, time, dimension).

        The first len(gain) heads, queries and keys, are normalised, rotated and multiplied by their gain;
        the others, values, are only moved.
        """
        moved = mixed.permute(2, 0, 1, 3)
        turned = rotate(self.norm(moved[: len(gain)]), cos, sin) * gain[:, None, None, None]
        return torch.cat((turned, moved[len(gain) :]))

    def nats(self, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
        """Cross-entropy of each row's target under softcapped logits, in a wide type."""
        return F.cross_entropy(capped_logits(hidden, weight, cap), targets, reduction="none")


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (j, j + half) of x (..., time, dimension) by the angle of their position."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), -1)


def capped_logits(hidden: Tensor, weight: Tensor, cap: float) -> Tensor:
    """Logits within (-cap, cap), in a wide type."""
    return cap * torch.tanh(F.linear(hidden, weight).to(wide(hidden)) / cap)


class FusedKernels(PlainKernels):
    """The same operations by hand."""

    def norm(self, x: Tensor) -> Tensor:
        return FusedNorm.apply(x)

    def mix(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return FusedMix.apply(x, y, weight)

    def add_scaled(self, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return FusedAddScaled.apply(x, y, scale)

    def relu_squared(self, x: Tensor) -> Tensor:
        return FusedReluSquared.apply(x)

    def heads(self, mixed: Tensor, gain: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return FusedHeads.apply(mixed, gain, torch.cat((cos, cos), -1), torch.cat((sin, -sin), -1))

    def nats(self, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
        if cap > LARGEST_CAP:
            return super().nats(hidden, weight, targets, cap)
        return FusedNats.apply(hidden, weight, targets, cap, torch.is_grad_enabled())


class CompiledKernels(PlainKernels):
    """For torch.compile, which fuses the simple operations by itself; the others gain by another method."""

    def heads(self, mixed: Tensor, gain: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return FusedKernels().heads(mixed, gain, cos, sin)

    def nats(self, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
        return FusedKernels().nats(hidden, weight, targets, cap)


def wide(x: Tensor) -> torch.dtype:
    """The type in which sums over x are made: float32, or float64 for itself."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def inverse_rms(x: Tensor) -> Tensor:
    """1 / root mean square over the last dimension, kept, in a wide type."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide(x))
    return length.square_().mul_(1 / x.shape[-1]).add_(NORM_EPSILON).rsqrt_()


def scale_rows(x: Tensor, scale: Tensor) -> Tensor:
    """x times a wide number for each row, rounded once.

    On a CPU, normalising by a known mean and variance does this in one pass where a product of two types
    takes three; the bits are the same.
    """
    if x.device.type != "cpu":
        return (x * scale).to(x.dtype)
    nothing = scale.new_zeros(scale.numel())
    rows = x.reshape(1, scale.numel(), -1)
    return F.batch_norm(rows, nothing, nothing + 1, weight=scale.flatten(), eps=0.0).view_as(x)


def row_products(x: Tensor, y: Tensor) -> Tensor:
    """Dot products over the last dimension, kept, in a wide type (that `sum` itself would widen first)."""
    return (x * y).sum(-1, keepdim=True).to(wide(x))


def channel_products(x: Tensor, y: Tensor) -> Tensor:
    """Dot products over all but the last dimension."""
    return (x * y).flatten(0, -2).sum(0)


class FusedNorm(Function):
    """y = x / rms(x). Backward: (dy - y mean(dy y)) / rms(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scale = inverse_rms(x)
        y = scale_rows(x, scale)
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        y, scale = ctx.saved_tensors
        along = row_products(dy, y).mul_(-1 / y.shape[-1]).to(y.dtype)
        return scale_rows(torch.addcmul(dy, y, along), scale)


class FusedMix(Function):
    """weight[0] * x + weight[1] * y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, weight)
        return torch.addcmul(x * weight[0], y, weight[1])

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y, weight = ctx.saved_tensors
        dweight = torch.stack((channel_products(dz, x), channel_products(dz, y)))
        return dz * weight[0], dz * weight[1], dweight


class FusedAddScaled(Function):
    """x + scale * y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(y, scale)
        return torch.addcmul(x, y, scale)

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, scale = ctx.saved_tensors
        return dz, dz * scale, channel_products(dz, y)


class FusedReluSquared(Function):
    """max(x, 0)^2. Backward: 2 max(x, 0) dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return torch.addcmul(dy.new_zeros(()), dy, positive, value=2)


class FusedHeads(Function):
    """Norm, rotation and gain of queries and keys, and the move to (heads, batch, time, dimension).

    cos and sin are tables of full width, sin negated in its second half: a rotation is then
    x * cos + swap(x) * sin. It commutes with the norm, so one pass at the end applies norm and gain.
    """

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, gain: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads = mixed.permute(2, 0, 1, 3).contiguous()
        x = heads[: len(gain)]
        inverse = inverse_rms(x)
        turned = (x * cos).addcmul_(swap_halves(x), sin)
        x.copy_(scale_rows(turned, inverse * gain[:, None, None, None]))
        ctx.save_for_backward(turned, inverse, gain, cos, sin)
        return heads

    @staticmethod
    def backward(ctx: Any, dheads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        turned, inverse, gain, cos, sin = ctx.saved_tensors
        dy = dheads[: len(gain)]
        along = row_products(dy, turned).mul_(inverse)  # of dy with the normalised head
        factor = inverse * gain[:, None, None, None]
        inward = (factor * inverse * along).mul_(-1 / turned.shape[-1])
        dturned = scale_rows(dy, factor).addcmul_(turned, inward.to(turned.dtype))
        dx = (dturned * cos).addcmul_(swap_halves(dturned), sin, value=-1)
        heads, *rest = dheads.shape
        dmixed = dheads.new_empty(*rest[:2], heads, rest[2])
        places = dmixed.permute(2, 0, 1, 3)
        places[: len(gain)], places[len(gain) :] = dx, dheads[len(gain) :]
        return dmixed, along.sum((1, 2, 3)).to(gain.dtype), None, None


def swap_halves(x: Tensor) -> Tensor:
    """The two halves of the last dimension exchanged."""
    first, second = x.chunk(2, -1)
    return torch.cat((second, first), -1)


class FusedNats(Function):
    """Softcapped cross-entropy, some rows at a time; the gradient of the logits is made in the forward pass.

    With s = sigmoid(2 z / cap) the capped logit is cap (2 s - 1), its slope 4 s (1 - s), and the shares are
    softmax(2 cap s). The gradient of row i is 4 upstream[i] times a row known at once: that factor is applied
    later, to the narrow sides of the two products.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float, needed: bool
    ) -> Tensor:
        chosen = hidden.new_empty(len(hidden), 1, dtype=wide(hidden))
        dhidden = torch.empty_like(hidden) if needed else hidden
        slopes = hidden.new_empty(len(hidden) if needed else 0, len(weight))
        for start in range(0, len(hidden), HEAD_ROWS):
            rows = slice(start, start + HEAD_ROWS)
            wanted = targets[rows, None]
            squashed = F.linear(hidden[rows], weight).to(chosen.dtype).mul_(2 / cap).sigmoid_()
            shares = (squashed * (2 * cap)).softmax(-1)
            chosen[rows] = shares.gather(1, wanted)
            if needed:
                shares.scatter_(1, wanted, chosen[rows] - 1)
                slopes[rows] = torch.ops.aten.sigmoid_backward(shares, squashed)
                torch.mm(slopes[rows], weight, out=dhidden[rows])
        ctx.save_for_backward(hidden, dhidden, slopes)
        return -chosen.log().squeeze(1)

    @staticmethod
    def backward(ctx: Any, dnats: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, dhidden, slopes = ctx.saved_tensors
        factor = 4 * dnats[:, None]
        return scale_rows(dhidden, factor), slopes.T @ scale_rows(hidden, factor), None, None, None


def attend(heads: Tensor, queries: int, kind: str) -> Tensor:
    """Causal attention over heads (heads, batch, time, dimension), the scale being in the queries already.

    The first `queries` heads ask; query head h reads key head h // (queries // key heads).
    Returns (batch, time, queries * dimension). kind: 'chunk', 'sdpa' or 'math'.
    """
    if kind == "chunk":
        return ChunkAttention.apply(heads, queries)
    keys = (len(heads) - queries) // 2
    asked, known, carried = heads.transpose(0, 1).split((queries, keys, keys), 1)
    if queries > keys:
        known, carried = (x.repeat_interleave(queries // keys, 1) for x in (known, carried))
    attention = math_attention if kind == "math" else sdpa_attention
    return attention(asked, known, carried).transpose(1, 2).flatten(2)


def math_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention written out, over (batch, heads, time, dimension)."""
    scores = queries @ keys.transpose(-1, -2)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1) @ values


def sdpa_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention by torch's own kernel."""
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=1.0)


class ChunkAttention(Function):
    """Causal attention by batched products over chunks of queries, which see the keys up to the chunk's end.

    On a CPU with fast bfloat16 products several times as fast as torch's own kernel. Query heads that share
    keys are stacked, so that each product is wide. Attention weights are kept for the backward pass, or made
    again where they are large.
    """

    @staticmethod
    def forward(ctx: Any, heads: Tensor, queries: int) -> Tensor:
        _, batch, time, width = heads.shape
        asked, keys, values = split_heads(heads, queries)
        out = heads.new_empty(batch, time, queries * width)
        places = out.view(batch, time, *asked.shape[:2], width).permute(2, 3, 0, 1, 4)
        kept = []
        for start, end in chunks(time):
            weights = attention_weights(stack(asked, start, end), keys[:, :end], start)
            found = torch.bmm(weights, values[:, :end])
            places[:, :, :, start:end] = unstack(found, places[:, :, :, start:end])
            kept.append(weights)
        if sum(weights.nbytes for weights in kept) > KEEP_BYTES:
            kept = []
        ctx.queries = queries
        ctx.save_for_backward(heads, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
        heads, *kept = ctx.saved_tensors
        asked, keys, values = split_heads(heads, ctx.queries)
        dheads = torch.zeros_like(heads)
        dasked, dkeys, dvalues = split_heads(dheads, ctx.queries)
        places = dout.view(*dout.shape[:2], *asked.shape[:2], heads.shape[-1]).permute(2, 3, 0, 1, 4)
        for index, (start, end) in enumerate(chunks(heads.shape[2])):
            some = stack(asked, start, end)
            weights = kept[index] if kept else attention_weights(some, keys[:, :end], start)
            dfound = stack(places, start, end)
            dweights = torch.bmm(dfound, values[:, :end].transpose(1, 2))
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
            dvalues[:, :end] += torch.bmm(weights.transpose(1, 2), dfound)
            dkeys[:, :end] += torch.bmm(dscores.transpose(1, 2), some)
            dsome = torch.bmm(dscores, keys[:, :end])
            dasked[:, :, :, start:end] = unstack(dsome, dasked[:, :, :, start:end])
        return dheads, None


def chunks(time: int) -> list[tuple[int, int]]:
    """Start and end of each chunk of queries."""
    size = CHUNK_SHORT if time <= CHUNK_SHORT_TIME else CHUNK_LONG
    return [(start, min(start + size, time)) for start in range(0, time, size)]


def split_heads(heads: Tensor, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views: queries (key heads, group, batch, time, dimension), keys and values (key heads * batch, ...)."""
    count = (len(heads) - queries) // 2
    asked, keys, values = heads.split((queries, count, count))
    return asked.unflatten(0, (count, -1)), keys.flatten(0, 1), values.flatten(0, 1)


def stack(asked: Tensor, start: int, end: int) -> Tensor:
    """A chunk of queries as (key heads * batch, group * chunk, dimension)."""
    return asked[:, :, :, start:end].transpose(1, 2).flatten(2, 3).flatten(0, 1)


def unstack(found: Tensor, like: Tensor) -> Tensor:
    """The inverse of `stack`, in the shape of `like` (key heads, group, batch, chunk, dimension)."""
    count, group, batch, chunk, width = like.shape
    return found.view(count, batch, group, chunk, width).transpose(1, 2)


def attention_weights(asked: Tensor, keys: Tensor, start: int) -> Tensor:
    """Softmax over the keys that each stacked query may see."""
    end = keys.shape[1]
    future = torch.full((end - start, end), -math.inf, dtype=keys.dtype, device=keys.device).triu_(1 + start)
    group = asked.shape[1] // (end - start)
    return torch.baddbmm(future.repeat(group, 1), asked, keys.transpose(1, 2)).softmax(-1)
