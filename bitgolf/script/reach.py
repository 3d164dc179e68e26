"""The definitions, methods and imports that some definitions need, directly or indirectly."""

import ast
import functools
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from bitgolf.script.source import (
    PACKAGE,
    Definition,
    Import,
    Module,
    SourceError,
    without_methods,
)
from bitgolf.script.syntax import (
    CACHED,
    names_outside,
    texts_in,
    walk_without,
    walked,
)

PLAIN_BASES = frozenset({"object", "Exception", "NamedTuple", "Protocol"})


def homes(modules: Iterable[Module]) -> dict[str, Definition]:
    """Where each name of the top level is defined."""
    return {name: d for module in modules for d in module.definitions for name in d.names}


def from_libraries(modules: Iterable[Module]) -> dict[tuple[str, str], Import]:
    """What modules import from elsewhere, by the module and the name that it has there."""
    return {
        (module.name, item.bound): item
        for module in modules
        for item, _ in module.imports
        if item.module.partition(".")[0] != PACKAGE
    }


def reach(modules: Sequence[Module], roots: Iterable[str]) -> tuple[list[Definition], list[Import]]:
    """What the roots use, directly or not: definitions in reading order, and the imports those need.

    A method counts as used when anything kept mentions its name. Raises SourceError for an unknown root.
    """
    home, libraries = homes(modules), from_libraries(modules)
    waiting = list(roots)
    if unknown := [name for name in waiting if name not in home]:
        raise SourceError(f"{name}: not defined in core" for name in unknown)
    kept: set[Definition] = set()
    mentioned: set[str] = set()
    asleep: dict[ast.FunctionDef, Definition] = {}  # methods of kept classes, not mentioned so far
    named: dict[str, list[ast.FunctionDef]] = {}  # the same by their names
    while waiting:
        definition = home[waiting.pop()]
        if definition not in kept:
            kept.add(definition)
            for item in optional_methods(definition.node, home, libraries):
                asleep[item] = definition
                named.setdefault(item.name, []).append(item)
            parts: list[tuple[ast.stmt, Definition]] = [(definition.node, definition)]
            while parts:
                part, owner = parts.pop()
                left_out = frozenset(item for item in getattr(part, "body", ()) if item in asleep)
                waiting += [name for name in _taken(part, left_out) if name in home]
                mentioned |= _mentioned(part, left_out, frozenset(inherited_names(part, owner.node, home)))
                for name in mentioned & named.keys():
                    parts += [(item, asleep.pop(item)) for item in named.pop(name)]
    unnamed: dict[Definition, set[str]] = {}
    for item, owner in asleep.items():
        unnamed.setdefault(owner, set()).add(item.name)
    definitions = [
        without_methods(d, unnamed.get(d, set()))
        for module in modules
        for d in module.definitions
        if d in kept
    ]
    own = {module.name: {item.bound for item, _ in module.imports} for module in modules}
    users: dict[str, list[Definition]] = {}
    for definition in definitions:
        for name in definition.used:
            users.setdefault(name, []).append(definition)
    imports = {
        item: None
        for module in modules
        for item, _ in module.imports
        if not item.module.startswith(f"{PACKAGE}.")
        and _is_used(item, module.name, users.get(item.bound, []), own)
    }
    return definitions, list(imports)


@functools.lru_cache(maxsize=CACHED)
def _taken(part: ast.stmt, left_out: frozenset[ast.AST]) -> frozenset[str]:
    """The names that a statement takes from around it; left_out: methods not looked into."""
    return frozenset(names_outside(part, left_out))


@functools.lru_cache(maxsize=CACHED)
def _mentioned(part: ast.stmt, left_out: frozenset[ast.AST], inherited: frozenset[str]) -> frozenset[str]:
    """What a statement mentions, see `names_mentioned`; left_out: methods not looked into."""
    return frozenset(names_mentioned(walk_without(part, left_out), inherited))


def optional_methods(
    node: ast.stmt, home: Mapping[str, Definition], libraries: Mapping[tuple[str, str], Import]
) -> Iterator[ast.FunctionDef]:
    """Methods that only core calls, and only by name: those that no library's class above has too.

    libraries: what modules import from elsewhere, by the module and the name that it has there.
    """
    if isinstance(node, ast.ClassDef):
        theirs = _library_names(node, home, libraries)
        if theirs is None:
            return
        for item in node.body:
            if (
                isinstance(item, ast.FunctionDef)
                and not item.name.startswith("__")
                and item.name not in theirs
            ):
                yield item


def _library_names(
    node: ast.ClassDef, home: Mapping[str, Definition], libraries: Mapping[tuple[str, str], Import]
) -> set[str] | None:
    """What the classes of libraries define that this one is derived from; None where that is not known."""
    defined: set[str] = set()
    for base in map(ast.unparse, node.bases):
        if base in PLAIN_BASES:
            continue
        parent = home[base].node if base in home else None
        if isinstance(parent, ast.ClassDef):
            names = _library_names(parent, home, libraries)
        else:
            first, *rest = base.split(".")
            item = libraries.get((home[node.name].module, first))
            if item is None or item.module.partition(".")[0] != "torch":  # others look for names they make up
                return None
            names = _names_of(item, tuple(rest))
        if names is None:
            return None
        defined |= names
    return defined


@functools.cache
def _names_of(item: Import, rest: tuple[str, ...]) -> set[str] | None:
    try:
        thing: object = importlib.import_module(item.module)
        for name in ([item.name] if item.name else []) + list(rest):
            thing = getattr(thing, name)
    except (ImportError, AttributeError):
        return None
    return set(dir(thing))


def _has_plain_bases(node: ast.ClassDef, home: Mapping[str, Definition]) -> bool:
    for base in map(ast.unparse, node.bases):
        parent = home[base].node if base in home else None
        if isinstance(parent, ast.ClassDef) and not _has_plain_bases(parent, home):
            return False
        if parent is None and base not in PLAIN_BASES:
            return False
    return True


def inherited_names(part: ast.AST, owner: ast.stmt, home: Mapping[str, Definition]) -> set[str]:
    """What a class derived from a library's reads of itself and no class of ours defines."""
    if not isinstance(owner, ast.ClassDef) or _has_plain_bases(owner, home):
        return set()
    ours = {item.name for item in _methods(owner, home)}
    return {
        item.attr for item in walked(part) if isinstance(item, ast.Attribute) and _is_self(item.value)
    } - ours


def _methods(node: ast.ClassDef, home: Mapping[str, Definition]) -> Iterator[ast.FunctionDef]:
    """Those of a class and of all that it is derived from."""
    yield from (item for item in node.body if isinstance(item, ast.FunctionDef))
    for base in map(ast.unparse, node.bases):
        parent = home[base].node if base in home else None
        yield from _methods(parent, home) if isinstance(parent, ast.ClassDef) else ()


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def names_mentioned(nodes: Iterable[ast.AST], inherited: Set[str] = frozenset()) -> Iterator[str]:
    """Attributes, and texts that could be one. inherited: attributes of `self` that are none of ours."""
    nodes = list(nodes)
    yield from texts_in(nodes)
    for item in nodes:
        if isinstance(item, ast.Attribute) and (item.attr not in inherited or not _is_self(item.value)):
            yield item.attr


def _is_used(item: Import, module: str, users: list[Definition], imported: Mapping[str, set[str]]) -> bool:
    """Whether a definition of this module needs an import, or one that has got its code from here.

    users: definitions that take the name from around them.
    """
    users = [d for d in users if d.module == module or item.bound not in imported[d.module]]
    if item.name is None and item.alias is None and "." in item.module:  # `import a.b`: only for users of a.b
        return any(f"{item.module}." in ast.unparse(d.node) for d in users)
    return bool(users)
