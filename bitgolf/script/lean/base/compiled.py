"""Loops over single numbers as machine code."""

from collections.abc import Callable
from typing import TypeVar, cast

try:
    import numba as numba
except ImportError:
    numba = None  # type: ignore[assignment]

HAS_NUMBA = numba is not None
Looping = TypeVar("Looping", bound=Callable[..., object])


def compiled(function: Looping) -> Looping:
    """The function as machine code, made when it is first called; as it is, slow, where numba is missing."""
    return cast(Looping, numba.njit(nogil=True)(function)) if numba else function


def kept_compiled(function: Looping, fastmath: bool | set[str] = False) -> Looping:
    """As `compiled`: a script leaves no machine code beside itself. fastmath: as `numba.njit` takes it."""
    return cast(Looping, numba.njit(nogil=True, fastmath=fastmath)(function)) if numba else function
