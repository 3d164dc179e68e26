"""Helpers for syntax trees: their nodes, and the free names of a statement."""

import ast
import functools
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import ParamSpec, TypeVar

CACHED = 1 << 13  # syntax trees of which what was found out is kept
SCOPES = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")


def without_collector(make: Callable[Arguments, Made]) -> Callable[Arguments, Made]:
    """The same function, and meanwhile no search for garbage: trees of syntax are a million small objects
    of which none is garbage."""

    @functools.wraps(make)
    def made(*given: Arguments.args, **named: Arguments.kwargs) -> Made:
        was_on = gc.isenabled()
        gc.disable()
        try:
            return make(*given, **named)
        finally:
            if was_on:
                gc.enable()

    return made


def nodes_in(node: ast.AST) -> list[ast.AST]:
    """Every node of a syntax tree in the order of `ast.walk`, in a third of its time."""
    nodes = [node]
    for item in nodes:
        for part in vars(item).values():
            if isinstance(part, ast.AST):
                nodes.append(part)
            elif part.__class__ is list:
                nodes += [each for each in part if isinstance(each, ast.AST)]
    return nodes


@functools.lru_cache(maxsize=CACHED)
def walked(node: ast.AST) -> list[ast.AST]:
    """Every node of a syntax tree that nobody changes."""
    return nodes_in(node)


@functools.lru_cache(maxsize=8 * CACHED)  # of small parts
def written(node: ast.AST) -> str:
    """The text of a node that nobody changes, as Python writes it."""
    return ast.unparse(node)


def walk_without(node: ast.AST, left_out: Set[ast.AST]) -> Iterator[ast.AST]:
    """Like ast.walk, but not into the nodes left out."""
    waiting = [node]
    while waiting:
        item = waiting.pop()
        yield item
        waiting += [child for child in ast.iter_child_nodes(item) if child not in left_out]


def first_line(node: ast.stmt, lines: list[str]) -> int:
    """Where a definition begins, counted from 0: at its decorators and the comment lines right above."""
    decorators = getattr(node, "decorator_list", [])
    start = min([node.lineno, *(decorator.lineno for decorator in decorators)]) - 1
    while start > 0 and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return start


def texts_in(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Texts that may be names of attributes: not the keys of dictionaries."""
    keys = {id(item.slice) for item in nodes if isinstance(item, ast.Subscript)}  # of dictionaries
    keys |= {id(key) for item in nodes if isinstance(item, ast.Dict) for key in item.keys}
    keys |= {id(item.left) for item in nodes if isinstance(item, ast.Compare)}
    for item in nodes:
        if isinstance(item, ast.Constant) and isinstance(item.value, str) and id(item) not in keys:
            yield item.value


def names_loaded(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Every name these nodes read, those inside quoted annotations included."""
    for item in nodes:
        if isinstance(item, ast.Name):
            yield item.id
        yield from _quoted_names(item)


def _quoted_names(item: ast.AST) -> Iterator[str]:
    for part in (getattr(item, "annotation", None), getattr(item, "returns", None)):
        for quoted in nodes_in(part) if isinstance(part, ast.AST) else ():
            if isinstance(quoted, ast.Constant) and isinstance(quoted.value, str):
                yield from _names_in_text(quoted.value)


def _names_in_text(text: str) -> Iterator[str]:
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return
    yield from (item.id for item in nodes_in(tree) if isinstance(item, ast.Name))


def names_outside(
    node: ast.AST, left_out: Set[ast.AST] = frozenset(), bound: Set[str] = frozenset()
) -> Iterator[str]:
    """The names that a statement takes from around it: not the locals of its functions.

    left_out: nodes that are not looked into. bound: names that something around it binds.
    """
    if isinstance(node, ast.Name):
        yield from {node.id} - bound
        return
    yield from (name for name in _quoted_names(node) if name not in bound)
    around: list[ast.AST] = []  # of a scope, but read outside of it
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        defaults = [*node.args.defaults, *(each for each in node.args.kw_defaults if each)]
        around = [*defaults, *getattr(node, "decorator_list", ())]
    elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        around = [node.generators[0].iter]
    inner = bound | own_names(node) if isinstance(node, SCOPES) else bound
    waiting = [(child, inner) for child in ast.iter_child_nodes(node) if child not in around]
    for child, names in [*waiting, *((child, bound) for child in around)]:
        if isinstance(child, ast.arguments):
            parts: list[ast.AST] = [part for part in ast.iter_child_nodes(child) if part not in around]
            yield from (name for part in parts for name in names_outside(part, left_out, bound))
        elif child not in left_out:
            yield from names_outside(child, left_out, names)


@functools.lru_cache(maxsize=CACHED)
def own_names(scope: ast.AST) -> frozenset[str]:
    """The names that a function, lambda or comprehension binds in its own scope."""
    return frozenset(_own_names(scope))


def _own_names(scope: ast.AST) -> Iterator[str]:
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        item = waiting.pop()
        if isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Load):
            yield item.id
        elif isinstance(item, ast.arg):
            yield item.arg
        elif isinstance(item, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler) and item.name:
            yield item.name
        if not isinstance(item, (*SCOPES, ast.ClassDef)):
            waiting += ast.iter_child_nodes(item)
