"""The runs of studies: one folder each, named by all that decides its bits, shared by every study that asks.

A job is one run. Jobs whose recipes differ only after the training form one task and share that training.
"""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event
from bitgolf.base.files import write_bytes, write_json
from bitgolf.base.plan import to_json
from bitgolf.inputs.machine import other_machine
from bitgolf.inputs.recorded import recording
from bitgolf.inputs.typed import NumberTypes, read_as
from bitgolf.net.backend import BackendPlan, choose_backend, choose_device
from bitgolf.recipe import Recipe
from bitgolf.run.folder import CHECKPOINT
from bitgolf.run.spec import data_identity
from bitgolf.run.stages import run
from bitgolf.script.counted import script_of
from bitgolf.study.status import run_status
from bitgolf.text.shards import Dataset

PROGRESS_SECONDS = 0.5  # progress is written this often
NUMBER_TYPES = "number-types.json"  # of a store
BORROWED = (str(CHECKPOINT), "metrics.jsonl")


class Job(NamedTuple):
    """One run. dataset: its folder. code: the script that counts, and that several processes start."""

    recipe: Recipe
    seed: int
    dataset: Path
    folder: Path
    code: bytes
    processes: int = 1


class Task(NamedTuple):
    """Jobs of one seed with one training, in the order in which they run."""

    jobs: tuple[Job, ...]

    def unfinished(self) -> list[Job]:
        """Those without a result, good or bad; the first of them is the one that is run."""
        return [job for job in self.jobs if not (job.folder / "result.json").is_file()]


@functools.cache
def code_of(recipe: Recipe) -> bytes:
    """The script of a recipe; making one takes seconds."""
    return script_of(recipe)


def make_job(
    recipe: Recipe,
    seed: int,
    dataset: Dataset,
    store: Path,
    processes: int = 1,
    device: str = "",
    *,
    only_planned: bool = False,
) -> Job:
    """The job of a recipe and seed; its folder's name holds recipe, seed, code, data and kind of device.

    device: where it will run, if that is another kind than here. Elsewhere a number type that the recipe
    leaves open is settled now, by the store: whatever a start would measure, its runs can be compared.
    only_planned: the job will not be run. Where the store has no run of this name its script decides nothing,
    and is not made.
    """
    if not device:
        recipe = recipe.replace({"backend.dtype": number_type(store, recipe.backend)})
    needed = not only_planned or any(store.glob(f"{recipe.name}-*"))
    code = code_of(recipe) if needed else b""
    text = dataset.passport
    decides = [
        hashlib.sha256(code).hexdigest(),
        recipe.identity(),
        data_identity(dataset),
        [shard["sha256"] for shard in text["splits"]["val"]["shards"]],
        dataset.tokenizer.identity,
        device or choose_backend(recipe.backend).device.type,
        processes,
    ]
    key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]
    return Job(recipe, seed, dataset.folder, store / f"{recipe.name}-{key}-{seed}", code, processes)


def number_type(store: Path, plan: BackendPlan) -> str:
    """What runs of a store are computed in: what the plan says, else what was measured for its first run."""
    if plan.dtype != "auto":
        return plan.dtype
    path, device = store / NUMBER_TYPES, choose_device(plan).type
    dtypes: dict[str, Any] = {**read_as(path, NumberTypes)} if path.is_file() else {}
    if device not in dtypes:
        dtypes[device] = choose_backend(plan).dtype_name
        write_json(path, dtypes)
    return str(dtypes[device])


def tasks_of(jobs: Sequence[Job]) -> list[Task]:
    """The jobs by training, in the order in which each training first comes; equal jobs are one."""
    groups: dict[tuple[str, int, Path, int], dict[Path, Job]] = {}
    for job in jobs:
        training = (job.recipe.training().identity(), job.seed, job.dataset, job.processes)
        groups.setdefault(training, {}).setdefault(job.folder, job)
    return [Task(tuple(group.values())) for group in groups.values()]


def run_task(task: Task) -> Generator[Event, None, None]:
    """Run what of a task is not done yet. A run that fails leaves its error as its result."""
    for job in task.jobs:
        yield from _run_job(job, task)


def finish_task(task: Task) -> None:
    """`run_task` to its end, for a process of its own."""
    for _ in run_task(task):
        pass


def _run_job(job: Job, task: Task) -> Generator[Event, None, None]:
    job.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(job.folder / ".lock"):
        if (job.folder / "result.json").is_file():
            return
        _borrow_training(job, task)
        written = 0.0
        try:
            steps = _run_alone(job) if job.processes == 1 else _run_together(job)
            for event in recording(steps, job.recipe, job.folder):
                if time.monotonic() - written > PROGRESS_SECONDS:
                    write_progress(job.folder, event)
                    written = time.monotonic()
                yield event
        except Exception as error:
            give_up(job, f"{type(error).__name__}: {error}".splitlines()[0], traceback.format_exc())
        with suppress(OSError):
            (job.folder / "progress.json").unlink()


def _run_alone(job: Job) -> Generator[Event, None, None]:
    begun = (job.folder / "recipe.json").is_file()
    dataset = Dataset.open(job.dataset)
    elsewhere = other_machine(job.folder, job.recipe) if begun else ""
    outcome = yield from run(job.recipe, dataset, job.folder, job.seed, code=job.code, resume=begun)
    if elsewhere:
        write_json(job.folder / "result.json", {**outcome.result, "resumed": elsewhere})


def _run_together(job: Job) -> Generator[Event, None, None]:
    """The same run under torchrun, on several processes of this machine."""
    begun = (job.folder / "recipe.json").is_file()
    script = job.folder / "script.py"
    write_bytes(script, job.code)
    write_json(job.folder / "planned.json", to_json(job.recipe))
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={job.processes}"]
    options = ["--data", job.dataset, "--out", job.folder, "--seed", job.seed, *["--resume"] * begun]
    what = ["-m", "bitgolf.study.together", script, job.folder / "planned.json"]
    command = [sys.executable, "-m", *launcher, *what, *options]
    last_lines: list[str] = []
    with subprocess.Popen(
        [*map(str, command)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stderr
        for line in child.stderr:
            last_lines = [*last_lines[-20:], line]
            stage, _, rest = line.partition(" ")
            share = rest.split("%")[0]
            if share.isdigit():
                yield Event(stage, int(share), 100, {})
    if not (job.folder / "result.json").is_file():
        raise BitgolfError(
            "the processes ended without a result", where=str(job.folder), value="".join(last_lines)
        )


def _borrow_training(job: Job, task: Task) -> None:
    """Take over the finished training of another run with the same one, unless there is one already."""
    if (job.folder / CHECKPOINT).is_file() or (job.folder / "recipe.json").is_file():
        return
    for other in task.jobs:
        if run_status(other.folder).state == "done" and all(
            (other.folder / name).is_file() for name in BORROWED
        ):
            (job.folder / CHECKPOINT).parent.mkdir(exist_ok=True)
            for name in BORROWED:
                _link(other.folder / name, job.folder / name)
            return


def _link(source: Path, target: Path) -> None:
    """The same file at another target; files are replaced and never written into, so this is a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def write_progress(folder: Path, event: Event) -> None:
    """Write where a run stands; where that fails, or is lost on a crash of the machine, it is not missed."""
    share = min(1.0, event.done / event.total) if event.total else 1.0
    path = folder / "progress.json"
    beside = path.with_suffix(".tmp")
    with suppress(OSError):
        beside.write_text(json.dumps({"time": time.time(), "stage": event.stage, "share": share}))
        beside.replace(path)


def give_up(job: Job, error: str, trace: str = "") -> None:
    """Leave a failure as the result of a run."""
    facts = {"recipe": job.recipe.name, "recipe_identity": job.recipe.identity(), "seed": job.seed}
    write_json(job.folder / "result.json", {"status": "crash", **facts, "error": error, "trace": trace})


def forget_failures(jobs: Sequence[Job]) -> int:
    """Put failed runs back to their beginning; how many there were."""
    failed = [job.folder for job in jobs if run_status(job.folder).state == "failed"]
    for folder in failed:
        for name in ("result.json", "recipe.json", "progress.json", *BORROWED):
            with suppress(FileNotFoundError):
                (folder / name).unlink()
    return len(failed)
