"""Frozen settings. A plan validates all its settings, can be compared, changed by path, and written as JSON.

A technique is a plan that can do its own work: settings and behaviour are one class. A slot is an abstract
plan. Its subclasses are found through `__subclasses__`, so there is no registry of techniques.
"""

import ast
import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeGuard, TypeVar

from bitgolf.base.errors import PlanError, displayed, nearest

P = TypeVar("P", bound="Plan")
MOST_ITEMS = 10_000  # of a setting that is a list


def setting(
    default: object,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    one_of: tuple[object, ...] | None = None,
) -> Any:
    """A field of a plan with its default and the limits its value must respect."""
    limits = {"at_least": at_least, "at_most": at_most, "above": above, "below": below, "one_of": one_of}
    return dataclasses.field(default=default, metadata={k: v for k, v in limits.items() if v is not None})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Base of all settings. Subclasses are frozen, keyword-only data classes, checked when constructed."""

    def __post_init__(self) -> None:
        for name, kind in field_types(type(self)).items():
            if kind is float and type(getattr(self, name)) is int:
                object.__setattr__(self, name, _float(getattr(self, name)))  # 2 and 2.0 are one identity
        problems = list(field_problems(self)) or list(self.validate())
        if problems:
            raise PlanError(f"{type(self).__name__}.{problem}" for problem in problems)

    def validate(self) -> Iterator[str]:
        """Yields problems between fields, as 'field: sentence'; each field alone has been checked before."""
        return iter(())

    def replace(self, overrides: Mapping[str, object] | None = None, /, **fields: object) -> Self:
        """A copy with changes: `plan.replace(width=3)` or by dotted path `plan.replace({"train.steps": 3})`.

        All changes are made together and checked together, so their order does not matter.
        """
        return _replace(self, {tuple(k.split(".")): v for k, v in {**(overrides or {}), **fields}.items()})

    def identity(self) -> str:
        """16 hex digits that name these settings: equal settings, equal identity, on any machine."""
        return hashlib.sha256(json.dumps(to_json(self), sort_keys=True).encode()).hexdigest()[:16]


def members(slot: type[P]) -> dict[str, type[P]]:
    """The concrete classes that can stand in a slot, by name."""
    concrete = {} if slot.__dict__.get("abstract") else {slot.__name__: slot}
    for child in slot.__subclasses__():
        concrete.update(members(child))
    return concrete


def field_types(plan: type[Plan]) -> Mapping[str, Any]:
    """The resolved annotation of each field."""
    return _field_types(typing.cast(Any, plan))


@functools.cache  # takes a millisecond, and every new plan needs it
def _field_types(plan: Any) -> Mapping[str, Any]:  # a class, which mypy does not take as hashable
    hints = typing.get_type_hints(plan)
    return {field.name: hints[field.name] for field in dataclasses.fields(plan)}


def field_problems(plan: Plan) -> Iterator[str]:
    """Fields of the wrong type or outside their limits, as 'field: sentence'."""
    kinds = field_types(type(plan))
    for field in dataclasses.fields(plan):
        value = getattr(plan, field.name)
        items = value if type(value) is tuple else (value,)
        if len(items) > MOST_ITEMS:
            yield f"{field.name}: {_too_many(items)}"
            continue
        # A setting of 2**63 or more, seeds too, is a typing error.
        odd = [item for item in items if type(item) in (int, float) and not abs(item) < 2**63]
        if not _fits(value, kinds[field.name]):
            yield f"{field.name}: expected {describe(kinds[field.name])}, found {displayed(value)}"
        elif odd:
            yield f"{field.name}: expected a finite number below 2**63, found {odd[0]!r}"
        else:
            yield from (f"{field.name}: {text}" for text in _limit_problems(value, field.metadata))


def _too_many(items: Sequence[object]) -> str:
    return f"at most {MOST_ITEMS:,} items in a list, found {len(items):,}"


# Any: a value of any type is compared with its limits.
def _limit_problems(value: Any, limits: Mapping[str, Any]) -> Iterator[str]:
    if "one_of" in limits and value not in limits["one_of"]:
        hint = nearest(value, limits["one_of"]) if isinstance(value, str) else f"one of {limits['one_of']}"
        yield f"unknown value {value!r}; {hint}"
    for name, holds in {
        "at_least": lambda bound: value >= bound,
        "at_most": lambda bound: value <= bound,
        "above": lambda bound: value > bound,
        "below": lambda bound: value < bound,
    }.items():
        if name in limits and not holds(limits[name]):
            yield f"must be {name.replace('_', ' ')} {limits[name]}, found {value!r}"


def _fits(value: object, kind: object) -> bool:
    origin = typing.get_origin(kind)
    if origin is types.UnionType or origin is typing.Union:
        return any(_fits(value, option) for option in typing.get_args(kind))
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, typing.get_args(kind)[0]) for item in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(kind, type) and isinstance(value, kind)


def describe(kind: object) -> str:
    """An annotation in words: 'int', 'a list of QuantRule', 'one of Ema, NoAverage'."""
    if typing.get_origin(kind) is tuple:
        return f"a list of {describe(typing.get_args(kind)[0])}"
    if isinstance(kind, type) and issubclass(kind, Plan):
        names = sorted(members(kind))
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    if isinstance(kind, type):
        return "null" if kind is type(None) else kind.__name__
    return " or ".join(describe(option) for option in typing.get_args(kind))


def to_json(value: object) -> Any:
    """A plan as JSON data; every plan names its class."""
    if isinstance(value, Plan):
        data = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": type(value).__name__, **data}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[P], data: object) -> P:
    """The plan that `to_json` wrote. Raises PlanError with all problems, each with its path."""
    problems: list[str] = []
    try:
        plan = _read(kind, data, "", problems)
    except RecursionError:
        problems = ["nested too deeply"]
    if problems:
        raise PlanError(problems)
    return typing.cast(P, plan)


def _read(kind: object, data: object, path: str, problems: list[str]) -> Any:
    options = typing.get_args(kind)
    if typing.get_origin(kind) is tuple and isinstance(data, list):
        if len(data) > MOST_ITEMS:
            problems.append(f"{path.lstrip('.')}: {_too_many(data)}")
            return ()
        return tuple(_read(options[0], item, f"{path}.{i}", problems) for i, item in enumerate(data))
    plan_kind = next((option for option in (kind, *options) if _is_plan(option)), None)
    if plan_kind is not None and isinstance(data, dict):
        return _read_plan(plan_kind, data, path, problems)
    if (kind is float or float in options) and isinstance(data, int) and not isinstance(data, bool):
        return _float(data)
    if not _fits(data, kind):
        problems.append(f"{path.lstrip('.') or 'plan'}: expected {describe(kind)}, found {displayed(data)}")
    return data


def _float(number: int) -> float:
    """A whole number as a float; one too large for a float becomes infinite and is refused later."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _is_plan(kind: object) -> TypeGuard[type[Plan]]:
    return isinstance(kind, type) and issubclass(kind, Plan)


def _read_plan(slot: type[Plan], data: dict[str, Any], path: str, problems: list[str]) -> Any:
    classes = members(slot)
    name = data.get("class", next(iter(classes)) if len(classes) == 1 else None)
    if not isinstance(name, str) or name not in classes:
        problems.append(
            f"{path.lstrip('.') or 'plan'}: unknown class {displayed(name)}; "
            f"{nearest(str(name)[:99], classes)}"
        )
        return None
    chosen = classes[name]
    kinds = field_types(chosen)
    fields = {}
    before = len(problems)
    for key, item in data.items():
        if key == "class":
            continue
        if key not in kinds:
            problems.append(f"{path}.{key}".lstrip(".") + f": unknown setting; {nearest(key[:99], kinds)}")
        else:
            fields[key] = _read(kinds[key], item, f"{path}.{key}", problems)
    if len(problems) > before:
        return None
    try:
        return chosen(**fields)
    except PlanError as error:
        problems += [f"{path}: {problem}".lstrip(".: ") for problem in error.problems]
        return None


def diff(left: object, right: object, path: str = "") -> list[tuple[str, Any, Any]]:
    """The paths at which two plans differ, with both values. Another class in a slot is one difference."""
    if isinstance(left, Plan) and type(left) is type(right):
        pairs = [(f.name, getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left)]
    elif isinstance(left, tuple) and isinstance(right, tuple) and len(left) == len(right):
        pairs = [(str(position), *items) for position, items in enumerate(zip(left, right))]
    else:
        return [] if left == right and type(left) is type(right) else [(path, left, right)]
    return [change for name, a, b in pairs for change in diff(a, b, f"{path}.{name}".lstrip("."))]


def _step(plan: object, key: str, path: str) -> Any:
    if isinstance(plan, tuple) and key.isdigit() and int(key) < len(plan):
        return plan[int(key)]
    settings = field_types(type(plan)) if isinstance(plan, Plan) else {}
    if isinstance(plan, tuple):
        settings = {str(i): None for i in range(len(plan))}
    if key not in settings:
        hint = nearest(key, settings) if settings else "this value has no settings"
        raise PlanError([f"{path}: unknown setting {key!r}; {hint}"])
    return getattr(plan, key)


def _replace(plan: object, overrides: Mapping[tuple[str, ...], object], path: str = "") -> Any:
    """The plan with values at key paths; a child is replaced before its parts are changed.

    Raises PlanError with the problems of all children.
    """
    changed: dict[str, Any] = {}
    problems: list[str] = []
    for key in dict.fromkeys(keys[0] for keys in overrides):
        here = f"{path}.{key}".lstrip(".")
        deeper = {keys[1:]: value for keys, value in overrides.items() if keys[0] == key and len(keys) > 1}
        try:
            child = overrides.get((key,), _step(plan, key, here))
            changed[key] = _replace(child, deeper, here) if deeper else child
        except PlanError as error:
            problems += error.problems
    if problems:
        raise PlanError(problems)
    if isinstance(plan, tuple):
        return tuple(changed.get(str(position), item) for position, item in enumerate(plan))
    assert isinstance(plan, Plan), "_step has refused anything else"
    return dataclasses.replace(plan, **changed)


def parse_overrides(plan: P, texts: Iterable[str]) -> P:
    """Apply `path=value` texts together, each value read by the type of its setting.

    Slots take a class with its settings: `average=Ema(decay=0.99)`. Nothing in the text is executed.
    """
    overrides: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            raise PlanError([f"{text!r}: expected PATH=VALUE, for example train.steps=100"])
        owner, rest = next(
            ((v, path[len(p) + 1 :]) for p, v in overrides.items() if path.startswith(p + ".")), (plan, path)
        )
        overrides[path] = parse_setting(type_at(owner, rest), value, path)
    return plan.replace(overrides)


def type_at(plan: object, path: str) -> Any:
    """The annotation of the setting at a dotted path. Raises PlanError where there is none."""
    kind: Any = type(plan)
    for key in path.split("."):
        child = _step(plan, key, path)
        kind = field_types(type(plan))[key] if isinstance(plan, Plan) else typing.get_args(kind)[0]
        plan = child
    return kind


def parse_setting(kind: object, text: str, path: str) -> Any:
    """A text as a value of that type. Raises PlanError, which names the path."""
    if kind is str:
        return text
    if kind is bool and text.lower() in ("true", "false", "1", "0", "yes", "no"):
        return text.lower() in ("true", "1", "yes")
    try:
        data = _literal(ast.parse(text, mode="eval").body)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise PlanError([f"{path}: cannot read {displayed(text)} as {describe(kind)}"]) from None
    problems: list[str] = []
    value = _read(kind, data, path, problems)
    if problems:
        raise PlanError(problems)
    return value


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        return {"class": node.func.id, **{str(k.arg): _literal(k.value) for k in node.keywords}}
    if isinstance(node, ast.Name):
        return {"class": node.id}
    if isinstance(node, (ast.Tuple, ast.List)):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)
