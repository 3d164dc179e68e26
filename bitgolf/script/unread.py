"""Removes settings that a script never reads, and their values in the recipe."""

import ast
import dataclasses
from collections.abc import Iterator, Sequence, Set

from bitgolf.base.plan import Plan
from bitgolf.script.calls import attributes_read
from bitgolf.script.kinds import Kinds
from bitgolf.script.names import COPIES, spelled_names
from bitgolf.script.source import Definition, Module, read_module
from bitgolf.script.syntax import first_line, nodes_in, texts_in

Fields = set[tuple[str, str]]  # by class and name
NETWORK = "ModelPlan"


def without_unread(modules: Sequence[Module], spelled: Set[tuple[str, str]]) -> tuple[list[Module], Fields]:
    """The modules without the fields of settings that nothing reads, and which those are.

    A field is read if its name is an attribute somewhere, a keyword where settings are made, or a text.
    spelled: those that an artifact may spell out.
    """
    definitions = [d for module in modules for d in module.definitions]
    tree = ast.Module([d.node for d in definitions], [])
    classes = {d.node.name: d.node for d in definitions if isinstance(d.node, ast.ClassDef)}
    others, writers = classes.keys() - set(_below("Plan", classes)), classes.keys() | COPIES
    shipped = set(spelled_names(tree))
    inside = [part for item in nodes_in(tree) if isinstance(item, ast.FunctionDef) for part in nodes_in(item)]
    calls = [item for item in inside if isinstance(item, ast.Call)]
    calls = [c for c in calls if getattr(c.func, "id", getattr(c.func, "attr", "")) in writers]
    written = {word.arg for call in calls for word in call.keywords} | set(texts_in(inside))
    kinds, read = Kinds(modules), set(attributes_read(modules))
    gone = {
        (name, field)
        for d in definitions
        for name, field in _fields(d)
        if name not in others and not {("", field), (kinds.root(name), field)} & read
        if field not in written and not (name in shipped and (name, field) in spelled)
    }
    changed = [
        dataclasses.replace(m, definitions=tuple(_without(d, gone) for d in m.definitions)) for m in modules
    ]
    return changed, gone


def spelled_out(
    value: object, open_fields: Set[tuple[str, str]], in_network: bool = False, whole: bool = False
) -> Iterator[tuple[str, str]]:
    """Fields of settings that are not at their defaults, or may not be: those that short JSON names.

    in_network: artifacts hold the settings of the network as they are nested; others, as grids, alone.
    whole: of settings in a row it names all.
    """
    for item in value if isinstance(value, tuple) else ():
        yield from spelled_out(item, open_fields, in_network, in_network)
    in_network = in_network or type(value).__name__ == NETWORK
    for field in dataclasses.fields(value) if isinstance(value, Plan) else ():
        own, key = getattr(value, field.name), (type(value).__name__, field.name)
        if whole or own != field.default or key in open_fields:
            yield key
        yield from spelled_out(own, open_fields, in_network, whole)


def _below(name: str, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    """The classes derived from one."""
    for other, node in classes.items():
        if name in map(ast.unparse, node.bases):
            yield from (other, *_below(other, classes))


def _fields(definition: Definition) -> Iterator[tuple[str, str]]:
    if isinstance(definition.node, ast.ClassDef):
        for item in definition.node.body:
            if isinstance(item, ast.AnnAssign):
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
            del lines[first_line(item, lines) : item.end_lineno]
        else:
            alone = False
    lines += ["    ..."] if alone else []
    (changed,) = read_module("\n".join(lines), definition.module).definitions
    return changed
