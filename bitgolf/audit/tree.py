"""Questions to a syntax tree: what a node calls, names and holds, and which nodes of a kind there are."""

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple, TypeVar, overload

from bitgolf.public.constants import folded

Node = TypeVar("Node", bound=ast.AST)
Other = TypeVar("Other", bound=ast.AST)
Said = TypeVar("Said")
NO_NUMBERS: Mapping[str, float] = MappingProxyType({})
Branch = ast.If | ast.IfExp
Definition = ast.FunctionDef | ast.AsyncFunctionDef
# OWN: of the script alone; OVERRIDES: also what torch calls so; MADE: an object of a class is made.
OWN, OVERRIDES, MADE, GUESSED = "own overrides made guessed".split()


class Callee(NamedTuple):
    """The functions of the script that a call may enter, none where it is of a library or not known."""

    functions: tuple[Definition, ...] = ()
    how: str = ""


NOT_KNOWN = Callee()


def remembered(asked: Callable[[ast.AST], Said]) -> Callable[[ast.AST], Said]:
    """What is said of a node is kept with it: nothing changes a tree that was opened."""
    name = f"_{asked.__name__}"

    @wraps(asked)
    def of(node: ast.AST) -> Said:
        kept = node.__dict__
        if name not in kept:
            kept[name] = asked(node)
        said: Said = kept[name]
        return said

    return of


@remembered
def walked(tree: ast.AST) -> list[ast.AST]:
    """All nodes of a tree, itself first."""
    return [*ast.walk(tree)]


@remembered
def _by_kinds(tree: ast.AST) -> dict[tuple[type[ast.AST], ...], list[ast.AST]]:
    """Nodes of a tree by the kinds that were asked for."""
    return {}


@remembered
def called(node: ast.AST) -> str:
    """The dotted name of what a node calls; empty for another node."""
    if not isinstance(node, ast.Call):
        return ""
    parts, func = [], node.func
    while isinstance(func, ast.Attribute):
        parts.append(func.attr)
        func = func.value
    if isinstance(func, ast.Name):
        return ".".join([func.id, *reversed(parts)])
    return ast.unparse(node.func)


def keep_callee(node: ast.expr, callee: Callee) -> None:
    """Keep with a name what it is of, as `callees` says."""
    node.__dict__["_callee"] = callee


def callee_of(node: ast.AST) -> Callee:
    """What a call, or a name that may be handed on, is of."""
    held = node.func if isinstance(node, ast.Call) else node
    callee: Callee = held.__dict__.get("_callee", NOT_KNOWN)
    return callee


def own(node: ast.AST) -> tuple[Definition, ...]:
    """The functions of the script that a call may enter."""
    return callee_of(node).functions


def calls_of(tree: ast.AST, *functions: Definition) -> Iterator[ast.Call]:
    """All calls in a tree that may enter one of these functions of the script."""
    return (node for node in nodes(tree, ast.Call) if any(each in functions for each in own(node)))


def last_called(node: ast.AST) -> str:
    """The last part of the name of what a node calls; empty for a function of the script, however named."""
    if not isinstance(node, ast.Call) or callee_of(node).how == OWN:
        return ""
    return called(node).rpartition(".")[2]


@overload
def nodes(tree: ast.AST, kind: type[Node], /) -> Iterator[Node]: ...
@overload
def nodes(tree: ast.AST, kind: type[Node], other: type[Other], /) -> Iterator[Node | Other]: ...
@overload
def nodes(tree: ast.AST, /, *kinds: type[ast.AST]) -> Iterator[ast.AST]: ...
def nodes(tree: ast.AST, /, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of these kinds in a tree."""
    known = _by_kinds(tree)
    if kinds not in known:
        known[kinds] = [node for node in walked(tree) if isinstance(node, kinds)]
    return iter(known[kinds])


@remembered
def _calls_by_name(tree: ast.AST) -> dict[str, list[tuple[int, ast.Call]]]:
    """Calls in a tree by their last names, each with its place."""
    found: dict[str, list[tuple[int, ast.Call]]] = {}
    for place, node in enumerate(nodes(tree, ast.Call)):
        found.setdefault(last_called(node), []).append((place, node))
    return found


def calls(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    """All calls in a tree of which the last name is one of these."""
    known = _calls_by_name(tree)
    found = [each for name in {*names} for each in known.get(name, ())]
    return (node for _, node in sorted(found, key=itemgetter(0)))


def names_in(tree: ast.AST) -> set[str]:
    """The plain names in a tree."""
    return {node.id for node in nodes(tree, ast.Name)}


def base_of(node: ast.expr) -> str:
    """What an expression hangs on, without places and calls: `self.sums` of `self.sums[n].add_`."""
    while isinstance(node, ast.Subscript | ast.Call) or (
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Subscript | ast.Call)
    ):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Attribute) and node.attr.endswith("_"):
        node = node.value
    return ast.unparse(node)


def methods(kind: ast.ClassDef) -> list[ast.FunctionDef]:
    """The functions that stand in a class."""
    return [each for each in kind.body if isinstance(each, ast.FunctionDef)]


def ways(branch: Branch) -> tuple[Sequence[ast.AST], Sequence[ast.AST]]:
    """What a branch does where its condition holds, and where it does not."""
    if isinstance(branch, ast.If):
        return branch.body, branch.orelse
    return [branch.body], [branch.orelse]


def stops(parts: Sequence[ast.AST]) -> bool:
    """Whether an error is raised, or the program left, somewhere in these statements."""
    inner = within(parts)
    return any(isinstance(each, ast.Raise) or called(each).endswith("exit") for each in inner)


def names_given(node: ast.Assign) -> set[str]:
    """The plain names that are given a value."""
    return {target.id for target in node.targets if isinstance(target, ast.Name)}


def named(tree: ast.AST, holds: Callable[[ast.expr], object]) -> set[str]:
    """The plain names that are given a value of which this holds."""
    return {name for node in nodes(tree, ast.Assign) if holds(node.value) for name in names_given(node)}


def spread(tree: ast.AST, holds: Callable[[ast.expr, set[str]], object], names: set[str]) -> set[str]:
    """The same where it is asked of a value and of the names so far: what is made of them, and of that."""
    given = [*nodes(tree, ast.Assign)]
    for _ in range(3):
        names = names | {name for each in given if holds(each.value, names) for name in names_given(each)}
    return names


def numbers_given(tree: ast.AST, names: Mapping[str, float] = NO_NUMBERS) -> dict[str, float]:
    """The plain names that are given a number, or one that is computed from names that are known."""
    given = [(node, arithmetic(node.value, names)) for node in nodes(tree, ast.Assign)]
    return {name: value for node, value in given if value is not None for name in names_given(node)}


def values_given(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """What is given a value, as text: by an assignment, as a field, as a default of a parameter or option."""
    for node in walked(tree):
        match node:
            case ast.Assign(targets=targets, value=value):
                yield from ((ast.unparse(each), value) for each in targets)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield ast.unparse(target), value
            case ast.arguments():
                taken = [each.arg for each in (*node.posonlyargs, *node.args)]
                yield from zip(reversed(taken), reversed(node.defaults))
                pairs = zip(node.kwonlyargs, node.kw_defaults)
                yield from ((each.arg, value) for each, value in pairs if value is not None)
            case ast.Call(args=[first, *others]) if last_called(node) in ("add_argument", "option", "get"):
                named = [each.value for each in node.keywords if each.arg == "default"]
                yield from ((ast.unparse(first), value) for value in (*named, *others)[:1])


def turned_over(tree: ast.AST, names: set[str]) -> list[ast.expr]:
    """What loops take these names from, and what is given to the names in that."""
    turns = [each.iter for each in nodes(tree, ast.For) if names_in(each.target) & names]
    listed = {name for each in turns for name in names_in(each)}
    return turns + [each.value for each in nodes(tree, ast.Assign) if names_given(each) & listed]


def attributes_given(tree: ast.AST, *kinds: str) -> dict[str, int]:
    """Attributes that are given a call of one of these (by the end of its name), and the line where."""
    return {
        target.attr: node.lineno
        for node in nodes(tree, ast.Assign)
        if last_called(node.value).endswith(kinds)
        for target in node.targets
        if isinstance(target, ast.Attribute)
    }


def lines_of(node: ast.AST) -> range:
    """The lines that a statement or an expression stands on."""
    first = getattr(node, "lineno", 0)
    return range(first, (getattr(node, "end_lineno", 0) or first) + 1)


def number(node: ast.expr | None) -> int | float | None:
    """A number that is written out; truth values are none."""
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def arithmetic(node: ast.expr | None, names: Mapping[str, float] = NO_NUMBERS) -> float | None:
    """A number that is written out, or computed from such and from names that are known."""
    match node:
        case ast.Name():
            return names.get(node.id)
        case ast.Attribute():
            return names.get(node.attr)
        case ast.UnaryOp(op=ast.USub()):
            inner = arithmetic(node.operand, names)
            return None if inner is None else -inner
        case ast.BinOp():
            left, right = arithmetic(node.left, names), arithmetic(node.right, names)
            return None if left is None or right is None else folded(node.op, left, right)
    return number(node)


def replace(tree: ast.AST, change: Callable[[ast.AST], ast.AST]) -> None:
    """Put what `change` makes of each node in its place; no recursion, trees may be deep."""

    def of(held: object) -> object:
        return change(held) if isinstance(held, ast.AST) else held

    for parent in ast.walk(tree):
        for field, held in ast.iter_fields(parent):
            setattr(parent, field, [of(each) for each in held] if isinstance(held, list) else of(held))


def decorated(tree: ast.AST, mark: str) -> list[ast.FunctionDef | ast.ClassDef]:
    """The functions and classes under a mark that has this text."""
    kinds = nodes(tree, ast.FunctionDef, ast.ClassDef)
    return [node for node in kinds if any(mark in ast.unparse(each) for each in node.decorator_list)]


def contexts(node: ast.With) -> list[ast.expr]:
    """What a block stands under."""
    return [item.context_expr for item in node.items]


def within(parts: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes in some statements."""
    return (each for part in parts for each in walked(part))


def imported(node: ast.AST) -> list[str]:
    """The modules that a statement imports; none for another node."""
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module else []
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


@remembered
def own_nodes(function: ast.AST) -> list[ast.AST]:
    """The nodes of a function without those of functions and classes inside it."""
    waiting, found = [*ast.iter_child_nodes(function)], []
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            found.append(node)
            waiting += ast.iter_child_nodes(node)
    return found
