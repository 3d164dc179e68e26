"""The file of an unfinished coding with adapters or mixers: finished frames, and the state at their end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitgolf.adapt.learner import part_of
from bitgolf.base.errors import CheckpointError
from bitgolf.base.tensors import read_tensors, write_tensors
from bitgolf.proof.crew import Crew
from bitgolf.proof.lanes import Lanes
from bitgolf.run.memories import dump, restore
from bitgolf.run.sheet import UNFIT
from bitgolf.score.adapter import Adaptation
from bitgolf.score.mixer import Memory


class Kept:
    """The saved state of one direction, 'encode' or 'decode'; that of the other is not changed.

    identity: hash of everything that the bits depend on; the state of another coding is not used. Nothing is
    saved without a file, or if an adapter or mixer cannot give its state.
    """

    def __init__(self, crew: Crew, direction: str, identity: str) -> None:
        self.crew, self.path, self.direction, self.identity = crew, crew.part, direction, identity

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The saved state; None if there is none."""
        tensors, facts = self._whole()
        own = facts.get(self.direction)
        fits = isinstance(own, dict) and own.get("identity") == self.identity
        self.crew.open(self.path is not None and self.path.exists(), fits)
        if not isinstance(own, dict) or not fits:
            return None
        return part_of(tensors, self.direction), own

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Save this state in place of the one before."""
        if self.path is None:
            return
        others, other_facts = self._whole()
        kept = {name: each for name, each in others.items() if not name.startswith(f"{self.direction}/")}
        kept |= {f"{self.direction}/{name}": each for name, each in tensors.items()}
        write_tensors(self.path, kept, {**other_facts, self.direction: {**facts, "identity": self.identity}})

    def _whole(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        with suppress(*UNFIT):
            if self.path is not None and self.path.is_file():
                return read_tensors(self.path)
        return {}, {}


def kept_state(
    adaptation: Adaptation, memories: Sequence[Memory], lanes: Lanes
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything learnt, and what the lane still sees. Raises CheckpointError if a part has no state."""
    tensors, facts = state_of_memories(memories)
    tensors |= {f"learnt/{name}": each for name, each in adaptation.state().items()}
    tensors |= {f"lane/{name}": each for name, each in lanes.state().items()}
    return tensors, {**facts, "updates_left": adaptation.updates_left}


def state_of_memories(memories: Sequence[Memory]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of mixers. Raises CheckpointError for a mixer that cannot give it."""
    arrays: list[np.ndarray] = []
    facts = {"memories": [dump(each, arrays) for each in memories]}
    return {f"array/{number}": torch.from_numpy(each) for number, each in enumerate(arrays)}, facts


def restore_kept(
    adaptation: Adaptation,
    memories: Sequence[Memory],
    lanes: Lanes,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    where: str,
) -> None:
    """Continue from a result of `kept_state`. Raises CheckpointError if it does not fit; where: the file."""
    restore_memories(memories, tensors, facts, where)
    with refusing_unfit(where):
        adaptation.restore(part_of(tensors, "learnt"))
        adaptation.updates_left = int(facts["updates_left"])
        lanes.restore(part_of(tensors, "lane"))


def restore_memories(
    memories: Sequence[Memory], tensors: Mapping[str, Tensor], facts: Mapping[str, Any], where: str
) -> None:
    """Fill empty memories with a result of `state_of_memories`. Raises CheckpointError if it does not fit."""
    with refusing_unfit(where):
        arrays = {int(name): each.numpy() for name, each in part_of(tensors, "array").items()}
        for memory, memory_state in zip(memories, facts["memories"], strict=True):
            restore(memory, memory_state, [arrays[number] for number in range(len(arrays))])


@contextmanager
def refusing_unfit(where: str) -> Iterator[None]:
    """A context in which errors of states that do not fit become CheckpointError. where: their file."""
    try:
        yield
    except UNFIT as error:
        raise CheckpointError(f"does not fit: {error}", where=where, way_out="delete it") from None
