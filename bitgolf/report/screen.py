"""What people see: progress with an ETA on stderr, and one closing block or one JSON object on stdout."""

import dataclasses
import json
import math
import sys
import time
import unicodedata
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from bitgolf.base.events import Event, is_first_process
from bitgolf.base.plan import Plan

Result = TypeVar("Result")
NOTE = "note"  # the stage of an event that is a line for the reader, under the fact of this name
PLAIN_LINE_SECONDS = 10.0  # without a terminal a long stage says a line this often
# Control and format characters (bidirectional ones among them), separators of lines, halves of characters.
UNSHOWN = ("Cc", "Cf", "Zl", "Zp", "Cs")
JOINERS = "\u200c\u200d"  # scripts and emoji need them, and they move nothing


def escaped(text: str, keep: str = "") -> str:
    """Text from users, files or models as a screen may show it: nothing in it moves, hides or turns text.

    keep: characters that are left alone all the same.
    """
    return "".join(
        char if char in keep + JOINERS or unicodedata.category(char) not in UNSHOWN else _code(char)
        for char in text
    )


def on_page(value: Any) -> Any:
    """What a template puts into a page; text by the same rule, so that a page shows what a screen does."""
    return escaped(value, keep="\n\t") if type(value) is str else value


def _code(char: str) -> str:
    number = ord(char)
    return (
        f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"
    )


def follow(events: Generator[Event, None, Result]) -> Result:
    """Drive a generator of events to its end, drawing each stage, and return its value.

    Of processes that train together only the first one draws.
    """
    if not is_first_process():
        return _in_silence(events)
    console = Console(stderr=True)
    return _draw(_noted(events), console) if console.is_terminal else _log(_noted(events))


def note(text: str) -> None:
    """A line for the reader, on stderr."""
    print(f"note: {escaped(text)}", file=sys.stderr, flush=True)


def _noted(events: Generator[Event, None, Result]) -> Generator[Event, None, Result]:
    """The events without the notes among them, which become lines."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value
        if event.stage == NOTE:
            note(event.facts[NOTE])
        else:
            yield event


def _in_silence(events: Generator[Event, None, Result]) -> Result:
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def _draw(events: Generator[Event, None, Result], console: Console) -> Result:
    columns = (
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=console) as progress:
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                return end.value
            if event.stage not in tasks:
                for task in tasks.values():
                    progress.update(task, completed=1)
                tasks[event.stage] = progress.add_task(escaped(event.stage), total=1, facts="")
            share = min(event.done / event.total, 1) if event.total else 1
            progress.update(tasks[event.stage], completed=share, facts=in_words(event.facts))


def _log(events: Generator[Event, None, Result]) -> Result:
    stage, spoken = "", 0.0
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value
        now = time.monotonic()
        if event.stage != stage:
            started = now
        if event.stage != stage or now - spoken > PLAIN_LINE_SECONDS or event.done >= event.total:
            share = min(event.done / event.total, 1) if event.total else 1
            left = (now - started) * (1 - share) / share if share > 0 else 0
            words = f"{escaped(event.stage):<10} {share:4.0%}  {left:4.0f} s left  {in_words(event.facts)}"
            print(words.rstrip(), file=sys.stderr, flush=True)
            stage, spoken = event.stage, now


def in_words(facts: Mapping[str, Any]) -> str:
    """Facts as 'name 1.23' words for a progress line."""
    return "  ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in facts.items())


def number(value: Any) -> str:
    """A value for people: thousands separated, fractions to four places, plans by what they set."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Plan):
        given = [(f.name, getattr(value, f.name), f.default) for f in dataclasses.fields(value)]
        words = (f"{name}={number(item)}" for name, item, default in given if item != default)
        return f"{type(value).__name__}({', '.join(words)})"
    if isinstance(value, tuple):
        return ", ".join(map(number, value)) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        if abs(value) >= 1000 or value == int(value):
            return f"{value:,.0f}"
        return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.3g}"
    return escaped(str(value))


def close(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """The end of every verb: `name: value` lines, or exactly one JSON object."""
    if as_json:
        print(json.dumps(facts))
        return
    width = max((len(name) for name in facts), default=0) + 1
    for name, value in facts.items():
        if not isinstance(value, (dict, list, tuple)) and "\n" not in str(value):
            print(f"{name + ':':<{width}} {number(value)}")


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]], *, as_json: bool) -> None:
    """A table for people on stdout; silent when a program is listening."""
    if as_json:
        return
    drawn = Table(header_style="dim", box=None, pad_edge=False)
    for position, name in enumerate(header):
        justify: Any = "left" if position == 0 else "right"
        drawn.add_column(Text(escaped(name)), justify=justify, overflow="fold")
    for row in rows:
        drawn.add_row(
            *(Text(escaped(value, keep="\n") if isinstance(value, str) else number(value)) for value in row)
        )
    console = Console()
    console.print(escaped(title), style="bold", highlight=False, soft_wrap=True, markup=False)
    console.print(drawn)
    console.print()


class Column(NamedTuple):
    """A column of `grouped_table`. width: 0 shares what is left. at_least: hidden on narrower screens."""

    name: str
    width: int = 0
    at_least: int = 0
    right: bool = False


def grouped_table(
    columns: Sequence[Column], groups: Iterable[tuple[str, Iterable[Sequence[str]]]], *, as_json: bool
) -> None:
    """Tables under one header, each with a heading of its own; silent when a program is listening."""
    if as_json:
        return
    console = Console(highlight=False)
    shown = [i for i, column in enumerate(columns) if console.width >= column.at_least]
    for heading, rows in (("", ()), *groups):
        drawn = Table(show_header=not heading, header_style="dim", box=None, pad_edge=False, expand=True)
        for column in (columns[i] for i in shown):
            size: dict[str, Any] = {"width": column.width} if column.width else {"ratio": 1}
            drawn.add_column(
                column.name, justify="right" if column.right else "left", overflow="fold", **size
            )
        for row in rows:
            drawn.add_row(*(Text(escaped(row[i], keep="\n")) for i in shown))
        if heading:
            console.print(escaped(heading), style="bold", markup=False)
        console.print(drawn)
        console.print()


def card(title: str, lines: Mapping[str, str], *, as_json: bool) -> None:
    """A title and labelled paragraphs; silent when a program is listening."""
    if as_json:
        return
    console = Console(highlight=False)
    console.print(escaped(title), style="bold", markup=False)
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="dim")
    drawn.add_column(overflow="fold")
    for name, text in lines.items():
        drawn.add_row(name, Text(escaped(text, keep="\n")))
    console.print(drawn)
    console.print()
