"""All runs below a folder on one page."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.options import Json
from bitgolf.inputs.writable import refuse_page
from bitgolf.report import screen
from bitgolf.study.board import write_board


def board(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Folder with runs and studies.")] = Path(
        "runs"
    ),
    out: Annotated[
        Path | None, typer.Option("--out", help="The page to write; FOLDER/board.html if not given.")
    ] = None,
    watch: Annotated[
        int,
        typer.Option(
            "--watch", metavar="SECONDS", min=0, help="Write it again every so many seconds, until Ctrl-C."
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Show all runs below a folder on one page: sortable table, curves, scores against costs.

    It includes runs of studies, proofs, and failures with their reason. It is one file and loads nothing from
    elsewhere. With --watch the page follows unfinished runs and reloads itself.

    Example: bitgolf board runs --watch 10
    """
    page = out or folder / "board.html"
    if folder.is_dir():
        refuse_page(page)
    facts = write_board(folder, page, watch)
    with suppress(KeyboardInterrupt):
        while watch:
            time.sleep(watch)
            facts = write_board(folder, page, watch)
    if "texts" in facts:
        screen.note(f"{facts['texts']} texts were scored: figures compare only between runs on the same one")
    screen.close(facts, as_json=as_json)
