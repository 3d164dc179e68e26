"""The slot of adapters, which may change a model while it scores a text (test-time training)."""

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

    resumable: whether `state` and `restore` cover all that it learns. A subclass that learns more must set it
    again. updates_left: updates before the text ends.
    world: the processes that share its work; only one if its adapter is not `shared`.
    """

    resumable: ClassVar[bool] = False
    updates_left = 0
    world = World()

    def __init__(self, model: Model) -> None:
        self.model = model

    def join(self, world: World) -> None:
        """Share the work with these processes; called before anything is scored."""
        self.world = world

    def worker(self, part: Sequence[int], turn: int) -> int:
        """The rank of the process that scores batch number `turn` of a part."""
        return turn % self.world.size

    def meets(self, part: Sequence[int]) -> bool:
        """Whether all processes exchange their scores after this part, and learn from it together.

        Otherwise only its worker learns from it.
        """
        return True

    def hidden(self, indices: Sequence[int], inputs: Tensor, scored: int) -> Tensor:
        """Final states (windows, scored, width) of the scored positions, by the model as it is now."""
        return self.model.hidden(inputs, scored)

    def nats(self, indices: Sequence[int], hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy (windows, scored) in nats of the targets of these states."""
        return self.model.nats_of(hidden, targets)

    def logits(self, index: int, hidden: Tensor) -> Tensor:
        """Softcapped logits (..., vocabulary) of states of one window."""
        return self.model.logits_of(hidden)

    def learn(self, exam: Exam, part: Sequence[int]) -> None:
        """Learn from newly scored tokens, by `exam.released`; not called after the last part."""

    def state(self) -> dict[str, Tensor]:
        """Copies of everything learnt, by name; `restore` continues from it to the same bits.

        Names that begin with own/ belong to this process: what it learnt since the last exchange of scores.
        """
        return {}

    def restore(self, learnt: Mapping[str, Tensor]) -> None:
        """Continue from a result of `state`. Raises CheckpointError if it does not fit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter(Plan):
    """The slot of test-time training: what the model learns from scored text.

    in_order: parts follow the stream, so mixers can be used too. shared: several processes share its work and
    give the same bits as one; otherwise each does all of it. A subclass that learns in another way must set
    both again.
    """

    abstract: ClassVar[bool] = True
    in_order: ClassVar[bool] = True
    shared: ClassVar[bool] = False

    @property
    def on(self) -> bool:
        """Whether it changes anything; otherwise it is skipped, so that off is exact."""
        return True

    def workers(self, processes: int) -> int:
        """How many of `processes` processes work at the same time, if the work is shared."""
        return processes

    def validate_for(self, windows: Windows) -> Iterator[str]:
        """Why it cannot score by these windows, as sentences."""
        return iter(())

    def parts(self, windows: Sequence[Window], starts: np.ndarray) -> Iterator[list[int]]:
        """Indices of the windows that are scored between two updates. starts: of documents.

        Raises BitgolfError if nothing could be learnt from the text.
        """
        yield list(range(len(windows)))

    def side_by_side(self, windows: Sequence[Window], starts: np.ndarray) -> Iterator[list[int]]:
        """Indices of a few windows that one state of the model can score, for a run without learning."""
        yield list(range(len(windows)))

    def trial(self, length: int) -> Self:
        """The same adapter with parts as short as possible, to measure its speed.

        length: tokens of a window.
        """
        return self

    @contextmanager
    def adapting(self, model: Model, windows: Sequence[Window], starts: np.ndarray) -> Iterator[Adaptation]:
        """A context in which the model adapts to these windows; afterwards it is restored to the bit."""
        yield Adaptation(model)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoAdapter(Adapter):
    """A fixed model.

    What: nothing is learnt from the scored text ("Track A").
    Source: the public baseline
    Cost: nothing
    Not for: nothing known
    Neutral: this is the neutral one
    """

    shared: ClassVar[bool] = True
