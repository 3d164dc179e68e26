"""Products of many rows by a matrix through oneDNN, without gradients.

Torch gives float32 products to MKL, whose code for AVX512 runs on Intel's processors alone; that of oneDNN
runs on all that have it. Which is taken depends on the shape and on nothing measured, so bits stay the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.net.model import Model
from bitgolf.net.parts import Linear

ENOUGH_ROWS = 16  # fewer pay more for the order in which oneDNN wants the matrix than they gain


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., inputs) by weight (outputs, inputs), as `F.linear`."""
    rows = x.numel() // x.shape[-1]
    if rows < ENOUGH_ROWS or x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_grad_enabled():
        return F.linear(x, weight)
    if not torch.backends.mkldnn.is_available():
        return F.linear(x, weight)
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def with_fast_products(model: Model) -> Model:
    """The model, whose matrices multiply so from now on."""
    for module in model.modules():
        if isinstance(module, Linear):
            vars(module)["multiply"] = product
    return model
