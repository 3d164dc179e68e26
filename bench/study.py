"""What the study runner costs over bare runs, and what two processes and Ray gain: `python -m bench.study`.

Two arms of some seeds, one thread each. In one process every run is done twice, bare and as a study's, in
turns and the other way round each time, so that a machine that grows slower slows both; `own_share` is the
time of the study outside the run itself. Then all of them in two bare processes, which is the most that two
cores can gain, in two of the study's, and on a local Ray.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy.stats import ttest_1samp

from bitgolf.base.events import Event, finish
from bitgolf.forecast.laptop import a_minute
from bitgolf.recipes.pr682 import pr682
from bitgolf.report.screen import follow
from bitgolf.run.result import Outcome
from bitgolf.run.stages import run
from bitgolf.study.design import Study, add_one
from bitgolf.study.executors import Executor, Look, in_processes, in_this_process, on_ray
from bitgolf.study.live import Board
from bitgolf.study.runner import Prepared, prepare, run_study
from bitgolf.study.runs import Job, Task
from bitgolf.text.shards import Dataset


def the_study(steps: int, seeds: int) -> Study:
    """Two arms."""
    recipe = a_minute(pr682(), steps=steps)
    return Study(
        name="bench",
        baseline=recipe,
        arms=add_one(recipe, {"less rope": {"model.position.dims": 4}}),
        seeds=tuple(range(1, seeds + 1)),
    )


def timed(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bare(jobs: Sequence[Job], folder: Path) -> None:
    """The jobs of a study without it."""
    torch.set_num_threads(1)
    for job in jobs:
        place = folder / job.folder.name
        finish(run(job.recipe, Dataset.open(job.dataset), place, job.seed, code=job.code))


class InTurns:
    """`in_this_process`, with each run done bare as well: seconds of both, and of the runs in the study's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bare: list[float] = []
        self.study: list[float] = []
        self.inside = 0.0

    def __call__(self, tasks: Iterator[Task], look: Look) -> None:
        for place, task in enumerate(tasks):
            ways = [self.one_bare, lambda task: self.one_of_a_study(task, look)]
            for way in reversed(ways) if place % 2 else ways:
                way(task)

    def one_bare(self, task: Task) -> None:
        self.bare.append(timed(lambda: bare(task.jobs, self.folder)))

    def one_of_a_study(self, task: Task, look: Look) -> None:
        with patch("bitgolf.study.runs.run", self.timed_run):
            self.study.append(timed(lambda: in_this_process(iter([task]), look)))

    def timed_run(self, *args: Any, **named: Any) -> Generator[Event, None, Outcome]:
        """The run, timed while it works and not while the study does."""
        events = run(*args, **named)
        while True:
            started = time.perf_counter()
            try:
                event = next(events)
            except StopIteration as end:
                return end.value
            finally:
                self.inside += time.perf_counter() - started
            yield event


def as_study(study: Study, folder: Path, executor: Executor) -> dict[str, float]:
    """Seconds to prepare a study and to do all of its runs, the table drawn as a terminal would."""
    ready: list[Prepared] = []
    preparing = timed(lambda: ready.append(follow(prepare(study, folder))))
    board = Board(ready[0], 0.0)

    def look() -> None:
        board.read()
        board.drawn()

    return {"prepare_seconds": preparing, "run_seconds": timed(lambda: run_study(ready[0], executor, look))}


def in_bare_processes(jobs: Sequence[Job], folder: Path) -> None:
    """Half of the jobs in each of two processes."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        for done in [pool.submit(bare, jobs[half::2], folder) for half in range(2)]:
            done.result()


def measure(steps: int, seeds: int) -> dict[str, object]:
    """All ways."""
    torch.set_num_threads(1)
    study = the_study(steps, seeds)
    executors = {"two processes": in_processes(2, 1), "ray": on_ray("local", 1, 0)}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        jobs = [*follow(prepare(study, root / "bare")).jobs.values()]
        bare(jobs[:1], root / "warm")
        turns = InTurns(root / "bare")
        one = as_study(study, root / "one", turns)
        pair = timed(lambda: in_bare_processes(jobs, root / "bare pair"))
        ways = {way: as_study(study, root / way, executor) for way, executor in executors.items()}
    alone, own = np.array(turns.bare), np.array(turns.study)
    interval = ttest_1samp(own / alone - 1, 0.0).confidence_interval()
    return {
        "runs": len(jobs),
        "bare_run_seconds": alone.tolist(),
        "study_run_seconds": own.tolist(),
        "own_share": float((one["run_seconds"] - alone.sum()) / turns.inside - 1),
        "study_over_bare": float((own / alone).mean() - 1),
        "study_over_bare_interval": [float(interval.low), float(interval.high)],
        "prepare_seconds": one["prepare_seconds"],
        "gain_of_two_bare_processes": float(alone.sum() / pair),
        "gain_of_two_processes": float(alone.sum() / ways["two processes"]["run_seconds"]),
        "gain_of_ray": float(alone.sum() / ways["ray"]["run_seconds"]),
        "ways": ways,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=4)
    chosen = parser.parse_args()
    print(json.dumps(measure(chosen.steps, chosen.seeds), indent=2))
