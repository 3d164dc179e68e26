"""Branches that the recipe has decided.

A class of settings of which a recipe holds one value, and which no function of core makes anew, is known.
Where a parameter is annotated with it, conditions on its fields are decided: a branch never taken goes.
"""

import ast
import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bitgolf.base.plan import Plan
from bitgolf.script.source import Definition, Module, first_line, read_module

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class _UnknownError(Exception):
    """A value that only a run knows."""


def decided(modules: Sequence[Module], plans: Iterable[Plan]) -> list[Module]:
    """The same modules without branches that this recipe never takes; plans: all that it holds."""
    made, changed, parents = set[str](), set[str](), set[str]()
    for module in modules:
        for item in ast.walk(ast.Module([d.node for d in module.definitions], [])):
            if isinstance(item, ast.FunctionDef):
                calls = [call for call in ast.walk(item) if isinstance(call, ast.Call)]
                made |= {call.func.id for call in calls if isinstance(call.func, ast.Name)}
                changed |= {
                    keyword.arg or ""
                    for call in calls
                    if isinstance(call.func, ast.Attribute) and call.func.attr == "replace"
                    for keyword in call.keywords
                }
            elif isinstance(item, ast.ClassDef):
                parents |= {ast.unparse(base) for base in item.bases}
    held: dict[str, list[Plan]] = {}
    for plan in plans:
        held.setdefault(type(plan).__name__, []).append(plan)
    known = {
        name: values[0]
        for name, values in held.items()
        if name not in made | parents and all(value == values[0] for value in values)
    }
    return [
        dataclasses.replace(module, definitions=tuple(_decide(d, known, changed) for d in module.definitions))
        for module in modules
    ]


def _decide(definition: Definition, known: Mapping[str, Plan], changed: set[str]) -> Definition:
    while isinstance(definition.node, ast.FunctionDef | ast.ClassDef):
        if not any(name in definition.text for name in known):
            break
        lines = definition.text.splitlines()
        (node,) = ast.parse(definition.text).body
        cut = next(
            (
                cut
                for function in ast.walk(node)
                if isinstance(function, ast.FunctionDef)
                for cut in _cuts(function, lines, known, changed)
            ),
            None,
        )
        if cut is None:
            break
        first, last, instead = cut
        lines[first:last] = instead
        (definition,) = read_module("\n".join(lines), definition.module).definitions
    return definition


def _cuts(
    function: ast.FunctionDef, lines: list[str], known: Mapping[str, Plan], changed: set[str]
) -> Iterable[tuple[int, int, list[str]]]:
    """From which line to which, and what stands there instead, for each branch decided in this function."""
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    arguments = [*function.args.args, *function.args.kwonlyargs]
    kinds = {a.arg: ast.unparse(a.annotation) for a in arguments if a.annotation and a.arg not in stored}
    scope = {name: known[kind] for name, kind in kinds.items() if kind in known}
    for item in ast.walk(function) if scope else ():
        if not isinstance(item, ast.If) or not lines[item.lineno - 1].lstrip().startswith("if "):
            continue
        try:
            holds = bool(_value(item.test, scope, changed))
        except _UnknownError:
            continue
        first, last = first_line(item, lines), item.end_lineno or 0
        taken = item.body if holds else item.orelse
        if not taken:
            alone = any(body == [item] for body in _bodies(function))
            yield first, last, [" " * item.col_offset + "pass"] if alone else []
        elif not lines[taken[0].lineno - 1].lstrip().startswith("elif "):
            if item in function.body and isinstance(taken[-1], ast.Return):
                last = function.end_lineno or 0  # nothing after it is reached
            inside = lines[first_line(taken[0], lines) : taken[-1].end_lineno]
            yield first, last, [line.removeprefix("    ") for line in inside]


def _bodies(function: ast.FunctionDef) -> Iterable[list[ast.stmt]]:
    for item in ast.walk(function):
        yield from (getattr(item, name, []) for name in ("body", "orelse", "finalbody"))


def _value(node: ast.expr, scope: Mapping[str, Plan], changed: set[str]) -> Any:
    """What an expression is in every run of the recipe. Raises _UnknownError."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in scope:
        return scope[node.id]
    if isinstance(node, ast.Attribute) and node.attr not in changed:
        owner = _value(node.value, scope, changed)
        if isinstance(owner, Plan) and node.attr in {field.name for field in dataclasses.fields(owner)}:
            return getattr(owner, node.attr)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not _value(node.operand, scope, changed)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        sides = [_value(side, scope, changed) for side in (node.left, node.comparators[0])]
        return COMPARISONS[type(node.ops[0])](*sides)
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for part in node.values:
            try:
                if not _value(part, scope, changed):
                    return False
            except _UnknownError:
                continue
    raise _UnknownError
