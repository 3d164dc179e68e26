"""What a training step in bfloat16 does between its products, compiled: in one go over memory.

All is computed in float32. What is no number stays none, so that a training that diverges is seen to.
"""

import math

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.compiled import HAS_NUMBA, Looping, kept_compiled
from bitgolf.base.threads import in_parts
from bitgolf.net.kernels import LARGEST_CAP, FusedKernels, FusedNats, Saved, head_rows
from bitgolf.net.softcap import BIAS, HALF, LOWEST, MANTISSA, ONE, P1, P2, P3, P4, P5, P6, P7, TWO

BITS_OF_E = np.float32(math.log2(math.e))
UPPER = np.int32(16)  # bits of a float32 are a bfloat16
HALF_BIT = np.int32(1 << 15)  # half of the last of these


class MachineKernels(FusedKernels):
    """The operations by hand, of which the loss is compiled where it is trained in bfloat16 on a CPU."""

    def nats(self, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
        fits = hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16 and cap <= LARGEST_CAP
        if HAS_NUMBA and fits and torch.is_grad_enabled():
            return MachineNats.apply(hidden, weight, targets, cap, True)
        return super().nats(hidden, weight, targets, cap)


class MachineNats(FusedNats):
    """As FusedNats, whose gradients are needed."""

    @staticmethod
    def forward(
        ctx: Saved, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float, needed: bool
    ) -> Tensor:
        shares, dhidden = torch.empty(len(hidden)), torch.empty_like(hidden)
        slopes = hidden.new_empty(len(hidden), len(weight))
        step = head_rows(len(weight))
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            torch.mm(hidden[rows], weight.T, out=slopes[rows])
            logits_to_slopes(slopes[rows], targets[rows], cap, shares[rows])
            torch.mm(slopes[rows], weight, out=dhidden[rows])
        ctx.save_for_backward(hidden, dhidden, slopes)
        return -shares.log()


def logits_to_slopes(logits: Tensor, targets: Tensor, cap: float, shares: Tensor) -> None:
    """Raw logits (rows, vocabulary) to a quarter of their gradients, in their place.

    shares: takes that of each row's target.
    """
    numbers, wanted, out = logits.view(torch.int16).numpy(), targets.numpy(), shares.numpy()
    in_parts(lambda start, end: slope_rows(numbers, wanted, np.float32(cap), out, start, end), len(out))


def for_training(function: Looping) -> Looping:
    """The function compiled; sums are added in another order."""
    return kept_compiled(function, fastmath={"reassoc", "contract", "nsz"})


@for_training
def two_to(x: np.float32) -> np.float32:
    """2^x, kept within what float32 has."""
    x = LOWEST if x < LOWEST else -LOWEST if x > -LOWEST else x
    whole = np.floor(x + HALF)
    f = x - whole
    rest = ((((((P7 * f + P6) * f + P5) * f + P4) * f + P3) * f + P2) * f + P1) * f + ONE
    return rest * np.int32((np.int32(whole) + BIAS) << MANTISSA).view(np.float32)


@for_training
def slope_rows(
    logits: np.ndarray, targets: np.ndarray, cap: np.float32, shares: np.ndarray, start: int, end: int
) -> None:
    """See `logits_to_slopes`; of the rows from start to end. logits: bfloat16, as int16."""
    width = logits.shape[1]
    squashed, slopes = np.empty(width, np.float32), np.empty(width, np.float32)
    bits, steep, high = slopes.view(np.int32), -TWO * BITS_OF_E / cap, TWO * cap * BITS_OF_E
    for row in range(start, end):
        own, target, total = logits[row], targets[row], np.float32(0)
        for i in range(width):
            bits[i] = np.int32(own[i]) << UPPER
        for i in range(width):
            squashed[i] = np.divide(ONE, ONE + two_to(slopes[i] * steep))
            slopes[i] = two_to((squashed[i] - ONE) * high)
            total += slopes[i]
        scale = ONE / total
        shares[row] = slopes[target] * scale
        slopes[target] -= total
        for i in range(width):
            slopes[i] *= scale * squashed[i] * (ONE - squashed[i])
        for i in range(width):
            own[i] = (bits[i] + HALF_BIT) >> UPPER
