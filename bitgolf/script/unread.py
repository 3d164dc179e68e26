"""Settings that a script never looks at: their fields go, and what the recipe says about them."""

import ast
import dataclasses
from collections.abc import Iterator, Sequence

from bitgolf.script.names import spelled_names
from bitgolf.script.source import Definition, Module, names_mentioned, read_module

Fields = set[tuple[str, str]]  # by class and name


def without_unread(modules: Sequence[Module]) -> tuple[list[Module], Fields]:
    """The modules without the fields of settings that nothing reads, and which those are.

    A field is read if its name is an attribute somewhere, a keyword of a call, or a text. Artifacts spell
    theirs out, so those stay.
    """
    definitions = [d for module in modules for d in module.definitions]
    tree = ast.Module([d.node for d in definitions], [])
    classes = {d.node.name: d.node for d in definitions if isinstance(d.node, ast.ClassDef)}
    others = classes.keys() - set(_below("Plan", classes)) | set(spelled_names(tree))
    inside = [part for item in ast.walk(tree) if isinstance(item, ast.FunctionDef) for part in ast.walk(item)]
    read = set(names_mentioned(inside)) | {i.arg for i in inside if isinstance(i, ast.keyword) and i.arg}
    gone = {
        (name, field)
        for d in definitions
        for name, field in _fields(d)
        if name not in others and field not in read
    }
    changed = [
        dataclasses.replace(m, definitions=tuple(_without(d, gone) for d in m.definitions)) for m in modules
    ]
    return changed, gone


def _below(name: str, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    """The classes derived from one."""
    for other, node in classes.items():
        if name in map(ast.unparse, node.bases):
            yield from (other, *_below(other, classes))


def _fields(definition: Definition) -> Iterator[tuple[str, str]]:
    if isinstance(definition.node, ast.ClassDef):
        for item in definition.node.body:
            if isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.unparse(item.annotation):
                yield definition.node.name, ast.unparse(item.target)


def _without(definition: Definition, gone: Fields) -> Definition:
    if not gone & set(_fields(definition)):
        return definition
    lines = definition.text.splitlines()
    (node,) = ast.parse(definition.text).body
    assert isinstance(node, ast.ClassDef)
    alone = True
    for item in reversed(node.body):
        if isinstance(item, ast.AnnAssign) and (node.name, ast.unparse(item.target)) in gone:
            del lines[item.lineno - 1 : item.end_lineno]
        elif not isinstance(item, ast.Expr):
            alone = False
    lines += ["    ..."] if alone else []
    (changed,) = read_module("\n".join(lines), definition.module).definitions
    return changed
