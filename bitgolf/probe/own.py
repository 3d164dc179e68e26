"""Our own scorer for probes: a model and a score plan with adapters and mixers."""

import copy
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import finish
from bitgolf.net.model import Model
from bitgolf.net.position import DocumentAttention
from bitgolf.probe.scorer import Rows, Scorer
from bitgolf.probe.together import together
from bitgolf.score.adapter import Adaptation, Adapter, NoAdapter
from bitgolf.score.exam import Exam
from bitgolf.score.mixer import Memory, Mixer
from bitgolf.score.score import ScorePlan, document_starts, is_shared, scoring
from bitgolf.score.windows import PerDocument, Window
from bitgolf.text.tokenizer import Tokenizer
from bitgolf.train.world import World

SHAPE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}  # nats of one token between two shapes of the same work
LEAST_PARTS = 4  # windows, and parts between updates, that a probed text should have
Seen = dict[int, np.ndarray]


class OwnScorer(Scorer):
    """A model scored as `bitgolf score` scores it."""

    def __init__(self, model: Model, tokenizer: Tokenizer, plan: ScorePlan, name: str) -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.plan = plan.replace(limit_tokens=0)
        self.vocabulary_size = min(model.plan.vocabulary_size, tokenizer.vocabulary_size)
        self.shape_tolerance = SHAPE_TOLERANCE.get(model.backend.dtype_name, max(SHAPE_TOLERANCE.values()))

    def rows(self, tokens: np.ndarray) -> Rows:
        return self._rows(tokens, self.plan)

    def rows_one_by_one(self, tokens: np.ndarray) -> Rows:
        return self._rows(tokens, self.plan.replace(batch_tokens=1))

    def rows_shared(self, tokens: np.ndarray, processes: int) -> Rows | None:
        if not is_shared(self.plan):
            return None
        models = [self.model, *(copy.deepcopy(self.model) for _ in range(processes - 1))]  # each learns
        scorers = [OwnScorer(model, self.tokenizer, self.plan, self.name) for model in models]
        rows = together(processes, lambda world: scorers[world.rank]._rows(tokens, self.plan, world))
        return rows[-1]

    def distributions(self, tokens: np.ndarray, positions: Sequence[int]) -> np.ndarray:
        seen: Seen = {}
        if self.plan.mixers:
            inputs = np.concatenate([np.arange(each.first_scored, each.end) for each in self.windows(tokens)])
            watch = _WatchedMixer(calls=tuple(inputs.tolist()), seen=seen, wanted=tuple(positions))
            plan = self.plan.replace(mixers=(*self.plan.mixers, watch))
        else:
            watching = _WatchedAdapter(inner=self.plan.adapter, seen=seen, wanted=tuple(positions))
            plan = copy.copy(self.plan)
            # Not by `replace`, which checks: it changes nothing, so any windows will do.
            object.__setattr__(plan, "adapter", watching)
        self._rows(tokens, plan)
        nothing = np.full(self.model.plan.vocabulary_size, np.nan)
        return np.stack([seen.get(position, nothing) for position in positions])

    def state(self) -> dict[str, str]:
        named = {name: _hash(tensor) for name, tensor in self.model.state_dict().items()}
        learnt = {
            f"{name}, whether it learns": str(t.requires_grad) for name, t in self.model.named_parameters()
        }
        modes = {"mode": str(self.model.training), "window": str(self.model.window)}
        return named | learnt | modes

    def counted_bytes(self, tokens: np.ndarray) -> int:
        first = len(self.tokenizer.decode(tokens[:1]))
        return first + int(self.tokenizer.token_bytes(tokens[1:], tokens[:-1]).sum())

    def windows(self, tokens: np.ndarray) -> list[Window]:
        """The windows over some tokens."""
        starts = document_starts(tokens, self.tokenizer.bos).tolist()
        return list(self.plan.windows.windows(len(tokens), starts))

    def tokens_needed(self, tokens: np.ndarray, most: int) -> int:
        """How many of these tokens make a few windows and a few updates, at most `most`."""
        count = min(64, len(tokens))
        while count < min(most, len(tokens)):
            windows, starts = (
                self.windows(tokens[:count]),
                document_starts(tokens[:count], self.tokenizer.bos),
            )
            with suppress(BitgolfError):  # too short to learn from
                parts = list(self.plan.adapter.parts(windows, starts))
                learns = LEAST_PARTS if self.plan.adapter != NoAdapter() else 1
                if len(windows) >= LEAST_PARTS and len(parts) >= learns:
                    return count
            count = min(count + max(count // 4, 1), most, len(tokens))
        return count

    def not_apart(self) -> str:
        """Why its documents need not be apart; '' where windows or attention claim it."""
        if self.plan.adapter != NoAdapter() or self.plan.mixers:
            return "what it learns or remembers may pass from a document to the next"
        isolated = isinstance(self.plan.windows, PerDocument) or any(
            isinstance(each, DocumentAttention) for each in self.model.plan.scope
        )
        if not isolated:
            return "neither its windows nor its attention claim it"
        return "" if self.tokenizer.bos >= 0 else "its tokenizer opens no documents"

    def _rows(self, tokens: np.ndarray, plan: ScorePlan, world: World | None = None) -> Rows:
        scores = finish(scoring(self.model, tokens, self.tokenizer, plan, world=world or World()))
        inputs = np.concatenate([np.arange(each.first_scored, each.end) for each in self.windows(tokens)])
        nats, times = np.full(len(tokens) - 1, np.nan), np.zeros(len(tokens) - 1, np.int64)
        nats[inputs] = scores.nats
        np.add.at(times, inputs, 1)
        return Rows(nats, times)


def _hash(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


# ---- what looks on: members of no slot, since they are abstract, and so known to nobody ----


class _Watch(Adaptation):
    def __init__(self, inner: Adaptation, plan: "_WatchedAdapter", windows: Sequence[Window]) -> None:
        super().__init__(inner.model)
        self.inner, self.plan, self.windows = inner, plan, windows

    def hidden(self, indices: Sequence[int], inputs: Tensor, scored: int) -> Tensor:
        return self.inner.hidden(indices, inputs, scored)

    def nats(self, indices: Sequence[int], hidden: Tensor, targets: Tensor) -> Tensor:
        for row, index in enumerate(indices):
            window = self.windows[index]
            for position in self.plan.wanted:
                if window.first_scored <= position < window.end:
                    logits = self.inner.logits(index, hidden[row, position - window.end])
                    self.plan.seen[position] = torch.softmax(logits.double(), -1).cpu().numpy()
        return self.inner.nats(indices, hidden, targets)

    def logits(self, index: int, hidden: Tensor) -> Tensor:
        return self.inner.logits(index, hidden)

    def learn(self, exam: Exam, part: Sequence[int]) -> None:
        self.inner.learn(exam, part)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WatchedAdapter(Adapter):
    """Another adapter, whose expectations at wanted positions are written down."""

    abstract: ClassVar[bool] = True
    inner: Adapter = NoAdapter()
    wanted: tuple[int, ...] = ()
    seen: dict = dataclasses.field(default_factory=dict, compare=False)

    def parts(self, windows: Sequence[Window], starts: np.ndarray) -> Iterator[list[int]]:
        yield from self.inner.parts(windows, starts)

    @contextmanager
    def adapting(self, model: Model, windows: Sequence[Window], starts: np.ndarray) -> Iterator[Adaptation]:
        with self.inner.adapting(model, windows, starts) as adaptation:
            yield _Watch(adaptation, self, windows)


class _Looking(Memory):
    def __init__(self, plan: "_WatchedMixer") -> None:
        self.plan, self.call = plan, 0

    def mix(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        position = self.plan.calls[self.call]
        if position in self.plan.wanted:
            self.plan.seen[position] = own.copy()
        return own

    def observe(self, token: int) -> None:
        self.call += 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WatchedMixer(Mixer):
    """Stands behind all other mixers and writes down what they come to at wanted positions.

    calls: the position of each call, in order.
    """

    abstract: ClassVar[bool] = True
    calls: tuple[int, ...] = ()
    wanted: tuple[int, ...] = ()
    seen: dict = dataclasses.field(default_factory=dict, compare=False)

    def memory(self, vocabulary_size: int, tokenizer: Tokenizer) -> Memory:
        return _Looking(self)
