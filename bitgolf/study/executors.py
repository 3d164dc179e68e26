"""Where runs are executed: this process, other processes, a Ray cluster, Slurm; with equal run folders.

All but the first are seats for one task at a time: functions that submit it and give a future. Nothing comes
back but what stands in the folders, which all machines of a cluster must share.
"""

import itertools
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.run.child import end_with_parent
from bitgolf.study.runs import Task, finish_task, give_up, run_task

LOOK_SECONDS = 0.25
KILLED = "its process was killed; too little memory?"


Look = Callable[[], None]  # called a few times a second
Executor = Callable[[Iterator[Task], Look], None]
Seat = Callable[[Task], Any]  # gives a future, or a job of submitit, which is used like one


def on_seats(tasks: Iterator[Task], seats: Sequence[Seat], look: Look) -> None:
    """Keep every seat busy until there are no more tasks. A run that a seat loses is given up, no other."""
    free, busy = [*seats], list[tuple[Any, Seat, Task]]()
    while True:
        while free and (task := next(tasks, None)) is not None:
            seat = free.pop(0)
            busy.append((seat(task), seat, task))
        if not busy:
            return
        time.sleep(LOOK_SECONDS)
        look()
        for ended in [each for each in busy if each[0].done()]:
            busy.remove(ended)
            handle, seat, task = ended
            try:
                handle.result()
            except Exception as error:  # of the executor: a failing run leaves its error in its folder
                message = f"{type(error).__name__}: {error}"
                for job in task.unfinished()[:1]:
                    give_up(job, KILLED if isinstance(error, BrokenProcessPool) else message)
            if task.unfinished():
                busy.append((seat(task), seat, task))
            else:
                free.append(seat)


def in_this_process(tasks: Iterator[Task], look: Look) -> None:
    """One run after another."""
    looked = 0.0
    for task in tasks:
        for _ in run_task(task):
            if time.monotonic() - looked > LOOK_SECONDS:
                look()
                looked = time.monotonic()


def in_processes(count: int, threads: int, gpus: int = 1) -> Executor:
    """So many runs at once on this machine. Raises BitgolfError where their threads outnumber its cores.

    gpus: of a run, where there are any; runs share them only if there are too few.
    When a process dies, for want of memory say, its run is given up and the others go on.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count * (threads or cores) > cores:
        raise BitgolfError(
            f"{count} runs at once would need {count * (threads or cores)} cores",
            where="--processes",
            value=f"{cores} cores, {threads or 'all'} threads a run",
            way_out="use fewer processes, or fewer `threads` in the study",
        )

    def execute(tasks: Iterator[Task], look: Look) -> None:
        seats = [Process(share) for share in shares_of_gpus(count, gpus)]
        try:
            on_seats(tasks, seats, look)
        finally:
            for seat in seats:
                seat.pool.shutdown()

    return execute


def shares_of_gpus(count: int, gpus: int) -> list[str]:
    """The CUDA_VISIBLE_DEVICES of each of so many processes: those of this one in turn; empty without any."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    visible = [name.strip() for name in devices.split(",") if name.strip()]
    most = min(gpus, len(visible))
    turns = itertools.cycle(visible)
    return [",".join(itertools.islice(turns, most)) for _ in range(count)]


class Process:
    """A process that does one task after another and sees its own GPUs; begun again when it has died."""

    def __init__(self, gpus: str) -> None:
        self.gpus = gpus
        self.pool = self._begun()

    def __call__(self, task: Task) -> "Future[None]":
        """Do a task there."""
        try:
            return self.pool.submit(finish_task, task)
        except BrokenProcessPool:
            self.pool = self._begun()
            return self.pool.submit(finish_task, task)

    def _begun(self) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin, initargs=(self.gpus,))


def _begin(gpus: str) -> None:
    """In the process: take its GPUs, before CUDA looks for any, and watch the parent."""
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    end_with_parent()


def on_ray(address: str, threads: int, gpus: int) -> Executor:
    """On a Ray cluster, or on one started here (`local`). Each run asks for its cores and GPUs."""
    try:
        import ray
    except ImportError:
        raise BitgolfError(
            "Ray is not installed", where="--ray", way_out="pip install 'bitgolf[ray]'"
        ) from None

    def execute(tasks: Iterator[Task], look: Look) -> None:
        options: dict[str, Any] = {} if address == "local" else {"address": address}
        ray.init(**options, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            remote = ray.remote(num_cpus=threads or 1, num_gpus=gpus, max_retries=0)(finish_task)
            slots = int(ray.cluster_resources().get("CPU", 1) // (threads or 1))
            if gpus:
                slots = int(ray.cluster_resources().get("GPU", 0) // gpus)
            if slots < 1:
                raise BitgolfError(
                    "the cluster has no room for one run", where="--ray", value=ray.cluster_resources()
                )
            on_seats(tasks, [lambda task: remote.remote(task).future()] * slots, look)
        finally:
            ray.shutdown()

    return execute


def on_slurm(folder: Path, options: dict[str, Any], cluster: str = "slurm", at_once: int = 64) -> Executor:
    """As Slurm jobs through submitit; options are its own: partition, time in minutes, GPUs.

    Raises BitgolfError where there is no Slurm, and for options that submitit does not know.
    """
    try:
        import submitit
    except ImportError:
        raise BitgolfError(
            "submitit is not installed", where="--slurm", way_out="pip install 'bitgolf[slurm]'"
        ) from None

    try:
        executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
        executor.update_parameters(**options)
    except (RuntimeError, NameError, TypeError, ValueError) as error:  # no srun; a name or value it has not
        raise BitgolfError(
            f"Slurm cannot be used so: {' '.join(str(error).split())}",
            where="--slurm",
            way_out="start it where srun is found, with options that submitit knows",
        ) from None

    def execute(tasks: Iterator[Task], look: Look) -> None:
        on_seats(tasks, [lambda task: executor.submit(finish_task, task)] * at_once, look)

    return execute
