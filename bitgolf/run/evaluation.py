"""An evaluation under way: the bits so far, how long it will take, and where a killed one goes on."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import NOTE, Event, finish
from bitgolf.net.model import Model
from bitgolf.run.sheet import Sheet
from bitgolf.score.adapter import NoAdapter
from bitgolf.score.score import ScorePlan, Scores, document_starts, scoring
from bitgolf.text.shards import Dataset
from bitgolf.text.tokenizer import Tokenizer
from bitgolf.train.world import World

KEEP_SECONDS = 30.0  # between two times that an evaluation is kept
KEEP_SHARE = 0.05  # of the time, at most, goes into keeping
FEW_WINDOWS = 32  # tell the pace of an evaluation
PACKED = ("quantized", "adapted")  # weights whose evaluation counts
LOOK_SECONDS = 1.0  # between two looks at the bits so far


class SlowError(BitgolfError):
    """An evaluation would take longer than it may."""


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
) -> Generator[Event, None, Scores]:
    """`scoring` as events with the bits per byte so far.

    part: where it is kept; an evaluation that was killed goes on from there to the same bits. spare: the
    file stays when it has ended, so that it need not be made again.
    Raises SlowError as soon as it is clear that `plan.eval_seconds` will not do.
    """
    sheet = Sheet(part, model, tokens, plan, world)
    sizes = file_bytes, differing_bytes
    steps = scoring(model, tokens, tokenizer, plan, *sizes, opened=sheet.open, world=world)
    facts: dict[str, float] = {}
    started = kept = looked = clock()
    pause = KEEP_SECONDS
    before, first = None, None  # seconds before it was killed; when and where the first batch was done
    try:
        while True:
            try:
                sheet.moving = True
                done, total = next(steps)
            except StopIteration as end:
                sheet.close(spare)
                return end.value
            sheet.moving = False
            now = clock()
            before = sheet.seconds if before is None else before
            sheet.seconds = before + now - started
            if sheet.note:
                yield Event(NOTE, 1, 1, {NOTE: sheet.note})
                sheet.note = ""
            if first is None or done <= plan.windows.settled:
                first = now, done
            elif plan.eval_seconds:
                _refuse_slow(plan, sheet.seconds, (now - first[0]) / (done - first[1]) * (total - done))
            if now - looked > LOOK_SECONDS:
                facts, looked = {"bits_per_byte": sheet.bits_so_far(tokenizer)}, now
            if now - kept > pause:
                sheet.keep()
                kept = clock()
                pause = max(KEEP_SECONDS, (kept - now) / KEEP_SHARE)
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
