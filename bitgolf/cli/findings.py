"""What all studies found."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from bitgolf.cli.options import Json
from bitgolf.report import screen
from bitgolf.study import findings as ledger


def findings(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORD]...", help="Only lines with these words.")
    ] = None,
    folder: Annotated[Path, typer.Option("--in", help="Every study below this folder.")] = Path(),
    cited: Annotated[
        list[Path] | None, typer.Option("--cited", help="More figures of other people: a .json or .csv file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What all studies found, null results too; beside it, apart, what others published.

    Example: bitgolf findings EMA
    """
    known, problems = ledger.measured(folder)
    own = ledger.matching(known, words or [])
    others = ledger.matching(ledger.cited(*(cited or [])), words or [])
    screen.table("Measured here", *ledger.measured_rows(own), as_json=as_json)
    screen.table("Cited: other people's figures and conditions", *ledger.cited_rows(others), as_json=as_json)
    if problems and not as_json:
        print(f"not readable: {screen.escaped(', '.join(problems))}\n")
    facts: dict[str, Any] = {"measured": len(own), "cited": len(others), "unreadable": len(problems)}
    if as_json:
        facts = {
            "measured": [dataclasses.asdict(each) for each in own],
            "cited": [dataclasses.asdict(each) for each in others],
            "unreadable": problems,
        }
    screen.close(facts, as_json=as_json)
