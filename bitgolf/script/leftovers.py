"""Removes what specialising leaves: attributes that nothing reads, and second names of one value."""

import ast
from collections import Counter
from collections.abc import Iterator, Sequence

from bitgolf.script.calls import attributes_read
from bitgolf.script.edits import Edit, Source, edited, sources_of
from bitgolf.script.kinds import Kinds, pairs
from bitgolf.script.source import Module
from bitgolf.script.syntax import SCOPES, walked, written

PLAIN = {"int", "float", "bool", "str"}  # to hold one of these does nothing else, as holding a module does
BASE = "nn.Module"  # the one class of a library that reads none of our attributes


def without_leftovers(modules: Sequence[Module]) -> list[Module]:
    """The modules without attributes that nothing reads and second names; what they do stays."""
    return edited(modules, [*_unread_attributes(modules), *_second_names(modules)])


def _unread_attributes(modules: Sequence[Module]) -> Iterator[list[Edit]]:
    """Edits by which `__init__` no longer sets plain values that nobody asks for."""
    kinds, sources = Kinds(modules), sources_of(modules)
    items = [item for source in sources for item in source.items]
    read = set(attributes_read(modules)) | {("", text) for source in sources for text in source.texts}
    attributes = (item for item in items if isinstance(item, ast.Attribute))
    stored = Counter(item.attr for item in attributes if not isinstance(item.ctx, ast.Load))
    for source in sources:
        node = source.node
        if not isinstance(node, ast.ClassDef) or not set(map(written, node.bases)) <= {BASE, *kinds.classes}:
            continue
        for maker in (m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"):
            local, root = kinds.local(maker, node.name), kinds.root(node.name)
            for item in (each for each in maker.body if isinstance(each, ast.Assign)):
                both = pairs(item.targets[0], item.value)
                left = [
                    (target, value)
                    for target, value in both
                    if not isinstance(target, ast.Attribute)
                    or stored[target.attr] > 1
                    or {("", target.attr), (root, target.attr)} & read
                    or not _is_plain(value, kinds.of(value, local))
                ]
                if left and len(left) < len(both):
                    text = " = ".join(", ".join(map(source.of, side)) for side in zip(*left))
                    yield [Edit(source, source.start(item), source.end(item), text)]
                elif not left and len(maker.body) > 1:
                    yield [_line_gone(source, item)]


def _is_plain(value: ast.expr, kind: str) -> bool:
    return isinstance(value, ast.Constant) or written(value) == "()" or kind in PLAIN


def _line_gone(source: Source, item: ast.stmt) -> Edit:
    return Edit(source, source.text.rfind("\n", 0, source.start(item)), source.end(item), "")


def _second_names(modules: Sequence[Module]) -> Iterator[list[Edit]]:
    """Edits that write the first name where a second one stands that is set once, by `second = first`."""
    for source in sources_of(modules):
        for function in (item for item in source.items if isinstance(item, ast.FunctionDef)):
            for item, reads in _second_names_of(function):
                first = written(item.value)
                yield [_line_gone(source, item), *(source.replacement(each, first) for each in reads)]


def _second_names_of(function: ast.FunctionDef) -> Iterator[tuple[ast.Assign, list[ast.Name]]]:
    """Each `second = first` of a function after which both stay the same, and where the second is read."""
    names = [item for item in walked(function) if isinstance(item, ast.Name)]
    stores = Counter(item.id for item in names if not isinstance(item.ctx, ast.Load))
    scopes = (item for item in walked(function) if isinstance(item, SCOPES) and item is not function)
    inner = {item.id for scope in scopes for item in walked(scope) if isinstance(item, ast.Name)}
    for item, rest in _copies(function):
        first, second = written(item.value), written(item.targets[0])
        after = {id(each) for later in rest for each in walked(later)}
        stored_later = any(
            each.id == first and id(each) in after and not isinstance(each.ctx, ast.Load) for each in names
        )
        reads = [each for each in names if each.id == second and isinstance(each.ctx, ast.Load)]
        is_here = stores[second] == 1 and all(id(each) in after for each in reads)
        is_same = stores[first] <= 1 and not stored_later and not {first, second} & inner
        if is_here and is_same and reads:
            yield item, reads


def _copies(function: ast.FunctionDef) -> Iterator[tuple[ast.Assign, list[ast.stmt]]]:
    """Each assignment of a name to another one, and what stands after it."""
    for body in _bodies(function):
        for index, item in enumerate(body):
            if isinstance(item, ast.Assign) and isinstance(item.value, ast.Name) and len(item.targets) == 1:
                yield item, body[index + 1 :]


def _bodies(function: ast.FunctionDef) -> Iterator[list[ast.stmt]]:
    for item in walked(function):
        for name in ("body", "orelse", "finalbody"):
            if isinstance(body := getattr(item, name, None), list):
                yield body
