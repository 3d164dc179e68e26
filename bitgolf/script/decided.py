"""Removes branches that the recipe has decided.

A class of settings of which a recipe holds one value, and which no function of core makes anew, is known.
Conditions on its fields are decided: a branch never taken goes, and a loop over nothing. What holds the value
is told by annotations: of parameters, of fields, and of what a class sets on itself from a parameter.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from bitgolf.base.plan import Plan
from bitgolf.script.edits import source_of
from bitgolf.script.kinds import Kinds, is_property
from bitgolf.script.names import SPELLED_OUT
from bitgolf.script.source import Definition, Module, read_module
from bitgolf.script.syntax import first_line, walked, written

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
# A branch of these kinds can stand where the whole expression stood; others get parentheses.
ATOMS = (ast.Name, ast.Attribute, ast.Call, ast.Constant, ast.Subscript, ast.List, ast.Dict, ast.Tuple)
Cut = tuple[int, int, list[str]]  # from which line to which, and what stands there instead
Locals = Mapping[str, str]  # the classes of names


class _UnknownError(Exception):
    """A value that only a run knows."""


class _Facts(NamedTuple):
    """What is known: values by class, fields that somebody changes, classes, settings, properties."""

    values: Mapping[str, Sequence[Plan]]  # all that there are
    changed: set[str]
    kinds: Kinds
    settings: Mapping[str, type[Plan] | None]  # None: no value of the recipe is of this class
    properties: Mapping[tuple[str, str], ast.expr]  # what they return, by class and name
    overrides: set[tuple[str, str]]  # names that a class defines anew
    attributes: Mapping[tuple[str, str], Any]  # those that are set once, to nothing: by class and name
    read: set[str]  # attributes that somebody reads
    defaults: Mapping[tuple[str, str], Any]  # of fields of classes that are only made without arguments
    constants: Mapping[tuple[str, str], Any]  # of classes of settings, equal in all that are below
    open: Set[tuple[str, str]] = frozenset()  # settings that may be others when the script runs


def decided(
    modules: Sequence[Module], plans: Iterable[Plan], open_fields: Set[tuple[str, str]] = frozenset()
) -> list[Module]:
    """The same modules without branches that this recipe never takes; plans: all that it holds.

    open_fields: settings, by class and name, that may be others when the script runs.
    """
    facts = _facts(modules, list(plans))._replace(open=open_fields)
    return [module.having(_decide(d, facts) for d in module.definitions) for module in modules]


def _facts(modules: Sequence[Module], plans: Sequence[Plan]) -> _Facts:
    made, changed, parents = set[str](), set[str](), set[str]()
    settings: dict[str, type[Plan] | None] = {"Plan": None}
    properties: dict[tuple[str, str], ast.expr] = {}
    for item in (item for module in modules for d in module.definitions for item in d.items):
        if isinstance(item, ast.FunctionDef):
            calls = [call for call in walked(item) if isinstance(call, ast.Call)]
            compares = (part for part in walked(item) if isinstance(part, ast.Compare))
            compared = {id(side) for part in compares for side in (part.left, *part.comparators)}
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
                if not _is_as_before(keyword, plans)
            }
        elif isinstance(item, ast.ClassDef):
            bases = {written(base) for base in item.bases}
            parents |= bases
            properties |= {(item.name, name): value for name, value in _properties(item)}
            if bases & settings.keys():
                settings[item.name] = None
    held: dict[str, list[Plan]] = {}
    for plan in plans:
        held.setdefault(type(plan).__name__, []).append(plan)
    settings |= {name: type(values[0]) for name, values in held.items()}
    values = {name: each for name, each in held.items() if name not in made | parents}
    attributes, read = _set_to_nothing(modules)
    kinds = Kinds(modules)
    defaults = dict(_never_given(modules, kinds, changed, held.keys()))
    overrides = {
        (name, part.name)
        for name, node in kinds.classes.items()
        for part in node.body
        if isinstance(part, ast.FunctionDef)
        and any(part.name in kinds.methods(above) for above in kinds.above(name) if above != name)
    }
    return _Facts(
        values, changed, kinds, settings, properties, overrides, attributes, read, defaults, _constants(kinds)
    )


def _constants(kinds: Kinds) -> dict[tuple[str, str], Any]:
    """Class variables that are equal in all classes of settings below a class that have no others below."""
    constants: dict[tuple[str, str], Any] = {}
    for name in kinds.classes:
        ends = [each for each in kinds.below(name) if len(kinds.below(each)) == 1]
        held = [dict(pair for c in [*kinds.above(end)][::-1] for pair in kinds.constants(c)) for end in ends]
        for key, value in held[0].items() if "Plan" in kinds.above(name) else ():
            if all(key in each and each[key] == value for each in held):
                constants[name, key] = value
    return constants


def _never_given(
    modules: Sequence[Module], kinds: Kinds, changed: Set[str], held: Set[str]
) -> Iterator[tuple[tuple[str, str], Any]]:
    """Fields, with their defaults, that nobody gives who makes an object of their class.

    held: classes that a recipe holds. Those are made by it, and others by what an artifact says.
    """
    definitions = [d for module in modules for d in module.definitions]
    definitions = [d for d in definitions if not isinstance(getattr(d.node, "value", None), ast.Subscript)]
    items = [item for d in definitions for item in d.items]  # without names for types
    calls: dict[str, list[ast.Call]] = {}
    for item in items:
        if isinstance(item, ast.Call):
            calls.setdefault(written(item.func), []).append(item)
    called = {id(call.func) for group in calls.values() for call in group}
    notes = [
        part for i in items for part in (getattr(i, "annotation", None), getattr(i, "returns", None)) if part
    ]
    spared = called | {id(inner) for note in notes for inner in walked(note)}
    values = {i.id for i in items if isinstance(i, ast.Name) and id(i) not in spared}
    replaced_fields = {
        word.arg
        for call in (item for item in items if isinstance(item, ast.Call))
        if getattr(call.func, "attr", "") in ("replace", "_replace")
        for word in call.keywords
    }
    for name, node in kinds.classes.items():
        bases = {written(base) for base in node.bases}
        if not bases or not bases <= {"NamedTuple", "Plan"} or len(kinds.below(name)) > 1 or name in values:
            continue
        if name in held or kinds.root(name) in SPELLED_OUT:
            continue
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
        given = {word.arg for call in calls.get(name, ()) for word in call.keywords}
        for call in calls.get(name, ()):
            starred = any(isinstance(arg, ast.Starred) for arg in call.args)
            given |= {written(item.target) for item in fields[: None if starred else len(call.args)]}
        for item in fields if None not in given else ():
            field = written(item.target)
            if field not in given | replaced_fields | changed:
                if isinstance(item.value, ast.Constant):
                    yield (name, field), item.value.value
                elif item.value and written(item.value) == "()":
                    yield (name, field), ()


def _set_to_nothing(modules: Sequence[Module]) -> tuple[dict[tuple[str, str], Any], set[str]]:
    """Attributes that one place sets, to nothing or a truth value; and those that are read."""
    stored, read = list[str](), set[str]()
    attributes: dict[tuple[str, str], Any] = {}
    for definition in (d for module in modules for d in module.definitions):
        for item in definition.items:
            if isinstance(item, ast.Attribute):
                if isinstance(item.ctx, ast.Load):
                    read.add(item.attr)
                else:
                    stored.append(item.attr)
            elif isinstance(item, ast.Constant) and isinstance(item.value, str):
                read.add(item.value)
            elif isinstance(item, ast.Assign) and isinstance(definition.node, ast.ClassDef):
                target = item.targets[0]
                if isinstance(target, ast.Attribute) and written(target) == f"self.{target.attr}":
                    if isinstance(item.value, ast.Constant) and type(item.value.value) in (bool, type(None)):
                        attributes[definition.node.name, target.attr] = item.value.value
                    elif written(item.value) == "()":
                        attributes[definition.node.name, target.attr] = ()
    return {key: value for key, value in attributes.items() if stored.count(key[1]) == 1}, read


def _is_as_before(keyword: ast.keyword, plans: Iterable[Plan]) -> bool:
    """Whether a copy's setting is what all that have such a setting hold anyway."""
    held = [vars(plan)[keyword.arg] for plan in plans if keyword.arg in vars(plan)]
    return bool(held) and all(repr(value) == written(keyword.value) for value in held)


def _arguments(call: ast.Call) -> list[Any]:
    return [*call.args, *call.keywords]


def _properties(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """Those that do nothing but return."""
    for item in node.body:
        if is_property(item):
            end = item.body[-1]
            if isinstance(end, ast.Return) and len(item.body) == 1 + bool(ast.get_docstring(item)):
                yield item.name, end.value or ast.Constant(None)


def _decide(definition: Definition, facts: _Facts) -> Definition:
    while isinstance(definition.node, ast.FunctionDef | ast.ClassDef):
        lines = definition.text.splitlines()
        cut = next(_all_cuts(source_of(definition).node, lines, facts), None)
        if cut is None:
            break
        first, last, instead = cut
        lines[first:last] = instead
        (definition,) = read_module("\n".join(lines), definition.module).definitions
    return definition


def _all_cuts(node: ast.stmt, lines: list[str], facts: _Facts) -> Iterator[Cut]:
    owner = node.name if isinstance(node, ast.ClassDef) else ""
    for function in walked(node):
        if isinstance(function, ast.FunctionDef):
            yield from _cuts(function, owner, lines, facts)


def _cuts(function: ast.FunctionDef, owner: str, lines: list[str], facts: _Facts) -> Iterator[Cut]:
    kinds = facts.kinds.local(function, owner)
    for item in walked(function):
        if isinstance(item, ast.IfExp):
            try:
                chosen = item.body if _value(item.test, kinds, facts) else item.orelse
            except _UnknownError:
                continue
            yield _replaced(item, chosen, lines)
        elif isinstance(item, ast.BoolOp):
            try:
                first = _value(item.values[0], kinds, facts)
            except _UnknownError:
                continue
            ends = bool(first) == isinstance(item.op, ast.Or)
            left = item.values[:1] if ends else item.values[1:]
            yield _replaced(item, left[0] if len(left) == 1 else ast.BoolOp(item.op, left), lines)
        elif isinstance(item, ast.Call) and written(item.func) == "next" and len(item.args) == 2:
            source = item.args[0]
            if isinstance(source, ast.GeneratorExp) and _is_nothing(source.generators[0].iter, kinds, facts):
                yield _replaced(item, item.args[1], lines)
        elif isinstance(item, ast.Call) and (owner_again := _same_again(item)):
            yield _replaced(item, owner_again, lines)
        elif isinstance(item, ast.Call):
            for each in (item, *item.args, *(word.value for word in item.keywords)):
                if isinstance(each, ast.Attribute | ast.Call) and (text := _plain_text(each, kinds, facts)):
                    yield _replaced(each, ast.parse(text, mode="eval").body, lines)
        elif isinstance(item, ast.List | ast.Tuple) and isinstance(item.ctx, ast.Load):
            full = [each for each in item.elts if not _is_empty_row(each, kinds, facts)]
            if full != item.elts:
                yield _replaced(item, type(item)(full, ast.Load()), lines)
        elif isinstance(item, ast.Dict):
            pairs = [(k, v) for k, v in zip(item.keys, item.values) if k or written(v) != "{}"]
            if len(pairs) < len(item.keys):
                yield _replaced(item, ast.Dict(*map(list, zip(*pairs))), lines)
        elif isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Attribute):
            target = item.targets[0]
            key = kinds.get(written(target.value), ""), target.attr
            if key in facts.attributes and target.attr not in facts.read:
                yield _gone(item, function, lines)
        elif isinstance(item, ast.For) and not item.orelse:
            try:
                if _value(item.iter, kinds, facts) == ():
                    yield _gone(item, function, lines)
            except _UnknownError:
                continue
        elif isinstance(item, ast.If):
            yield from _if_cuts(item, function, kinds, lines, facts)


def _if_cuts(
    item: ast.If, function: ast.FunctionDef, kinds: Locals, lines: list[str], facts: _Facts
) -> Iterator[Cut]:
    try:
        holds = bool(_value(item.test, kinds, facts))
    except _UnknownError:
        return
    if lines[item.lineno - 1].lstrip().startswith("elif "):
        if not holds:  # what follows goes on from the condition before
            yield item.lineno - 1, item.body[-1].end_lineno or 0, []
        return
    taken = item.body if holds else item.orelse
    if not taken:
        yield _gone(item, function, lines)
    elif not lines[taken[0].lineno - 1].lstrip().startswith("elif "):
        last = item.end_lineno or 0
        if isinstance(taken[-1], ast.Return):  # nothing after it is reached
            last = max([last, *(end for body, end in _functions(function) if item in body)])
        inside = lines[first_line(taken[0], lines) : taken[-1].end_lineno]
        yield first_line(item, lines), last, [line.removeprefix("    ") for line in inside]


def _same_again(call: ast.Call) -> ast.expr | None:
    """What `a.replace(b=a.b)` is made from."""
    if isinstance(call.func, ast.Attribute) and call.func.attr == "replace" and len(call.keywords) == 1:
        word, owner = call.keywords[0], call.func.value
        return owner if written(word.value) == f"{written(owner)}.{word.arg}" else None
    return None


def _plain_text(node: ast.expr, kinds: Locals, facts: _Facts) -> str:
    """A truth value, nothing or an empty tuple, where an expression is one; otherwise no text."""
    try:
        value = _value(node, kinds, facts)
    except _UnknownError:
        return ""
    return repr(value) if value is None or isinstance(value, bool) or value == () else ""


def _is_empty_row(node: ast.expr, kinds: Locals, facts: _Facts) -> bool:
    return isinstance(node, ast.Starred) and _is_nothing(node.value, kinds, facts)


def _is_nothing(node: ast.expr, kinds: Locals, facts: _Facts) -> bool:
    try:
        return _value(node, kinds, facts) == ()
    except _UnknownError:
        return False


def _functions(function: ast.FunctionDef) -> Iterator[tuple[list[ast.stmt], int]]:
    """A function and those inside it: what they do, and where they end."""
    for item in walked(function):
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
    for item in walked(function):
        yield from (getattr(item, name, []) for name in ("body", "orelse", "finalbody"))


def _value(node: ast.expr, kinds: Locals, facts: _Facts) -> Any:
    """What an expression is in every run of the recipe. Raises _UnknownError."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple) and all(
        isinstance(each, ast.Starred) and _value(each.value, kinds, facts) == () for each in node.elts
    ):
        return ()
    if isinstance(node, ast.Call) and written(node.func) in ("list", "tuple") and len(node.args) == 1:
        made = node.args[0]
        if written(made) == "()":
            return ()
        if isinstance(made, ast.GeneratorExp) and not _value(made.generators[0].iter, kinds, facts):
            return ()
    if (
        isinstance(node, ast.Attribute)
        and node.attr not in facts.changed
        and (values := _attribute(node, kinds, facts))
    ):
        return values[0]
    if isinstance(node, ast.Name | ast.Attribute) and (kind := facts.kinds.of(node, kinds)) in facts.values:
        plans = facts.values[kind]
        if all(plan == plans[0] for plan in plans):
            return plans[0]
    if isinstance(node, ast.Call) and written(node).removesuffix("()") in facts.settings:
        held = facts.settings[written(node.func)]
        return object() if held is None else held()
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not _value(node.operand, kinds, facts)
    if isinstance(node, ast.Compare) and (holds := _compared(node, kinds, facts)) is not None:
        return holds
    if isinstance(node, ast.Call) and written(node.func) == "isinstance":
        kind, wanted = facts.kinds.of(node.args[0], kinds), written(node.args[1])
        if kind in facts.kinds.classes and wanted in facts.kinds.classes:
            outcomes = {name in facts.kinds.below(wanted) for name in facts.kinds.below(kind)}
            if len(outcomes) == 1:
                return outcomes.pop()
    if isinstance(node, ast.BoolOp) and (joined := _joined(node, kinds, facts)) is not None:
        return joined
    raise _UnknownError


def _attribute(node: ast.Attribute, kinds: Locals, facts: _Facts) -> tuple[Any, ...]:
    """The value of an attribute, by itself, or nothing where its runs may differ."""
    try:
        owner = _value(node.value, kinds, facts)
    except _UnknownError:
        owner = None
    kind = facts.kinds.of(node.value, kinds)
    plans = [owner] if isinstance(owner, Plan) else facts.values.get(kind, ())
    values = [vars(plan)[node.attr] for plan in plans if node.attr in vars(plan)]
    if values and all(value == values[0] for value in values):
        if (type(plans[0]).__name__, node.attr) in facts.open:
            raise _UnknownError
        return (values[0],)
    if (kind, node.attr) in facts.constants:
        return (facts.constants[kind, node.attr],)
    if (key := (kind, node.attr)) in facts.defaults:
        return (facts.defaults[key],)
    for above in facts.kinds.above(kind):
        if (above, node.attr) in facts.attributes:
            return (facts.attributes[above, node.attr],)
    owners = [above for above in facts.kinds.above(kind) if (above, node.attr) in facts.properties]
    others = (below for below in facts.kinds.below(kind) if below not in owners[:1])
    if owners and not any((below, node.attr) in facts.overrides for below in others):
        return (_value(facts.properties[owners[0], node.attr], {"self": kind}, facts),)
    return ()


def _compared(node: ast.Compare, kinds: Locals, facts: _Facts) -> bool | None:
    """Whether a chain of comparisons holds; None where that is not known."""
    if any(type(each) not in COMPARISONS for each in node.ops):
        return None
    holds = True
    for left, each, right in zip([node.left, *node.comparators], node.ops, node.comparators):
        try:
            if not COMPARISONS[type(each)](_value(left, kinds, facts), _value(right, kinds, facts)):
                return False  # one link that does not hold ends the chain
        except _UnknownError:
            holds = False
    return holds or None


def _joined(node: ast.BoolOp, kinds: Locals, facts: _Facts) -> bool | None:
    """What `and` or `or` comes to; None where that is not known."""
    ends = isinstance(node.op, ast.Or)  # one part that is so ends it
    parts = []
    for part in node.values:
        try:
            parts.append(bool(_value(part, kinds, facts)))
        except _UnknownError:
            continue
    if ends in parts:
        return ends
    return not ends if len(parts) == len(node.values) else None
