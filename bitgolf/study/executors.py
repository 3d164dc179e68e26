"""Where runs run: this process, others beside it, a Ray cluster, Slurm. All leave the same run folders.

An executor takes tasks from an iterator as it gets free, and calls `look` a few times a second. Nothing comes
back but what stands in the folders, which all machines of a cluster must share.
"""

import itertools
import logging
import multiprocessing
import multiprocessing.connection
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.study.runs import Task, finish_task, give_up, run_task

LOOK_SECONDS = 0.25
Look = Callable[[], None]
Executor = Callable[[Iterator[Task], Look], None]


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
        under_way: list[Task] = []
        devices = shares_of_gpus(count, gpus)
        while True:
            try:
                return _in_pool(tasks, devices, under_way, look)
            except BrokenProcessPool:  # one died and took the others with it: find out which
                for task in [*under_way]:
                    _until_finished(task, devices[:1], look)

    return execute


def shares_of_gpus(count: int, gpus: int) -> list[str]:
    """The CUDA_VISIBLE_DEVICES of each of so many processes: those of this one in turn; empty without any."""
    found = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    visible = [name.strip() for name in found.split(",") if name.strip()]
    most = min(gpus, len(visible))
    turns = itertools.cycle(visible)
    return [",".join(itertools.islice(turns, most)) for _ in range(count)]


def _until_finished(task: Task, devices: list[str], look: Look) -> None:
    while task.unfinished():
        try:
            _in_pool(iter([task]), devices, [], look)
        except BrokenProcessPool:
            give_up(task.unfinished()[0], "its process was killed; too little memory?")


def _in_pool(tasks: Iterator[Task], devices: list[str], under_way: list[Task], look: Look) -> None:
    """devices: the GPUs of each process."""
    spawn, count = multiprocessing.get_context("spawn"), len(devices)
    shares = spawn.SimpleQueue()
    for share in devices:
        shares.put(share)
    with ProcessPoolExecutor(count, mp_context=spawn, initializer=_begin, initargs=(shares,)) as pool:
        _drive(tasks, count, lambda task: pool.submit(finish_task, task), under_way, look)


def _begin(shares: "SimpleQueue[str]") -> None:
    """A process of a pool takes its GPUs, before CUDA looks for any, and watches its parent."""
    if share := shares.get():
        os.environ["CUDA_VISIBLE_DEVICES"] = share
    _end_with_parent()


def _end_with_parent() -> None:
    """A process of a pool outlives a killed parent, idle or not, unless it watches."""
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_ray(address: str, threads: int, gpus: int) -> Executor:
    """On a Ray cluster, or on one started here (`local`). Each run asks for its cores and GPUs."""
    try:
        import ray
    except ImportError:
        raise BitgolfError(
            "Ray is not installed", where="--ray", way_out="pip install 'bitgolf[ray]'"
        ) from None

    def execute(tasks: Iterator[Task], look: Look) -> None:
        known: dict[str, Any] = {} if address == "local" else {"address": address}
        ray.init(**known, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            remote = ray.remote(num_cpus=threads or 1, num_gpus=gpus, max_retries=0)(finish_task)
            slots = int(ray.cluster_resources().get("CPU", 1) // (threads or 1))
            if gpus:
                slots = int(ray.cluster_resources().get("GPU", 0) // gpus)
            if slots < 1:
                raise BitgolfError(
                    "the cluster has no room for one run", where="--ray", value=ray.cluster_resources()
                )

            _drive(tasks, slots, lambda task: remote.remote(task).future(), [], look)
        finally:
            ray.shutdown()

    return execute


def on_slurm(folder: Path, options: dict[str, Any], cluster: str = "slurm", at_once: int = 64) -> Executor:
    """As Slurm jobs through submitit; options are its own: partition, time in minutes, GPUs."""
    try:
        import submitit
    except ImportError:
        raise BitgolfError(
            "submitit is not installed", where="--slurm", way_out="pip install 'bitgolf[slurm]'"
        ) from None

    def execute(tasks: Iterator[Task], look: Look) -> None:
        executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
        executor.update_parameters(**options)

        _drive(tasks, at_once, lambda task: executor.submit(finish_task, task), [], look)

    return execute


def _drive(
    tasks: Iterator[Task],
    slots: int,
    submit: Callable[[Task], Any],
    under_way: list[Task],
    look: Look,
) -> None:
    """Keep so many tasks running until there are no more. submit: gives what has `done()` and `result()`."""
    handles: list[tuple[Any, Task]] = []
    under_way.clear()
    while True:
        while len(handles) < slots and (task := next(tasks, None)) is not None:
            under_way.append(task)
            handles.append((submit(task), task))
        if not handles:
            return
        time.sleep(LOOK_SECONDS)
        look()
        for handle, task in [pair for pair in handles if pair[0].done()]:
            handles.remove((handle, task))
            try:
                handle.result()
            except BrokenProcessPool:
                raise
            except Exception as error:  # of the executor: a failing run leaves its error in its folder
                if left := task.unfinished():
                    give_up(left[0], f"{type(error).__name__}: {error}")
                if task.unfinished():
                    handles.append((submit(task), task))
                    continue
            under_way.remove(task)
