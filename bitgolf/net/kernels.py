"""The operations that take most of a step's time: in plain torch, and faster by hand.

PlainKernels is the reference. FusedKernels computes the same with fewer passes over memory and hand-written
backward passes. Heads are stored as (heads, batch, time, dimension), queries first, then keys, then values.
So each of the three is one contiguous block, and rotation tables repeat over contiguous memory.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

NORM_EPSILON = torch.finfo(torch.float32).eps  # also in bfloat16, whose own 0.0078 would swamp the embedding
CHUNK_SHORT = 64  # queries handled together up to CHUNK_SHORT_TIME tokens of context
CHUNK_LONG = 256
CHUNK_SHORT_TIME = 512
KEEP_BYTES = 256 << 20  # larger attention weights of a layer are recomputed when needed
BLOCK_SCORES = 1 << 17  # attention scores computed together if none are kept
HEAD_LOGITS = 1 << 20  # computed together, so that they stay in the cache for all passes
LARGEST_CAP = 37.0  # up to it no probability, at least exp(-2 cap) / size, underflows in float32


class AttentionMask(NamedTuple):
    """Which keys a query sees among its own and earlier positions, and changes of its scores.

    window: number of keys, its own included (0: all). score_mods: functions of scores (key heads, batch,
    group, queries, keys) and the positions of the first key and the first query; they return changed scores.
    learned: score_mods have weights, for which the fused attention has no gradient.
    """

    window: int = 0
    score_mods: tuple[Callable[[Tensor, int, int], Tensor], ...] = ()
    learned: bool = False

    def modify(self, scores: Tensor, first: int = 0, start: int = 0) -> Tensor:
        """The scores after all score_mods."""
        for score_mod in self.score_mods:
            scores = score_mod(scores, first, start)
        return scores


class PlainKernels:
    """The operations written plainly in torch."""

    def norm(self, x: Tensor, factor: float = 1.0) -> Tensor:
        """RMS norm over the last dimension, without a learned weight, times a factor."""
        y = F.rms_norm(x, (x.shape[-1],), eps=NORM_EPSILON)
        return y if factor == 1.0 else y * factor

    def mix(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """weight[0] * x + weight[1] * y, per channel."""
        return weight[0] * x + weight[1] * y

    def add_scaled(self, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        """x + scale * y, per channel."""
        return x + scale * y

    def relu_squared(self, x: Tensor) -> Tensor:
        return F.relu(x).square()

    def qk_norm_rope(self, qkv: Tensor, gain: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(batch, time, heads, dimension) to (heads, batch, time, dimension).

        The first len(gain) heads, queries and keys, are normalised, rotated in their first dimensions
        (twice the width of the tables), and multiplied by their gain; values are only transposed.
        """
        moved = qkv.permute(2, 0, 1, 3)
        turned = rotate(self.norm(moved[: len(gain)]), cos, sin) * gain[:, None, None, None]
        return torch.cat((turned, moved[len(gain) :]))

    def attend_last(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
        """Causal attention of the last positions; see the function `attend_last`."""
        return attend_last(q, k, v, mask)

    def logits(self, hidden: Tensor, weight: Tensor, cap: float) -> Tensor:
        """Softcapped logits, in the type `wide`."""
        return capped_logits(hidden, weight, cap)

    def nats(self, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
        """Cross-entropy of each row's target under softcapped logits, in the type `wide`."""
        return F.cross_entropy(capped_logits(hidden, weight, cap), targets, reduction="none")


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (j, j + half) of the first 2 * half dimensions of x (..., time, dimension).

    cos, sin: (time, half), of the angle of each place and pair. The other dimensions stay.
    """
    half = cos.shape[-1]
    first, second, rest = x.split((half, half, x.shape[-1] - 2 * half), -1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin, rest), -1)


def capped_logits(hidden: Tensor, weight: Tensor, cap: float) -> Tensor:
    """Logits within (-cap, cap), in the type `wide`."""
    return cap * torch.tanh(F.linear(hidden, weight).to(wide(hidden)) / cap)


class FusedKernels(PlainKernels):
    """The same operations with hand-written forward and backward passes."""

    def norm(self, x: Tensor, factor: float = 1.0) -> Tensor:
        return FusedNorm.apply(x, factor)

    def mix(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return FusedMix.apply(x, y, weight)

    def add_scaled(self, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return FusedAddScaled.apply(x, y, scale)

    def relu_squared(self, x: Tensor) -> Tensor:
        return FusedReluSquared.apply(x)

    def qk_norm_rope(self, qkv: Tensor, gain: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rest = cos.new_zeros(len(cos), qkv.shape[-1] - 2 * cos.shape[-1])
        full = torch.cat((cos, cos, rest + 1), -1), torch.cat((sin, -sin, rest), -1)
        return FusedQkNormRope.apply(qkv, gain, *full, cos.shape[-1])

    def nats(self, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
        if cap > LARGEST_CAP:
            return super().nats(hidden, weight, targets, cap)
        return FusedNats.apply(hidden, weight, targets, cap, torch.is_grad_enabled())


class CompiledKernels(PlainKernels):
    """Kernels for torch.compile, which fuses simple operations itself; the others stay hand-written."""

    def qk_norm_rope(self, qkv: Tensor, gain: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return FusedKernels().qk_norm_rope(qkv, gain, cos, sin)

    def nats(self, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
        return FusedKernels().nats(hidden, weight, targets, cap)


def wide(x: Tensor) -> torch.dtype:
    """The type for sums over x: float32, or float64 if x is float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def inverse_rms(x: Tensor) -> Tensor:
    """1 / root mean square over the last dimension, which is kept, in the type `wide`."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide(x))
    return length.square_().mul_(1 / x.shape[-1]).add_(NORM_EPSILON).rsqrt_()


def scale_rows(x: Tensor, scale: Tensor) -> Tensor:
    """x times a number (type `wide`) for each row, rounded once.

    On a CPU, normalisation with a known mean and variance does this in one pass; a product of two types takes
    three. The bits are the same.
    """
    if x.device.type != "cpu":
        return (x * scale).to(x.dtype)
    nothing = scale.new_zeros(scale.numel())
    rows = x.reshape(1, scale.numel(), -1)
    return F.batch_norm(rows, nothing, nothing + 1, weight=scale.flatten(), eps=0.0).view_as(x)


def row_products(x: Tensor, y: Tensor) -> Tensor:
    """Dot products over the last dimension, which is kept, in the type `wide`."""
    return (x * y).sum(-1, keepdim=True).to(wide(x))


def channel_products(x: Tensor, y: Tensor) -> Tensor:
    """Dot products over all dimensions except the last."""
    return (x * y).flatten(0, -2).sum(0)


class Saved(Protocol):
    """The context of an autograd function: what it saves for the backward pass."""

    saved_tensors: tuple[Tensor, ...]
    factor: float
    slope: float
    half: int
    queries: int
    mask: AttentionMask
    save_for_backward: Callable[..., None]  # as a method here it would do nothing


class FusedNorm(Function):
    """y = f x / rms(x). Backward: (dy - y mean(dy y) / f^2) f / rms(x)."""

    @staticmethod
    def forward(ctx: Saved, x: Tensor, factor: float) -> Tensor:
        scale = inverse_rms(x)
        scale = scale if factor == 1.0 else scale.mul_(factor)
        y = scale_rows(x, scale)
        ctx.factor = factor
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Saved, dy: Tensor) -> tuple[Tensor, None]:
        y, scale = ctx.saved_tensors
        along = row_products(dy, y).mul_(-1 / (y.shape[-1] * ctx.factor**2)).to(y.dtype)
        return scale_rows(torch.addcmul(dy, y, along), scale), None


class FusedMix(Function):
    """weight[0] * x + weight[1] * y."""

    @staticmethod
    def forward(ctx: Saved, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, weight)
        return (x * weight[0]).addcmul_(y, weight[1])

    @staticmethod
    def backward(ctx: Saved, dz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y, weight = ctx.saved_tensors
        dweight = torch.stack((channel_products(dz, x), channel_products(dz, y)))
        return dz * weight[0], dz * weight[1], dweight


class FusedAddScaled(Function):
    """x + scale * y."""

    @staticmethod
    def forward(ctx: Saved, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(y, scale)
        return torch.addcmul(x, y, scale)

    @staticmethod
    def backward(ctx: Saved, dz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, scale = ctx.saved_tensors
        return dz, dz * scale, channel_products(dz, y)


class FusedReluSquared(Function):
    """max(x, 0)^2. Backward: 2 max(x, 0) dy."""

    @staticmethod
    def forward(ctx: Saved, x: Tensor) -> Tensor:
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    def backward(ctx: Saved, dy: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return torch.addcmul(dy.new_zeros(()), dy, positive, value=2)


class FusedLeakySquared(Function):
    """leaky(x)^2. Backward: 2 leaky(x) dy, times the slope where x is negative."""

    @staticmethod
    def forward(ctx: Saved, x: Tensor, slope: float) -> Tensor:
        leaky = F.leaky_relu(x, slope)
        ctx.slope = slope
        ctx.save_for_backward(leaky)
        return leaky.square()

    @staticmethod
    def backward(ctx: Saved, dy: Tensor) -> tuple[Tensor, None]:
        (leaky,) = ctx.saved_tensors
        dx = torch.addcmul(dy.new_zeros(()), dy, leaky, value=2)
        return torch.ops.aten.leaky_relu_backward(dx, leaky, ctx.slope, self_is_result=True), None


class FusedQkNormRope(Function):
    """Norm, rotation and gain of queries and keys, and transposition to (heads, batch, time, dimension).

    cos and sin are tables of full width, sin negated in the second half of the rotated dimensions. Then a
    rotation is x * cos + swap(x) * sin. It commutes with the norm, so the last pass applies norm and gain.
    """

    @staticmethod
    def forward(ctx: Saved, qkv: Tensor, gain: Tensor, cos: Tensor, sin: Tensor, half: int) -> Tensor:
        heads = qkv.permute(2, 0, 1, 3).contiguous()
        x = heads[: len(gain)]
        inverse = inverse_rms(x)
        turned = (x * cos).addcmul_(swap_halves(x, half), sin)
        x.copy_(scale_rows(turned, inverse * gain[:, None, None, None]))
        ctx.half = half
        ctx.save_for_backward(turned, inverse, gain, cos, sin)
        return heads

    @staticmethod
    def backward(ctx: Saved, dheads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        turned, inverse, gain, cos, sin = ctx.saved_tensors
        dy = dheads[: len(gain)]
        along = row_products(dy, turned).mul_(inverse)  # dot product of dy and the normalised head
        factor = inverse * gain[:, None, None, None]
        inward = (factor * inverse * along).mul_(-1 / turned.shape[-1])
        dturned = scale_rows(dy, factor).addcmul_(turned, inward.to(turned.dtype))
        dx = (dturned * cos).addcmul_(swap_halves(dturned, ctx.half), sin, value=-1)
        heads, *rest = dheads.shape
        dqkv = dheads.new_empty(*rest[:2], heads, rest[2])
        places = dqkv.permute(2, 0, 1, 3)
        places[: len(gain)], places[len(gain) :] = dx, dheads[len(gain) :]
        return dqkv, along.sum((1, 2, 3)).to(gain.dtype), None, None, None


def swap_halves(x: Tensor, half: int) -> Tensor:
    """x with its first and second `half` channels exchanged."""
    return torch.cat((x[..., half : 2 * half], x[..., :half], x[..., 2 * half :]), -1)


class FusedNats(Function):
    """Softcapped cross-entropy, some rows at a time; the forward pass also computes the logits' gradient.

    With s = sigmoid(2 z / cap) the capped logit is cap (2 s - 1), its slope 4 s (1 - s), and the shares are
    softmax(2 cap s). The gradient of row i is 4 upstream[i] times a row that the forward pass knows. That
    factor is applied later, to the narrow sides of the two products.
    """

    @staticmethod
    def forward(
        ctx: Saved, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float, needed: bool
    ) -> Tensor:
        chosen = hidden.new_empty(len(hidden), 1, dtype=wide(hidden))
        dhidden = torch.empty_like(hidden) if needed else hidden
        slopes = hidden.new_empty(len(hidden) if needed else 0, len(weight))
        step = head_rows(len(weight))
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
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
    def backward(ctx: Saved, dnats: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, dhidden, slopes = ctx.saved_tensors
        factor = 4 * dnats[:, None]
        return scale_rows(dhidden, factor), slopes.T @ scale_rows(hidden, factor), None, None, None


def head_rows(vocabulary_size: int) -> int:
    """The number of tokens whose logits are computed together: fewer for a large vocabulary."""
    return min(512, max(64, HEAD_LOGITS // vocabulary_size))


def chunk_attend(heads: Tensor, queries: int, mask: AttentionMask) -> Tensor:
    """Causal attention over heads (heads, batch, time, dimension); queries are already scaled.

    The first `queries` heads are queries; query head h uses key head h // (queries // key heads).
    Returns (batch, time, queries * dimension). The two functions below compute the same in other ways.
    """
    if mask.learned:
        return sdpa_attend(heads, queries, mask)
    return ChunkAttention.apply(heads, queries, mask)


def sdpa_attend(heads: Tensor, queries: int, mask: AttentionMask) -> Tensor:
    """As `chunk_attend`, by torch's scaled_dot_product_attention."""
    return sdpa_attention(*repeated_heads(heads, queries), mask).transpose(1, 2).flatten(2)


def math_attend(heads: Tensor, queries: int, mask: AttentionMask) -> Tensor:
    """As `chunk_attend`, by plain products and softmax."""
    return math_attention(*repeated_heads(heads, queries), mask).transpose(1, 2).flatten(2)


def repeated_heads(heads: Tensor, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (batch, heads, time, dimension), keys and values repeated per query head."""
    keys = (len(heads) - queries) // 2
    q, k, v = heads.transpose(0, 1).split((queries, keys, keys), 1)
    if queries > keys:
        k, v = (x.repeat_interleave(queries // keys, 1) for x in (k, v))
    return q, k, v


def math_attention(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
    """Causal attention by plain products and softmax, over (batch, heads, time, dimension)."""
    scores = q @ k.transpose(-1, -2) + hidden_keys(0, 0, q.shape[-2], mask.window, q)
    return mask.modify(scores[None])[0].softmax(-1) @ v


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
    """Causal attention by torch's scaled_dot_product_attention."""
    if not mask.window and not mask.score_mods:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    hidden = hidden_keys(0, 0, q.shape[-2], mask.window, q)
    added = mask.modify(hidden.expand(1, *q.shape[:2], *hidden.shape))[0]
    return F.scaled_dot_product_attention(q, k, v, added, scale=1.0)


class ChunkAttention(Function):
    """Causal attention by batched products over chunks of queries with the keys up to the chunk's end.

    On a CPU with fast bfloat16 products it is several times as fast as torch's kernel. Query heads that share
    keys are stacked, so that each product is wide. Attention weights are kept for the backward pass, or
    recomputed if they are large. With a window, keys that no query of a chunk sees are left out.
    """

    @staticmethod
    def forward(ctx: Saved, heads: Tensor, queries: int, mask: AttentionMask) -> Tensor:
        kept: list[Tensor] = []
        out = attend_last(*split_heads(heads, queries), mask, kept)
        if sum(weights.nbytes for weights in kept) > KEEP_BYTES:
            kept = []
        ctx.queries, ctx.mask = queries, mask
        ctx.save_for_backward(heads, *kept)
        return out

    @staticmethod
    def backward(ctx: Saved, dout: Tensor) -> tuple[Tensor, None, None]:
        heads, *kept = ctx.saved_tensors
        q, k, v = split_heads(heads, ctx.queries)
        dheads = torch.zeros_like(heads)
        dq, dk, dv = split_heads(dheads, ctx.queries)
        places = dout.view(*dout.shape[:2], *q.shape[:2], heads.shape[-1]).permute(2, 3, 0, 1, 4)
        for index, (first, start, end) in enumerate(chunks(heads.shape[2], ctx.mask.window)):
            some, seen = stack(q, start, end), slice(first, end)
            if kept:
                weights = kept[index]
            else:
                hidden = hidden_keys(first if ctx.mask.window else start, start, end, ctx.mask.window, k)
                weights = attention_weights(some, k[:, seen], len(q), first, start, ctx.mask, hidden)
            dfound = stack(places, start, end)
            dweights = torch.bmm(dfound, v[:, seen].transpose(1, 2))
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
            dv[:, seen] += torch.bmm(weights.transpose(1, 2), dfound)
            dk[:, seen] += torch.bmm(dscores.transpose(1, 2), some)
            dsome = torch.bmm(dscores, k[:, seen])
            dq[:, :, :, start:end] = unstack(dsome, dq[:, :, :, start:end])
        return dheads, None, None


def attend_last(
    q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, kept: list[Tensor] | None = None
) -> Tensor:
    """Causal attention of the last positions, as many as there are queries; shapes: see `split_heads`.

    Returns (batch, queries' time, query heads * dimension). kept: a list that receives the attention weights.
    """
    count, group, batch, last, width = q.shape
    before = k.shape[1] - last
    out = q.new_empty(batch, last, count * group * width)
    out_by_head = out.view(batch, last, count, group, width).permute(2, 3, 0, 1, 4)
    for first, start, end in chunks(k.shape[1], mask.window, before):
        some, seen = stack(q, start - before, end - before), slice(first, end)
        hidden = hidden_keys(first if mask.window else start, start, end, mask.window, k)
        if kept is not None or mask.score_mods or torch.is_grad_enabled():
            weights = attention_weights(some, k[:, seen], count, first, start, mask, hidden)
            attended = torch.bmm(weights, v[:, seen])
        else:  # the scores of a few rows at a time stay in the cache
            attended = torch.empty_like(some)
            rows_at_once = max(1, BLOCK_SCORES // (some.shape[1] * (end - first)))
            for row in range(0, len(some), rows_at_once):
                rows = slice(row, row + rows_at_once)
                weights = attention_weights(some[rows], k[rows, seen], count, first, start, mask, hidden)
                attended[rows] = torch.bmm(weights, v[rows, seen])
        chunk = out_by_head[:, :, :, start - before : end - before]
        chunk.copy_(unstack(attended, chunk))
        if kept is not None:
            kept.append(weights)
    return out


def chunks(time: int, window: int = 0, before: int = 0) -> list[tuple[int, int, int]]:
    """For each chunk of queries: the first key that any of them sees, and its start and end.

    before: number of first places with keys but without queries.
    """
    chunk_queries = CHUNK_SHORT if time <= CHUNK_SHORT_TIME else CHUNK_LONG
    starts = range(before, time, chunk_queries)
    return [(max(0, s + 1 - window) if window else 0, s, min(s + chunk_queries, time)) for s in starts]


def split_heads(heads: Tensor, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views: queries (key heads, group, batch, time, dimension), keys and values (key heads * batch, ...)."""
    count = (len(heads) - queries) // 2
    q, k, v = heads.split((queries, count, count))
    return q.unflatten(0, (count, -1)), k.flatten(0, 1), v.flatten(0, 1)


def stack(q: Tensor, start: int, end: int) -> Tensor:
    """A chunk of queries as (key heads * batch, group * chunk, dimension)."""
    return q[:, :, :, start:end].transpose(1, 2).flatten(2, 3).flatten(0, 1)


def unstack(stacked: Tensor, like: Tensor) -> Tensor:
    """The inverse of `stack`, in the shape of `like` (key heads, group, batch, chunk, dimension)."""
    count, group, batch, chunk, width = like.shape
    return stacked.view(count, batch, group, chunk, width).transpose(1, 2)


def attention_weights(
    q: Tensor, k: Tensor, heads: int, first: int, start: int, mask: AttentionMask, hidden: Tensor
) -> Tensor:
    """Softmax over the keys that each stacked query sees; keys begin at place `first`.

    hidden: mask of the last keys, see `hidden_keys`; all keys before these are seen.
    """
    end = first + k.shape[1]
    scores = torch.bmm(q, k.transpose(1, 2))
    apart = scores.view(len(q), -1, end - start, end - first)
    apart[..., -hidden.shape[1] :] += hidden
    if mask.score_mods:
        grouped = apart.view(heads, -1, *apart.shape[1:])
        scores = mask.modify(grouped, first, start).view(scores.shape)
    return scores.softmax(-1)


def hidden_keys(first: int, start: int, end: int, window: int, like: Tensor) -> Tensor:
    """Mask (queries start to end, keys first to end): -inf after a query and before its window, else 0."""
    nothing = torch.full((end - start, end - first), -math.inf, dtype=like.dtype, device=like.device)
    future = nothing.triu(1 + start - first)
    return future + nothing.tril_(start - first - window) if window else future
