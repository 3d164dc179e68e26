"""Scores of tokens by a model: one row per scored token; every reported figure is computed from them."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.errors import DataError
from bitgolf.base.events import finish
from bitgolf.base.plan import Plan, setting
from bitgolf.base.tensors import write_arrays
from bitgolf.net.model import Model
from bitgolf.score.adapter import Adaptation, Adapter, NoAdapter
from bitgolf.score.exam import Exam, RuleError
from bitgolf.score.mixer import Mixer, Mixture, mixture_of
from bitgolf.score.windows import Chunked, PerDocument, States, Window, Windows
from bitgolf.text.tokenizer import Tokenizer
from bitgolf.train.world import World

SCORE_COLUMNS = {
    "target": np.uint16,
    "nats": np.float32,
    "bytes": np.int32,
    "document": np.int32,
    "position": np.int32,
    "context": np.int32,
}
DISTRIBUTION_TOLERANCE = {torch.float32: 1e-3}  # nats; relative for scores above 1; other types round more
COARSE_TOLERANCE = 0.02
# Called when an evaluation begins, with exam, adaptation, mixture and the function for hidden states.
Opened = Callable[[Exam, Adaptation, Mixture | None, States], object]
SCORE_FACTS = ("windows", "complete", "file_bytes", "loss", "tokens_sha256")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScorePlan(Plan):
    """How to score.

    batch_tokens: input tokens in one forward pass; changes speed and memory, not the score.
    limit_tokens: score only this many tokens after the first (0: all), whatever the windows; the score is
        then called partial.
    adapter: how the model learns from scored text. mixers: predictors mixed into its distribution.
    eval_seconds: an evaluation that would take longer is refused; 0 sets no limit; the challenge's is 600.
    """

    windows: Windows = setting(Chunked())
    batch_tokens: int = setting(16384, at_least=1)
    limit_tokens: int = setting(0, at_least=0)
    adapter: Adapter = NoAdapter()
    mixers: tuple[Mixer, ...] = ()
    eval_seconds: float = setting(0.0, at_least=0.0)

    def validate(self) -> Iterator[str]:
        if self.mixers and not self.adapter.in_order:
            adapter = type(self.adapter).__name__
            yield f"mixers: they read the stream in its order, which {adapter} does not keep"
        if self.mixers and self.windows.counts_again:
            yield f"mixers: a token may be scored once only; {self.windows.label()} scores some again"
        yield from (f"adapter: {text}" for text in self.adapter.validate_for(self.windows))
        if not self.windows.alone and (self.mixers or self.adapter != NoAdapter()):
            name = type(self.windows).__name__
            yield f"windows: {name} keeps what older weights made; what adapts or mixes needs Sliding"

    def label(self) -> str:
        """The short label of every score: windows, adapter and mixers."""
        adapters = [] if self.adapter == NoAdapter() else [self.adapter]
        return ", ".join([self.windows.label(), *names_apart((*adapters, *self.mixers))])

    @property
    def learner(self) -> Adapter:
        """The adapter, or NoAdapter if it changes nothing, so that windows are batched as without it."""
        return self.adapter if self.adapter.on else NoAdapter()

    def fixed(self) -> Self:
        """The same windows without adapter and mixers."""
        return self.replace(adapter=NoAdapter(), mixers=())

    def chunked(self, length: int) -> Self:
        """The plain score beside every other: chunked windows, without adapter and mixers."""
        return self.fixed().replace(windows=Chunked(length=length))


def names_apart(members: Sequence[Plan]) -> Iterator[str]:
    """The names of adapters and mixers; several of a kind with the settings that differ."""
    for member in members:
        alike = [each for each in members if type(each) is type(member)]
        settings = [
            f"{field.name}={getattr(member, field.name)!r}"
            for field in dataclasses.fields(member)
            if len({repr(getattr(each, field.name)) for each in alike}) > 1
        ]
        yield type(member).__name__ + f"({', '.join(settings)})" * bool(settings)


@dataclasses.dataclass(frozen=True)
class Scores:
    """One row per scored token, in the order of the stream.

    bytes: of the target's text, given the token before. document, position: the document that the target
    continues, and the tokens between its start and the target; the start of the next document counts as the
    end of this one.
    context: tokens that the model saw. complete: every target of the stream was scored exactly once.
    file_bytes: size of the original text, if known; a normalising tokenizer changes the text.
    loss: the part of that text that the scores do not cover, in words; '' if none.
    """

    target: np.ndarray
    nats: np.ndarray
    bytes: np.ndarray
    document: np.ndarray
    position: np.ndarray
    context: np.ndarray
    windows: str
    complete: bool
    file_bytes: int | None
    loss: str = ""

    @property
    def tokens_sha256(self) -> str:
        """Hash of the scored tokens in order: scores can be paired only if it is equal."""
        return hashlib.sha256(self.target.astype("<u2").tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write all columns and facts as .npz."""
        facts = {name: getattr(self, name) for name in SCORE_FACTS}
        columns = {name: getattr(self, name) for name in SCORE_COLUMNS}
        write_arrays(path, {**columns, "facts": np.array(json.dumps(facts))})

    @classmethod
    def load(cls, path: Path, tokens_sha256: str = "") -> Self:
        """Read a file of `save`. Raises DataError if it is damaged or has another tokens_sha256."""
        fields = _read_score_fields(path)
        named = fields.pop("tokens_sha256")
        scores = cls(**fields)
        for expected in filter(None, (named, tokens_sha256)):
            if scores.tokens_sha256 != expected:
                raise DataError(
                    "these scores are of other tokens",
                    where=str(path),
                    value=scores.tokens_sha256[:16],
                    way_out=f"expected {expected[:16]}; score the data again",
                )
        return scores


def _read_score_fields(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in SCORE_COLUMNS}
            facts = json.loads(str(file["facts"]))
            facts = {name: facts[name] for name in SCORE_FACTS if name != "loss" or name in facts}
    except FileNotFoundError:
        raise DataError("no such file", where=str(path)) from None
    except Exception as error:  # numpy, zipfile and zlib raise a dozen types for damaged files
        raise DataError(f"not a scores file: {error}", where=str(path)) from None
    for name, column in columns.items():
        if column.dtype != SCORE_COLUMNS[name] or column.shape != columns["target"].shape:
            raise DataError(f"column {name!r} does not fit", where=str(path), value=str(column.dtype))
    return {**columns, **facts}


def score(
    model: Model,
    tokens: np.ndarray,
    tokenizer: Tokenizer,
    plan: ScorePlan,
    file_bytes: int | None = None,
    differing_bytes: int | None = None,
) -> Scores:
    """Score a token stream; see `scoring`."""
    return finish(scoring(model, tokens, tokenizer, plan, file_bytes, differing_bytes))


def scoring(
    model: Model,
    tokens: np.ndarray,
    tokenizer: Tokenizer,
    plan: ScorePlan,
    file_bytes: int | None = None,
    differing_bytes: int | None = None,
    sample: int = 0,
    opened: Opened | None = None,
    world: World = World(),
) -> Generator[tuple[int, int], None, Scores]:
    """Score a token stream; yields (scored, to be scored) after each batch and update; returns the Scores.

    file_bytes: size of the original text. A lossless tokenizer must account for every byte of it, or
    DataError is raised. differing_bytes: bytes that a lossy tokenizer does not give back; if not known, the
    difference of the byte counts. sample: score only this many windows, spread from the end to the start.
    opened: called before the evaluation begins. world: the processes that share the work if `is_shared`;
    all of them get all scores.
    """
    limited = 0 < plan.limit_tokens < len(tokens) - 1
    tokens = tokens[: plan.limit_tokens + 1] if limited else tokens
    starts = _starts_for(plan, tokens, tokenizer)
    windows, parts = _laid_out(plan, len(tokens), starts, sample)
    inputs = np.concatenate([np.arange(window.first_scored, window.end) for window in windows])
    exam = Exam(tokens, windows, again=plan.windows.counts_again)
    model.window = plan.windows.longest()
    try:
        for done in _exam_taken(model, exam, tokenizer, plan, starts, parts, world, opened, not sample):
            yield done, len(inputs)
    finally:
        model.window = 0
    nats = exam.nats
    document = np.searchsorted(starts, inputs, side="right") - 1
    token_bytes = tokenizer.token_bytes(tokens[inputs + 1], tokens[inputs])
    complete = not limited and np.array_equal(inputs, np.arange(len(tokens) - 1))
    losses: list[str] = []
    if complete and file_bytes is not None:
        losses += _lost_bytes(tokenizer, tokens[:1], int(token_bytes.sum()), file_bytes, differing_bytes)
    if not tokenizer.lossless and (unknown := int((tokens[inputs + 1] == tokenizer.unknown).sum())):
        losses.append(f"{unknown:,} of {len(inputs):,} tokens are unknown")
    scored = [window.end - window.first_scored for window in windows]
    partial = f", first {len(inputs):,} tokens only (partial)" if limited else ""
    return Scores(
        target=tokens[inputs + 1].astype(np.uint16),
        nats=nats,
        bytes=token_bytes.astype(np.int32),
        document=document.astype(np.int32),
        position=(inputs - starts[document]).astype(np.int32),
        context=(inputs - np.repeat([window.start for window in windows], scored) + 1).astype(np.int32),
        windows=plan.label() + partial,
        complete=complete,
        file_bytes=file_bytes if complete else None,
        loss=", ".join(losses),
    )


def _laid_out(
    plan: ScorePlan, tokens: int, starts: np.ndarray, sample: int
) -> tuple[list[Window], list[list[int]]]:
    """The windows of a stream, and the indices of those that are scored between two updates."""
    windows = list(plan.windows.windows(tokens, starts.tolist()))
    if not windows:
        raise DataError(
            "too few tokens to score",
            value=tokens,
            way_out=f"{plan.windows.label()} needs more; use a shorter length or more text",
        )
    parts = list(plan.learner.parts(windows, starts))
    if sample:  # not in their order, and too few to learn from
        windows = windows[:: -len(windows) // sample or -1]
        parts = list(plan.learner.side_by_side(windows, starts))
    return windows, parts


def _starts_for(plan: ScorePlan, tokens: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Where documents start. Raises DataError if they are needed and none is marked."""
    if tokenizer.bos < 0 and isinstance(plan.windows, PerDocument):
        raise DataError(
            "the tokenizer has no BOS, so that no document begins anywhere",
            where="score.windows",
            value=plan.windows.label(),
            way_out="windows of the unbroken stream, as Sliding(), and what adapts by these",
        )
    return document_starts(tokens, tokenizer.bos)


def document_starts(tokens: np.ndarray, bos: int) -> np.ndarray:
    """Positions where documents start; tokens before the first BOS are a document too."""
    starts = np.flatnonzero(tokens == bos) if bos >= 0 else np.zeros(0, np.int64)
    return starts if len(starts) and starts[0] == 0 else np.concatenate([[0], starts])


def _lost_bytes(
    tokenizer: Tokenizer, start: np.ndarray, scored_bytes: int, file_bytes: int, differing_bytes: int | None
) -> Iterator[str]:
    """Bytes of the text that the scores do not cover, as sentences; start: the first token."""
    first = len(tokenizer.decode(start))
    if tokenizer.lossless:
        _check_conservation(scored_bytes + first, file_bytes)
    elif differing_bytes is None:
        differing_bytes = abs(file_bytes - scored_bytes - first)
    if differing_bytes:
        yield f"{differing_bytes:,} of {file_bytes:,} bytes differ"
    if first:
        yield f"the first token, {first} of {file_bytes:,} bytes, has no score"


def _check_conservation(accounted: int, file_bytes: int) -> None:
    if accounted != file_bytes:
        raise DataError(
            "the tokens do not account for the bytes of the text",
            value=f"{accounted:,} of {file_bytes:,} bytes",
            way_out="the shards or the tokenizer are not those of this text; build the dataset again",
        )


def is_static(plan: ScorePlan) -> bool:
    """Whether windows are independent, so that they may be scored in any order and process."""
    return plan.windows.alone and plan.learner == NoAdapter() and not plan.mixers


def is_shared(plan: ScorePlan) -> bool:
    """Whether several processes share the work; otherwise each does all of it."""
    return plan.windows.alone and plan.learner.shared and not plan.mixers


def _exam_taken(
    model: Model,
    exam: Exam,
    tokenizer: Tokenizer,
    plan: ScorePlan,
    starts: np.ndarray,
    parts: Sequence[Sequence[int]],
    world: World,
    opened: Opened | None = None,
    learns: bool = True,
) -> Iterator[int]:
    """Answer all windows; the adapter learns after each part. Yields the number of scored targets.

    Processes that share the work answer and learn their own parts, and assume that the others are as far.
    Where they meet they exchange their answers, and learn together once all of them have all.
    """
    world, done, joint = world if is_shared(plan) else World(), 0, list[int]()
    mixture = mixture_of(plan.mixers, model.plan.vocabulary_size, tokenizer)
    with plan.learner.adapting(model, exam.windows, starts) as adaptation:
        adaptation.join(world)
        batches = [
            plan.windows.batches(exam.windows, p, plan.batch_tokens, mixture is not None) for p in parts
        ]
        own = [
            [indices for turn, indices in enumerate(each) if adaptation.worker(part, turn) == world.rank]
            for part, each in zip(parts, batches)
        ]
        share = sum(exam.targets_of(indices) for each in own for indices in each) / len(exam.nats) or 1.0
        most = len(exam.nats) - (world.size > 1)  # until the others have sent theirs
        meets = [*map(adaptation.meets, parts[:-1]), True]
        learning = [met or adaptation.worker(part, 0) == world.rank for met, part in zip(meets, parts)]
        learning = [*learning[:-1], False] if learns else [False] * len(parts)
        left = [*np.cumsum(learning[::-1])[::-1].tolist(), 0]  # updates left at each part
        adaptation.updates_left = left[0]
        states = plan.windows.states(adaptation.hidden, model, exam.windows)
        if opened is not None:
            opened(exam, adaptation, mixture, states)
        adaptation.updates_left = min(adaptation.updates_left, left[exam.met])
        for number, part in enumerate(parts):
            for indices in own[number]:
                done += exam.targets_of(indices)
                if number >= exam.met and not exam.answered(indices):
                    exam.answer(_answer(states, adaptation, exam, indices, mixture))
                    yield min(round(done / share), most)
            if number >= exam.met:
                joint += part
                if meets[number]:
                    exam.share(joint, world, model.backend.device)
                    joint, exam.met = [], number + 1
            if learning[number] and adaptation.updates_left == left[number]:
                adaptation.learn(exam, part)
                adaptation.updates_left -= 1
                yield min(round(done / share), most)
        if world.size > 1:
            yield len(exam.nats)


def _answer(
    states: States, adaptation: Adaptation, exam: Exam, indices: list[int], mixture: Mixture | None
) -> np.ndarray:
    """Nats (windows, scored); the head is computed only for scored positions."""
    rows, first = torch.from_numpy(exam.ask(indices)), exam.windows[indices[0]]
    model, scored = adaptation.model, first.end - first.first_scored
    stream = rows.to(model.backend.device)
    with torch.inference_mode():
        hidden = states(indices, stream[:, :-1], scored)
        if mixture is not None:
            given = zip(indices, hidden, rows[:, -scored:].numpy(), strict=True)
            return np.stack([mixture.nats(adaptation.logits(i, h), h, targets) for i, h, targets in given])
        nats = adaptation.nats(indices, hidden, stream[:, -scored:]).float()
        tolerance = DISTRIBUTION_TOLERANCE.get(hidden.dtype, COARSE_TOLERANCE)
        logits = adaptation.logits(indices[0], hidden[0, -1])
        _check_distribution(logits, int(rows[0, -1]), float(nats[0, -1]), tolerance)
        return nats.cpu().numpy()


def _check_distribution(logits: Tensor, target: int, nats: float, tolerance: float) -> None:
    """Raises RuleError unless a score is that of its target in one normalised distribution (C2)."""
    expected = -float(logits.double().log_softmax(0)[target])
    # A value that is no number is reported by the metric.
    if math.isfinite(nats) and abs(nats - expected) > tolerance * max(1.0, expected):
        raise RuleError(
            "a score is not that of a normalised distribution", value=nats, way_out=f"expected {expected:.6g}"
        )
