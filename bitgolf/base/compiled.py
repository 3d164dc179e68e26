"""Functions with loops over single numbers, compiled to machine code by numba."""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
from collections.abc import Callable
from numbers import Number
from types import CodeType, FunctionType
from typing import Any, TypeVar, cast

HAS_NUMBA = importlib.util.find_spec("numba") is not None
Looping = TypeVar("Looping", bound=Callable[..., object])


class Compiled:
    """A function that is compiled when it is first called, or when another compiled function calls it.

    numba is imported only then: its import takes a tenth of the time of torch's.
    """

    def __init__(self, function: Callable[..., object], *, cache: bool, fastmath: bool | set[str]) -> None:
        functools.update_wrapper(self, function)
        self.function, self.cache, self.fastmath = function, cache, fastmath

    @functools.cached_property
    def machine_code(self) -> Any:  # a dispatcher of numba, which has no public type
        """The compiled function, as numba's dispatcher."""
        numba, function = importlib.import_module("numba"), self.function
        if self.cache:
            with contextlib.suppress(RuntimeError):  # no folder to write to, or no source file
                compiled = numba.njit(nogil=True, cache=True, fastmath=self.fastmath)
                return compiled(named_by_content(cast(FunctionType, function)))
        return numba.njit(nogil=True, fastmath=self.fastmath)(function)

    @property
    def _numba_type_(self) -> Any:  # numba asks for it where a compiled function calls this one
        return self.machine_code._numba_type_

    def __call__(self, *values: object) -> object:
        return self.machine_code(*values)


def named_by_content(function: FunctionType) -> FunctionType:
    """The function under a name that contains a checksum of everything that is compiled with it.

    numba caches machine code by name and notices changes only in the function's own file. Imported numbers
    and functions may have changed in other files.
    """
    copy = FunctionType(function.__code__, function.__globals__, argdefs=function.__defaults__)
    copy.__qualname__ = f"{function.__qualname__}_{content_of(function)[:16]}"
    return copy


def content_of(function: FunctionType) -> str:
    """Hex checksum of a function: its code, the numbers of its module, and our functions that it calls."""
    code, own = function.__code__, function.__globals__
    constants = [each for each in code.co_consts if not isinstance(each, CodeType)]
    digest = hashlib.sha256(code.co_code + repr((constants, code.co_names)).encode())
    for name in code.co_names:
        value = own.get(name)
        if isinstance(value, Number):
            digest.update(f"{name} {value!r}".encode())
        elif isinstance(value, Compiled) and value.function is not function:
            digest.update(content_of(cast(FunctionType, value.function)).encode())
    return digest.hexdigest()


def compiled(function: Looping) -> Looping:
    """The function, compiled when it is first called; unchanged, and slow, if numba is not installed."""
    return cast(Looping, Compiled(function, cache=False, fastmath=False)) if HAS_NUMBA else function


def kept_compiled(function: Looping, fastmath: bool | set[str] = False) -> Looping:
    """As `compiled`, and cached in a file for the next process if one can be written.

    It may use numbers of its module, also imported ones, and call compiled functions; see `content_of`.
    fastmath: as `numba.njit` takes it.
    """
    return cast(Looping, Compiled(function, cache=True, fastmath=fastmath)) if HAS_NUMBA else function
