"""A script that was opened and followed, and what checks ask of it; never run."""

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding
from bitgolf.audit.flow import Flow
from bitgolf.audit.own_names import as_written
from bitgolf.audit.reach import MOST_ASKED, Reach
from bitgolf.audit.tree import nodes, own, walked
from bitgolf.audit.unwrap import Layer
from bitgolf.audit.values import Event
from bitgolf.audit.walk import NO_SETTINGS
from bitgolf.audit.written import Written
from bitgolf.base.errors import BitgolfError

FILE_LINES = 100_000_000  # more than any script has


class Script(NamedTuple):
    """A script that was opened and followed. events: of what it does, in order. printed: whether a log shows
    that lines of a branch ran which the script's own settings do not take. beside: files that it imports; the
    lines of the n-th are counted from n * FILE_LINES, so that a number tells its file. alone: nothing beside
    it can say with which settings it was run.
    """

    name: str
    layers: list[Layer]
    events: list[Event]
    flow: Flow
    printed: Callable[[tuple[int, int]], bool] = lambda lines: False
    beside: tuple[str, ...] = ()
    reach: Reach = Reach([], {})
    written: Written = Written([])
    alone: bool = False

    def of(self, kind: str, *marks: str) -> list[Event]:
        """The events of a kind whose values carry all of these marks."""
        return [event for event in self.events if event.kind == kind and event.value.has(*marks)]

    @property
    def numbers(self) -> dict[str, float]:
        """Numbers that names of the whole script and attributes of its settings stand for."""
        return self.flow.numbers

    @property
    def comparisons(self) -> list[ast.Compare]:
        """Where it asks whether two things are equal."""
        return [
            node for node, _ in self.reach.all(ast.Compare) if isinstance(node.ops[0], ast.Eq | ast.NotEq)
        ]

    def within_reach(self, *parts: ast.AST) -> list[ast.AST]:
        """Some nodes, and the functions that are called in them, or handed on, and in those."""
        found = [*parts]
        seen = {*map(id, parts)}
        for part in found:
            for node in nodes(part, ast.Name, ast.Attribute):
                new = [each for each in own(node) if id(each) not in seen]
                seen |= {*map(id, new)}
                found += new
        return found

    @property
    def unfollowed(self) -> str:
        """Why its score is not known; empty where it was followed to it."""
        if not self.flow.whole or self.reach.asked > MOST_ASKED:
            return "too long to be followed"
        if not self.of("score"):
            return "no score of validation tokens was found in the flow"
        return ""

    @property
    def inner(self) -> Layer:
        """What really runs."""
        return self.layers[-1]

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return self.inner.tree

    def at(self, where: int | ast.AST) -> str:
        """A line, or that of a node, for people."""
        file, line = self.located(where if isinstance(where, int) else getattr(where, "lineno", 0))
        return f"{file or self.inner.name}:{line}"

    def finding(
        self,
        code: str,
        where: int | ast.AST | Event,
        found: str,
        expected: str = "",
        way_out: str = "",
        sure: str = SUSPECTED,
    ) -> Finding:
        """A finding at a line, a node or an event; what the script's settings turn off cannot be told, unless
        a log shows that it ran. Of a script alone it is suspected: its settings are defaults.
        """
        found = as_written(found)
        if not isinstance(where, Event):
            return Finding(code, sure, self.at(where), found, expected, way_out)
        if where.guessed and sure == FOUND:
            sure = SUSPECTED
        if where.off and not self.printed(where.off):
            branches = (node for node in walked(self.tree) if isinstance(node, ast.If))
            never = any(
                each.lineno == where.off[0] and isinstance(each.test, ast.Constant) for each in branches
            )
            sure = SUSPECTED if self.alone and not never and sure != CANNOT_TELL else CANNOT_TELL
            found = f"off by the script's own settings: {found}"
        return Finding(code, sure, self.at(where.line), found, expected, way_out)

    def line(self, number: int) -> str:
        """A line inside a sentence: with its file, if that is not the script's own."""
        file, line = self.located(number)
        return f"line {line}" + (f" of {file}" if file else "")

    def located(self, number: int) -> tuple[str, int]:
        """The file beside the script that a line is of, or nothing, and the line there."""
        file, line = divmod(number, FILE_LINES)
        return (self.beside[file - 1] if file else ""), line


def follow(
    name: str,
    layers: list[Layer],
    beside: list[tuple[str, ast.Module]],
    settings: Mapping[str, str] = NO_SETTINGS,
) -> Script:
    """Follow an opened script and its own modules, by name. settings: environment variables of its run.

    Raises BitgolfError for one that is nested too deeply.
    """
    for number, (_, tree) in enumerate(beside, 1):
        ast.increment_lineno(tree, number * FILE_LINES)
    names = tuple(name for name, _ in beside)
    flow = Flow([*(tree for _, tree in beside), layers[-1].tree], settings, names)
    try:
        events = flow.run()
    except RecursionError:
        raise BitgolfError("nested too deeply to be followed", where=name) from None
    flow.settle()
    reach, written = Reach([*flow.trees], flow.kinds), Written(flow.trees)
    return Script(name, layers, events, flow, beside=names, reach=reach, written=written)


def functions(script: Script, *, beside: bool = False) -> Iterator[ast.FunctionDef]:
    """All functions of what runs, and as one what it does outside of them. beside: the functions alone, those
    of the files that it imports too.
    """
    trees = script.flow.trees if beside else [script.tree]
    yield from (node for tree in trees for node in walked(tree) if isinstance(node, ast.FunctionDef))
    if not beside and script.flow.outside.body:
        yield script.flow.outside
