"""Arithmetic with the same bits on every processor, whatever its vector instructions and threads.

IEEE 754 defines the result of one +, -, *, / or square root; it does not define the order of a sum, nor other
functions. Inside `Portable()` torch's operations are built from the defined ones. The order of a sum does not
matter if nothing is rounded: its terms, or the factors of a product, are scaled to whole numbers so small
that float64 holds every partial sum. Functions are polynomials. An operation that is neither known to be safe
nor replaced here is refused.

The model's own forward pass runs, but slower. Factors keep some 22 bits relative to a row's largest value,
where float32 has 24 bits of each.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bitgolf.base.errors import BitgolfError

EXACT_BITS = 53  # of a whole number in float64
EXP_TERMS, SINE_TERMS, LOG_TERMS = 13, 11, 8  # errors near those of float64, far below those of float32
LARGEST_EXPONENT = 700.0  # of exp in float64
HIGH_PI = math.floor(math.pi * 2**30) / 2**30  # few enough digits for exact multiples
LOW_PI = math.pi - HIGH_PI
ROOT_HALF = math.sqrt(0.5)
# Operations that move numbers, select them, or round once.
SAFE = frozenset(
    """
    abs add alias all amax amin any arange argmax argmin as_strided bitwise_and bitwise_left_shift
    bitwise_not bitwise_or bitwise_right_shift bitwise_xor cat ceil clamp clamp_max clamp_min clone
    constant_pad_nd copy_ cummax detach div embedding empty empty_like eq equal expand fill_ flip floor full
    full_like gather ge gt index index_put index_select isfinite isnan le leaky_relu lift_fresh
    _local_scalar_dense logical_and logical_not logical_or logical_xor __lshift__ lt masked_fill max maximum
    min minimum mul narrow ne neg new_empty new_full new_ones new_zeros ones ones_like permute randint
    randperm relu repeat resolve_conj roll round __rshift__ rsub scalar_tensor scatter select sgn sign slice
    sort split split_with_sizes sqrt squeeze stack sub t _to_copy transpose tril triu trunc unbind unfold
    _unsafe_view unsqueeze view where zero_ zeros zeros_like
    """.split()
)
WHOLE_ONLY = frozenset(("cumsum", "remainder", "sum"))  # also safe, for whole numbers


class Portable(TorchDispatchMode):
    """A context in which torch computes portably. Raises BitgolfError for unsupported operations."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        with self:
            if (made := func.decompose(*args, **kwargs)) is not NotImplemented:
                return made
        name = func.overloadpacket.__name__
        plain = name if name in SAFE else name.removesuffix("_")
        tensors = [each for each in args if isinstance(each, Tensor)]
        whole = bool(tensors) and not any(each.is_floating_point() for each in tensors)
        if plain in SAFE and kwargs.get("alpha", 1) == 1 or plain in WHOLE_ONLY and whole:
            return func(*args, **kwargs)
        if plain not in REPLACED:
            raise BitgolfError(
                "no portable arithmetic for an operation of this model",
                value=name,
                way_out="leave out --portable",
            )
        result = REPLACED[plain](*args, **kwargs).to(tensors[0].dtype)
        return result if plain == name else args[0].copy_(result)


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent, float64, of whole numbers; built from its bits."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def as_whole(x: Tensor, bits: int, dims: Sequence[int] = (-1,)) -> tuple[Tensor, Tensor]:
    """x as whole numbers of at most `bits` bits in float64, and the power of two that scales them back.

    dims: dimensions that share the power.
    """
    exponent = torch.frexp(x.abs().amax(tuple(dims), keepdim=True).double()).exponent
    return (x * power_of_two(bits - exponent)).round_(), power_of_two(exponent - bits)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b; every partial sum is a whole number that float64 holds."""
    bits = (EXACT_BITS - math.ceil(math.log2(a.shape[-1]))) // 2
    left, left_unit = as_whole(a, bits)
    right, right_unit = as_whole(b, bits, (-2,))
    return (left @ right) * (left_unit * right_unit)


def total(x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    """The sum over some dimensions, of whole numbers that float64 adds exactly."""
    dims = tuple(range(x.ndim)) if not dims else tuple(dims)
    count = math.prod(x.shape[dim] for dim in dims)
    terms, unit = as_whole(x, EXACT_BITS - math.ceil(math.log2(max(count, 1))), dims)
    result = terms.sum(dims, keepdim=True) * unit
    return result if keepdim else result.squeeze(dims)


def mean(x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    """The mean over some dimensions."""
    result = total(x, dims, keepdim)
    return result / (x.numel() / result.numel())


def polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """The first coefficient, and the others times x, x^2, ...; each step rounded twice."""
    result = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result.mul_(x).add_(coefficient)
    return result


def exp(x: Tensor) -> Tensor:
    """e^x, float64."""
    x = x.double().clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)
    twos = (x * (1 / math.log(2))).round_()
    rest = x - twos * math.log(2)
    return polynomial(rest, [1 / math.factorial(k) for k in range(EXP_TERMS)]) * power_of_two(twos)


def log(x: Tensor) -> Tensor:
    """The natural logarithm, float64."""
    fraction, twos = torch.frexp(x.double())
    ratio = (fraction - ROOT_HALF) / (fraction + ROOT_HALF)
    series = polynomial(ratio * ratio, [2 / (2 * k + 1) for k in range(LOG_TERMS)])
    return series * ratio + (twos.double() - 0.5) * math.log(2)


def sin(x: Tensor) -> Tensor:
    """The sine, float64."""
    x = x.double()
    turns = (x * (1 / math.pi)).round_()
    rest = (x - turns * HIGH_PI) - turns * LOW_PI
    terms = [(-1) ** k / math.factorial(2 * k + 1) for k in range(SINE_TERMS)]
    return polynomial(rest * rest, terms) * rest * (1 - 2 * turns.remainder(2))


def cos(x: Tensor) -> Tensor:
    """The cosine, float64."""
    return sin(x.double() + math.pi / 2)


def softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    """Softmax over a dimension, float64."""
    above = exp(x - x.amax(dim, keepdim=True))
    return above / total(above, (dim,), keepdim=True)


def power(base: Tensor | float, exponent: Tensor | float) -> Tensor:
    """base^exponent: a square, or a number to a tensor of powers."""
    if isinstance(base, Tensor):
        if exponent == 2:
            return base * base
        raise BitgolfError("no portable power but the square", value=exponent, way_out="leave out --portable")
    return exp(torch.as_tensor(exponent).double() * log(torch.tensor(base, dtype=torch.float64)))


REPLACED: dict[str, Callable[..., Tensor]] = {
    "mm": product,
    "bmm": product,
    "baddbmm": lambda start, a, b: start + product(a, b),
    "addmm": lambda start, a, b: start + product(a, b),
    "sum": total,
    "mean": mean,
    "linalg_vector_norm": lambda x, order, dims, keepdim: total(x * x, dims, keepdim).sqrt(),
    "exp": exp,
    "log": log,
    "sin": sin,
    "cos": cos,
    "pow": power,
    "ldexp": lambda x, twos: x * power_of_two(twos),
    "rsqrt": lambda x: 1 / x.double().sqrt(),
    "reciprocal": lambda x: 1 / x,
    "sigmoid": lambda x: 1 / (1 + exp(-x)),
    "tanh": lambda x: 1 - 2 / (1 + exp(2 * x)),
    "_softmax": softmax,
    "lerp": lambda start, end, share: start + share * (end - start),
}
