"""Anyone's training logs as a table, curves and a comparison."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bitgolf.cli.options import Json
from bitgolf.inputs.writable import refuse_page
from bitgolf.report import screen


def log(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Logs of any public script.")],
    report: Annotated[
        Path | None, typer.Option("--report", "--html", help="Write a page with the curves here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show any public training log as a table and curves, and the differences of two.

    Figures are those of the logs. For two logs: their scores at equal steps and equal seconds, and the
    settings that differ.

    Example: bitgolf log train_seed42.log train_seed1337.log --report logs.html
    """
    from bitgolf.published.log import compared, read_logs
    from bitgolf.published.page import SHOWN, write_page

    if report is not None:
        refuse_page(report, "give another --report")
    logs = read_logs(files)
    header = ("log", *(name.replace("_", " ") for name in SHOWN))
    rows = [(each.name, *(each.facts[name] for name in SHOWN)) for each in logs]
    if len(logs) > 2:
        screen.table("Logs, as they state it", header, rows, as_json=as_json)
    facts: dict[str, Any] = {"logs": len(logs)}
    if len(logs) == 1:
        facts = logs[0].facts
    if len(logs) == 2:
        comparison = compared(*logs)
        both = [(name.replace("_", " "), *(each.facts[name] for each in logs)) for name in SHOWN]
        screen.table("Two logs, as they state it", ("", *(each.name for each in logs)), both, as_json=as_json)
        if steps := [tuple(row.values()) for row in comparison["at_equal_steps"]]:
            header = ("figure", "step", comparison["left"], comparison["right"], "difference")
            screen.table("At equal steps", header, steps, as_json=as_json)
        if times := [tuple(row.values()) for row in comparison["at_equal_seconds"]]:
            header = ("seconds", comparison["left"], comparison["right"], "difference")
            screen.table("Validation at equal seconds", header, times, as_json=as_json)
        settings = [tuple(row.values()) for row in comparison["settings"]]
        if settings:
            header = ("setting", comparison["left"], comparison["right"])
            screen.table("Settings that differ", header, settings, as_json=as_json)
        facts = comparison | {"settings_that_differ": len(settings)}
    if report is not None:
        write_page(logs, report)
        facts = facts | {"report": str(report)}
    if as_json:
        log_rows = [
            {"file": str(each.log.path), "name": each.name, **each.facts, "curves": _curves(each.curves)}
            for each in logs
        ]
        facts = {
            "logs": log_rows,
            **({"comparison": comparison} if len(logs) == 2 else {}),
            **({"report": str(report)} if report else {}),
        }
    screen.close(facts, as_json=as_json)


def _curves(curves: dict[str, Any]) -> dict[str, Any]:
    """Curves as lists, with null for a clock that is not known."""
    return {
        name: {
            "step": [int(step) for step in curve.step],
            "seconds": [None if seconds != seconds else seconds for seconds in curve.seconds.tolist()],
            "value": curve.value.tolist(),
        }
        for name, curve in curves.items()
    }
