"""Products of many rows by a matrix through oneDNN, without gradients.

Torch uses MKL for float32 products, whose AVX512 code runs only on Intel's processors; oneDNN's runs on all
processors with AVX512. The choice depends only on the shape, not on measurements, so bits stay the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.net.model import Model
from bitgolf.net.parts import Linear

ENOUGH_ROWS = 16  # with fewer, reordering the matrix for oneDNN costs more than it gains


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., inputs) by weight (outputs, inputs), as `F.linear`."""
    rows = x.numel() // x.shape[-1]
    if rows < ENOUGH_ROWS or x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_grad_enabled():
        return F.linear(x, weight)
    if not torch.backends.mkldnn.is_available():
        return F.linear(x, weight)
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def with_fast_products(model: Model) -> Model:
    """The model, with `product` as the multiplication of its matrices."""
    for module in model.modules():
        if isinstance(module, Linear):
            vars(module)["multiply"] = product
    return model
