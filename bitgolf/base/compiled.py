"""Loops over single numbers as machine code."""

from collections.abc import Callable
from typing import TypeVar

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]

Looping = TypeVar("Looping", bound=Callable[..., object])


def compiled(function: Looping) -> Looping:
    """The function as machine code, made when it is first called; as it is, slow, where numba is missing."""
    made: Looping = numba.njit(nogil=True)(function) if numba else function
    return made
