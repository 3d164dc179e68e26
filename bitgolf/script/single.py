"""Slots with a single used member: slot and member are merged into one class.

What a class has from those above it is written where it is used: a method of a base that all classes below
define anew goes, and a base that is nothing but the base of one class joins it.
"""

import ast
import dataclasses
import functools
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set

from bitgolf.script.calls import families
from bitgolf.script.edits import Edit, Source, edited, source_of
from bitgolf.script.kinds import Kinds
from bitgolf.script.reach import from_libraries, homes, optional_methods
from bitgolf.script.source import Definition, Module, read_module, without_methods
from bitgolf.script.syntax import CACHED, first_line, walked, written


def single(modules: Sequence[Module], left_alone: Set[str]) -> list[Module]:
    """The modules without bases of one class; left_alone: classes that the recipe or an artifact names."""
    modules = without_overridden(modules)
    kinds, made = Kinds(modules), _made(modules)
    merged: dict[str, str] = {}
    for name in kinds.classes:
        below = _directly_below(kinds, name)
        if len(below) != 1 or kinds.bases[below[0]] != [name] or name in made | left_alone | {"Plan"}:
            continue
        if not {name, below[0]} & {*merged, *merged.values()} and _can_join(kinds.classes[below[0]]):
            merged[name] = below[0]
    return _merged(modules, merged) if merged else list(modules)


def without_overridden(modules: Sequence[Module]) -> list[Module]:
    """The modules without methods that no object has: every class below defines them, and asks no other."""
    kinds, made = Kinds(modules), _made(modules)
    gone: dict[str, set[str]] = {}
    for name, node in kinds.classes.items():
        leaves = [other for other in kinds.below(name) if not _directly_below(kinds, other)]
        if name in made or leaves == [name]:
            continue
        between = [kinds.classes[other] for other in kinds.below(name) if other != name]
        super_attributes = {
            item.attr
            for other in between
            for item in walked(other)
            if isinstance(item, ast.Attribute) and written(item.value) == "super()"
        }
        direct = [kinds.classes[other] for other in _directly_below(kinds, name)]
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name not in super_attributes:
                anew = all(item.name in _methods(other) for other in direct)
                if anew:
                    gone.setdefault(name, set()).add(item.name)
    return _without(modules, gone)


def without_uncalled(modules: Sequence[Module], left_alone: Set[str]) -> list[Module]:
    """The modules without methods that nobody calls, though others of their name are called."""
    kinds, home, libraries = Kinds(modules), homes(modules), from_libraries(modules)
    mixed = {base for bases in kinds.bases.values() if len(bases) > 1 for base in bases}
    gone: dict[str, set[str]] = {}
    for family in families(modules, left_alone):
        for _, function, owner in family.functions if family.is_whole and not family.calls else ():
            if owner and not mixed & set(kinds.above(owner.name)):
                methods = optional_methods(home[owner.name].node, home, libraries)
                if function.name in {item.name for item in methods}:
                    gone.setdefault(owner.name, set()).add(function.name)
    return _without(modules, gone)


def _without(modules: Sequence[Module], gone: Mapping[str, set[str]]) -> list[Module]:
    """The modules without some methods, by class."""
    return [
        module.having(without_methods(d, gone.get(d.names[0], set())) for d in module.definitions)
        for module in modules
    ]


def _directly_below(kinds: Kinds, name: str) -> list[str]:
    return [other for other, bases in kinds.bases.items() if name in bases]


def _methods(node: ast.ClassDef) -> set[str]:
    return {item.name for item in node.body if isinstance(item, ast.FunctionDef)}


def _made(modules: Iterable[Module]) -> set[str]:
    """Names that are called, or read for anything else than an annotation or a base."""
    return set().union(*(_read(d) for module in modules for d in module.definitions))


@functools.lru_cache(maxsize=CACHED)
def _read(definition: Definition) -> frozenset[str]:
    if isinstance(getattr(definition.node, "value", None), ast.Subscript):  # a name for a type
        return frozenset()
    skipped: set[int] = set()
    for item in definition.items:
        parts = [getattr(item, "annotation", None), getattr(item, "returns", None)]
        parts += item.bases if isinstance(item, ast.ClassDef) else []
        skipped |= {id(inner) for part in parts if part for inner in walked(part)}
    return frozenset(
        item.id for item in definition.items if isinstance(item, ast.Name) and id(item) not in skipped
    )


def _can_join(node: ast.ClassDef) -> bool:
    asks_above = any(written(i.func) == "super" for i in walked(node) if isinstance(i, ast.Call))
    return not asks_above and not node.decorator_list


def _merged(modules: Sequence[Module], merged: Mapping[str, str]) -> list[Module]:
    """The modules with one class in place of two, where the second stood."""
    home = {name: d for module in modules for d in module.definitions for name in d.names}
    joined = {below: _joined(home[above], home[below]) for above, below in merged.items()}
    result = list[Module]()
    for module in modules:
        kept = [d for d in module.definitions if d.names[0] not in merged]
        definitions = tuple(joined.get(d.names[0], d) for d in kept)
        result.append(dataclasses.replace(module, definitions=definitions))
    everything = [d for module in result for d in module.definitions]
    stands = {name: index for index, d in enumerate(everything) for name in d.names}
    groups = []
    for here, source in enumerate(map(source_of, everything)):
        later = {above for above, below in merged.items() if stands[below] > here}
        groups.append(list(_renamings(source, merged, later)))
    return edited(result, groups)


def _renamings(source: Source, names: Mapping[str, str], later: Set[str]) -> Iterator[Edit]:
    """Other names, and annotations that would ask for a class before it is there in quotes."""
    spans = [(start, end, names[name]) for start, end, name in _places(source, names)]
    for node in _annotations(source):
        start, end = source.start(node), source.end(node)
        if later.isdisjoint(item.id for item in walked(node) if isinstance(item, ast.Name)):
            continue
        text = source.text[start:end]
        for first, last, new in sorted(spans, reverse=True):
            if start <= first < end:
                text = text[: first - start] + new + text[last - start :]
        spans = [span for span in spans if not start <= span[0] < end]
        unquoted = text.replace('"', "")
        yield Edit(source, start, end, f'"{unquoted}"')
    yield from (Edit(source, *span) for span in spans)


def _annotations(source: Source) -> Iterator[ast.expr]:
    for item in source.items:
        node = item.returns if isinstance(item, ast.FunctionDef) else getattr(item, "annotation", None)
        if isinstance(node, ast.expr):
            yield node


def _places(source: Source, names: Container[str]) -> list[tuple[int, int, str]]:
    """Where names stand, in quoted annotations too."""
    spans = []
    noted = {id(item) for node in _annotations(source) for item in walked(node)}
    for item in source.items:
        if isinstance(item, ast.Name) and item.id in names:
            spans.append((source.start(item), source.end(item), item.id))
        elif isinstance(item, ast.Constant) and isinstance(item.value, str):
            whole = re.compile(r"\w+" if id(item) in noted else r".+", re.DOTALL)
            for match in whole.finditer(item.value):
                if match[0] in names:
                    first = source.start(item) + 1 + match.start()
                    spans.append((first, first + len(match[0]), match[0]))
    return spans


def _joined(base: Definition, member: Definition) -> Definition:
    """The member with the bases of its base, and what it had from there."""
    above, own = source_of(base), source_of(member)
    assert isinstance(above.node, ast.ClassDef) and isinstance(own.node, ast.ClassDef)
    taken = _methods(own.node) | {written(i.target) for i in own.node.body if isinstance(i, ast.AnnAssign)}
    lines = above.text.splitlines()
    fields, methods = [], []
    for item in above.node.body:
        text = "\n".join(lines[first_line(item, lines) : item.end_lineno])
        if isinstance(item, ast.FunctionDef) and item.name not in taken:
            methods.append("\n" + text)
        elif isinstance(item, ast.AnnAssign) and written(item.target) not in taken:
            fields.append(text)
    mine = own.text.splitlines()
    bases = ", ".join(above.of(item) for item in above.node.bases)
    number = own.node.lineno - 1
    mine[number] = f"class {own.node.name}({bases}):" if bases else f"class {own.node.name}:"
    documented = own.node.body[0] if ast.get_docstring(own.node) else None
    body_start = documented.end_lineno or 0 if documented else number + 1
    rest = mine[body_start:]
    if [line.strip() for line in rest if line.strip()] == ["..."] and fields + methods:
        rest = []
    first_method = next(
        (first_line(i, mine) - body_start for i in own.node.body if isinstance(i, ast.FunctionDef)), len(rest)
    )
    rest[first_method:first_method] = [*methods, ""] if methods and first_method < len(rest) else methods
    text = "\n".join([*mine[:body_start], *(["", *fields] if fields else []), *rest])
    (joined,) = read_module(text, member.module).definitions
    return joined
