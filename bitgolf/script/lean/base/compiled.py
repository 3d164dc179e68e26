"""Loops over single numbers as machine code."""

from collections.abc import Callable
from typing import TypeVar, cast

try:
    import numba as numba
except ImportError:
    numba = None  # type: ignore[assignment]

Looping = TypeVar("Looping", bound=Callable[..., object])


def compiled(function: Looping) -> Looping:
    """The function as machine code, made when it is first called; as it is, slow, where numba is missing."""
    return cast(Looping, numba.njit(nogil=True)(function)) if numba else function


def kept_compiled(function: Looping, fastmath: bool | set[str] = False) -> Looping:
    """As `compiled`, and kept in a file for the next process, where one can be written.

    For a function that calls no other of ours: numba looks at its file alone to see whether what it kept is
    still right. fastmath: as `numba.njit` takes it.
    """
    if not numba:
        return function
    try:
        return cast(Looping, numba.njit(nogil=True, cache=True, fastmath=fastmath)(function))
    except RuntimeError:  # no folder for the file, or no file of its own
        return cast(Looping, numba.njit(nogil=True, fastmath=fastmath)(function))
