"""Short names: locals are renamed per function, all other names once per script.

Equal work in two functions is then written in equal letters, which is what a compressor looks for.
"""

import ast
import builtins
import itertools
import keyword
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

from bitgolf.script.names import is_blind
from bitgolf.script.syntax import SCOPES, nodes_in

NAMED: dict[type[ast.AST] | tuple[type[ast.AST], ...], str] = {
    ast.Name: "id",
    ast.Attribute: "attr",
    (ast.arg, ast.keyword): "arg",
    (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar): "name",
}
FEW = 3000  # short names are taken from so many


class _Unit(NamedTuple):
    """A function with all that is inside it, and which of its names are renamed here."""

    nodes: list[ast.AST]
    local: set[str]


def shorten_names(tree: ast.Module, visible: Set[str]) -> None:
    """Rename identifiers; visible: those that something outside may see, which stay."""
    items = nodes_in(tree)
    if {"locals", "globals"} & {name for item in items for _, name in names_in(item)}:
        return
    units = list(_units(tree, items))
    scoped = {id(item) for unit in units for item in unit.nodes if _is_local(item, unit.local)}
    _shorten_shared([item for item in items if id(item) not in scoped], visible, _globals(tree))
    for unit in units:
        _shorten_local(unit, scoped)


def names_in(item: ast.AST) -> Iterator[tuple[str, str]]:
    """The field of a node that holds a name, if it has one, and the name."""
    for kinds, field in NAMED.items():
        if isinstance(item, kinds) and (name := getattr(item, field)):
            yield field, name


def _is_local(item: ast.AST, local: Set[str]) -> bool:
    if isinstance(item, ast.Attribute | ast.keyword):
        return False
    return any(name in local for _, name in names_in(item))


def _shorten_shared(items: list[ast.AST], visible: Set[str], global_names: Set[str]) -> None:
    """One name for one text, most frequent first. Small letters are left to locals, fields and attributes."""
    counts = Counter(name for item in items for _, name in names_in(item))
    used = visible | counts.keys()
    free = [name for name in itertools.islice(_short_names(), FEW) if name not in used]
    short: dict[str, str] = {}
    for name, _ in counts.most_common():
        if name not in visible and len(name) > 1:
            is_global = name in global_names
            new = next((new for new in free if not (is_global and len(new) == 1 and new.islower())), name)
            if len(new) < len(name):
                short[name] = new
                free.remove(new)
    for item in items:
        for field, name in names_in(item):
            setattr(item, field, short.get(name, name))
        if isinstance(item, ast.Global | ast.Nonlocal):
            item.names = [short.get(name, name) for name in item.names]


def _shorten_local(unit: _Unit, scoped: Set[int]) -> None:
    """Letters in the order in which the locals appear."""
    others = [item for item in unit.nodes if id(item) not in scoped]
    taken = {
        name
        for item in others
        if not isinstance(item, ast.Attribute | ast.keyword)
        for _, name in names_in(item)
    }
    free = (name for name in _short_names() if name not in taken)
    short: dict[str, str] = {}
    for item in unit.nodes:
        if id(item) in scoped:
            for field, name in names_in(item):
                if name not in short:
                    short[name] = next(free)
                setattr(item, field, short[name])
        elif isinstance(item, ast.Nonlocal):
            item.names = [short.get(name, name) for name in item.names]


def _units(tree: ast.Module, items: Iterable[ast.AST]) -> Iterator[_Unit]:
    """The functions and methods, each with its names that are nobody else's."""
    items, global_names = list(items), _globals(tree) | set(dir(builtins))
    spoken = {word.arg for item in items if isinstance(item, ast.Call) for word in item.keywords if word.arg}
    spoken |= {item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)}
    for function in _functions(tree):
        nodes = list(_inside(function))
        direct = set(_bound(_direct(function)))
        local = {name for name in _bound(nodes) if name in direct or name not in global_names}
        local -= set(_fixed(nodes))
        for inner in (function, *nodes):
            if isinstance(inner, ast.FunctionDef | ast.Lambda):
                read = isinstance(inner, ast.FunctionDef) and not is_blind(inner)
                local -= {name for name in _parameters(inner.args) if read or name in spoken}
        yield _Unit(nodes, local)


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for item in tree.body:
        inside = item.body if isinstance(item, ast.ClassDef) else [item]
        yield from (part for part in inside if isinstance(part, ast.FunctionDef))


def _globals(tree: ast.Module) -> set[str]:
    """The names of the module itself."""
    names = set(_bound(part for item in tree.body for part in nodes_in(item) if not isinstance(item, SCOPES)))
    for item in tree.body:
        if isinstance(item, ast.FunctionDef | ast.ClassDef):
            names.add(item.name)
        elif isinstance(item, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in item.names}
    return names


def _inside(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Its parameters and what it does, in order; its defaults are of the place where it stands."""
    arguments = function.args
    waiting: list[ast.AST] = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    waiting += [each for each in (arguments.vararg, arguments.kwarg) if each]
    waiting += function.body
    while waiting:
        item = waiting.pop(0)
        yield item
        waiting[:0] = ast.iter_child_nodes(item)


def _direct(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """What is in its own scope, not in those of functions, lambdas and comprehensions inside it."""
    waiting: list[ast.AST] = [arg for arg in nodes_in(function.args) if isinstance(arg, ast.arg)]
    waiting += function.body
    while waiting:
        item = waiting.pop()
        yield item
        waiting += [] if isinstance(item, SCOPES) else list(ast.iter_child_nodes(item))


def _bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for item in nodes:
        if isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Load):
            yield item.id
        elif isinstance(item, ast.arg):
            yield item.arg
        elif isinstance(item, ast.FunctionDef | ast.ExceptHandler) and item.name:
            yield item.name


def _fixed(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Names that mean something else besides: in classes, patterns and imports inside a function."""
    for item in nodes:
        if isinstance(item, ast.ClassDef):
            yield item.name
            yield from (name for part in nodes_in(item) for _, name in names_in(part))
        elif isinstance(item, ast.MatchAs | ast.MatchStar | ast.MatchMapping):
            yield from (name for name in (getattr(item, "name", None), getattr(item, "rest", None)) if name)
        elif isinstance(item, ast.Global):
            yield from item.names
        elif isinstance(item, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in item.names)


def _parameters(arguments: ast.arguments) -> Iterator[str]:
    """Those that a call can name."""
    yield from (each.arg for each in (*arguments.args, *arguments.kwonlyargs))


def _short_names() -> Iterator[str]:
    letters = string.ascii_letters + "_"
    for length in itertools.count(1):
        for parts in itertools.product(letters, repeat=length):
            if not keyword.iskeyword(name := "".join(parts)):
                yield name
