"""The file of an evaluation in progress: the nats so far, and the state of adapters and mixers."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitgolf.adapt.learner import part_of
from bitgolf.base.errors import BitgolfError, CheckpointError
from bitgolf.base.tensors import read_tensors, write_tensors
from bitgolf.net.model import Model
from bitgolf.run.memories import KEPT_VERSION, dump, restore
from bitgolf.score.adapter import Adaptation, NoAdapter
from bitgolf.score.chained import Chain, ChainedReader
from bitgolf.score.exam import Exam
from bitgolf.score.mixer import Memory, Mixture
from bitgolf.score.score import ScorePlan, is_shared, is_static
from bitgolf.score.windows import States
from bitgolf.text.tokenizer import Tokenizer
from bitgolf.train.world import World

# What whole tensors and facts that this did not write can raise.
UNFIT = (BitgolfError, LookupError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError)


class Sheet:
    """An evaluation so far, and the file that keeps it until it has ended.

    Where no window depends on another the nats are all there is to keep. Else it is also what the adapter
    and the mixers have learnt, and the keys and values of chains; a member that cannot tell begins again.
    Each process has its file. Those that share the work begin where the first's file says that all had all
    scores; a file from there on has besides what its process did alone.
    note: one line for the reader, '' if there is nothing to say. moving: a batch is being scored, in the
    middle of which nothing that learns can be kept. seconds: of this evaluation, those before it was killed
    included; learning_seconds: of these, what went into updates.
    """

    def __init__(
        self, path: Path | None, model: Model, tokens: np.ndarray, plan: ScorePlan, world: World
    ) -> None:
        self.path = path.with_name(f"{path.name}{world.rank or ''}") if path else None
        self.world = world if is_shared(plan) else World()
        self.first = path if self.world.rank else None  # the file that all begin by
        self.identity = f"{evaluation_identity(model, tokens, plan)}/{world.size}" if path else ""
        self.note, self.moving, self.is_static = "", False, is_static(plan)
        self.learns = plan.learner != NoAdapter()
        self.seconds = self.learning_seconds = 0.0
        self._tokens, self._bytes = tokens, np.zeros(0, np.int64)

    def bits_so_far(self, tokenizer: Tokenizer) -> float:
        """Bits per byte of what has been scored; NaN where that stands for no byte."""
        if not len(self._bytes):  # looked up once: a text may have millions of windows
            inputs = np.concatenate([np.arange(each.first_scored, each.end) for each in self.exam.windows])
            self._bytes = tokenizer.token_bytes(self._tokens[inputs + 1], self._tokens[inputs])
        scored = np.isfinite(self.exam.nats)
        num_bytes = int(self._bytes[scored].sum())
        return (
            float(self.exam.nats[scored].sum(dtype=np.float64)) / math.log(2) / num_bytes
            if num_bytes
            else math.nan
        )

    def open(self, exam: Exam, adaptation: Adaptation, mixture: Mixture | None, states: States) -> None:
        """Take an evaluation that begins; what the file knows of it is not made again."""
        self.exam, self.adaptation = exam, adaptation
        self.mixture = mixture
        reader = getattr(states, "__self__", None)
        self.reader = reader if isinstance(reader, ChainedReader) else None
        if self.path is None:
            return
        if self.learns and not adaptation.resumable:
            self.path = None
        else:
            self._go_on(self.path)
            self._refuse_apart(self.path)

    def _refuse_apart(self, path: Path) -> None:
        """Raise CheckpointError, on all processes, unless all begin at one place.

        None goes on before all have read: the first's file is gone as soon as it is done.
        """
        own = torch.tensor([self.exam.met], device=self.adaptation.model.backend.device)
        begun = [int(each) for each in self.world.each(own)]
        if len({*begun}) > 1:
            raise CheckpointError(
                "the processes would go on from different places",
                where=str(path),
                value=begun,
                way_out="give them a folder that all see, or delete what is kept there",
            )

    def _go_on(self, path: Path) -> None:
        """Take up what the file keeps of this evaluation. Raises CheckpointError where it does not fit."""
        found = self._read(path)
        if self.first is not None:
            common = self._read(self.first)
            if (found[1]["met"] if found else 0) != (common[1]["met"] if common else 0):
                found = self._known_to_all(*common) if common else None
        if found is None:
            return
        try:
            self._restore(*found)
        except UNFIT as error:  # changed by hand: half of it may be taken up
            way_out = "delete it and score again"
            raise CheckpointError(f"does not fit: {error}", where=str(path), way_out=way_out) from None

    def _read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What a file keeps of this evaluation; None where it keeps nothing, and a note where that is odd."""
        if not path.is_file():
            return None
        reason = "it is damaged"
        with suppress(*UNFIT):
            tensors, facts = read_tensors(path)
            if facts.get("version") != KEPT_VERSION:
                reason = "it is of another version of bitgolf"
            else:
                reason = "it is of another model, text or recipe" * (facts["identity"] != self.identity)
        if not reason:
            return tensors, facts
        self.note = f"{path.name}: {reason}; all is scored anew"
        return None

    def _known_to_all(
        self, tensors: dict[str, Tensor], facts: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Of what another process kept that which each of them had when all last had all scores."""
        common = {name: each for name, each in tensors.items() if not name.startswith("learnt/own/")}
        shared = np.repeat(tensors["shared"].numpy(), np.diff(self.exam.places))
        nats = np.where(shared, tensors["nats"].numpy(), np.float32(np.nan))
        facts = {**facts, "updates_left": self.adaptation.updates_left}
        return {**common, "nats": torch.from_numpy(nats)}, facts

    def keep(self) -> None:
        """Write it; where that cannot be done, a killed one begins again."""
        if self.path is not None and (self.is_static or not self.moving):
            with suppress(OSError, *UNFIT):
                write_tensors(self.path, *self._taken_down())

    def close(self, spare: bool) -> None:
        """The evaluation has ended. spare: its file stays."""
        self.moving = False
        if self.path is not None and not spare:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        elif self._is_whole():
            self.keep()

    def alone(self) -> np.ndarray:
        """Nats so far of the model by itself, where mixers join it: in the order of the stream."""
        return np.concatenate([np.zeros(0, np.float32), *(self.mixture.alone if self.mixture else ())])

    def _memories(self) -> Sequence[Memory]:
        return self.mixture.memories if self.mixture is not None else ()

    def _is_whole(self) -> bool:
        """Whether all is scored, so that only the nats are of use."""
        return bool(np.isfinite(self.exam.nats).all())

    def _taken_down(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"nats": torch.from_numpy(self.exam.nats), "shared": torch.from_numpy(self.exam.shared)}
        if self.mixture is not None:
            tensors["alone"] = torch.from_numpy(self.alone())
        facts: dict[str, Any] = {"version": KEPT_VERSION, "identity": self.identity}
        facts |= {"updates_left": self.adaptation.updates_left, "met": self.exam.met}
        facts |= {"seconds": self.seconds, "learning_seconds": self.learning_seconds}
        if self.is_static or self._is_whole():
            return tensors, facts
        tensors |= {f"learnt/{name}": each for name, each in self.adaptation.state().items()}
        arrays: list[np.ndarray] = []
        facts["memories"] = [dump(memory, arrays) for memory in self._memories()]
        tensors |= {f"array/{number}": torch.from_numpy(each) for number, each in enumerate(arrays)}
        if self.reader is not None:
            chains = list({id(chain): chain for chain, _ in self.reader.ends.values()}.values())
            ends = self.reader.ends.items()
            facts["ends"] = [(position, chains.index(chain), row) for position, (chain, row) in ends]
            facts["chains"] = [(chain.end, len(chain.cache)) for chain in chains]
            tensors |= {
                f"chain/{number}/{call}/{side}": each
                for number, chain in enumerate(chains)
                for call, pair in enumerate(chain.cache)
                for side, each in enumerate(pair)
            }
        return tensors, facts

    def _restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        nats = tensors["nats"].numpy()
        if nats.shape != self.exam.nats.shape or nats.dtype != np.float32:
            raise CheckpointError("other nats", value=nats.shape)
        if self.mixture is not None:
            self.mixture.alone = [tensors["alone"].numpy()]
        if not self.is_static and not np.isfinite(nats).all():
            arrays = {int(name): each.numpy() for name, each in part_of(tensors, "array").items()}
            for memory, dumped in zip(self._memories(), facts["memories"], strict=True):
                restore(memory, dumped, [arrays[number] for number in range(len(arrays))])
            if self.reader is not None:
                self.reader.ends = _chains(self.reader, part_of(tensors, "chain"), facts)
            self.adaptation.restore(part_of(tensors, "learnt"))
        self.adaptation.updates_left = int(facts["updates_left"])
        self.seconds, self.learning_seconds = float(facts["seconds"]), float(facts["learning_seconds"])
        self.exam.resume(nats)
        self.exam.shared, self.exam.met = tensors["shared"].numpy().copy(), int(facts["met"])


def _chains(
    reader: ChainedReader, kept: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> dict[int, tuple[Chain, int]]:
    """Where chains go on, by what was kept of them."""
    chains = []
    for number, (end, calls) in enumerate(facts["chains"]):
        chain = Chain(reader.history, reader.tables, reader.model.kernels)
        chain.end = end
        device = reader.tables[0].device
        pairs = [[kept[f"{number}/{call}/{side}"].to(device) for side in (0, 1)] for call in range(calls)]
        chain.cache = [(keys, values) for keys, values in pairs]
        chains.append(chain)
    return {position: (chains[number], row) for position, number, row in facts["ends"]}


def evaluation_identity(model: Model, tokens: np.ndarray, plan: ScorePlan) -> str:
    """Names weights, tokens, windows and number type: equal ones come to equal nats."""
    digest = hashlib.sha256(tokens.tobytes())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    settings = (model.plan.identity(), plan.replace(eval_seconds=0.0).identity(), model.backend.dtype_name)
    return hashlib.sha256("/".join((digest.hexdigest(), *settings)).encode()).hexdigest()
