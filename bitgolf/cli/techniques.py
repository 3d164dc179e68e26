"""Every technique, or all about one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bitgolf.catalog.shipped import catalogue, find_entry, path_in_words, table_row
from bitgolf.cli.options import Json
from bitgolf.report import screen


def techniques(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A technique, a public variable of one, or a file of yours."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List all techniques with source, bytes and public variables, or show all about one.

    Parameters and bytes are those that the technique, at its defaults, adds to the baseline at full size. Its
    cost in seconds is on its card.

    Example: bitgolf techniques Xsa
    Example: bitgolf techniques mine.py
    """
    if name is not None and ".py" in name:
        _show_own(name, as_json)
        return
    listed = catalogue() or _worked_out()
    entries = listed["techniques"]
    if name is None:
        groups = [
            (heading, [table_row(entries[one]) for one in names])
            for heading, names in listed["groups"].items()
        ]
        screen.grouped_table(TECHNIQUE_COLUMNS, groups, as_json=as_json)
        facts: dict[str, Any] = {"techniques": len(entries), "next": "bitgolf techniques NAME"}
        screen.close({"techniques": [*entries.values()]} if as_json else facts, as_json=as_json)
        return
    _show(find_entry(entries.values(), name), as_json)


def _worked_out() -> Mapping[str, Mapping[str, Any]]:
    from bitgolf.catalog.techniques import technique_entries

    return technique_entries()


def _show_own(name: str, as_json: bool) -> None:
    """The techniques in a user's file: a table, their cards, and what these lack."""
    from bitgolf.catalog.own import own_record, techniques_in

    path, _, one = name.partition(".py")
    own = techniques_in(Path(f"{path}.py"), one.removeprefix(":"))
    records = [own_record(technique) for technique in own]
    keys = ("name", "slot", "title", "parameters", "bytes")
    rows = [(*(each[key] for key in keys), len(each["faults"]) or "none") for each in records]
    header = ("technique", "slot", "what it does", "parameters", "bytes", "faults")
    screen.table(f"{name}: techniques", header, rows, as_json=as_json)
    for each in records:
        _show_card(each, as_json)
    lacking = [(each["name"], fault) for each in records for fault in each["faults"]]
    if lacking:
        screen.table("What they lack", ("technique", ""), lacking, as_json=as_json)
    facts: dict[str, Any] = {
        "techniques": len(own),
        "faults": len(lacking),
        "next": f"bitgolf check {name}",
    }
    screen.close(facts | {"techniques": records} if as_json else facts, as_json=as_json)


def _show(one: dict[str, Any], as_json: bool) -> None:
    _show_card(one, as_json)
    shown = {name for setting in one["settings"] for name in setting["variables"]}
    switches = [name for name in one["public_variables"] if name not in shown]
    if not as_json:
        one = {key: one[key] for key in ("name", "slot", "parameters", "bytes")} | {
            "switched_by": ", ".join(switches) or "none",
            "recipes": ", ".join(one["recipes"]) or "none",
        }
    screen.close(one, as_json=as_json)


def _show_card(one: dict[str, Any], as_json: bool) -> None:
    lines = ("what", "source", "cost", "not_for", "neutral", "notes")
    lines_shown = {line.replace("_", " ").capitalize(): one[line] for line in lines if one[line]}
    screen.card(f"{one['name']}: {one['title']}", lines_shown, as_json=as_json)
    header = ("setting", "type", "default", "limits", "public variables")
    rows = [
        (s["name"], s["type"], s["default"], s["limits"], ", ".join(s["variables"])) for s in one["settings"]
    ]
    if rows:
        screen.table(f"Settings at {path_in_words(one['path'])}", header, rows, as_json=as_json)


TECHNIQUE_COLUMNS = (
    screen.Column("technique", 21),
    screen.Column("what it does"),
    screen.Column("parameters", 10, right=True),
    screen.Column("bytes", 11, right=True),
    screen.Column("neutral", 24, at_least=160),
    screen.Column("source", at_least=140),
    screen.Column("public variables", 25, at_least=90),
)
