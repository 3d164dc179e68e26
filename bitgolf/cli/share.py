"""One page that runs a packed model."""

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.options import Json, ModelName
from bitgolf.report import screen
from bitgolf.share.page import write_page


def share(
    model: ModelName,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; share.html beside the model if not given.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="The first text on the page.")] = "",
    as_json: Json = False,
) -> None:
    """Write a packed model as one HTML file that runs it in the browser.

    The file contains weights, tokenizer and engine, and loads nothing from elsewhere. The colour of each
    token shows its bits; your own text gets its bits per byte.

    Example: bitgolf share runs/demo --out demo.html --prompt "My fellow citizens"
    """
    screen.close(screen.follow(write_page(model, out, prompt)), as_json=as_json)
