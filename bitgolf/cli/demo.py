"""The whole story on real text."""

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.options import Json, Out, Seed
from bitgolf.cli.shown import free_folder, show_result
from bitgolf.inputs.resolve import find_recipe
from bitgolf.pipeline.demo import DEMO_TEXT, demonstrate
from bitgolf.report import screen


def demo(
    out: Out = None,
    train_seconds: Annotated[
        float | None, typer.Option(help="Seconds of training; 180 if neither end is given.")
    ] = None,
    train_tokens: Annotated[
        int | None, typer.Option(help="Tokens of training: the same end on every machine.")
    ] = None,
    seed: Seed = 1337,
    as_json: Json = False,
) -> None:
    """The whole story on real text, in about five minutes on two cores.

    Trains a small model on two centuries of State of the Union addresses, packs it under 1,000,000 bytes,
    reloads the packed bytes, scores them beside xz, zstd and brotli, writes report.html, and proves the
    score of 100,000 bytes: they are coded into a file and read back.

    Example: bitgolf demo --train-seconds 60
    """
    overrides = [] if train_tokens is None else ["train.train_seconds=0", f"train.tokens={train_tokens}"]
    if train_seconds is not None:
        overrides.append(f"train.train_seconds={train_seconds}")
    folder = out or free_folder(Path("runs/demo"))
    steps = demonstrate(find_recipe("demo", overrides), DEMO_TEXT, folder, seed)
    show_result(screen.follow(steps), as_json, f"bitgolf sample {folder} --prompt 'My fellow citizens'")
