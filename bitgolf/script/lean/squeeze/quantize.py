"""Weights and a table of rules to quantized tensors.

First matching rule wins; a tensor without a rule and a rule without a tensor are errors. Quantizers that look
at what a matrix multiplies are in modules of their own.
"""

from collections.abc import Mapping

from torch import Tensor

from bitgolf.squeeze.form import QuantizedTensor
from bitgolf.squeeze.quantize import Curvatures, QuantizePlan


def quantize_weights(
    plan: QuantizePlan, weights: Mapping[str, Tensor], curvatures: Curvatures
) -> dict[str, QuantizedTensor]:
    """Every tensor by the first rule that matches it."""
    chosen = plan.assign(weights)
    return {
        name: plan.rules[chosen[name]].quantizer.quantize(weight, curvatures.get(name))
        for name, weight in weights.items()
    }
