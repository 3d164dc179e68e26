"""What others make of the text of a run, measured while its score is proven, which takes one core."""

import multiprocessing
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitgolf.base.events import NOTE, Event, finish, with_progress
from bitgolf.rivals.compressors import measure_compressors, missing_ones, quick_ones
from bitgolf.rivals.known import known_scores
from bitgolf.run.child import leave_ctrl_c_and_end_with_parent
from bitgolf.run.result import RunResult
from bitgolf.text.shards import Dataset

RIVAL_BYTES = 64_000_000  # of training text that compressors are given, which would else take hours


@contextmanager
def measuring(folder: Path, budget_bytes: int) -> Iterator[None]:
    """A context beside which a process measures the compressors on the dataset in a folder.

    At its end all are measured, and `stood_beside` finds the figures there; whatever fails it meets again. A
    thread would not do: some compressors keep Python's lock.
    """
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_measure, args=(folder, budget_bytes), daemon=True)
    process.start()
    try:
        yield
        process.join()
    finally:
        process.kill()


def _measure(folder: Path, budget_bytes: int) -> None:
    leave_ctrl_c_and_end_with_parent()
    if hasattr(os, "nice"):
        os.nice(10)  # what it is beside goes first
    finish(measure_compression(Dataset.open(folder), budget_bytes))


def stood_beside(dataset: Dataset, budget_bytes: int) -> Generator[Event, None, RunResult]:
    """What others make of the validation text: compressors, and public models that were scored before."""
    rivals = yield from measure_compression(dataset, budget_bytes)
    known = known_scores(dataset.tokenizer.decode(dataset.val.all()))
    return {"rivals": rivals, "public_models": [dict(row) for row in known]}


def measure_compression(dataset: Dataset, budget_bytes: int) -> Generator[Event, None, list[dict[str, Any]]]:
    """The general compressors on the text of a dataset; kept beside it, since the text does not change."""
    texts = [dataset.tokenizer.decode(stream.all()) for stream in (dataset.train, dataset.val)]
    if len(texts[0]) > RIVAL_BYTES:
        texts[0] = texts[0][-RIVAL_BYTES:]
        note = f"the compressors are given the last {RIVAL_BYTES:,} bytes of the training text"
        yield Event(NOTE, 1, 1, {NOTE: note})
    if missing := missing_ones():
        names = ", ".join(one.name for one in missing)
        note = f"not installed, so not compared with: {names}; pip install 'bitgolf[rivals]'"
        yield Event(NOTE, 1, 1, {NOTE: note})
    kept_rows = dataset.folder / "rivals.json"
    steps = measure_compressors(texts[0], texts[1], budget_bytes, quick_ones(), kept_rows)
    return (yield from with_progress(steps, "rivals"))
