"""Output on the screen: progress with an ETA on stderr; a closing block or one JSON object on stdout."""

import dataclasses
import json
import math
import os
import re
import sys
import time
import unicodedata
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from bitgolf.base.events import NOTE, Event, finish, is_first_process, mapped
from bitgolf.base.plan import Plan

Result = TypeVar("Result")
PLAIN_LINE_SECONDS = 10.0  # without a terminal a long stage says a line this often
# Control and format characters (bidirectional ones among them), separators of lines, halves of characters.
UNSHOWN = ("Cc", "Cf", "Zl", "Zp", "Cs")
NAMES = {"seed", "seeds", "id", "ids"}  # numbers under these words count nothing
PIPE_WIDTH = 10_000  # of what no terminal shows: no row is cut or wrapped
GUTTER = 2  # between two columns
SHORT_CELL = 24  # a cell of so many letters is not broken: a number, an interval, a name
LEAST_NAMES = 16  # letters of a column whose cells are broken
MANY_ROWS = 10
MANY_SECONDS, MANY_BYTES = 600, 1e8  # are told in hours and megabytes too
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
        return finish(events)
    console = Console(stderr=True)
    if not console.is_terminal:
        return finish(_noted(events), Lines())
    with Bars(console) as bars:
        return finish(_noted(events), bars.show)


def note(text: str) -> None:
    """A line for the reader, on stderr; of several processes the first speaks for all."""
    if is_first_process():
        print(f"note: {escaped(text)}", file=sys.stderr, flush=True)


def _noted(events: Generator[Event, None, Result]) -> Generator[Event, None, Result]:
    """The events without the notes among them, which become lines."""

    def noted(event: Event) -> Event | None:
        if event.stage != NOTE:
            return event
        note(event.facts[NOTE])
        return None

    return mapped(events, noted)


class Bars(Progress):
    """A bar for each stage, for terminals."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description:<15}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
        )
        super().__init__(*columns, console=console)
        self._stages: dict[str, TaskID] = {}

    def show(self, event: Event) -> None:
        """Draw where a stage stands; the stages before it are whole."""
        if event.stage not in self._stages:
            for task in self._stages.values():
                self.update(task, completed=1)
            self._stages[event.stage] = self.add_task(escaped(event.stage), total=1, facts="")
        self.update(self._stages[event.stage], completed=share_of(event), facts=in_words(event.facts))


class Lines:
    """A line now and then for each stage, where nothing can be drawn."""

    def __init__(self) -> None:
        self._stage, self._started, self._printed, self._ended = "", 0.0, 0.0, tuple[str, ...]()
        self._share_before = 0.0  # of a stage that goes on where it was stopped

    def __call__(self, event: Event) -> None:
        """Print the event if it opens or ends a stage, or none was printed for a while."""
        now, opens = time.monotonic(), event.stage != self._stage
        share = share_of(event)
        if opens:
            self._stage, self._started, self._share_before = event.stage, now, share
        # Told once, and again when it has other facts: not for each value of one.
        ended = (event.stage, *event.facts) if event.done >= event.total else ()
        if opens or now - self._printed > PLAIN_LINE_SECONDS or ended not in ((), self._ended):
            self._ended = ended
            done, gone = share - self._share_before, now - self._started
            is_known = share == 1 or (done > 0 and gone >= 1)  # of less nothing can be told
            left = f"{gone * (1 - share) / done if share < 1 else 0:.0f}" if is_known else "?"
            line = f"{escaped(event.stage):<15} {share:4.0%}  {gone:4.0f} s gone, {left} s left"
            print(f"{line}  {in_words(event.facts)}".rstrip(), file=sys.stderr, flush=True)
            self._printed = now


def share_of(event: Event) -> float:
    """How much of its stage is done, 0 to 1."""
    return min(event.done / event.total, 1) if event.total else 1


def in_words(facts: Mapping[str, Any]) -> str:
    """Facts as 'name 1.23' words for a progress line."""
    return "  ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in facts.items())


def named(name: str, value: Any) -> str:
    """A value under its name: a seed or an id is a name itself, so that its digits stay together."""
    if NAMES.isdisjoint(re.split(r"[^a-z]+", name.lower())):
        return number(value)
    if isinstance(value, tuple):
        return ", ".join(named(name, each) for each in value) or "none"
    return str(value) if type(value) is int else number(value)


def as_set(name: str, value: Any) -> str:
    """A value among the settings of a part, as one would type it: no commas in numbers."""
    if isinstance(value, tuple):
        inside = ", ".join(as_set(name, each) for each in value)
        return f"({inside}{',' if len(value) == 1 else ''})"
    return str(value) if type(value) is int else named(name, value)


def number(value: Any) -> str:
    """A value for people: thousands separated, fractions to four places, plans by what they set."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Plan):
        given = [(f.name, getattr(value, f.name), f.default) for f in dataclasses.fields(value)]
        settings = (f"{name}={as_set(name, item)}" for name, item, default in given if item != default)
        return f"{type(value).__name__}({', '.join(settings)})"
    if isinstance(value, tuple):
        return ", ".join(map(number, value)) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        if abs(value) >= 1000 or value == int(value):
            return f"{value or 0.0:,.0f}"  # no -0
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
            print(f"{name + ':':<{width}} {named(name, value)}{in_larger_units(name, value)}")


def in_larger_units(name: str, value: Any) -> str:
    """Many seconds or bytes once more, as people say them, in brackets after a space; '' for few."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return ""
    words = name.lower().split("_")
    if "seconds" in words and "per" not in words and value >= MANY_SECONDS:
        minutes = round(value / 60)
        days, hours = minutes // 1440, minutes // 60 % 24
        parts = [f"{days} d"] * (days > 0) + [f"{hours} h"] * (minutes >= 60)
        return f" ({' '.join([*parts, f'{minutes % 60} min'][:2])})"
    if "bytes" in words and "per" not in words and value >= MANY_BYTES:
        units = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6))
        unit, size = next((unit, size) for unit, size in units if value >= size)
        return f" ({value / size:.3g} {unit})"
    return ""


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]], *, as_json: bool) -> None:
    """A table for people on stdout; silent when a program is listening."""
    if as_json:
        return
    cells = [
        [
            escaped(value, keep="\n") if isinstance(value, str) else named(f"{row[0]} {name}", value)
            for name, value in zip(header, row)
        ]
        for row in rows
    ]
    console = paper()
    console.print(escaped(title), style="bold", highlight=False, soft_wrap=True, markup=False)
    widths = [_least_width([name, *column]) for name, *column in zip(header, *cells)]
    if len(cells) > MANY_ROWS:  # one below the other they would fill screens: names are broken before that
        widths[0] = min(widths[0], LEAST_NAMES)
    left = console.width - sum(widths) - GUTTER * (len(widths) - 1)
    if left < 0:
        _put_below_each_other(console, header, cells)
        return
    for at, *column in zip(range(len(widths)), header, *cells):
        longest = max(len(line) for text in column for line in text.splitlines() or [""])
        more = min(max(longest - widths[at], 0), left)
        widths[at], left = widths[at] + more, left - more
    drawn = Table(header_style="dim", box=None, pad_edge=False)
    for position, (name, width) in enumerate(zip(header, widths)):
        justify: Any = "left" if position == 0 else "right"
        drawn.add_column(Text(escaped(name)), justify=justify, overflow="fold", width=width)
    for row in cells:
        drawn.add_row(*map(Text, row))
    put(console, drawn)


def _least_width(texts: Sequence[str]) -> int:
    """Letters that a column needs: all of a short cell, the longest word of its name and of long ones."""
    name, cells = texts[0], [line for text in texts[1:] for line in text.splitlines()]
    words = [name, *(cell for cell in cells if len(cell) > SHORT_CELL)]
    whole = [cell for cell in cells if len(cell) <= SHORT_CELL]
    return max(map(len, [*whole, *(word for text in words for word in text.split())]), default=0)


def _put_below_each_other(console: Console, header: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """A table that is wider than the screen: the first cell of a row as a heading, the others below it."""
    for first, *rest in cells:
        put(console, Text(first), apart=False)
        drawn = Table.grid(padding=(0, GUTTER))
        drawn.add_column(style="dim")
        drawn.add_column(overflow="fold")
        for name, cell in zip(header[1:], rest):
            if cell not in ("", "-"):
                drawn.add_row(f"  {escaped(name)}", Text(cell))
        put(console, drawn, apart=False)
    console.print()


def paper() -> Console:
    """What tables are drawn on: as wide as the terminal, COLUMNS where that is set, or as any row."""
    console = Console(highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console = Console(highlight=False, width=PIPE_WIDTH)
    return console


def put(console: Console, drawn: Table | Text, apart: bool = True) -> None:
    """Draw a table, and an empty line after it if it stands apart; no line ends in spaces in a pipe."""
    if console.is_terminal:
        console.print(drawn)
    else:
        with console.capture() as captured:
            console.print(drawn)
        print("\n".join(line.rstrip() for line in captured.get().splitlines()))
    if apart:
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
    console = paper()
    wide = console.width == PIPE_WIDTH
    shown = [i for i, column in enumerate(columns) if console.width >= column.at_least]
    left = console.width - sum(columns[i].width + GUTTER for i in shown) + GUTTER
    if left < LEAST_NAMES * sum(not columns[i].width for i in shown):
        for heading, rows in groups:
            console.print(escaped(heading), style="bold", highlight=False, soft_wrap=True, markup=False)
            cells = [[escaped(row[i], keep="\n") for i in shown] for row in rows]
            _put_below_each_other(console, [columns[i].name for i in shown], cells)
        return
    for heading, rows in (*((("", ()),) if not wide else ()), *groups):
        with_header = wide or not heading
        drawn = Table(show_header=with_header, header_style="dim", box=None, pad_edge=False, expand=not wide)
        for column in (columns[i] for i in shown):
            extent: dict[str, Any] = {"width": column.width} if column.width else {"ratio": 1}
            extent = {"min_width": column.width} if wide else extent
            drawn.add_column(
                column.name, justify="right" if column.right else "left", overflow="fold", **extent
            )
        for row in rows:
            drawn.add_row(*(Text(escaped(row[i], keep="\n")) for i in shown))
        if heading:
            console.print(escaped(heading), style="bold", markup=False)
        put(console, drawn)


def card(title: str, lines: Mapping[str, str], *, as_json: bool) -> None:
    """A title and labelled paragraphs; silent when a program is listening."""
    if as_json:
        return
    console = paper()
    console.print(escaped(title), style="bold", markup=False)
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="dim")
    drawn.add_column(overflow="fold")
    for name, text in lines.items():
        drawn.add_row(name, Text(escaped(text, keep="\n")))
    put(console, drawn)
