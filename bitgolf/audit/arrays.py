"""Arrays of numbers and losses, under the names that torch and numpy have for what is done with them."""

import ast
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bitgolf.audit.interpreter import UNKNOWN, Known, Unknown

MOST_SIZE = 2**20  # of an array


class Nats:
    """A sum of losses: weights by target. used: whether it was added up, or learned from."""

    def __init__(self, of: Mapping[int, float], used: list[bool]) -> None:
        self.of, self.used = of, used

    def __add__(self, other: Known) -> Known:
        if isinstance(other, Nats):
            self.used[0] = other.used[0] = True
            return Nats(_added([self, other]), [False])
        return self if is_number(other) else UNKNOWN

    def __mul__(self, other: Known) -> Known:
        if not is_number(other):
            return UNKNOWN
        return Nats({each: weight * other for each, weight in self.of.items()}, self.used) if other else 0.0

    def __truediv__(self, other: Known) -> Known:
        return self * (1 / other) if is_number(other) else UNKNOWN

    def __neg__(self) -> Known:
        return self * -1

    def __sub__(self, other: Known) -> Known:
        return self if is_number(other) else self + -other

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Known) -> Known:
        return -self + other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Nats) and self.of == other.of

    __hash__ = object.__hash__


def _added(parts: Sequence[Nats]) -> dict[int, float]:
    first, *others = sorted(parts, key=lambda part: len(part.of), reverse=True)
    total = {**first.of}
    for part in others:
        for each, weight in part.of.items():
            total[each] = total.get(each, 0.0) + weight
    return total


def is_number(value: Known) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, complex)


def summed(
    array: np.ndarray, dim: Known = None, *, keepdim: bool = False, axis: Known = None, **_: Known
) -> Known:
    """The sum of an array; of losses without a dimension all at once."""
    dim = axis if dim is None else dim
    if array.dtype != object or dim is not None:
        return array.sum(dim, keepdims=keepdim)
    parts = [each for each in array.flat if isinstance(each, Nats)]
    others = [each for each in array.flat if not isinstance(each, Nats)]
    if any(isinstance(each, Unknown) for each in others):
        return UNKNOWN
    for each in parts:
        each.used[0] = True
    return Nats(_added(parts), [False]) if parts else float(sum(others))


def _flat(array: np.ndarray, first: int = 0, last: int = -1) -> np.ndarray:
    last %= array.ndim
    return array.reshape(*array.shape[:first], -1, *array.shape[last + 1 :])


def fits(*shapes: Sequence[int]) -> None:
    """Raises ValueError for an array that would be too large."""
    if np.prod(np.broadcast_shapes(*map(tuple, shapes)), dtype=float) > MOST_SIZE:
        raise ValueError


def _shape(given: Sequence[Known]) -> tuple[int, ...]:
    shape = (*given[0],) if given and isinstance(given[0], list | tuple) else (*given,)
    fits([max(each, 1) for each in shape])
    return shape


def _filled(value: Known, *given: Known, **_: Known) -> np.ndarray:
    """Of anything: numbers, losses."""
    return np.full(_shape(given), value, dtype=object)


def _stacked(parts: Sequence[Known], dim: int = 0, **_: Known) -> np.ndarray:
    arrays = [each if isinstance(each, np.ndarray) else _array(each) for each in parts]
    fits([len(arrays), *np.shape(arrays[0])])
    return np.stack([np.array(each, getattr(each, "dtype", object)) for each in arrays], dim)


def _array(parts: Known, *_: Known, **__: Known) -> Known:
    return _stacked([*parts]) if isinstance(parts, list | tuple) else parts


def _joined(parts: Sequence[Known], dim: int = 0, axis: int | None = None, **_: Known) -> np.ndarray:
    fits([sum(each.size for each in parts)])
    return np.concatenate([*parts], dim if axis is None else axis)


def _padded(array: np.ndarray, widths: Sequence[int], mode: str = "constant", value: int = 0) -> np.ndarray:
    pairs = [(widths[i], widths[i + 1]) for i in range(0, len(widths), 2)][::-1]
    fits([array.size * (1 + sum(widths))])
    return np.pad(array, [*[(0, 0)] * (array.ndim - len(pairs)), *pairs], constant_values=value)


def _sequences(parts: Sequence[np.ndarray], *_: Known, padding_value: int = 0, **__: Known) -> np.ndarray:
    longest = max(map(len, parts))
    return _stacked([_padded(each, (0, longest - len(each)), value=padding_value) for each in parts])


def _numbers(*given: int, **_: Known) -> np.ndarray:
    fits([len(range(*given))])
    return np.arange(*given)


def _chosen(test: Known, one: Known, other: Known) -> np.ndarray:
    fits(*map(np.shape, (test, one, other)))
    return np.asarray(np.where(test, one, other))


def _same(array: Known, *_: Known, **__: Known) -> Known:
    return array


SAME = frozenset(
    "to cuda cpu contiguous detach long int float double half bfloat16 numpy astype type item".split()
)
METHODS: dict[str, Callable[..., Known]] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(("clone", "copy"), np.copy),
    **dict.fromkeys(("expand_dims", "unsqueeze"), np.expand_dims),
    **dict.fromkeys(("nelement", "numel"), np.size),
    **dict.fromkeys(("reshape", "view"), lambda array, *given: array.reshape(_shape(given))),
    **{each: getattr(np, each) for each in "any all max min roll flip cumsum clip squeeze".split()},
    "dim": np.ndim,
    "eq": np.equal,
    "flatten": _flat,
    "mean": lambda array, *over, **_: UNKNOWN if over else summed(array) / array.size,
    "narrow": lambda array, dim, first, size: array.swapaxes(0, dim)[first : first + size].swapaxes(0, dim),
    "ne": np.not_equal,
    "pad": _padded,
    "size": lambda array, dim=None: array.shape if dim is None else array.shape[dim],
    "split": lambda array, size, dim=0: np.split(array, range(size, array.shape[dim], size), dim),
    "sum": summed,
    "tolist": np.ndarray.tolist,
    "transpose": np.swapaxes,
    "view_as": lambda array, other: array.reshape(other.shape),
}
IN_PLACE = {"add_": ast.Add(), "sub_": ast.Sub(), "mul_": ast.Mult(), "div_": ast.Div()}
PUT = ("fill_", "zero_", "copy_")
MADE: dict[str, Callable[..., Known]] = {
    **dict.fromkeys("array tensor as_tensor asarray ascontiguousarray LongTensor".split(), _array),
    **dict.fromkeys(("cat", "concatenate", "concat", "hstack"), _joined),
    **dict.fromkeys(("zeros", "empty"), functools.partial(_filled, 0.0)),
    **dict.fromkeys(("zeros_like", "empty_like"), lambda array, **_: _filled(0.0, *array.shape)),
    "arange": _numbers,
    "from_numpy": _same,
    "full": lambda shape, value, **_: _filled(value, shape),
    "full_like": lambda array, value, **_: _filled(value, *array.shape),
    "ones": functools.partial(_filled, 1.0),
    "pad_sequence": _sequences,
    "stack": _stacked,
    "where": _chosen,
}
UNNEEDED = ("device", "non_blocking", "pin_memory", "copy", "dtype", "copy")
