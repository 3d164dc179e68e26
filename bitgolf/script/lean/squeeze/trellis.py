"""Rounding on a trellis: a script leaves no machine code beside itself."""

import functools
from collections.abc import Callable

import numpy as np

from bitgolf.script.lean.base.compiled import numba
from bitgolf.squeeze.trellis import viterbi


@functools.cache
def compiled_viterbi() -> Callable[..., np.ndarray]:
    """`viterbi` as machine code; compiling takes some seconds, once in a process."""
    return numba.njit(nogil=True)(viterbi)
