"""Operations of a forward pass without gradients, as compiled code with one pass over memory each.

Torch needs several passes for a norm, a rotation or a squared relu. Products stay torch's, and oneDNN's for
many rows. Scoring and coding call `native(model)`; training and generated scripts do not.
"""

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.base.compiled import HAS_NUMBA, Looping, kept_compiled
from bitgolf.net.attend import attend_tiles, takes
from bitgolf.net.kernels import (
    NORM_EPSILON,
    AttentionMask,
    FusedKernels,
    PlainKernels,
    head_rows,
    split_heads,
    wide,
)
from bitgolf.net.model import Model
from bitgolf.net.overlap import hidden_of_windows
from bitgolf.net.parts import Attend
from bitgolf.net.products import product, with_fast_products
from bitgolf.net.softcap import softcap_

EPSILON = np.float32(NORM_EPSILON)


def native(model: Model) -> Model:
    """The model, with native operations where they apply: on a CPU, and by numba only in float32.

    Its scores change by about 1e-7 of themselves, because sums are added in another order.
    """
    backend = model.backend
    if backend.fused and backend.device.type == "cpu":
        vars(model)["hidden"] = partial(hidden_of_windows, model)
        if HAS_NUMBA and backend.dtype == torch.float32:
            model.kernels = NativeKernels()
            with_fast_products(model)
        model.attend = partial(attend_in_blocks, kernels=model.kernels, trained=model.attend)
    return model


def in_vectors(function: Looping) -> Looping:
    """The function, compiled with vector instructions and cached in a file if one can be written.

    The compiler may reorder sums and fuse products with them.
    """
    return kept_compiled(function, fastmath={"reassoc", "contract"})


def attend_in_blocks(
    heads: Tensor, queries: int, mask: AttentionMask, kernels: PlainKernels, trained: Attend
) -> Tensor:
    """Causal attention with the scores of a few heads at a time, which stay in the cache; see `chunk_attend`.

    trained: the attention used with gradients.
    """
    if torch.is_grad_enabled():
        return trained(heads, queries, mask)
    return kernels.attend_last(*split_heads(heads, queries), mask)


class NativeKernels(FusedKernels):
    """Native operations without gradients; those of FusedKernels with gradients."""

    def norm(self, x: Tensor, factor: float = 1.0) -> Tensor:
        if not fits(x):
            return super().norm(x, factor)
        out = torch.empty_like(x)
        norm_rows(rows_of(x), rows_of(out), np.float32(factor), EPSILON)
        return out

    def mix(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        if not fits(x, y, weight):
            return super().mix(x, y, weight)
        out = torch.empty_like(x)
        mix_rows(rows_of(x), rows_of(y), rows_of(weight), rows_of(out))
        return out

    def add_scaled(self, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return super().add_scaled(x, y, scale) if torch.is_grad_enabled() else torch.addcmul(x, y, scale)

    def relu_squared(self, x: Tensor) -> Tensor:
        if not fits(x):
            return super().relu_squared(x)
        out = torch.empty_like(x)
        square_positive(rows_of(x), rows_of(out))
        return out

    def qk_norm_rope(self, qkv: Tensor, gain: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if not fits(qkv, gain, cos, sin):
            return super().qk_norm_rope(qkv, gain, cos, sin)
        batch, time, heads, width = qkv.shape
        out = qkv.new_empty(heads, batch, time, width)
        turn_heads(qkv.numpy(), gain.numpy(), cos.numpy(), sin.numpy(), EPSILON, out.numpy())
        return out

    def attend_last(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
        if not takes(q, k, v, mask):
            return super().attend_last(q, k, v, mask)
        return attend_tiles(q, k, v, mask.window)

    def logits(self, hidden: Tensor, weight: Tensor, cap: float) -> Tensor:
        if torch.is_grad_enabled():
            return super().logits(hidden, weight, cap)
        return softcap_(product(hidden, weight).to(wide(hidden)), cap)

    def nats(self, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
        """As PlainKernels, a few rows at a time; more exact than the form for training."""
        if not fits(hidden):
            return super().nats(hidden, weight, targets, cap)
        step = head_rows(len(weight))
        parts = zip(hidden.split(step), targets.split(step))
        return torch.cat([capped_nats(product(rows, weight), wanted, cap) for rows, wanted in parts])


def capped_nats(logits: Tensor, targets: Tensor, cap: float) -> Tensor:
    """Cross-entropy of each row's target under softcapped logits; overwrites the given logits."""
    return F.cross_entropy(softcap_(logits, cap), targets, reduction="none")


def fits(*tensors: Tensor) -> bool:
    """Whether the loops below can use these tensors: float32, contiguous, without gradients."""
    plain = all(each.dtype == torch.float32 and each.is_contiguous() for each in tensors)
    return plain and not torch.is_grad_enabled()


def rows_of(x: Tensor) -> np.ndarray:
    """A contiguous tensor as an array (rows, last dimension) that shares its memory."""
    return x.detach().view(-1, x.shape[-1]).numpy()


@in_vectors
def norm_rows(x: np.ndarray, out: np.ndarray, factor: np.float32, epsilon: np.float32) -> None:
    """Write each row divided by its root mean square, times a factor."""
    rows, width = x.shape
    share = np.float32(1) / np.float32(width)
    for row in range(rows):
        total = np.float32(0)
        for i in range(width):
            total += x[row, i] * x[row, i]
        scale = factor / np.float32(math.sqrt(total * share + epsilon))
        for i in range(width):
            out[row, i] = x[row, i] * scale


@in_vectors
def mix_rows(x: np.ndarray, y: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """weight[0] * x + weight[1] * y."""
    rows, width = x.shape
    for row in range(rows):
        for i in range(width):
            out[row, i] = weight[0, i] * x[row, i] + weight[1, i] * y[row, i]


@in_vectors
def square_positive(x: np.ndarray, out: np.ndarray) -> None:
    """max(x, 0)^2."""
    rows, width = x.shape
    for row in range(rows):
        for i in range(width):
            positive = max(x[row, i], np.float32(0))
            out[row, i] = positive * positive


@in_vectors
def turn_heads(
    qkv: np.ndarray,
    gain: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    epsilon: np.float32,
    out: np.ndarray,
) -> None:
    """See `qk_norm_rope` of PlainKernels."""
    batch, time, heads, width = qkv.shape
    half, share = cos.shape[1], np.float32(1) / np.float32(width)
    for row in range(batch):
        for position in range(time):
            for head in range(len(gain)):
                total = np.float32(0)
                for i in range(width):
                    total += qkv[row, position, head, i] * qkv[row, position, head, i]
                scale = gain[head] / np.float32(math.sqrt(total * share + epsilon))
                for i in range(half):
                    first, second = (
                        qkv[row, position, head, i] * scale,
                        qkv[row, position, head, half + i] * scale,
                    )
                    out[head, row, position, i] = first * cos[position, i] + second * sin[position, i]
                    out[head, row, position, half + i] = second * cos[position, i] - first * sin[position, i]
                for i in range(2 * half, width):
                    out[head, row, position, i] = qkv[row, position, head, i] * scale
            for head in range(len(gain), heads):
                for i in range(width):
                    out[head, row, position, i] = qkv[row, position, head, i]
