"""Softcapped logits in compiled code, without gradients; torch's tanh takes ten times as long."""

import math

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.compiled import HAS_NUMBA, kept_compiled

ONE, TWO, HALF = np.float32(1), np.float32(2), np.float32(0.5)
TWICE_BITS_OF_E = np.float32(2 * math.log2(math.e))
LOWEST = np.float32(-126)  # the least power of two in float32 that is not denormal
BIAS, MANTISSA = np.int32(127), np.int32(23)  # of the parts of a float32
# 2^x - 1 = P1 x + P2 x^2 ..., whose rest is below 6e-9 between -0.5 and 0.5
P1, P2, P3, P4, P5, P6, P7 = (np.float32(math.log(2) ** k / math.factorial(k)) for k in range(1, 8))


def softcap_(logits: Tensor, cap: float) -> Tensor:
    """Replace logits (..., vocabulary) by cap * tanh(logits / cap), in place, without gradients."""
    plain = logits.device.type == "cpu" and logits.dtype == torch.float32 and logits.is_contiguous()
    if not HAS_NUMBA or not plain:
        return logits.div_(cap).tanh_().mul_(cap)
    cap_rows(logits.detach().view(-1, logits.shape[-1]).numpy(), np.float32(cap))
    return logits


def cap_rows_plainly(x: np.ndarray, cap: np.float32) -> None:
    """Softcap x (rows, width) in place. With u = e^(-2 |x|) - 1, tanh |x| is -u / (2 + u)."""
    rows, width = x.shape
    powers = np.empty(width, np.int32)
    whole_powers, rests, steps = powers.view(np.float32), np.empty(width, np.float32), -TWICE_BITS_OF_E / cap
    for row in range(rows):
        numbers = x[row]
        for i in range(width):
            power = max(abs(numbers[i]) * steps, LOWEST)
            whole = np.floor(power + HALF)
            powers[i] = (np.int32(whole) + BIAS) << MANTISSA
            f = power - whole
            rests[i] = ((((((P7 * f + P6) * f + P5) * f + P4) * f + P3) * f + P2) * f + P1) * f
        for i in range(width):
            # 2^(whole + f) - 1, to a float32's last bits
            u = (whole_powers[i] - ONE) + whole_powers[i] * rests[i]
            capped = np.divide(-cap * u, TWO + u)  # as the operator / checks each divisor for zero
            numbers[i] = -capped if numbers[i] < 0 else capped


cap_rows = kept_compiled(cap_rows_plainly, fastmath={"contract"})
