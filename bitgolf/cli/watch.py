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
    """Send the metrics of a run, also while it runs, to TensorBoard, Weights & Biases or trackio.

    A stopped watch continues where it was. Weights & Biases is offline unless WANDB_MODE says otherwise.
    Needs: pip install 'bitgolf[watch]', or [wandb], or [trackio]

    Example: bitgolf watch runs/demo --to tensorboard
    """
    count = follow(run, to, once)
    screen.close({"run": str(run), "to": to, "lines": count}, as_json=as_json)
