"""An evaluation under way: the bits so far, how long it will take, and where a killed one goes on."""

import hashlib
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event, finish
from bitgolf.base.tensors import write_arrays
from bitgolf.net.model import Model
from bitgolf.score.adapter import NoAdapter
from bitgolf.score.exam import Exam
from bitgolf.score.score import ScorePlan, Scores, document_starts, is_static, scoring
from bitgolf.text.shards import Dataset
from bitgolf.text.tokenizer import Tokenizer
from bitgolf.train.world import World

KEEP_SECONDS = 30.0  # between two times that the nats so far are written
FEW_WINDOWS = 32  # tell the pace of an evaluation
PACKED = ("quantized", "adapted")  # weights whose evaluation counts
LOOK_SECONDS = 1.0  # between two looks at the bits so far


class SlowError(BitgolfError):
    """An evaluation would take longer than it may."""


class Sheet:
    """The nats of an evaluation so far, and the file that keeps them until it has ended."""

    def __init__(
        self, path: Path | None, model: Model, tokens: np.ndarray, plan: ScorePlan, world: World
    ) -> None:
        # Only where no window depends on another do those that are left come to the same bits.
        self.path = path.with_name(f"{path.name}{world.rank or ''}") if path and is_static(plan) else None
        self.identity = f"{evaluation_identity(model, tokens, plan)}/{world.size}" if self.path else ""
        self.exam: Exam | None = None
        self._tokens, self._bytes = tokens, np.zeros(0, np.int64)

    def bits_so_far(self, tokenizer: Tokenizer) -> float:
        """Bits per byte of what has been scored; NaN where that stands for no byte."""
        assert self.exam is not None
        if not len(self._bytes):  # looked up once: a text may have millions of windows
            inputs = np.concatenate([np.arange(each.first_scored, each.end) for each in self.exam.windows])
            self._bytes = tokenizer.token_bytes(self._tokens[inputs + 1], self._tokens[inputs])
        known = np.isfinite(self.exam.nats)
        size = int(self._bytes[known].sum())
        return float(self.exam.nats[known].sum(dtype=np.float64)) / math.log(2) / size if size else math.nan

    def open(self, exam: Exam) -> None:
        """Take an evaluation; what the file knows of it is not scored again."""
        self.exam = exam
        if self.path is not None and (nats := self._read(self.path)) is not None:
            exam.resume(nats)

    def keep(self) -> None:
        """Write the nats so far."""
        if self.path is not None and self.exam is not None:
            with suppress(OSError, BitgolfError):  # where nothing can be written, it begins again
                write_arrays(self.path, {"nats": self.exam.nats, "identity": np.array(self.identity)})

    def close(self) -> None:
        """The evaluation has ended."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _read(self, path: Path) -> np.ndarray | None:
        """The nats that are kept of this very evaluation; None where there are none, or not whole."""
        try:
            with np.load(path, allow_pickle=False) as file:
                same = str(file["identity"]) == self.identity
                nats = file["nats"]
        except Exception:  # missing, or damaged in one of the dozen ways that numpy and zipfile know
            return None
        assert self.exam is not None
        return nats if same and nats.dtype == np.float32 and nats.shape == self.exam.nats.shape else None


def evaluation_identity(model: Model, tokens: np.ndarray, plan: ScorePlan) -> str:
    """Names weights, tokens, windows and number type: equal ones come to equal nats."""
    found = hashlib.sha256(tokens.tobytes())
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    settings = (model.plan.identity(), plan.replace(eval_seconds=0.0).identity(), model.backend.dtype_name)
    return hashlib.sha256("/".join((found.hexdigest(), *settings)).encode()).hexdigest()


def evaluate(
    model: Model,
    tokens: np.ndarray,
    tokenizer: Tokenizer,
    plan: ScorePlan,
    file_bytes: int | None = None,
    differing_bytes: int | None = None,
    *,
    stage: str,
    part: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
    world: World = World(),
) -> Generator[Event, None, Scores]:
    """`scoring` as events with the bits per byte so far.

    part: where the nats so far are kept; an evaluation that was killed goes on from there to the same bits.
    Raises SlowError as soon as it is clear that `plan.eval_seconds` will not do.
    """
    sheet = Sheet(part, model, tokens, plan, world)
    sizes = file_bytes, differing_bytes
    steps = scoring(model, tokens, tokenizer, plan, *sizes, opened=sheet.open, world=world)
    facts: dict[str, float] = {}
    started = kept = looked = clock()
    first: tuple[float, int] | None = None
    try:
        while True:
            try:
                done, total = next(steps)
            except StopIteration as end:
                sheet.close()
                return end.value
            now = clock()
            if first is None or done <= plan.windows.settled:
                first = now, done
            elif plan.eval_seconds:
                _refuse_slow(plan, now - started, (now - first[0]) / (done - first[1]) * (total - done))
            if now - looked > LOOK_SECONDS and sheet.exam is not None:
                facts, looked = {"bits_per_byte": sheet.bits_so_far(tokenizer)}, now
            if now - kept > KEEP_SECONDS:
                sheet.keep()
                kept = now
            yield Event(stage, done, total, facts)
    except (GeneratorExit, KeyboardInterrupt, SlowError):
        sheet.keep()
        raise


def _refuse_slow(plan: ScorePlan, spent: float, left: float) -> None:
    if spent + left > plan.eval_seconds:
        raise SlowError(
            "this evaluation would not end in its time",
            where="score.eval_seconds",
            value=f"about {spent + left:,.0f} s, at most {plan.eval_seconds:,.0f} s",
            way_out="take a larger stride, Chained windows, score.limit_tokens, or more seconds",
        )


def verdict(rows: Sequence[Mapping[str, Any]], limit: float) -> dict[str, Any]:
    """For result.json: what the evaluation of the packed model took, by phase in `rows`, and if it may."""
    spent = sum(row["seconds"] for row in rows if row["name"] in PACKED)
    found = {"evaluation_seconds": spent}
    if not limit:
        return found
    return {**found, "evaluation_verdict": f"{'within' if spent <= limit else 'over'} {limit:,.0f} s"}


def refuse_slow_run(model: Model, dataset: Dataset, plan: ScorePlan, clock: Callable[[], float]) -> None:
    """Raise SlowError where the windows of a whole evaluation, at the pace of a few, take too long.

    What learns is tried beyond its first update as well.
    """
    if not plan.eval_seconds:
        return
    tokens = dataset.scored_tokens()
    if plan.limit_tokens:
        tokens = tokens[: plan.limit_tokens + 1]
    starts = document_starts(tokens, dataset.tokenizer.bos)
    windows = sum(1 for _ in plan.windows.windows(len(tokens), starts.tolist()))
    for _ in range(2):  # the first is slower than those that follow
        started = clock()
        finish(scoring(model, tokens, dataset.tokenizer, plan, sample=FEW_WINDOWS))
        spent = clock() - started
    _refuse_slow(plan, 0.0, spent * windows / min(FEW_WINDOWS, windows))
    if plan.adapter != NoAdapter():
        _refuse_slow(plan, 0.0, _seconds_of_learning(model, tokens, starts, dataset.tokenizer, plan, clock))


def _seconds_of_learning(
    model: Model,
    tokens: np.ndarray,
    starts: np.ndarray,
    tokenizer: Tokenizer,
    plan: ScorePlan,
    clock: Callable[[], float],
) -> float:
    """What a whole evaluation takes at the pace of its first part, the update after that, and a batch."""
    windows = [*plan.windows.windows(len(tokens), starts.tolist())]
    first = next(iter(plan.adapter.parts(windows, starts)))
    part = sum(windows[index].end - windows[index].first_scored for index in first)
    started, share = clock(), 1.0
    with closing(scoring(model, tokens, tokenizer, plan)) as steps:  # the model is given back as it was
        for done, total in steps:
            share = done / total
            if done > part:
                break
    return (clock() - started) / share
