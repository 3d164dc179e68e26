"""Inlines functions that only return an expression of their arguments.

A function that returns a constant or one of its parameters goes wherever it is called; one that returns any
other expression if a single place calls it, and the line stays short.
"""

import ast
from collections.abc import Sequence, Set
from typing import TypeGuard

from bitgolf.script.calls import STILL, Family, families, given_for, is_empty, is_quiet
from bitgolf.script.edits import LINE_LENGTH, Edit, Source, edited
from bitgolf.script.source import Module
from bitgolf.script.syntax import SCOPES, names_outside, own_names, walked, written

ATOMS = (ast.Name, ast.Attribute, ast.Call, ast.Constant, ast.Subscript, ast.List, ast.Dict, ast.ListComp)


def inlined(modules: Sequence[Module], left_alone: Set[str]) -> list[Module]:
    """The modules without functions that only hand on."""
    return edited(modules, [_edits(family) for family in families(modules, left_alone) if family.calls])


def _edits(family: Family) -> list[Edit]:
    """Edits that put what a family returns in place of its calls; none where that cannot be."""
    returned = [_returned(function) for _, function, _ in family.functions]
    source, function, _ = family.functions[0]
    value = returned[0]
    if value is None and family.is_whole and len(family.functions) == 1:
        return _in_place_of_a_call(family)
    if value is None or any(other is None or ast.dump(other) != ast.dump(value) for other in returned):
        return []
    names = [arg.arg for arg in (*function.args.args, *function.args.kwonlyargs)]
    if any([arg.arg for arg in (*f.args.args, *f.args.kwonlyargs)] != names for _, f, _ in family.functions):
        return []
    hands_on = isinstance(value, ast.Constant) or is_empty(value) or _root(value) in names
    if family.functions[0][1].name == "__init__" or any(f.decorator_list for _, f, _ in family.functions):
        return []
    alone = len(family.calls) == 1 and len(returned) == 1
    if not hands_on and not (
        family.is_whole and (alone or _forwards(value, names)) and "\n" not in source.of(value)
    ):
        return []
    if not isinstance(function.body[-1], ast.Return) and not all(
        any(isinstance(item, ast.Expr) and item.value is call for item in caller.items)
        for caller, call in family.calls
    ):
        return []
    edits = [_edit(family, source, value, names, caller, call) for caller, call in family.calls]
    if None in edits:
        return []
    read = [Edit(s, s.start(f), s.end(f), None) for s, f, _ in family.functions]
    return [*read, *(edit for edit in edits if edit)]


def _in_place_of_a_call(family: Family) -> list[Edit]:
    """Edits that write a method where the one that calls it does nothing else, with the same parameters."""
    source, function, owner = family.functions[0]
    if len(family.calls) != 1 or owner is None or function.decorator_list or function.name == "__init__":
        return []
    caller, call = family.calls[0]
    given = [written(arg) for arg in (*call.args, *call.keywords)]
    if caller is not source or ["self", *given] != [arg.arg for arg in function.args.args]:
        return []
    body = function.body[1:] if ast.get_docstring(function) else function.body
    for method in (item for item in owner.body if isinstance(item, ast.FunctionDef)):
        last = method.body[-1]
        if isinstance(last, ast.Return) and last.value is call and _returned(method) is call:
            text = source.text[source.start(body[0]) : source.end(body[-1])]
            read = Edit(source, source.start(function), source.end(function), None)
            return [read, source.replacement(last, text)]
    return []


def _root(value: ast.expr) -> str:
    """The name that an attribute is read from, or that stands alone."""
    while isinstance(value, ast.Attribute):
        value = value.value
    return value.id if isinstance(value, ast.Name) else ""


def _is_call(item: ast.stmt) -> TypeGuard[ast.Expr]:
    return isinstance(item, ast.Expr) and isinstance(item.value, ast.Call)


def _forwards(value: ast.expr, names: list[str]) -> bool:
    """Whether it is a call that is given these parameters in their order, and nothing else that is made."""
    if not isinstance(value, ast.Call) or value.keywords:
        return False
    given = [arg.id for arg in value.args if isinstance(arg, ast.Name) and arg.id in names]
    still = all(isinstance(arg, STILL) for arg in (value.func, *value.args))
    return still and given == [name for name in names if name in given]


def _returned(function: ast.FunctionDef) -> ast.expr | None:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    if (
        len(body) == 1
        and (isinstance(body[0], ast.Return) or _is_call(body[0]))
        and not function.args.vararg
        and not function.args.kwarg
    ):
        return body[0].value
    return None


def _edit(
    family: Family, source: Source, value: ast.expr, names: list[str], caller: Source, call: ast.Call
) -> Edit | None:
    """The edit of one call, or nothing where order or meaning could change."""
    given: dict[str, ast.expr | None] = {}
    try:
        given = {name: given_for(family, name, call) for name in names[family.bound :]}
    except LookupError:
        return None
    if family.bound:
        given[names[0]] = call.func.value if isinstance(call.func, ast.Attribute) else None
    reads = [item for item in walked(value) if isinstance(item, ast.Name) and item.id in names]
    free = set(names_outside(value)) - set(names)
    inner = {n for item in walked(value) if isinstance(item, SCOPES) for n in own_names(item)}
    around = {n for item in caller.items if isinstance(item, SCOPES) for n in own_names(item)}
    if free & around or inner & set(names):
        return None
    texts: dict[str, str] = {}
    for name, arg in given.items():
        count = sum(item.id == name for item in reads)
        if arg is None and count:
            return None
        if arg is None:
            continue
        alone = count == 1 and (len(reads) == 1 or _forwards(value, names))
        still = all(isinstance(item, (*STILL, ast.expr_context)) for item in walked(arg))
        if not (is_quiet(arg) if not count else still or alone):
            return None
        if inner & {item.id for item in walked(arg) if isinstance(item, ast.Name)}:
            return None
        texts[name] = caller.of(arg) if isinstance(arg, ATOMS) or value in reads else f"({caller.of(arg)})"
    text, start = source.of(value), source.start(value)
    for item in sorted(reads, key=source.start, reverse=True):
        first, last = source.start(item) - start, source.end(item) - start
        text = text[:first] + texts[item.id] + text[last:]
    if not isinstance(value, ATOMS) and not is_empty(value):
        text = f"({text})"
    whole = caller.text[: caller.start(call)].rpartition("\n")[2] + text
    whole += caller.text[caller.end(call) :].partition("\n")[0]
    is_short = max(map(len, whole.splitlines())) <= LINE_LENGTH or is_empty(value) or value in reads
    return caller.replacement(call, text) if is_short else None
