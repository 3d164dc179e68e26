"""Loops over single numbers as machine code."""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar, cast

HAS_NUMBA = importlib.util.find_spec("numba") is not None
Looping = TypeVar("Looping", bound=Callable[..., object])


class Compiled:
    """A function that becomes machine code when it is first called, or by another that is compiled.

    numba is imported then too: importing it takes as long as a tenth of torch.
    """

    def __init__(self, function: Callable[..., object], *, cache: bool, fastmath: bool | set[str]) -> None:
        functools.update_wrapper(self, function)
        self.function, self.cache, self.fastmath = function, cache, fastmath

    @functools.cached_property
    def machine_code(self) -> Any:  # a dispatcher of numba, which has no public type
        """The function as numba has it."""
        numba = importlib.import_module("numba")
        try:
            return numba.njit(nogil=True, cache=self.cache, fastmath=self.fastmath)(self.function)
        except RuntimeError:  # no folder for the file, or no file of its own
            return numba.njit(nogil=True, fastmath=self.fastmath)(self.function)

    @property
    def _numba_type_(self) -> Any:  # numba asks for it where a compiled function calls this one
        return self.machine_code._numba_type_

    def __call__(self, *values: object) -> object:
        return self.machine_code(*values)


def compiled(function: Looping) -> Looping:
    """The function as machine code, made when it is first called; as it is, slow, where numba is missing."""
    return cast(Looping, Compiled(function, cache=False, fastmath=False)) if HAS_NUMBA else function


def kept_compiled(function: Looping, fastmath: bool | set[str] = False) -> Looping:
    """As `compiled`, and kept in a file for the next process, where one can be written.

    For a function that calls no other of ours: numba looks at its file alone to see whether what it kept is
    still right. fastmath: as `numba.njit` takes it.
    """
    return cast(Looping, Compiled(function, cache=True, fastmath=fastmath)) if HAS_NUMBA else function
