"""States of mixers as plain values and arrays, and back, for evaluations that were killed.

Only what has a plain type is written, and only known classes are made again; nothing of a file is executed.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from bitgolf.base.errors import CheckpointError
from bitgolf.base.plan import Plan
from bitgolf.mix.byte_contexts import ContextTree
from bitgolf.mix.byte_tree import ByteTree
from bitgolf.mix.counts import Counts
from bitgolf.mix.nearest import Datastore
from bitgolf.mix.trust import Trust
from bitgolf.score.mixer import Memory

# Of files that keep what is learnt on the way. Raise it with the fields of a mixer, an adapter or a chain, or
# what they mean: files of another version are not used.
KEPT_VERSION = 3
PLAIN = (bool, int, float, str, type(None))
SERIES: dict[str, Callable[[Iterable[Any]], Any]] = {"tuple": tuple, "list": list}
HOLDERS: dict[type, Callable[[], Any]] = {
    Trust: partial(Trust, 0.0),
    Counts: partial(Counts, 0),
    ContextTree: ContextTree,
    Datastore: partial(Datastore, 0),
}
GIVEN = (Plan, ByteTree)  # a memory has these from its mixer and its tokenizer, the same each time


def dump(memory: Memory, arrays: list[np.ndarray]) -> dict[str, Any]:
    """What a memory knows, as JSON has it; arrays are added to a list. Raises CheckpointError for others."""
    return {name: _dump(each, arrays) for name, each in vars(memory).items() if not isinstance(each, GIVEN)}


def restore(memory: Memory, dumped: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Give an empty memory what `dump` made of another. Raises CheckpointError where it was another mixer."""
    own = {name for name, each in vars(memory).items() if not isinstance(each, GIVEN)}
    if set(dumped) != own:
        raise CheckpointError("what a mixer knew is of another mixer", value=sorted(own ^ set(dumped)))
    vars(memory).update({name: _restore(each, arrays) for name, each in dumped.items()})


def _dump(value: Any, arrays: list[np.ndarray]) -> Any:
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is np.ndarray or isinstance(value, np.generic):
        arrays.append(np.array(value))
        return {"array" if kind is np.ndarray else "number": len(arrays) - 1}
    if kind in SERIES.values():
        return {kind.__name__: [_dump(each, arrays) for each in value]}
    if kind is dict:
        return {"dict": [[_dump(key, arrays), _dump(each, arrays)] for key, each in value.items()]}
    if kind in HOLDERS:
        return {kind.__name__: [_dump(each, arrays) for each in vars(value).values()]}
    raise CheckpointError("a mixer knows what cannot be kept", value=kind.__name__)


def _restore(dumped: Any, arrays: list[np.ndarray]) -> Any:
    if not isinstance(dumped, dict):
        return dumped
    ((kind, value),) = dumped.items()
    if kind == "bytes":
        return bytes.fromhex(value)
    if kind == "array":
        return arrays[value]
    if kind == "number":
        return arrays[value][()]
    if kind in SERIES:
        return SERIES[kind](_restore(each, arrays) for each in value)
    if kind == "dict":
        return {_restore(key, arrays): _restore(each, arrays) for key, each in value}
    holder = {each.__name__: empty for each, empty in HOLDERS.items()}[kind]()
    for name, each in zip(tuple(vars(holder)), value, strict=True):
        setattr(holder, name, _restore(each, arrays))
    return holder
