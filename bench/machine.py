"""What a figure was measured on: the class of the processor, and what else ran meanwhile."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bitgolf.run.folder import processor_name

CLASSES = (  # by the best flag that a processor has
    ("amx_bf16", "AMX"),
    ("avx512_bf16", "AVX512-BF16"),
    ("avx512f", "AVX512"),
    ("avx2", "AVX2"),
)


def processor_class() -> str:
    """The class that figures are compared within, by the number types that its products know."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return torch.backends.cpu.get_cpu_capability()
    return next((name for flag, name in CLASSES if flag in flags), torch.backends.cpu.get_cpu_capability())


class Watch:
    """How busy a machine was with other things from one moment on."""

    def __init__(self) -> None:
        self.begun = self._now()

    def facts(self) -> dict[str, Any]:
        """The machine, and the cores that others kept busy since then; -1 where the system does not say."""
        wall, busy, own = (after - before for before, after in zip(self.begun, self._now()))
        return {
            "bench": "machine",
            "class": processor_class(),
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "load_average": os.getloadavg()[0],
            "cores_busy_with_others": max(0.0, (busy - own) / max(wall, 1e-9)) if busy >= 0 else -1.0,
        }

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds of wall, of all processors at work, and of this process and its children."""
        try:
            user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split()[1:4])
            busy = (user + nice + system) / os.sysconf("SC_CLK_TCK")
        except OSError:
            busy = -1e18
        times = os.times()
        return time.perf_counter(), busy, sum(times[:4])


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, and the quarters of the values below and above it."""
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def clock() -> float:
    """Wall time; the process's own time where it has one thread, so that a busy machine disturbs less."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, taken in turns so that all see the same machine.

    A round before them compiles, loads and warms up; it is not among them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if number:
                seconds[name].append(clock() - start)
    return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Of each call."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def show(result: dict[str, Any]) -> None:
    """One result as `name: value` lines."""
    print(f"\n{result['bench']}")
    for name, value in result.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, figure in parts:
            if name != "bench":
                shown = figure if isinstance(figure, str) else f"{figure:,.4g}"
                print(f"  {name.replace('_', ' ')} {part}".rstrip() + f": {shown}")
