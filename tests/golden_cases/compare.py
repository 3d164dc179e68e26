"""Found and expected, within the tolerance that a case states."""

import fnmatch
from typing import Any

import torch
from torch import Tensor

from tests.golden_cases.case import Case, Fields


def limits(case: Case, name: str) -> dict[str, Any]:
    """The tolerance of an output; of several patterns that name it, the most exact one."""
    fits = [
        (pattern, one)
        for pattern in case.tolerance
        for one in pattern.split(", ")
        if fnmatch.fnmatchcase(name, one)
    ]
    figures = [pattern for pattern, stated in case.tolerance.held.items() if isinstance(stated, Fields)]
    if not fits and len(figures) != 1:
        return {}
    fits = fits or [(figures[0], "")]  # a case with one tolerance has it for all it shows
    stated = case.tolerance[max(fits, key=lambda fit: len(fit[1]))[0]]
    return {} if isinstance(stated, str) else dict(stated)


def close(case: Case, name: str, found: Tensor, expected: Tensor | None = None) -> None:
    """An output tensor of the case, or what is expected in its place; equal where no tolerance is stated."""
    stated = limits(case, name)
    torch.testing.assert_close(
        found,
        case.tensors[name] if expected is None else expected,
        atol=stated.get("abs", 0.0),
        rtol=stated.get("rel", 0.0),
        check_dtype=False,
        msg=lambda text: f"{name}: {text}",
    )


def close_figure(case: Case, name: str, found: float) -> None:
    """A figure that the case expects."""
    stated, expected = limits(case, name), case.expected[name]
    allowed = stated.get("abs", 0.0) + stated.get("rel", 0.0) * abs(expected)
    assert abs(found - expected) <= allowed, f"{name}: {found}, expected {expected} within {allowed}"


def relative(found: Tensor, expected: Tensor) -> float:
    """The length of a difference by that of what was expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def same_codes(codes: Tensor, expected: Tensor, most: float = 0.001) -> bool:
    """Whether all codes are equal; at most this share of them, or one, may be off, and only by one."""
    assert codes.numel() == expected.numel()
    off = (codes.reshape(-1).int() - expected.reshape(-1).int()).abs()
    assert off.numel() == 0 or int(off.max()) <= 1
    assert int((off > 0).sum()) <= max(1, most * off.numel())
    return int(off.sum()) == 0


def same_scales(case: Case, scales: Tensor, name: str, stated: str = "scales") -> None:
    """Steps of the same type, within a unit of float16, as the tolerance of this name says."""
    expected, allowed = case.tensors[name], limits(case, stated)["rel"]
    assert scales.dtype == expected.dtype, name
    torch.testing.assert_close(scales.reshape(-1), expected.reshape(-1), rtol=allowed, atol=0)


def same_weights(restored: Tensor, expected: Tensor) -> None:
    """What is loaded, after the same codes."""
    torch.testing.assert_close(restored.to(expected.dtype), expected, rtol=1e-3, atol=1e-7)
