"""Names that a packer has made are told apart: `a` is something else in each function."""

import ast
import re
from collections.abc import Iterator

from bitgolf.audit.tree import Definition

SHORT = 2  # letters
MARK = "\u02d1"  # a letter to Python, and one that nobody types
MARKED = re.compile(rf"(\w{{1,{SHORT}}}){MARK}\d+")


def set_apart(tree: ast.Module) -> None:
    """Give the short names of each outermost function its number, where most names of a script are short.

    Checks ask a whole script for a name, as people give one name to one thing.
    Names that a call writes out, `f(a=1)`, stay: they are of two functions.
    """
    own = [(function, _own(function)) for function in _outermost(tree)]
    names = [name for _, each in own for name in each]
    if sum(len(name) <= SHORT for name in names) * 2 < len(names):
        return
    written = {word.arg for word in ast.walk(tree) if isinstance(word, ast.keyword)}
    for number, (function, each) in enumerate(own):
        changed = {name: f"{name}{MARK}{number}" for name in each - written if len(name) <= SHORT}
        for node in ast.walk(function):
            if isinstance(node, ast.Name):
                node.id = changed.get(node.id, node.id)
            elif isinstance(node, ast.arg):
                node.arg = changed.get(node.arg, node.arg)
            elif isinstance(node, ast.Nonlocal):
                node.names = [changed.get(name, name) for name in node.names]
            elif isinstance(node, Definition) and node is not function:
                node.name = changed.get(node.name, node.name)


def as_written(text: str) -> str:
    """A text with names as they stand in the script."""
    return MARKED.sub(r"\1", text)


def _outermost(tree: ast.Module) -> Iterator[Definition]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        for child in ast.iter_child_nodes(waiting.pop()):
            if isinstance(child, Definition):
                yield child
            else:
                waiting.append(child)


def _own(function: Definition) -> set[str]:
    """The names that a function and those in it bind."""
    bound: set[str] = set()
    others: set[str] = set()  # of the whole script, or bound where no name node is
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, Definition) and node is not function:
            bound.add(node.name)
        elif isinstance(node, ast.Global):
            others |= {*node.names}
        elif name := getattr(node, "name", None) if not isinstance(node, Definition) else None:
            others.add(name)  # of `except ... as`, `case`, a class
    return bound - others
