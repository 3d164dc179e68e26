"""Branches that the recipe has decided.

A class of settings of which a recipe holds one value, and which no function of core makes anew, is known.
Conditions on its fields are decided: a branch never taken goes, and a loop over nothing. What holds the value
is told by annotations: of parameters, of fields, and of what a class sets on itself from a parameter.
"""

import ast
import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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
# A branch of these kinds can stand where the whole expression stood; others get parentheses.
ATOMS = (ast.Name, ast.Attribute, ast.Call, ast.Constant, ast.Subscript, ast.List, ast.Dict)
Cut = tuple[int, int, list[str]]  # from which line to which, and what stands there instead
Kinds = Mapping[str, str]  # classes of names, by their annotations


class _UnknownError(Exception):
    """A value that only a run knows."""


class _Facts(NamedTuple):
    """What is known: values by class, fields that somebody changes, annotated fields, and settings."""

    known: Mapping[str, Plan]
    changed: set[str]
    fields: Mapping[str, Kinds]
    settings: Mapping[str, type[Plan] | None]  # None: no value of the recipe is of this class


def decided(modules: Sequence[Module], plans: Iterable[Plan]) -> list[Module]:
    """The same modules without branches that this recipe never takes; plans: all that it holds."""
    facts = _facts(modules, list(plans))
    return [
        dataclasses.replace(module, definitions=tuple(_decide(d, facts) for d in module.definitions))
        for module in modules
    ]


def _facts(modules: Sequence[Module], plans: Sequence[Plan]) -> _Facts:
    made, changed, parents = set[str](), set[str](), set[str]()
    fields: dict[str, Kinds] = {}
    settings: dict[str, type[Plan] | None] = {"Plan": None}
    for item in (item for module in modules for d in module.definitions for item in ast.walk(d.node)):
        if isinstance(item, ast.FunctionDef):
            calls = [call for call in ast.walk(item) if isinstance(call, ast.Call)]
            compared = {id(side) for part in ast.walk(item) for side in _sides(part)}
            made |= {
                call.func.id
                for call in calls
                if isinstance(call.func, ast.Name) and (id(call) not in compared or _arguments(call))
            }
            changed |= {
                keyword.arg or ""
                for call in calls
                if isinstance(call.func, ast.Attribute) and call.func.attr == "replace"
                for keyword in call.keywords
            }
        elif isinstance(item, ast.ClassDef):
            bases = {ast.unparse(base) for base in item.bases}
            parents |= bases
            fields[item.name] = dict(_field_kinds(item))
            if bases & settings.keys():
                settings[item.name] = None
    held: dict[str, list[Plan]] = {}
    for plan in plans:
        held.setdefault(type(plan).__name__, []).append(plan)
    settings |= {name: type(values[0]) for name, values in held.items()}
    known = {
        name: values[0]
        for name, values in held.items()
        if name not in made | parents and all(value == values[0] for value in values)
    }
    return _Facts(known, changed, fields, settings)


def _sides(item: ast.AST) -> list[ast.expr]:
    return [item.left, *item.comparators] if isinstance(item, ast.Compare) else []


def _arguments(call: ast.Call) -> list[Any]:
    return [*call.args, *call.keywords]


def _field_kinds(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            yield item.target.id, _kind(item.annotation)
        elif isinstance(item, ast.FunctionDef) and item.name == "__init__":
            kinds = _parameters(item)
            for part in item.body:
                if isinstance(part, ast.Assign) and isinstance(part.value, ast.Name):
                    for target in part.targets:
                        if isinstance(target, ast.Attribute) and part.value.id in kinds:
                            yield target.attr, kinds[part.value.id]


def _kind(annotation: ast.expr) -> str:
    return ast.unparse(annotation).strip("'\"")  # one of a class further down is quoted


def _parameters(function: ast.FunctionDef) -> dict[str, str]:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return {a.arg: _kind(a.annotation) for a in arguments if a.annotation}


def _decide(definition: Definition, facts: _Facts) -> Definition:
    while isinstance(definition.node, ast.FunctionDef | ast.ClassDef):
        lines = definition.text.splitlines()
        (node,) = ast.parse(definition.text).body
        cut = next(_all_cuts(node, lines, facts), None)
        if cut is None:
            break
        first, last, instead = cut
        lines[first:last] = instead
        (definition,) = read_module("\n".join(lines), definition.module).definitions
    return definition


def _all_cuts(node: ast.stmt, lines: list[str], facts: _Facts) -> Iterator[Cut]:
    owner = node.name if isinstance(node, ast.ClassDef) else ""
    for function in ast.walk(node):
        if isinstance(function, ast.FunctionDef):
            yield from _cuts(function, owner, lines, facts)


def _cuts(function: ast.FunctionDef, owner: str, lines: list[str], facts: _Facts) -> Iterator[Cut]:
    kinds = _local_kinds(function, owner, facts)
    for item in ast.walk(function):
        if isinstance(item, ast.IfExp):
            try:
                chosen = item.body if _value(item.test, kinds, facts) else item.orelse
            except _UnknownError:
                continue
            yield _replaced(item, chosen, lines)
        elif isinstance(item, ast.For) and not item.orelse:
            try:
                if _value(item.iter, kinds, facts) == ():
                    yield _gone(item, function, lines)
            except _UnknownError:
                continue
        elif isinstance(item, ast.If) and lines[item.lineno - 1].lstrip().startswith("if "):
            try:
                holds = bool(_value(item.test, kinds, facts))
            except _UnknownError:
                continue
            taken = item.body if holds else item.orelse
            if not taken:
                yield _gone(item, function, lines)
            elif not lines[taken[0].lineno - 1].lstrip().startswith("elif "):
                last = item.end_lineno or 0
                if isinstance(taken[-1], ast.Return):  # nothing after it is reached
                    last = max([last, *(end for body, end in _functions(function) if item in body)])
                inside = lines[first_line(taken[0], lines) : taken[-1].end_lineno]
                yield first_line(item, lines), last, [line.removeprefix("    ") for line in inside]


def _functions(function: ast.FunctionDef) -> Iterator[tuple[list[ast.stmt], int]]:
    """A function and those inside it: what they do, and where they end."""
    for item in ast.walk(function):
        if isinstance(item, ast.FunctionDef):
            yield item.body, item.end_lineno or 0


def _gone(item: ast.stmt, function: ast.FunctionDef, lines: list[str]) -> Cut:
    alone = any(body == [item] for body in _bodies(function))
    return first_line(item, lines), item.end_lineno or 0, [" " * item.col_offset + "pass"] if alone else []


def _replaced(item: ast.expr, chosen: ast.expr, lines: list[str]) -> Cut:
    """The lines of an expression with a part of it in its place."""
    first, last = item.lineno - 1, item.end_lineno or 0
    text = ast.unparse(chosen)
    text = text if isinstance(chosen, ATOMS) else f"({text})"
    before = lines[first].encode()[: item.col_offset].decode()
    after = lines[last - 1].encode()[item.end_col_offset :].decode()
    return first, last, [before + text + after]


def _bodies(function: ast.FunctionDef) -> Iterable[list[ast.stmt]]:
    for item in ast.walk(function):
        yield from (getattr(item, name, []) for name in ("body", "orelse", "finalbody"))


def _local_kinds(function: ast.FunctionDef, owner: str, facts: _Facts) -> dict[str, str]:
    """The classes of parameters, and of locals that are set once, to something whose class is known."""
    stored = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    kinds = {name: kind for name, kind in _parameters(function).items() if name not in stored}
    if owner and "self" not in stored:
        kinds["self"] = owner
    for item in ast.walk(function):
        if isinstance(item, ast.Assign) and len(item.targets) == 1:
            target, value = item.targets[0], item.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts))
            for name, source in pairs:
                kind = _kind_of(source, kinds, facts)
                if isinstance(name, ast.Name) and stored.count(name.id) == 1 and kind:
                    kinds[name.id] = kind
    return kinds


def _kind_of(node: ast.expr, kinds: Kinds, facts: _Facts) -> str:
    if isinstance(node, ast.Name):
        return kinds.get(node.id, "")
    if isinstance(node, ast.Attribute):
        return facts.fields.get(_kind_of(node.value, kinds, facts), {}).get(node.attr, "")
    return ""


def _value(node: ast.expr, kinds: Kinds, facts: _Facts) -> Any:
    """What an expression is in every run of the recipe. Raises _UnknownError."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Attribute) and node.attr not in facts.changed:
        try:
            owner = _value(node.value, kinds, facts)
        except _UnknownError:
            owner = None
        if isinstance(owner, Plan) and node.attr in {field.name for field in dataclasses.fields(owner)}:
            return getattr(owner, node.attr)
    if isinstance(node, ast.Name | ast.Attribute) and (kind := _kind_of(node, kinds, facts)) in facts.known:
        return facts.known[kind]
    if isinstance(node, ast.Call) and ast.unparse(node).removesuffix("()") in facts.settings:
        held = facts.settings[ast.unparse(node.func)]
        return object() if held is None else held()
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not _value(node.operand, kinds, facts)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        sides = [_value(side, kinds, facts) for side in (node.left, node.comparators[0])]
        return COMPARISONS[type(node.ops[0])](*sides)
    if isinstance(node, ast.BoolOp):
        ends = isinstance(node.op, ast.Or)  # one part that is so ends it
        parts = []
        for part in node.values:
            try:
                parts.append(bool(_value(part, kinds, facts)))
            except _UnknownError:
                continue
        if ends in parts:
            return ends
        if len(parts) == len(node.values):
            return not ends
    raise _UnknownError
