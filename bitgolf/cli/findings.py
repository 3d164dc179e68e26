"""What all studies found."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from bitgolf.cli.options import Json
from bitgolf.report import screen
from bitgolf.study import findings as ledger
from bitgolf.study.cited import cited_in, keep_cited


def findings(
    terms: Annotated[
        list[str] | None, typer.Argument(metavar="[WORD]...", help="Only lines with these words.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--in", help="Only studies below this folder; default: those below here and ours."),
    ] = None,
    cited: Annotated[
        list[Path] | None,
        typer.Option("--cited", help="More figures published by others: a .json or .csv file."),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option("--import", help="Import the public records below this folder as cited figures."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what all studies found, null results included, and separately what others published.

    With words, a note says in how many public entries they were tried, and the best result. Imported records
    are in public-records.json of the folder; importing again renews them.

    Example: bitgolf findings EMA
    Example: bitgolf findings --import parameter-golf/records Xsa
    """
    taken: dict[str, Any] = {}
    below = folder or Path()
    if records is not None:
        from bitgolf.published.records import imported

        rows, broken = imported(records)
        path = keep_cited(rows, below)
        entries = len({row.source for row in rows})
        taken = {"imported": entries, "rows": len(rows), "not_imported": broken, "file": str(path)}
        for problem in broken:
            screen.note(f"not imported: {problem}")
    measured, problems = ledger.measured(below)
    measured = measured if folder else ledger.with_shipped(measured)
    own = ledger.matching(measured, terms or [])
    figures = cited_in(below, *(cited or []))
    others = ledger.matching(figures, terms or [])
    note = ledger.novelty(figures, terms) if terms else ""
    if terms or records is None:
        screen.table("Measured, here and by the project", *ledger.measured_rows(own), as_json=as_json)
        title = "Cited: other people's figures and conditions"
        screen.table(title, *ledger.cited_rows(others), as_json=as_json)
    if note and not as_json:
        print(f"{screen.escaped(note)}\n")
    if problems and not as_json:
        print(f"not readable: {screen.escaped(', '.join(problems))}\n")
    facts: dict[str, Any] = {"measured": len(own), "cited": len(others), "unreadable": len(problems)}
    if as_json:
        facts = {
            "measured": [dataclasses.asdict(each) for each in own],
            "cited": [dataclasses.asdict(each) for each in others],
            "unreadable": problems,
            **({"novelty": note} if note else {}),
        }
    screen.close(facts | taken, as_json=as_json)
