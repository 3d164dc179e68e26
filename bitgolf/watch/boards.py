"""Targets for metrics: TensorBoard, Weights & Biases (offline), trackio. Each needs its own library."""

import hashlib
import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

Metrics = Mapping[str, float]


class Board(Protocol):
    """What takes the metrics of one run, step by step."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step."""

    def close(self) -> None:
        """Write what waits."""


class TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir runs`."""

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self._writer = importlib.import_module("tensorboardX").SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what waits."""
        self._writer.close()


class Wandb:
    """A run of Weights & Biases in RUN/wandb, kept here: `wandb sync RUN/wandb/offline-run-*` sends it."""

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        self._run = importlib.import_module("wandb").init(
            project="bitgolf", name=folder.name, dir=str(folder), config=dict(settings), resume="allow",
            id=run_id(folder),
        )  # fmt: skip

    def log(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Write what waits."""
        self._run.finish()


class Trackio:
    """A run of trackio, in its own folder: `trackio show --project bitgolf`."""

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self._library = importlib.import_module("trackio")
        name = f"{folder.name}-{run_id(folder)}"
        self._library.init(project="bitgolf", name=name, config=dict(settings), resume="allow")

    def log(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step."""
        self._library.log(dict(metrics), step=step)

    def close(self) -> None:
        """Write what waits."""
        self._library.finish()


def run_id(folder: Path) -> str:
    """The same for the same folder."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]


class Kind(NamedTuple):
    """A board, and the package that it needs."""

    open: Callable[[Path, Mapping[str, object]], Board]
    package: str


BOARDS = {
    "tensorboard": Kind(TensorBoard, "tensorboardX"),
    "wandb": Kind(Wandb, "wandb"),
    "trackio": Kind(Trackio, "trackio"),
}
