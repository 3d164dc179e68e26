"""Every technique, or all about one."""

from typing import Annotated, Any

import typer

from bitgolf.catalog.techniques import by_slot, find_technique, path_in_words, record, table_row
from bitgolf.catalog.techniques import techniques as all_techniques
from bitgolf.cli.options import Json
from bitgolf.report import screen


def techniques(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A technique, or a public variable of one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Every technique: its source, what it weighs, its public variables; or all about one.

    Parameters and bytes are what the baseline at full size gains with the technique at its defaults; what it
    costs in seconds is on its card.

    Example: bitgolf techniques Xsa
    """
    if name is None:
        groups = [(heading, map(table_row, group)) for heading, group in by_slot()]
        screen.grouped_table(TECHNIQUE_COLUMNS, groups, as_json=as_json)
        facts: dict[str, Any] = {"techniques": len(all_techniques()), "next": "bitgolf techniques NAME"}
        screen.close({"techniques": [*map(record, all_techniques())]} if as_json else facts, as_json=as_json)
        return
    one = record(find_technique(name))
    lines = ("what", "source", "cost", "not_for", "neutral", "notes")
    said = {line.replace("_", " ").capitalize(): one[line] for line in lines if one[line]}
    screen.card(f"{one['name']}: {one['title']}", said, as_json=as_json)
    header = ("setting", "type", "default", "limits", "public variables")
    rows = [
        (s["name"], s["type"], s["default"], s["limits"], ", ".join(s["variables"])) for s in one["settings"]
    ]
    if rows:
        screen.table(f"Settings at {path_in_words(one['path'])}", header, rows, as_json=as_json)
    shown = {name for setting in one["settings"] for name in setting["variables"]}
    switches = [name for name in one["public_variables"] if name not in shown]
    if not as_json:
        one = {key: one[key] for key in ("name", "slot", "parameters", "bytes")} | {
            "switched_by": ", ".join(switches) or "none",
            "recipes": ", ".join(one["recipes"]) or "none",
        }
    screen.close(one, as_json=as_json)


TECHNIQUE_COLUMNS = (
    screen.Column("technique", 21),
    screen.Column("what it does"),
    screen.Column("parameters", 10, right=True),
    screen.Column("bytes", 11, right=True),
    screen.Column("neutral", 24, at_least=160),
    screen.Column("source", at_least=140),
    screen.Column("public variables", 25, at_least=90),
)
