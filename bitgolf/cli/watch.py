"""The metrics of a run in TensorBoard, Weights & Biases or trackio."""

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.options import Json
from bitgolf.report import screen
from bitgolf.watch.follow import follow


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    to: Annotated[
        str, typer.Option("--to", metavar="BOARD", help="tensorboard, wandb or trackio.")
    ] = "tensorboard",
    once: Annotated[bool, typer.Option("--once", help="Only what is there; do not wait for more.")] = False,
    as_json: Json = False,
) -> None:
    """The metrics of a run, also while it goes on, in TensorBoard, Weights & Biases or trackio.

    A watch that was stopped goes on where it was. Weights & Biases is offline unless WANDB_MODE says
    otherwise.
    Needs: pip install 'bitgolf[watch]', or [wandb], or [trackio]

    Example: bitgolf watch runs/demo --to tensorboard
    """
    count = follow(run, to, once)
    screen.close({"run": str(run), "to": to, "lines": count}, as_json=as_json)
