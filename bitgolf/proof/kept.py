"""The file of a coding under way that adapts: frames that are done, and what has been learnt at their end."""

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
    """What a file keeps of one direction, 'encode' or 'decode'; of the other it is left as it is.

    identity: of all that its bits depend on; what was kept of another coding is not used. Without a file
    nothing is kept, nor where an adapter or a mixer cannot tell what it has learnt.
    """

    def __init__(self, crew: Crew, direction: str, identity: str) -> None:
        self.crew, self.path, self.direction, self.identity = crew, crew.part, direction, identity

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was kept; None where nothing was."""
        tensors, facts = self._whole()
        own = facts.get(self.direction)
        fits = isinstance(own, dict) and own.get("identity") == self.identity
        self.crew.open(self.path is not None and self.path.exists(), fits)
        if not isinstance(own, dict) or not fits:
            return None
        return part_of(tensors, self.direction), own

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep this in the place of what was there."""
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
    """All that has been learnt, and what the lane still sees. Raises CheckpointError for what cannot tell."""
    tensors, facts = state_of_memories(memories)
    tensors |= {f"learnt/{name}": each for name, each in adaptation.state().items()}
    tensors |= {f"lane/{name}": each for name, each in lanes.state().items()}
    return tensors, {**facts, "updates_left": adaptation.updates_left}


def state_of_memories(memories: Sequence[Memory]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What mixers have seen. Raises CheckpointError for one that cannot tell."""
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
    """Go on from what `kept_state` gave. Raises CheckpointError for what does not fit; where: the file."""
    restore_memories(memories, tensors, facts, where)
    with refusing_unfit(where):
        adaptation.restore(part_of(tensors, "learnt"))
        adaptation.updates_left = int(facts["updates_left"])
        lanes.restore(part_of(tensors, "lane"))


def restore_memories(
    memories: Sequence[Memory], tensors: Mapping[str, Tensor], facts: Mapping[str, Any], where: str
) -> None:
    """Give empty memories what `state_of_memories` gave. Raises CheckpointError for what does not fit."""
    with refusing_unfit(where):
        arrays = {int(name): each.numpy() for name, each in part_of(tensors, "array").items()}
        for memory, memory_state in zip(memories, facts["memories"], strict=True):
            restore(memory, memory_state, [arrays[number] for number in range(len(arrays))])


@contextmanager
def refusing_unfit(where: str) -> Iterator[None]:
    """Within it, what does not fit raises CheckpointError. where: the file it is from."""
    try:
        yield
    except UNFIT as error:
        raise CheckpointError(f"does not fit: {error}", where=where, way_out="delete it") from None
