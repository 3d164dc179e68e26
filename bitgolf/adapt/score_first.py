"""Score-first test-time training: score a chunk of the stream, then train on it."""

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from bitgolf.adapt.caps import CAPS, with_learnt_caps
from bitgolf.adapt.learner import Learner, LearningError, part_of, restored_after
from bitgolf.base.errors import PlanError
from bitgolf.base.plan import setting
from bitgolf.net.model import Model
from bitgolf.score.adapter import Adaptation, Adapter
from bitgolf.score.exam import Exam
from bitgolf.score.windows import Window, Windows
from bitgolf.train.optim import AdamRule, Frozen, OptimPlan, ParameterRow, Rule, SgdRule
from bitgolf.train.qat import LateNoise, Noise, NoNoise
from bitgolf.train.schedule import Cosine, Progress, Schedule
from bitgolf.train.world import World

PLACE = "score.adapter"  # of these settings, for messages


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreFirst(Adapter):
    """The model trains on each chunk of the stream once it is scored (score-first test-time training).

    What: a window belongs to the chunk of `chunk_tokens` targets that contains its first target. When all
        windows of a chunk are scored, `epochs` passes over it, cut into sequences, `batch_sequences` per
        step, gradients clipped at norm `clip`. Rates follow `schedule` over the chunks, the optimizer keeps
        its state, the last chunk is not trained on. Tensors that match `tensors` and none of `frozen` learn;
        with `noise` they are trained and scored as it quantizes them. sequence_length 0: that of the windows.
        caps: the rule for two learnt bounds of the logits, p tanh(l / p) above zero and n tanh(l / n) below,
        which start at the model's (asymmetric soft cap, PR #1923: -0.0014 with another change).
    Source: PR #461, #549, record 2026-03-23 (lr 0.002, -0.0025 bpb), PR #1716 (lr 0.005, -0.0013);
        `frozen=("*.weight",)` and `noise` are the two remedies that #1718 names for models trained with QAT.
    Cost: no bytes; a forward and backward pass over the text for each epoch; a copy of the weights, and the
        state of the rule.
    Not for: texts of a few chunks; stacks with GPTQ and XSA gained nothing (records 03-25, 03-29).
    Neutral: lr=0 of the rule, without noise
    """

    shared: ClassVar[bool] = True

    chunk_tokens: int = setting(32_768, at_least=1)
    epochs: int = setting(3, at_least=0, at_most=1000)
    rule: Rule = SgdRule()
    schedule: Schedule = Cosine()
    tensors: tuple[str, ...] = ("*",)
    frozen: tuple[str, ...] = ()
    sequence_length: int = setting(0, at_least=0)
    batch_sequences: int = setting(32, at_least=1)
    clip: float = setting(1.0, at_least=0.0)
    noise: Noise = NoNoise()
    caps: Rule = Frozen()

    @property
    def on(self) -> bool:
        return self.epochs > 0 and (self.rule.moves or self.caps.moves) or self.noise != NoNoise()

    def validate(self) -> Iterator[str]:
        if self.sequence_length > self.chunk_tokens:
            yield f"sequence_length: {self.sequence_length} is more than a chunk, {self.chunk_tokens}"
        if isinstance(self.noise, LateNoise) and not self.noise.rules:
            yield "noise: it needs rules of its own here, as FakeQuantize(rules=(QuantRule(...),))"

        if not isinstance(self.caps, (Frozen, SgdRule, AdamRule)):
            yield f"caps: SgdRule, AdamRule or Frozen, found {type(self.caps).__name__}"

    def validate_for(self, windows: Windows) -> Iterator[str]:
        if not self.sequence_length and windows.longest() > self.chunk_tokens:
            yield f"chunk_tokens: {self.chunk_tokens} are fewer than a window of {windows.longest()}"

    def parts(self, windows: Sequence[Window], starts: np.ndarray) -> Iterator[list[int]]:
        firsts, ends = (np.array([each[i] for each in windows]) for i in (2, 1))
        if (firsts[1:] > np.maximum.accumulate(ends)[:-1]).any():
            raise LearningError("the windows leave out targets, and what is not scored is not learnt from")
        total = int(ends.max())
        count = -(-total // self.chunk_tokens)
        if count < 2:
            longest = self.sequence_length or max(window.end - window.start for window in windows)
            shorter = max(total // 4, longest)  # chunks of fewer tokens than a window are refused
            raise LearningError(
                "the text is no longer than a chunk, so that nothing would be learnt from it",
                value=f"tokens: {total:,}",
                way_out=f"--set score.adapter.chunk_tokens={shorter}, or more text"
                if shorter < total
                else "more text, or shorter score.windows and score.adapter.chunk_tokens",
            )
        chunks = firsts // self.chunk_tokens
        order = np.argsort(chunks, kind="stable")
        cuts = np.searchsorted(chunks[order], np.arange(1, count))
        yield from (part.tolist() for part in np.split(order, cuts))

    def trial(self, length: int) -> Self:
        batch = self.batch_sequences * (self.sequence_length or length)
        return self.replace(chunk_tokens=min(self.chunk_tokens, batch or self.chunk_tokens))

    @contextmanager
    def adapting(self, model: Model, windows: Sequence[Window], starts: np.ndarray) -> Iterator[Adaptation]:
        targets = max(window.end for window in windows)
        length = self.sequence_length or max(window.end - window.start for window in windows)
        with self.bounds(model), restored_after(model):
            learner = self.learner(model.eval())
            with learner.shown:
                learner.show()
                yield ChunkLearner(self, learner, targets, length)

    def bounds(self, model: Model) -> AbstractContextManager[None]:
        """A context in which the model has learnt bounds, if `caps` is set."""
        return nullcontext() if self.caps == Frozen() else with_learnt_caps(model)

    def learner(self, model: Model, path: str = PLACE) -> Learner:
        """The learner of a model's weights; path: of these settings, for messages.

        Raises PlanError for patterns that match nothing.
        """
        names = [name for name, _ in model.named_parameters()]
        if problems := [f"{path}.{problem}" for problem in self.unmatched(names)]:
            raise PlanError(problems)
        return Learner(model, self.optim(), self.clip, self.noise)

    def unmatched(self, names: Sequence[str]) -> Iterator[str]:
        """Patterns that match none of these tensors, as sentences."""
        for field in ("frozen", "tensors"):
            for pattern in getattr(self, field):
                if not fnmatch.filter(names, pattern):
                    yield f"{field}: {pattern!r} matches no tensor; names are like {names[0]}"
        yield from (f"noise.{problem}" for problem in self.noise.validate_for(names))

    def optim(self) -> OptimPlan:
        """The parameter table."""
        rows: list[tuple[str, Rule]] = [(CAPS, self.caps), *((pattern, Frozen()) for pattern in self.frozen)]
        rows += [(pattern, self.rule) for pattern in self.tensors]
        rows += [("*", Frozen())]
        parameter_rows = (
            ParameterRow(pattern=pattern, rule=rule, may_be_idle=True) for pattern, rule in rows
        )
        return OptimPlan(rows=tuple(parameter_rows), schedule=self.schedule)


class ChunkLearner(Adaptation):
    """The adaptation of a model to the chunks of a stream."""

    resumable: ClassVar[bool] = True

    def __init__(self, plan: ScoreFirst, learner: Learner, targets: int, length: int) -> None:
        super().__init__(learner.model)
        self.plan, self.learner, self.targets, self.length = plan, learner, targets, length
        self.chunk = 0

    def join(self, world: World) -> None:
        self.world = self.learner.world = world

    def learn(self, exam: Exam, part: Sequence[int]) -> None:
        plan, chunk_tokens = self.plan, self.plan.chunk_tokens
        start, last = self.chunk * chunk_tokens, (self.targets - 1) // chunk_tokens
        progress = Progress(self.chunk, last)
        self.chunk += 1
        if len(part):  # a chunk that a window of the chunk before has scored is skipped
            tokens = torch.from_numpy(exam.released(start, min(start + chunk_tokens, self.targets)))
            tokens = tokens.to(self.model.backend.device)
            self.learner.learn(tokens, self.length, plan.batch_sequences, plan.epochs, progress)

    def state(self) -> dict[str, Tensor]:
        tensors = self.learner.state().items()
        return {"chunk": torch.tensor(self.chunk), **{f"learner/{name}": tensor for name, tensor in tensors}}

    def restore(self, learnt: Mapping[str, Tensor]) -> None:
        self.learner.restore(part_of(learnt, "learner"))
        self.chunk = int(learnt["chunk"])
