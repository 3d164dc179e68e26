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
    prompt: Annotated[str, typer.Option(help="The text that stands there first.")] = "",
    as_json: Json = False,
) -> None:
    """A packed model as one HTML file that runs it in the browser: type, and watch it write.

    The file holds weights, tokenizer and engine, and loads nothing from elsewhere. Each token shows its bits
    as a colour, and what you type its bits per byte.

    Example: bitgolf share runs/demo --out demo.html --prompt "My fellow citizens"
    """
    screen.close(screen.follow(write_page(model, out, prompt)), as_json=as_json)
