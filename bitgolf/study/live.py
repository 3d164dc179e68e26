"""The live table of arms and seeds of a study, with an ETA, the best so far, and errors."""

import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bitgolf.report.screen import escaped
from bitgolf.study.runner import Prepared
from bitgolf.study.status import RunStatus, run_status
from bitgolf.study.values import value_of

ENDED = ("done", "failed")


class Board:
    """Where the runs of a study stand. Finished ones are read once."""

    def __init__(self, prepared: Prepared, seconds_to_do: float) -> None:
        self.prepared = prepared
        self.ended: dict[Path, RunStatus] = {}
        self.reported: set[Path] = set()
        self.started, self.expected = time.monotonic(), seconds_to_do
        self.statuses = self.read()
        self.before = {folder for folder, each in self.statuses.items() if each.state in ENDED}
        self.done_before = self.done()[0]

    def read(self) -> dict[Path, RunStatus]:
        """The standing of every run."""
        folders = {job.folder for job in self.prepared.jobs.values()}
        self.statuses = {folder: self.ended.get(folder) or run_status(folder) for folder in folders}
        self.ended |= {folder: each for folder, each in self.statuses.items() if each.state in ENDED}
        return self.statuses

    def done(self) -> tuple[float, int]:
        """How many runs are over, begun ones by their share, and how many there are."""
        shares = [1.0 if each.state in ENDED else _share(each) for each in self.statuses.values()]
        return sum(shares), len(shares)

    def left(self) -> str:
        """How long it will take yet: by the pace since the start, by the forecast until 0.1 runs are done."""
        done, total = self.done()
        here = done - self.done_before
        if here < 0.1:
            return f"{clock(self.expected)} left by the forecast"
        return f"{clock((time.monotonic() - self.started) * (total - done) / here)} left"

    def best(self) -> tuple[str, float] | None:
        """The arm with the lowest mean so far."""
        means = {}
        for arm in self.prepared.study.names:
            values = [self.value(arm, seed) for seed in self.prepared.study.seeds]
            values = [value for value in values if not math.isnan(value)]
            if values:
                means[arm] = sum(values) / len(values)
        return min(means.items(), key=lambda pair: pair[1]) if means else None

    def value(self, arm: str, seed: int) -> float:
        """The metric of a run; nan while it has none."""
        status = self.statuses[self.prepared.jobs[arm, seed].folder]
        return value_of(status, self.prepared.study.metric)

    def cell(self, arm: str, seed: int) -> Text:
        """A run in a few letters."""
        status = self.statuses[self.prepared.jobs[arm, seed].folder]
        if not math.isnan(value := self.value(arm, seed)):
            return Text(f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.0f}")
        if status.state == "failed":
            return Text(escaped(status.stage), style="red")
        if status.state == "running":
            return Text(f"{status.stage.split()[0]} {status.share:.0%}", style="cyan")
        return Text("stopped" if status.state == "stopped" else "·", style="dim")

    def errors(self) -> list[str]:
        """One line for each failed run: arm, seed, error."""
        return [
            f"{arm}, seed {seed}: {status.result.get('error') or status.stage}"
            for (arm, seed), job in self.prepared.jobs.items()
            if (status := self.statuses[job.folder]).state == "failed" and status.result
        ]

    def drawn(self) -> Group:
        """All of it for a terminal."""
        study = self.prepared.study
        table = Table(header_style="dim", box=None, pad_edge=False)
        table.add_column(Text(escaped(study.name)), overflow="fold")
        for seed in study.seeds:
            table.add_column(f"seed {seed}", justify="right")
        for arm in study.names:
            table.add_row(Text(escaped(arm)), *(self.cell(arm, seed) for seed in study.seeds))
        return Group(
            table,
            Text(self.line(), style="dim"),
            *(Text(escaped(line), style="red") for line in self.errors()),
        )

    def line(self) -> str:
        """How far, how long, the best so far."""
        done, total = self.done()
        line = f"{done:.1f} of {total} runs, {self.left()}"
        best = self.best()
        return line + (f", lowest {self.prepared.study.metric}: {best[0]} {best[1]:,.4f}" if best else "")


def follow(board: Board) -> tuple[AbstractContextManager[Any], Callable[[], None]]:
    """A context to run in, and what to call in it now and then: a live table, or a line as each run ends."""
    console = Console(stderr=True)
    if console.is_terminal:
        live = Live(board.drawn(), console=console, auto_refresh=False)

        def redraw() -> None:
            board.read()
            live.update(board.drawn(), refresh=True)

        return live, redraw

    def report_ended() -> None:
        board.read()
        for (arm, seed), job in board.prepared.jobs.items():
            if board.statuses[job.folder].state in ENDED and job.folder not in board.before | board.reported:
                board.reported.add(job.folder)
                line = f"{arm}, seed {seed}: {board.cell(arm, seed)}   {board.line()}"
                print(escaped(line), file=sys.stderr, flush=True)

    return nullcontext(), report_ended


def clock(seconds: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def _share(status: RunStatus) -> float:
    """How much of a run is done that runs or was stopped: training is most of it."""
    if status.state not in ("running", "stopped") or not status.stage:
        return 0.0
    return 0.8 * status.share if status.stage == "train" else 0.8 if status.stage != "preflight" else 0.0
