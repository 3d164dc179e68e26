"""Loops over single numbers as machine code."""

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
    """A function that becomes machine code when it is first called, or by another that is compiled.

    numba is imported then too: importing it takes as long as a tenth of torch.
    """

    def __init__(self, function: Callable[..., object], *, cache: bool, fastmath: bool | set[str]) -> None:
        functools.update_wrapper(self, function)
        self.function, self.cache, self.fastmath = function, cache, fastmath

    @functools.cached_property
    def machine_code(self) -> Any:  # a dispatcher of numba, which has no public type
        """The function as numba has it."""
        numba, function = importlib.import_module("numba"), self.function
        if self.cache:
            with contextlib.suppress(RuntimeError):  # no folder for the file, or no file of its own
                compiled = numba.njit(nogil=True, cache=True, fastmath=self.fastmath)
                return compiled(named_by_content(cast(FunctionType, function)))
        return numba.njit(nogil=True, fastmath=self.fastmath)(function)

    @property
    def _numba_type_(self) -> Any:  # numba asks for it where a compiled function calls this one
        return self.machine_code._numba_type_

    def __call__(self, *values: object) -> object:
        return self.machine_code(*values)


def named_by_content(function: FunctionType) -> FunctionType:
    """The function under a name that holds a check sum of what is compiled with it.

    numba keeps machine code by name, and looks at the function's own file alone to see whether it is still
    right; numbers and functions that are imported may have changed elsewhere.
    """
    copy = FunctionType(function.__code__, function.__globals__, argdefs=function.__defaults__)
    copy.__qualname__ = f"{function.__qualname__}_{content_of(function)[:16]}"
    return copy


def content_of(function: FunctionType) -> str:
    """Hex check sum of a function: its code, the numbers of its module, and those of ours that it calls."""
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
    """The function as machine code, made when it is first called; as it is, slow, where numba is missing."""
    return cast(Looping, Compiled(function, cache=False, fastmath=False)) if HAS_NUMBA else function


def kept_compiled(function: Looping, fastmath: bool | set[str] = False) -> Looping:
    """As `compiled`, and kept in a file for the next process, where one can be written.

    It may take numbers of its module, imported ones too, and call other compiled functions; see `content_of`.
    fastmath: as `numba.njit` takes it.
    """
    return cast(Looping, Compiled(function, cache=True, fastmath=fastmath)) if HAS_NUMBA else function
