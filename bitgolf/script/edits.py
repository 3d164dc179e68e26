"""Edits of definitions as text: a part of the syntax tree is replaced, the rest keeps its text."""

import ast
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bitgolf.script.source import Definition, Module, read_module
from bitgolf.script.syntax import CACHED, texts_in, walked

LINE_LENGTH = 110


class Edit(NamedTuple):
    """What stands from one character of a definition to another is to be this."""

    source: "Source"
    start: int
    end: int
    text: str | None


class Source:
    """A definition with its text, whose places its syntax tree knows."""

    def __init__(self, definition: Definition) -> None:
        self.definition, self.text = definition, definition.text
        self.node = definition.tree
        self.items = walked(self.node)
        self.texts = frozenset(texts_in(self.items))
        lines = self.text.splitlines(keepends=True)
        self._lines = [line.encode() for line in lines]
        self._starts = [sum(map(len, lines[:number])) for number in range(len(lines))]

    def at(self, line: int, column: int) -> int:
        """The character at a line, counted from 1, and a column in bytes."""
        return self._starts[line - 1] + len(self._lines[line - 1][:column].decode())

    def start(self, node: ast.expr | ast.stmt | ast.arg) -> int:
        """The first character of a node."""
        return self.at(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt | ast.arg) -> int:
        """The character after a node."""
        return self.at(node.end_lineno or 0, node.end_col_offset or 0)

    def of(self, node: ast.expr | ast.stmt | ast.arg) -> str:
        """The text of a node."""
        return self.text[self.start(node) : self.end(node)]

    def replacement(self, node: ast.expr | ast.stmt, text: str) -> Edit:
        """The edit that puts a text in place of a node."""
        return Edit(self, self.start(node), self.end(node), text)

    def call(self, node: ast.Call, parts: Sequence[str]) -> Edit:
        """A call with other arguments."""
        line = self.text[self._starts[node.lineno - 1] :]
        indent = len(line) - len(line.lstrip(" "))
        column = self.end(node.func) - self._starts[(node.func.end_lineno or 1) - 1]
        text = self.of(node.func) + _between("(", parts, ")", indent, column)
        return self.replacement(node, text)

    def head(self, node: ast.FunctionDef, left: Sequence[ast.arg]) -> Edit:
        """The head of a function with only these of its parameters."""
        start = self.start(node)
        returns = f" -> {self.of(node.returns)}:" if node.returns else ":"
        parts = list(self._parameters(node, left))
        text = f"def {node.name}" + _between(
            "(", parts, f"){returns}", node.col_offset, node.col_offset + len(f"def {node.name}")
        )
        return Edit(self, start, self._colon(node) + 1, text)

    def _parameters(self, node: ast.FunctionDef, left: Sequence[ast.arg]) -> Iterator[str]:
        arguments = node.args
        plain = [*arguments.posonlyargs, *arguments.args]
        defaults = [*[None] * (len(plain) - len(arguments.defaults)), *arguments.defaults]
        for arg, default in zip(plain, defaults):
            if arg in left:
                yield self._parameter(arg, default)
        if arguments.vararg:
            yield "*" + self.of(arguments.vararg)
        elif any(arg in left for arg in arguments.kwonlyargs):
            yield "*"
        for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
            if arg in left:
                yield self._parameter(arg, default)
        if arguments.kwarg:
            yield "**" + self.of(arguments.kwarg)

    def _parameter(self, arg: ast.arg, default: ast.expr | None) -> str:
        sign = " = " if arg.annotation else "="
        return self.of(arg) + (sign + self.of(default) if default else "")

    def _colon(self, node: ast.FunctionDef) -> int:
        """Where the head of a function ends."""
        arguments = node.args
        inside = [part for part in walked(arguments) if isinstance(part, ast.expr | ast.arg)]
        ends = [self.end(part) for part in [*inside, *([node.returns] if node.returns else [])]]
        offset = max([self.start(node) + len(f"def {node.name}"), *ends])
        while self.text[offset] != ":":
            offset = self.text.index("\n", offset) if self.text[offset] == "#" else offset + 1
        return offset


def _between(opening: str, parts: Sequence[str], closing: str, indent: int, column: int) -> str:
    """Parts in brackets, on one line where they fit."""
    flat = ", ".join(parts)
    if column + len(opening + flat + closing) <= LINE_LENGTH and "\n" not in flat:
        return opening + flat + closing
    pad = "\n" + " " * (indent + 4)
    if indent + 4 + len(flat) <= LINE_LENGTH and "\n" not in flat:
        return opening + pad + flat + "\n" + " " * indent + closing
    return opening + "".join(f"{pad}{part}," for part in parts) + "\n" + " " * indent + closing


@functools.lru_cache(maxsize=CACHED)
def source_of(definition: Definition) -> Source:
    """A definition as it can be edited."""
    return Source(definition)


def sources_of(modules: Sequence[Module]) -> list[Source]:
    """Every definition of modules."""
    return [source_of(d) for module in modules for d in module.definitions]


def edited(modules: Sequence[Module], groups: Iterable[Sequence[Edit]]) -> list[Module]:
    """The modules with these groups of edits: each is made as a whole, or not in this round.

    An edit without a text only holds its place: what stands there is what the group was made from.
    """
    made: dict[Definition, list[Edit]] = {}
    for group in groups:
        if not any(_clash(edit, other) for edit in group for other in made.get(edit.source.definition, ())):
            for edit in group:
                made.setdefault(edit.source.definition, []).append(edit)
    return [module.having(_edited(d, made.get(d, [])) for d in module.definitions) for module in modules]


def _clash(one: Edit, other: Edit) -> bool:
    apart = one.end <= other.start or other.end <= one.start
    return not apart and (one.text is not None or other.text is not None)


def _edited(definition: Definition, edits: Sequence[Edit]) -> Definition:
    text = definition.text
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        if edit.text is not None:
            text = text[: edit.start] + edit.text + text[edit.end :]
    if text == definition.text:
        return definition
    (changed,) = read_module(text, definition.module).definitions
    return changed
