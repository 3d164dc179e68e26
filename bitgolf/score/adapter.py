"""The slot of adapters: what may change a model between two stretches of the text that it scores."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from bitgolf.base.plan import Plan
from bitgolf.net.model import Model
from bitgolf.score.exam import Exam
from bitgolf.score.windows import Window, Windows
from bitgolf.train.world import World


class Adaptation:
    """A model while a text is scored; members of the slot change it in `learn`.

    resumable: whether `state` and `restore` know all that it learns. A class that learns more than the one
    it is made of says so anew. updates_left: how often it will learn before the text ends.
    world: the processes that share its work; one alone, where its slot does not say `shared`.
    """

    resumable: ClassVar[bool] = False
    updates_left = 0
    world = World()

    def __init__(self, model: Model) -> None:
        self.model = model

    def join(self, world: World) -> None:
        """Share the work with these processes; told before anything is scored."""
        self.world = world

    def worker(self, part: Sequence[int], turn: int) -> int:
        """The process, by its rank, that scores the batch of number `turn` of a part."""
        return turn % self.world.size

    def meets(self, part: Sequence[int]) -> bool:
        """Whether all processes have all scores after this part, and learn from it together.

        Else its worker alone learns from it.
        """
        return True

    def hidden(self, indices: Sequence[int], inputs: Tensor, scored: int) -> Tensor:
        """Final states (windows, scored, width) of the ends of some windows, by the model as it is now."""
        return self.model.hidden(inputs, scored)

    def nats(self, indices: Sequence[int], hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy (windows, scored) of the targets of these states."""
        return self.model.nats_of(hidden, targets)

    def logits(self, index: int, hidden: Tensor) -> Tensor:
        """Softcapped logits (..., vocabulary) of states of one window."""
        return self.model.logits_of(hidden)

    def learn(self, exam: Exam, part: Sequence[int]) -> None:
        """Learn from what has just been scored, through `exam.released`; never called after the last part."""

    def state(self) -> dict[str, Tensor]:
        """Copies of all that was learnt, by name, from which `restore` goes on to the same bits.

        Names that begin with own/ are of this process alone: what it has learnt since all had all scores.
        """
        return {}

    def restore(self, learnt: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave. Raises CheckpointError for what does not fit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter(Plan):
    """The slot of test-time training: what the model learns from text that has been scored.

    in_order: parts follow the stream, so that mixers may read along. shared: several processes share its
    work and come to the bits of one; otherwise each does all of it. A class that learns otherwise than the
    one it is made of says both anew.
    """

    abstract: ClassVar[bool] = True
    in_order: ClassVar[bool] = True
    shared: ClassVar[bool] = False

    @property
    def on(self) -> bool:
        """Whether it changes anything; one that does not is left out, so that off is exact."""
        return True

    def workers(self, processes: int) -> int:
        """How many of so many processes have work at the same time, where it is shared."""
        return processes

    def validate_for(self, windows: Windows) -> Iterator[str]:
        """What keeps it from scoring by these windows, as sentences."""
        return iter(())

    def parts(self, windows: Sequence[Window], starts: np.ndarray) -> Iterator[list[int]]:
        """Windows, by index, that are scored between two updates. starts: where documents begin.

        Raises BitgolfError for a text from which nothing could be learnt.
        """
        yield list(range(len(windows)))

    def side_by_side(self, windows: Sequence[Window], starts: np.ndarray) -> Iterator[list[int]]:
        """A few windows, by index, where nothing is learnt: those that one state of the model may score."""
        yield list(range(len(windows)))

    def trial(self, length: int) -> Self:
        """The same with parts as short as they can be, whose pace tells that of the whole.

        length: tokens of a window.
        """
        return self

    @contextmanager
    def adapting(self, model: Model, windows: Sequence[Window], starts: np.ndarray) -> Iterator[Adaptation]:
        """The model while it adapts to what these windows score; afterwards it is as before, to the bit."""
        yield Adaptation(model)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoAdapter(Adapter):
    """A fixed model.

    What: nothing is learnt from the text that is scored ("Track A").
    Source: the public baseline
    Cost: nothing
    Not for: nothing known
    Neutral: this is the neutral one
    """

    shared: ClassVar[bool] = True
