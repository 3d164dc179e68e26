"""What the study runner costs over bare runs, and what two processes and Ray gain: `python -m bench.study`.

The same four runs, two arms of two seeds on one thread each: bare in this process, then as a study in this
process, in two processes, and on a local Ray. Shares are of the bare runs of the same minutes.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bitgolf.core.run import run
from bitgolf.core.shards import Dataset
from bitgolf.lab.laptop import a_minute
from bitgolf.lab.screen import follow
from bitgolf.recipes.pr682 import pr682
from bitgolf.study.conduct import Prepared, conduct, prepare
from bitgolf.study.design import Study, add_one
from bitgolf.study.executors import Executor, in_processes, in_this_process, on_ray
from bitgolf.study.live import Board


def the_study(steps: int) -> Study:
    """Two arms of two seeds."""
    recipe = a_minute(pr682(), steps=steps)
    return Study(
        name="bench",
        baseline=recipe,
        arms=add_one(recipe, {"less rope": {"model.position.dims": 4}}),
        seeds=(1, 2),
    )


def timed(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bare(prepared: Prepared, folder: Path) -> None:
    """The jobs of a study without it."""
    for place, job in enumerate(prepared.jobs.values()):
        steps = run(job.recipe, Dataset.open(job.dataset), folder / str(place), job.seed, code=job.code)
        for _ in steps:
            pass


def as_study(study: Study, folder: Path, executor: Executor) -> dict[str, float]:
    """Seconds to prepare a study and to do all of its runs, the table drawn as a terminal would."""
    ready: list[Prepared] = []
    preparing = timed(lambda: ready.append(follow(prepare(study, folder))))
    board = Board(ready[0], 0.0)

    def look() -> None:
        board.read()
        board.drawn()

    return {"prepare_seconds": preparing, "run_seconds": timed(lambda: conduct(ready[0], executor, look))}


def measure(steps: int) -> dict[str, object]:
    """All ways, one after another."""
    torch.set_num_threads(1)
    study = the_study(steps)
    ways = {
        "this process": in_this_process,
        "two processes": in_processes(2, 1),
        "ray": on_ray("local", 1, 0),
    }
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        prepared = follow(prepare(study, root / "bare"))
        before = timed(lambda: bare(prepared, root / "bare runs"))
        found = {way: as_study(study, root / way, executor) for way, executor in ways.items()}
        after = timed(lambda: bare(prepared, root / "bare runs again"))
    seconds = (before + after) / 2
    rows = {way: each | {"speed_over_bare": seconds / each["run_seconds"]} for way, each in found.items()}
    own = rows["this process"]["run_seconds"]
    return {
        "runs": len(prepared.jobs),
        "bare_seconds": [before, after],
        "overhead_share": own / seconds - 1,
        "efficiency_of_two_processes": seconds / rows["two processes"]["run_seconds"] / 2,
        "efficiency_of_ray": seconds / rows["ray"]["run_seconds"] / 2,
        "ways": rows,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    print(json.dumps(measure(parser.parse_args().steps), indent=2))
