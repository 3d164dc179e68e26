"""Rounding, error feedback and moments, written out column by column in float64."""

import math

import torch
from torch import Tensor


def half(x: Tensor) -> Tensor:
    """Through float16 and back."""
    return x.half().double()


def rounded(weight: Tensor, steps: Tensor, low: int, high: int) -> Tensor:
    """Nearest codes, row by row; zeros where the step is zero."""
    codes = torch.zeros_like(weight)
    for r, step in enumerate(steps):
        if step > 0:
            codes[r] = (weight[r] / step).round().clamp(low, high)
    return codes


def fours(codes: Tensor) -> Tensor:
    """Codes as multiples of four, halves to even ones, of which 31 are above zero and 32 below."""
    return torch.tensor([[4.0 * min(31, round(float(c) / 4)) for c in row] for row in codes]).double()


def in_fours(rows: Tensor, floored: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Codes in steps of four, the steps, and the steps as they are shipped."""
    clip = clip_at(rows, 0.9999984)
    steps = (clip / 127).clamp_min(1 / 127) if floored else clip / 127
    clipped = rows.clamp(-clip[:, None], clip[:, None])
    codes = fours(rounded(clipped, steps, -127, 127))
    return codes, steps, steps.half() if floored else steps.float()


def eight_bits(rows: Tensor, in_fours: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of int8 by the percentile, or in steps of four; the steps, and those that are shipped."""
    if in_fours:
        return fours_of(rows)
    clip = clip_at(rows, 0.9999984)
    steps = (clip / 127).clamp_min(1 / 127)
    return rounded(rows.clamp(-clip[:, None], clip[:, None]), steps, -127, 127), steps, steps.half()


def fours_of(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return in_fours(rows, floored=True)


def soft_by_hand(weight: Tensor, gradient: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """int6 rounded by a sigmoid, and the gradient of its sum with `gradient`, by the rules of calculus."""
    used, found = torch.zeros_like(weight), torch.zeros_like(weight)
    for r, row in enumerate(weight.tolist()):
        largest = max(range(len(row)), key=lambda c: abs(row[c]))
        step, floored = max(abs(row[largest]) / 31, 1 / 31), abs(row[largest]) / 31 < 1 / 31
        for c, w in enumerate(row):
            y = float(torch.tensor(w).float() / (weight[r, largest].abs().float() / 31).clamp_min(1 / 31))
            below = math.floor(y)  # in float32: its last bit decides on which side of 31 the largest is
            share = 1 / (1 + math.exp(-a * (y - below - 0.5)))
            soft = min(max(below + share, -31), 31)
            slope = a * share * (1 - share) if -31 <= below + share <= 31 else 0.0
            used[r, c] = soft * step
            found[r, c] += float(gradient[r, c]) * slope
            if not floored:  # the step is |largest| / 31
                by_step = soft - slope * y
                found[r, largest] += float(gradient[r, c]) * by_step * math.copysign(1 / 31, row[largest])
    return used, found


def gptq(weight: Tensor, moments: Tensor, steps: Tensor, largest: int, damping: float) -> Tensor:
    """Codes with error feedback: the inverse is taken anew for the columns still to come, one by one."""
    rows, columns = weight.shape
    hessian = moments.clone()
    dead = [c for c in range(columns) if hessian[c, c] == 0]
    for c in dead:
        hessian[c, c] = 1
    hessian += damping * hessian.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    order = sorted(range(columns), key=lambda c: -float(hessian[c, c]))
    left = weight.clone()
    left[:, dead] = 0
    codes = torch.zeros_like(weight)
    for place, c in enumerate(order):
        rest = order[place:]
        inverse = torch.linalg.inv(hessian[rest][:, rest])
        for r in range(rows):
            if steps[r] > 0:
                codes[r, c] = (left[r, c] / steps[r]).round().clamp(-largest, largest)
        error = left[:, c] - codes[:, c] * steps
        left[:, rest] -= error[:, None] * inverse[0] / inverse[0, 0]
    return codes


def error_under(weight: Tensor, codes: Tensor, steps: Tensor, moments: Tensor) -> float:
    """tr(E H E^T) of the rounding error."""
    error = weight - codes * steps[:, None]
    return float((error @ moments * error).sum())


def clip_at(weight: Tensor, share: float) -> Tensor:
    """The size that this share of a row does not exceed, linear between two of them."""
    sizes = weight.abs().sort(1).values
    place = float(torch.tensor(share, dtype=torch.float32)) * (sizes.shape[1] - 1)
    low = min(int(place), sizes.shape[1] - 1)
    high = min(low + 1, sizes.shape[1] - 1)
    return sizes[:, low] + (place - low) * (sizes[:, high] - sizes[:, low])
