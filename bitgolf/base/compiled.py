"""Loops over single numbers as machine code."""

from collections.abc import Callable
from typing import TypeVar

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """The function as machine code, made when it is first called; as it is, slow, where numba is missing."""
    made: F = numba.njit(nogil=True)(function) if numba else function
    return made
