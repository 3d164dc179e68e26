"""Techniques and recipes that ship, known without importing them, from a file that the code wrote.

`python -m bitgolf.catalog.techniques` writes it, with a hash of each source behind it. Where the code is
another by now the file says nothing, and whoever asks works it out anew: in seconds, not in tenths.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from bitgolf.base.errors import BitgolfError, nearest
from bitgolf.base.files import read_json
from bitgolf.base.plan import Plan

PACKAGE_FOLDER = Path(__file__).parents[1]
SHIPPED = Path(__file__).with_name("shipped.json")
PACKAGES = ("base", "text", "net", "squeeze", "train", "score", "public", "recipes", "forecast", "catalog")
SHOWN_VARIABLES = 3  # of each technique in the table of all
SHOWN_CHARACTERS = 90  # of a line of its card there
Entry = dict[str, Any]  # of a technique or a recipe, as JSON data


def source_hashes() -> dict[str, str]:
    """A name for the content of each source that the catalogue follows from."""
    paths = [
        PACKAGE_FOLDER / "recipe.py",
        *(p for name in PACKAGES for p in (PACKAGE_FOLDER / name).glob("*.py")),
    ]
    names = {path.relative_to(PACKAGE_FOLDER).as_posix(): path for path in paths}
    return {name: hashlib.sha256(names[name].read_bytes()).hexdigest()[:12] for name in sorted(names)}


def written(catalogue: Mapping[str, Mapping[str, Any]]) -> str:
    """A catalogue as the text of its file: an entry a line, so that a change shows where it is."""
    parts = []
    for part, entries in catalogue.items():
        lines = (f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
        parts.append(f"{json.dumps(part)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


@functools.cache
def catalogue() -> Mapping[str, Mapping[str, Any]] | None:
    """The catalogue: `groups`, `techniques`, `recipes` and `classes`; None where it is of other code."""
    stored = read_json(SHIPPED) if SHIPPED.is_file() else {}
    return stored if stored.get("sources") == source_hashes() else None


def shipped_recipe(name: str) -> Entry | None:
    """A recipe by its name as `bitgolf.catalog.glance` has it; None where that must be worked out."""
    stored = catalogue()
    return stored["recipes"].get(name) if stored else None


def find_entry(techniques: Iterable[Entry], name: str) -> Entry:
    """A technique by its name or one of its public variables. Raises BitgolfError with the nearest name."""
    entries = list(techniques)
    for entry in entries:
        if name.lower() == entry["name"].lower():
            return entry
    for entry in entries:
        if name.upper() in entry["public_variables"]:
            return entry
    hint = nearest(name, [entry["name"] for entry in entries])
    raise BitgolfError("no such technique", where=name, way_out=hint)


def table_row(entry: Entry) -> tuple[str, ...]:
    """A technique in one line: name, title, parameters, bytes, neutral, source, some of its variables."""
    weight = (f"{entry[key]:+,}" if entry[key] else "0" for key in ("parameters", "bytes"))
    names = entry["public_variables"]
    more = [f"{len(names) - SHOWN_VARIABLES} more"] if len(names) > SHOWN_VARIABLES + 1 else []
    shown = ", ".join([*names[:SHOWN_VARIABLES], *more] if more else names)
    short = (shorten(entry[key], SHOWN_CHARACTERS, placeholder=" ...") for key in ("neutral", "source"))
    return (entry["name"], entry["title"].rstrip("."), *weight, *short, shown)


def path_in_words(path: str) -> str:
    """A path with N for any place in a tuple."""
    return re.sub(r"\.0\b", ".N", path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandIn(Plan):
    """Settings that have been checked before, without the class that checks them and does their work."""

    def __post_init__(self) -> None:
        """Nothing is checked."""


def stand_in(data: Any) -> Any:
    """Settings from their JSON, equal and shown as what they stand for. Raises KeyError for unknown ones.

    Call it with settings that are known to be right, and only where `catalogue` has one.
    """
    if isinstance(data, list):
        return tuple(map(stand_in, data))
    if not isinstance(data, dict):
        return data
    kind = _class_named(data["class"])
    fields = {name: stand_in(value) for name, value in data.items() if name != "class"}
    if unknown := fields.keys() - {field.name for field in dataclasses.fields(kind)}:
        raise KeyError(*unknown)
    return kind(**fields)


@functools.cache
def _class_named(name: str) -> type[StandIn]:
    stored = catalogue()
    assert stored is not None
    fields = [
        (field, Any, dataclasses.field(default=stand_in(default)))
        for field, default in stored["classes"][name].items()
    ]
    return dataclasses.make_dataclass(name, fields, bases=(StandIn,), frozen=True, kw_only=True)


def recipe_in(data: Any, identity: str) -> StandIn | None:
    """The settings of a run, where its files agree on what they are; None where they must be read by type."""
    if catalogue() is None or _identity(data) != identity:
        return None
    try:
        settings = stand_in(data)
    except (KeyError, TypeError):  # of a user's file, or of another version
        return None
    return settings if isinstance(settings, StandIn) else None


def _identity(data: Any) -> str:
    """As `Plan.identity` has it."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
