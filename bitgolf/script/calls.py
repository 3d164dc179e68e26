"""Removes parameters that no call gives, and parameters that no function reads.

Functions of one name are one family, whatever class they are in: what is done to one is done to all, and to
every call of that name. A family of which somebody takes a function as a value, or whose name a library's
objects have too, is left alone.
"""

import ast
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from bitgolf.script.edits import Edit, Source, edited, sources_of
from bitgolf.script.kinds import Kinds
from bitgolf.script.names import foreign_objects
from bitgolf.script.source import Import, Module
from bitgolf.script.syntax import CACHED, own_names, walked, written
from bitgolf.script.trust import PURE_CALLS

# Expressions that can be left out, or moved to where they are used, as nothing happens in them.
STILL = (ast.Name, ast.Attribute, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Subscript, ast.Slice)
QUIET = (*STILL, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.IfExp, ast.Starred, ast.Lambda)


class Family(NamedTuple):
    """Functions of one name, methods with their classes, and the calls that are surely of them.

    is_whole: there is no other call, nor does anybody take one of them as a value.
    """

    name: str
    functions: list[tuple[Source, ast.FunctionDef, ast.ClassDef | None]]
    calls: list[tuple[Source, ast.Call]]
    is_whole: bool

    @property
    def bound(self) -> int:
        """How many parameters a call does not write: self, of methods."""
        return int(self.functions[0][2] is not None)


def families(modules: Sequence[Module], left_alone: Set[str]) -> list[Family]:
    """Functions of the top level, methods, and the makers of classes without others below them.

    Methods are told apart by the families of their classes, where it is clear on what they are called.
    Several changes ask in turn, often of the same definitions: the last answer is kept.
    """
    return _families(tuple(modules), frozenset(left_alone))


@functools.lru_cache(maxsize=1)
def _families(modules: tuple[Module, ...], left_alone: frozenset[str]) -> list[Family]:
    kinds, sources = Kinds(modules), sources_of(modules)
    families: dict[tuple[str, str], Family] = {}
    spoilt: set[tuple[str, str]] = set()
    for source in sources:
        for function, owner in _functions(source.node):
            key = function.name, kinds.root(owner.name) if owner else ""
            if owner and function.name == "__init__" and len(kinds.below(owner.name)) == 1:
                key = owner.name, ""  # a call of the class
            families.setdefault(key, Family(function.name, [], [], True)).functions.append(
                (source, function, owner)
            )
            if function.decorator_list or key[0].startswith("__") or function.name in left_alone:
                spoilt.add(key)
    roots: dict[str, list[str]] = {}
    for name, root in families:
        roots.setdefault(name, []).append(root)
    foreign = set(dir(Path)).union(*(dir(thing) for thing in foreign_objects()))
    libraries = _libraries(modules)
    for source in sources:
        spoilt |= {(text, root) for text in source.texts for root in roots.get(text, ())}
        calls = {id(item.func): item for item in source.items if isinstance(item, ast.Call)}
        for item, local, around in _mentions(source, kinds, libraries):
            call, is_sure = calls.get(id(item)), True
            if isinstance(item, ast.Name):
                keys = [(item.id, "")] if (item.id, "") in families else []
            else:
                root = _family(item, local, around, kinds)
                keys = [(item.attr, each) for each in roots.get(item.attr, ()) if each and root in ("", each)]
                if call and not root:
                    keys = [key for key in keys if any(_fits(call, f) for _, f, _ in families[key].functions)]
                is_sure = bool(root) or (item.attr not in foreign and len(keys) == 1)
            for key in keys:
                if call is None or not is_sure:
                    spoilt.add(key)
                else:
                    families[key].calls.append((source, call))
    return [family._replace(is_whole=key not in spoilt) for key, family in families.items()]


def _fits(call: ast.Call, method: ast.FunctionDef) -> bool:
    """Whether a call could be one of a method: by the number and the names of what it gives."""
    head, keywords = method.args, [word.arg for word in call.keywords]
    if method.decorator_list or head.vararg or head.kwarg or None in keywords:
        return True
    if any(isinstance(each, ast.Starred) for each in call.args):
        return True
    plain = [arg.arg for arg in head.args[1:]]
    given = {*plain[: len(call.args)], *keywords}
    needed = {*plain[: len(plain) - len(head.defaults)]}
    needed |= {arg.arg for arg, default in zip(head.kwonlyargs, head.kw_defaults) if default is None}
    return len(call.args) <= len(plain) and needed <= given <= {*plain, *(arg.arg for arg in head.kwonlyargs)}


def attributes_read(modules: Sequence[Module]) -> Iterator[tuple[str, str]]:
    """Attributes by the families of the classes that they are read from; an empty name where not known.

    Not those that are called: methods.
    """
    kinds, libraries = Kinds(modules), _libraries(modules)
    for source in sources_of(modules):
        called = {id(item.func) for item in source.items if isinstance(item, ast.Call)}
        for item, local, around in _mentions(source, kinds, libraries):
            if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Load) and id(item) not in called:
                yield _family(item, local, around, kinds), item.attr


def _family(item: ast.Attribute, local: Mapping[str, str], around: str, kinds: Kinds) -> str:
    kind = around if written(item.value) == "super()" else kinds.of(item.value, local)
    return kinds.root(kind) if kind in kinds.classes and kind not in kinds.protocols else ""


def _libraries(modules: Sequence[Module]) -> set[str]:
    return {item.bound for module in modules for item, _ in module.imports if _is_library(item)}


def _mentions(
    source: Source, kinds: Kinds, libraries: Set[str]
) -> Iterator[tuple[ast.Name | ast.Attribute, dict[str, str], str]]:
    """Names and attributes with the classes of the names around them, and the class that they stand in."""
    around: dict[ast.FunctionDef | None, dict[str, str]] = {None: {}}
    for item, first, function, owner in _read_names(source):
        if first not in libraries:
            if function and function not in around:
                around[function] = kinds.local(function, owner)
            yield item, around[function], owner


@functools.lru_cache(maxsize=CACHED)
def _read_names(
    source: Source,
) -> list[tuple[ast.Name | ast.Attribute, str, ast.FunctionDef | None, str]]:
    """Names that are read and attributes, but not of annotations and locals.

    With the first name of what an attribute is of, and the function and class that they stand in.
    """
    inside: dict[int, tuple[ast.FunctionDef | None, str]] = {}
    hidden: set[int] = set()
    for function, owner in _functions(source.node):
        own = own_names(function)
        for item in walked(function):
            inside[id(item)] = function, owner.name if owner else ""
            if isinstance(item, ast.Name) and item.id in own:
                hidden.add(id(item))
    for item in source.items:
        parts = [getattr(item, "annotation", None), getattr(item, "returns", None)]
        hidden |= {id(inner) for part in parts if part for inner in walked(part)}
    names: list[tuple[ast.Name | ast.Attribute, str, ast.FunctionDef | None, str]] = []
    for item in source.items:
        enclosing = inside.get(id(item), (None, ""))
        if isinstance(item, ast.Attribute):
            names.append((item, written(item.value).split(".")[0], *enclosing))
        elif isinstance(item, ast.Name) and id(item) not in hidden and isinstance(item.ctx, ast.Load):
            names.append((item, "", *enclosing))
    return names


def _is_library(item: Import) -> bool:
    """Whether an import binds a module, whose attributes are none of ours."""
    return item.name is None or f"{item.module}.{item.name}" in sys.modules


def _functions(node: ast.stmt) -> Iterator[tuple[ast.FunctionDef, ast.ClassDef | None]]:
    if isinstance(node, ast.FunctionDef):
        yield node, None
    elif isinstance(node, ast.ClassDef):
        yield from ((item, node) for item in node.body if isinstance(item, ast.FunctionDef))


def fewer_parameters(modules: Sequence[Module], left_alone: Set[str]) -> list[Module]:
    """The modules without parameters that always have their default, or that nothing reads."""
    groups = [
        _without_ungiven(family, name) or _without_unread(family, name)
        for family in families(modules, left_alone)
        if family.is_whole
        for name in _common_parameters(family)[family.bound :]
    ]
    return edited(modules, groups)


def _common_parameters(family: Family) -> list[str]:
    """The parameters that all functions of a family have, at the same places; none where one is special."""
    heads = [function.args for _, function, _ in family.functions]
    if any(head.vararg or head.kwarg or head.posonlyargs for head in heads):
        return []
    names = {(*(a.arg for a in head.args), *(a.arg for a in head.kwonlyargs)) for head in heads}
    return list(names.pop()) if len(names) == 1 else []


def given_for(family: Family, name: str, call: ast.Call) -> ast.expr | None:
    """What a call gives for a parameter. Raises LookupError where that is not to be seen."""
    if any(word.arg is None for word in call.keywords):
        raise LookupError
    for word in call.keywords:
        if word.arg == name:
            return word.value
    plain = [a.arg for a in family.functions[0][1].args.args][family.bound :]
    if name not in plain:
        return None
    index = plain.index(name)
    if any(isinstance(arg, ast.Starred) for arg in call.args[: index + 1]):
        raise LookupError
    return call.args[index] if index < len(call.args) else None


def _without_ungiven(family: Family, name: str) -> list[Edit]:
    """Edits that put its one value where a parameter is read: the default, or what every call gives."""
    try:
        given = [given_for(family, name, call) for _, call in family.calls]
    except LookupError:
        return []
    texts = {written(value) for value in given if value is not None}
    if not all(given) or not given:  # some call leaves it to the default
        texts |= {written(default) if default else "" for default in _defaults(family, name)}
    elif not all(is_empty(value) for value in given if value):
        return []
    text = texts.pop() if texts else ""
    if texts or not text or not family.calls:
        return []
    value = ast.parse(text, mode="eval").body
    names = {item.id for item in walked(value) if isinstance(item, ast.Name)}
    if not all(isinstance(item, (*STILL, ast.expr_context)) for item in walked(value)):
        return []
    edits: list[Edit] = []
    for source, function, _ in family.functions:
        if names & own_names(function) or _is_bound_again(function, name):
            return []
        reads = [item for item in _inside(function) if isinstance(item, ast.Name) and item.id == name]
        edits += [_head_without(source, function, name), *(source.replacement(item, text) for item in reads)]
    return edits + _calls_without(family, name)


def is_empty(value: ast.expr) -> bool:
    """Whether an expression is something without content, zero, or a truth value."""
    if isinstance(value, ast.Constant):
        return value.value is None or isinstance(value.value, bool) or value.value == 0
    return isinstance(value, ast.Dict | ast.Tuple | ast.List) and not written(value)[1:-1]


def _without_unread(family: Family, name: str) -> list[Edit]:
    """Edits that take a parameter away that no function of the family reads."""
    if any(_is_read(function, name) for _, function, _ in family.functions):
        return []
    try:
        given = [given_for(family, name, call) for _, call in family.calls]
    except LookupError:
        return []
    if not all(is_quiet(value) for value in given if value):
        return []
    heads = [_head_without(source, function, name) for source, function, _ in family.functions]
    return heads + _calls_without(family, name)


def _calls_without(family: Family, name: str) -> list[Edit]:
    edits = []
    for source, call in family.calls:
        if gone := given_for(family, name, call):
            parts = [source.of(arg) for arg in call.args if arg is not gone]
            parts += [
                f"{word.arg}={source.of(word.value)}" for word in call.keywords if word.value is not gone
            ]
            edits.append(source.call(call, parts))
    return edits


def is_quiet(node: ast.expr) -> bool:
    """Whether nothing is lost where an expression is not evaluated."""
    for item in walked(node):
        if isinstance(item, ast.Call):
            if getattr(item.func, "id", getattr(item.func, "attr", "")) not in PURE_CALLS | {"get", "tolist"}:
                return False
        elif isinstance(item, ast.expr) and not isinstance(item, QUIET):
            return False
    return True


def _defaults(family: Family, name: str) -> Iterator[ast.expr | None]:
    for _, function, _ in family.functions:
        arguments = function.args
        plain = zip(reversed(arguments.args), reversed(arguments.defaults))
        defaults = {arg.arg: default for arg, default in plain}
        defaults |= {
            arg.arg: default for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults) if default
        }
        yield defaults.get(name)


def _head_without(source: Source, function: ast.FunctionDef, name: str) -> Edit:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return source.head(function, [arg for arg in arguments if arg.arg != name])


def _inside(function: ast.FunctionDef) -> Iterator[ast.AST]:
    for item in function.body:
        yield from walked(item)


def _is_read(function: ast.FunctionDef, name: str) -> bool:
    return any(isinstance(item, ast.Name) and item.id == name for item in _inside(function))


def _is_bound_again(function: ast.FunctionDef, name: str) -> bool:
    """Whether a function or one inside it gives the name another value."""
    for item in _inside(function):
        if isinstance(item, ast.Name) and item.id == name and not isinstance(item.ctx, ast.Load):
            return True
        if isinstance(item, ast.arg) and item.arg == name:
            return True
    return False
