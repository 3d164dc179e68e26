"""A script that was opened and followed, and what checks ask of it; never run."""

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from bitgolf.audit.finding import CANNOT_TELL, Finding
from bitgolf.audit.flow import Flow
from bitgolf.audit.unwrap import Layer
from bitgolf.audit.values import Event
from bitgolf.audit.walk import NO_SETTINGS


class Script(NamedTuple):
    """A script that was opened and followed. events: of what it does, in order. printed: whether a log shows
    that lines of a branch ran which the script's own settings do not take.
    """

    name: str
    layers: list[Layer]
    events: list[Event]
    flow: Flow
    printed: Callable[[tuple[int, int]], bool] = lambda lines: False

    @property
    def unfollowed(self) -> str:
        """Why its score is not known; empty where it was followed to it."""
        if not self.flow.whole:
            return "too long to be followed"
        if not any(event.kind == "score" for event in self.events):
            return "no score of validation tokens was found in the flow"
        return ""

    @property
    def inner(self) -> Layer:
        """What really runs."""
        return self.layers[-1]

    def at(self, place: int | ast.AST) -> str:
        """A line, or that of a node, for people."""
        line = place if isinstance(place, int) else getattr(place, "lineno", 0)
        return f"{self.inner.name}:{line}"


def follow(
    name: str, layers: list[Layer], beside: list[ast.Module], settings: Mapping[str, str] = NO_SETTINGS
) -> Script:
    """Follow an opened script and its own modules. settings: environment variables that it is run with."""
    flow = Flow([*beside, layers[-1].tree], settings)
    events = flow.run()
    return Script(name, layers, events, flow)


def verdict(
    script: Script, event: Event, code: str, sure: str, found: str, expected: str, way: str
) -> Finding:
    """A finding at an event; what the script's settings turn off cannot be told, unless a log shows it."""
    if event.off and not script.printed(event.off):
        found = f"off by the script's own settings: {found}"
        sure = CANNOT_TELL
    return Finding(code, sure, script.at(event.line), found, expected, way)


def called(node: ast.AST) -> str:
    """The dotted name of what a node calls; empty for another node."""
    if not isinstance(node, ast.Call):
        return ""
    parts, func = [], node.func
    while isinstance(func, ast.Attribute):
        parts.append(func.attr)
        func = func.value
    if isinstance(func, ast.Name):
        return ".".join([func.id, *reversed(parts)])
    return ast.unparse(node.func)


def functions(script: Script) -> Iterator[ast.FunctionDef]:
    """All functions of what runs."""
    return (node for node in ast.walk(script.inner.tree) if isinstance(node, ast.FunctionDef))
