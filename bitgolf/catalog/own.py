"""The techniques in a user's own file, and what is missing in their classes and cards."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from bitgolf.base.errors import BitgolfError, PlanError, nearest
from bitgolf.base.plan import Plan, members
from bitgolf.catalog.techniques import LABELS, Technique, card_of, settings_of, slots, weight_of
from bitgolf.inputs.resolve import mending, module_of
from bitgolf.script.flatten import literal
from bitgolf.script.own import OWN_CODEC, is_own_codec, kinds_of


def techniques_in(path: Path, name: str = "") -> list[Technique]:
    """The techniques that a user's file defines, in its order, or the one of that name.

    Raises BitgolfError where there is none, and for a file that cannot be executed.
    """
    paths = slots()
    if not path.is_file():
        raise BitgolfError("no such file", where=str(path))
    with mending(path, str(path)):
        kinds = kinds_of(module_of(path))
    own = []
    for kind in kinds:
        slot = next((slot for slot in paths if kind in members(slot).values()), None)
        if slot is not None:
            card = card_of(kind.__dict__.get("__doc__") or "")
            own.append(Technique(kind.__name__, slot.__name__, paths[slot], card, None, kind))
    if not own:
        names = ", ".join(slot.__name__ for slot in paths)
        raise BitgolfError(
            "no technique in this file", where=str(path), way_out=f"subclass a slot, which is one of {names}"
        )
    chosen = [one for one in own if name in ("", one.name)]
    if not chosen:
        hint = nearest(name, [one.name for one in own])
        raise BitgolfError("no such technique in this file", where=f"{path}:{name}", way_out=hint)
    return chosen


def faults_of(technique: Technique) -> list[str]:
    """What its class and card lack, each in a line; nothing when it is as ours are."""
    kind, card = technique.kind, technique.card
    assert kind is not None
    faults = []
    text = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
    title, _, rest = text.partition("\n\n")
    if not _is_written(kind):
        faults.append("the class has no docstring, which is its card")
    elif not title or "\n" in title:
        faults.append("its card needs a title of one line, then an empty line")
    if _is_written(kind):
        values = dict(zip(LABELS, (card.what, card.source, card.cost, card.not_for, card.neutral)))
        faults += [f"its card has no line `{label}: ...`" for label, value in values.items() if not value]
        order = [line.partition(":")[0] for line in rest.splitlines() if line.partition(":")[0] in LABELS]
        if all(values.values()) and tuple(order) != LABELS:
            faults.append(f"the lines of its card stand in the order {', '.join(LABELS)}")
    parameters = kind.__dict__.get("__dataclass_params__")
    if parameters is None or not parameters.frozen or inspect.getfullargspec(kind).args != ["self"]:
        faults.append("the class needs @dataclasses.dataclass(frozen=True, kw_only=True)")
    parent = next((base for base in kind.__mro__[1:] if issubclass(base, Plan) and _is_technique(base)), None)
    if parent is not None:
        faults.append(f"it subclasses {parent.__name__}, a technique; subclass {technique.slot}")
    if is_own_codec(kind):
        faults.append(f"it {OWN_CODEC}")
    bare = [f.name for f in dataclasses.fields(kind) if _has_no_default(f)]
    return faults + [f"its setting {name} has no default" for name in bare]


def _is_written(kind: type[Plan]) -> bool:
    """Whether a class has a docstring; a data class without one is given its signature."""
    text = kind.__dict__.get("__doc__") or ""
    return bool(text.strip()) and not text.startswith(f"{kind.__name__}(")


def _is_technique(kind: type[Plan]) -> bool:
    slotted = any(base.__dict__.get("abstract") for base in kind.__mro__[1:])
    return slotted and not kind.__dict__.get("abstract")


def _has_no_default(field: "dataclasses.Field[object]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def example_of(technique: Technique) -> Plan:
    """The technique at its defaults. Raises BitgolfError where it has none that are right."""
    assert technique.kind is not None
    try:
        return technique.kind()
    except (TypeError, PlanError) as error:
        raise BitgolfError(f"cannot be made with its defaults: {error}", where=technique.name) from None


def own_record(technique: Technique) -> dict[str, Any]:
    """All that is known of a technique in a user's file, its faults too, as JSON data.

    parameters, bytes: None where the baseline cannot have it at its defaults, which is a fault then.
    """
    faults = faults_of(technique)
    weight: tuple[int | None, int | None] = (None, None)
    try:
        weight = weight_of(dataclasses.replace(technique, example=example_of(technique)))
    except Exception as error:  # a user's class may fail in any way
        faults.append(f"the baseline cannot have it at its defaults: {' '.join(str(error).split())}")
    return {
        "name": technique.name,
        "slot": technique.slot,
        "path": technique.path,
        **technique.card._asdict(),
        "parameters": weight[0],
        "bytes": weight[1],
        "settings": [row | {"default": literal(row["default"])} for row in settings_of(technique)],
        "public_variables": [],
        "recipes": [],
        "faults": faults,
    }
