"""Quantization while training: the weights that are used, and the gradient that reaches the others."""

import torch

from bitgolf.squeeze.clip import Ternary
from bitgolf.train.qat import sigmoid_rounded
from tests.golden_cases.case import Case
from tests.golden_cases.compare import limits
from tests.golden_cases.fakes import fake_quantizer, soft_quantizer, soft_sharpness


def check(case: Case) -> None:
    sharpness = soft_sharpness(case)
    quantizer = soft_quantizer() if sharpness else fake_quantizer(case)
    weight = case.tensors["W"].clone().requires_grad_()
    assert list(weight.shape) == case.arguments["shape"]
    case.arguments.get("function")
    used = sigmoid_rounded(weight, quantizer, sharpness) if sharpness else quantizer.fake_quantize(weight)
    (used * case.tensors["G"]).sum().backward()
    # The ternary layer of the script works in bfloat16.
    stated, coarse = limits(case, "out.w_used"), limits(case, "bf16 layer")
    relative = coarse["rel"] if isinstance(quantizer, Ternary) else stated["rel"]
    absolute = relative * float(weight.detach().abs().max()) + stated["abs"]
    for found, name in ((used.detach(), "out.w_used"), (weight.grad, "out.grad")):
        expected = case.tensors[name].float()
        torch.testing.assert_close(found, expected, rtol=relative, atol=absolute)
