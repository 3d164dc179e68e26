"""An evaluation in progress: bits so far, forecast of the time, and where a killed one continues."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import NOTE, Event, finish
from bitgolf.net.model import Model
from bitgolf.run.sheet import Sheet
from bitgolf.score.adapter import Adaptation, NoAdapter
from bitgolf.score.score import ScorePlan, Scores, document_starts, is_shared, scoring
from bitgolf.text.shards import Dataset
from bitgolf.text.tokenizer import Tokenizer
from bitgolf.train.world import World

KEEP_SECONDS = 30.0  # between two times that an evaluation is kept
KEEP_SHARE = 0.05  # of the time, at most, goes into keeping
FEW_WINDOWS = 32  # tell the pace of an evaluation
PACKED = ("quantized", "adapted")  # weights whose evaluation counts
SHOW_SECONDS = 1.0  # between two looks at the bits so far
UNSHARED = "no work is shared where tokens are mixed or chained, or an adapter does not say `shared = True`"


class SlowError(BitgolfError):
    """An evaluation would take longer than it may."""


class Evaluated(NamedTuple):
    """Scores, and their seconds, those before a kill included; of these, what went into updates.

    alone: nats, float32, of the model without its mixers, in the same order; empty where nothing is mixed in.
    """

    scores: Scores
    seconds: float
    learning_seconds: float
    alone: np.ndarray


class Pace:
    """How fast batches and updates have been so far, and so what the others will take.

    warmup_tokens: scored tokens after which batches come at an even pace; the first is slower.
    """

    def __init__(self, warmup_tokens: int, now: float) -> None:
        self.warmup_tokens, self.now, self.done = warmup_tokens, now, 0
        self.laps = self.tokens = self.updates = 0
        self.scoring = self.learning = 0.0

    def lap(self, now: float, done: int) -> None:
        """So many tokens are scored now; the same as before where it was an update."""
        spent, tokens = now - self.now, done - self.done
        if self.laps and not tokens:
            self.updates, self.learning = self.updates + 1, self.learning + spent
        elif self.laps and done > self.warmup_tokens:
            self.tokens, self.scoring = self.tokens + tokens, self.scoring + spent
        self.now, self.done, self.laps = now, done, self.laps + 1

    def of(self, tokens: int, updates: int) -> float:
        """Seconds that so many take; 0 of a kind that has not been seen yet."""
        return tokens * self.scoring / max(self.tokens, 1) + updates * self.learning / max(self.updates, 1)


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
    spare: bool = False,
) -> Generator[Event, None, Evaluated]:
    """`scoring` as events with the bits per byte so far.

    part: where it is kept; an evaluation that was killed goes on from there to the same bits. spare: the
    file stays when it has ended, so that it need not be made again.
    Raises SlowError as soon as it is clear that `plan.eval_seconds` will not do; of what learns, before it
    begins.
    """
    if world.size > 1 and not is_shared(plan):
        yield Event(NOTE, 1, 1, {NOTE: UNSHARED})
    if part is None or not part.exists():
        refuse_slow_learning(model, tokens, tokenizer, plan, lambda: world.broadcast(clock()), world.size)
    sheet = Sheet(part, model, tokens, plan, world)
    sizes = file_bytes, differing_bytes
    steps = scoring(model, tokens, tokenizer, plan, *sizes, opened=sheet.open, world=world)
    facts: dict[str, float] = {}
    started = last_kept = last_shown = clock()
    pause, pace = KEEP_SECONDS, Pace(plan.windows.warmup_tokens, started)
    earlier: tuple[float, float] | None = None  # its seconds, and of learning, before it was killed
    try:
        while True:
            try:
                sheet.moving = True
                done, total = next(steps)
            except StopIteration as end:
                sheet.close(spare)
                return Evaluated(end.value, sheet.seconds, sheet.learning_seconds, sheet.alone())
            sheet.moving = False
            now = clock()
            pace.lap(now, done)
            earlier = earlier or (sheet.seconds, sheet.learning_seconds)
            sheet.seconds, sheet.learning_seconds = earlier[0] + now - started, earlier[1] + pace.learning
            if sheet.note:
                yield Event(NOTE, 1, 1, {NOTE: sheet.note})
                sheet.note = ""
            if plan.eval_seconds and world.rank == 0:  # the first decides; torchrun ends the others
                _refuse_slow(plan, sheet.seconds + pace.of(total - done, sheet.adaptation.updates_left))
            if now - last_shown > SHOW_SECONDS or done == total:  # the last one is the score itself
                facts, last_shown = {"bits_per_byte": sheet.bits_so_far(tokenizer)}, now
            if now - last_kept > pause:
                sheet.keep()
                last_kept = clock()
                pause = max(KEEP_SECONDS, (last_kept - now) / KEEP_SHARE)
            yield Event(stage, done, total, facts)
    except (GeneratorExit, KeyboardInterrupt, SlowError):
        sheet.keep()
        raise


def _refuse_slow(plan: ScorePlan, seconds: float) -> None:
    if seconds > plan.eval_seconds:
        raise SlowError(
            "this evaluation would not end in its time",
            where="score.eval_seconds",
            value=f"about {_rounded(seconds)} s, at most {_rounded(plan.eval_seconds)} s",
            way_out="take a larger stride, Chained windows, score.limit_tokens, or more seconds",
        )


def _rounded(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}"


def verdict(rows: Sequence[Mapping[str, Any]], limit: float) -> dict[str, Any]:
    """For result.json: what the evaluation of the packed model took, by phase in `rows`, and if it may."""
    spent = sum(row.get("seconds", 0.0) for row in rows if row["name"] in PACKED)
    facts = {"evaluation_seconds": spent}
    if not limit:
        return facts
    return {**facts, "evaluation_verdict": f"{'within' if spent <= limit else 'over'} {_rounded(limit)} s"}


def refuse_slow_run(model: Model, dataset: Dataset, plan: ScorePlan, clock: Callable[[], float]) -> None:
    """Raise SlowError where the windows of a whole evaluation, at the pace of a few, take too long.

    What learns is tried for a few updates as well. clock: of several processes one that all read alike, as
    all must come to the same end.
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
    _refuse_slow(plan, spent * windows / min(FEW_WINDOWS, windows))
    refuse_slow_learning(model, tokens, dataset.tokenizer, plan, clock)


def refuse_slow_learning(
    model: Model,
    tokens: np.ndarray,
    tokenizer: Tokenizer,
    plan: ScorePlan,
    clock: Callable[[], float],
    processes: int = 1,
) -> None:
    """Raise SlowError where what learns takes too long, at the pace of its second update from short parts.

    Processes that share the work are supposed to have equal parts of it; each tries alone.
    """
    if not plan.eval_seconds or plan.learner == NoAdapter():
        return
    learns: list[Adaptation] = []
    trial = plan.replace(adapter=plan.adapter.trial(plan.windows.longest()))
    steps = scoring(model, tokens, tokenizer, trial, opened=lambda _exam, adapts, *_: learns.append(adapts))
    pace, updates = Pace(0, clock()), 0
    with closing(steps):  # the model is given back as it was
        for done, total in steps:
            pace.lap(clock(), done)
            if pace.updates and (updates or not learns[0].updates_left):
                updates += pace.updates + learns[0].updates_left
                sharing = plan.learner.workers(processes) if is_shared(plan) else 1
                _refuse_slow(plan, pace.of(total, updates) / sharing)
                return
            if pace.updates:  # the first is slower than those that follow
                updates, pace = 1, Pace(0, clock())
                pace.done, pace.laps = done, 1
