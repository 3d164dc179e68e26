"""Products of many rows by a matrix through oneDNN, without gradients.

Torch gives float32 products to MKL, whose code for AVX512 runs on Intel's processors alone; that of oneDNN
runs on all that have it. Which is taken depends on the shape and on nothing measured, so bits stay the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.net.kernels import wide
from bitgolf.net.layers import Attention
from bitgolf.net.model import Model
from bitgolf.net.parts import Linear, Module
from bitgolf.net.softcap import softcap_

ENOUGH_ROWS = 16  # fewer pay more for the order in which oneDNN wants the matrix than they gain


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., inputs) by weight (outputs, inputs), as `F.linear`."""
    rows = x.numel() // x.shape[-1]
    if rows < ENOUGH_ROWS or x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_grad_enabled():
        return F.linear(x, weight)
    if not torch.backends.mkldnn.is_available():
        return F.linear(x, weight)
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


class FastLinear(Linear):
    """A matrix that multiplies by `product`."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.matrix(x.dtype))


class FastAttention(Attention):
    """Attention whose matrices do."""

    def heads_of(self, x: Tensor, *parts: Linear) -> Tensor:
        whole = torch.cat([part.matrix(x.dtype) for part in parts])
        return product(x, whole).unflatten(-1, (-1, self.head_width))


class FastModel(Model):
    """A model whose head does."""

    def logits_of(self, hidden: Tensor, head: Tensor | None = None) -> Tensor:
        matrix = self.head() if head is None else head
        logits, cap = product(hidden, matrix.to(hidden.dtype)).to(wide(hidden)), self.plan.logit_softcap
        return cap * torch.tanh(logits / cap) if torch.is_grad_enabled() else softcap_(logits, cap)


FAST: dict[type, type[Module]] = {Linear: FastLinear, Attention: FastAttention, Model: FastModel}


def with_fast_products(model: Model) -> Model:
    """The model, whose matrices multiply so from now on."""
    for module in model.modules():
        module.__class__ = FAST.get(type(module), type(module))
    return model
