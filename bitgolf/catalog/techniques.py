"""Every technique, found in the code; `python -m bitgolf.catalog.techniques` writes the page."""

import dataclasses
import functools
import inspect
import math
import re
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from bitgolf import READING_ORDER, import_core
from bitgolf.base.files import read_json, write_json
from bitgolf.base.plan import Plan, describe, field_types, members, to_json
from bitgolf.catalog.glance import glance_at
from bitgolf.catalog.shipped import PACKAGE_FOLDER, SHIPPED, path_in_words, source_hashes, written
from bitgolf.catalog.single_settings import SINGLE_SETTINGS
from bitgolf.forecast.budget import packed_size
from bitgolf.inputs.resolve import LAPTOP, find_recipe
from bitgolf.net.model import parameter_shapes
from bitgolf.net.values import ValueEmbedding
from bitgolf.public.names import IGNORED, KINDS, LATER, OTHER_NAMES, variables_of
from bitgolf.public.variables import targets
from bitgolf.recipe import Recipe
from bitgolf.recipes import recipe_names
from bitgolf.script.flatten import literal
from bitgolf.script.own import plans_in
from bitgolf.squeeze.codec import Codec
from bitgolf.squeeze.hessian import TrainText
from bitgolf.squeeze.presets import rate_aware
from bitgolf.squeeze.quantize import QuantizePlan, Quantizer

WEIGHTS = PACKAGE_FOLDER / "catalog" / "weights.json"
PAGE = PACKAGE_FOLDER.parent / "docs" / "techniques.md"
LABELS = ("What", "Source", "Cost", "Not for", "Neutral")
PLAIN_SETTINGS = "Settings"  # the slot of techniques that are one setting

# What the baseline is measured with where a technique's defaults do not fit its nine layers.
EXAMPLES: dict[type[Plan], Plan] = {ValueEmbedding: ValueEmbedding(layers=(7, 8))}


class Card(NamedTuple):
    """What a technique says of itself; notes: whatever follows its five lines."""

    title: str
    what: str
    source: str
    cost: str
    not_for: str
    neutral: str
    notes: str


@dataclasses.dataclass(frozen=True)
class Technique:
    """A technique and where it stands in a recipe.

    slot: the abstract plan that it is a member of. path: of the slot, or of the one setting that it is.
    example: what the baseline is measured with.
    """

    name: str
    slot: str
    path: str
    card: Card
    example: Any
    kind: type[Plan] | None = None

    @property
    def variables(self) -> tuple[str, ...]:
        """The public variables that switch it on or set something in it."""
        return variables_of(self.kind or self.path)


def card_of(text: str) -> Card:
    """A card from the docstring that it is written in."""
    title, _, rest = inspect.cleandoc(text).partition("\n\n")
    lines, _, notes = rest.partition("\n\n")
    parts = re.split(rf"^({'|'.join(LABELS)}):", lines, flags=re.MULTILINE)
    fields = dict.fromkeys(LABELS, "")
    fields |= {label: " ".join(value.split()) for label, value in zip(parts[1::2], parts[2::2])}
    what, source, cost, not_for, neutral = fields.values()
    return Card(title, what, source, cost, not_for, neutral, " ".join(notes.split()))


def slots() -> dict[type[Plan], str]:
    """Every slot with its path, in the order of the recipe; 0 stands for any place in a tuple."""
    import_core()
    paths: dict[type[Plan], str] = {}
    owners: list[tuple[type[Plan], str]] = [(Recipe, "")]
    for owner, path in owners:  # grows: a slot of the recipe's own plans comes before the same in a member
        _collect(owner, path, paths, owners)
    order = list(field_types(Recipe))
    return dict(sorted(paths.items(), key=lambda item: order.index(item[1].split(".")[0])))


def _collect(
    owner: type[Plan], path: str, paths: dict[type[Plan], str], members_too: list[tuple[type[Plan], str]]
) -> None:
    for name, hint in field_types(owner).items():
        here = f"{path}.{name}".lstrip(".")
        many = typing.get_origin(hint) is tuple
        kind = typing.get_args(hint)[0] if many else hint
        if not (isinstance(kind, type) and issubclass(kind, Plan)):
            continue
        if any(issubclass(kind, slot) for slot in paths):  # known, or a narrower choice of what is known
            continue
        inside = f"{here}.0" if many else here
        if kind.__dict__.get("abstract"):
            paths[kind] = here
            members_too += [(member, inside) for member in members(kind).values()]
        else:
            _collect(kind, inside, paths, members_too)


def own_members(slot: type[Plan]) -> list[tuple[str, type[Plan]]]:
    """The members of a slot that a submission can contain, in reading order."""
    order = {f"bitgolf.{name}": number for number, name in enumerate(READING_ORDER)}
    own = [(name, kind) for name, kind in members(slot).items() if kind.__module__ in order]
    return sorted(own, key=lambda item: order[item[1].__module__])


@functools.cache
def techniques() -> tuple[Technique, ...]:
    """All techniques: the members of every slot, then the single settings that are one."""
    from_slots = [
        Technique(name, slot.__name__, path, card_of(kind.__doc__ or ""), EXAMPLES.get(kind) or kind(), kind)
        for slot, path in slots().items()
        for name, kind in own_members(slot)
    ]
    single = (Technique(n, PLAIN_SETTINGS, path, card_of(card), e) for n, path, e, card in SINGLE_SETTINGS)
    return (*from_slots, *single)


def settings_of(technique: Technique) -> list[dict[str, Any]]:
    """Its settings: name, type, default, limits in words, and the public variables of each."""
    owner, name = technique.kind, ""
    if owner is None:
        path, _, name = technique.path.rpartition(".")
        owner = Recipe
        for key in path.split("."):
            owner = field_types(owner)[key]
    rows = []
    for field in dataclasses.fields(owner):
        if name and field.name != name:
            continue
        names = technique.variables
        if technique.kind is not None:
            names = tuple(
                n for n in names if any(_sets(label, technique, field.name) for label, _ in targets(n))
            )
        rows.append(
            {
                "name": field.name,
                "type": describe(field_types(owner)[field.name]),
                "default": field.default,
                "limits": limits_in_words(field.metadata),
                "variables": list(names),
            }
        )
    return rows


def _sets(setting_text: str, technique: Technique, field: str) -> bool:
    """Whether a target, in words, is this setting of the technique."""
    owner, _, setting = setting_text.rpartition(": ")
    if setting == f"{technique.name}.{field}" or setting_text == f"{technique.path}.{field}":
        return True
    return technique.slot == "Rule" and owner.startswith("optim.rows") and setting == field


def limits_in_words(limits: typing.Mapping[str, Any]) -> str:
    """'at least 0, below 1.0' or 'one of input, queries'."""
    parts = []
    for name, bound in limits.items():
        bound = ", ".join(map(str, bound)) if isinstance(bound, tuple) else bound
        parts.append(f"{name.replace('_', ' ')} {bound}")
    return ", ".join(parts)


def recipes_with(technique: Technique) -> list[str]:
    """The recipes that ship and use it; of a setting, those that change it."""
    names = []
    for name in recipe_names():
        recipe = find_recipe(name)
        if technique.kind is not None:
            uses = any(type(plan) is technique.kind for plan in plans_in(recipe))
        else:
            uses = value_at(recipe, technique.path) != value_at(Recipe(), technique.path)
        names += [name] * uses
    return names


def value_at(recipe: Recipe, path: str) -> Any:
    """The value of a setting, or a slot, by its dotted path."""
    value: Any = recipe
    for key in path.split("."):
        value = value[int(key)] if key.isdigit() else getattr(value, key)
    return value


def weight_of(technique: Technique) -> tuple[int, int]:
    """Shipped parameters and packed bytes that the baseline at full size gains with it.

    Of our own techniques they are known, as packing them all takes a minute; others are weighed.
    """
    weights = _known_weights().get(technique.name)
    own = technique.kind is None or technique.kind.__module__.removeprefix("bitgolf.") in READING_ORDER
    return (weights[0], weights[1]) if weights and own else weigh(technique)


@functools.cache
def _known_weights() -> dict[str, list[int]]:
    return read_json(WEIGHTS) if WEIGHTS.is_file() else {}


def weigh(technique: Technique) -> tuple[int, int]:
    """The same, measured; what scores has no weights."""
    if technique.path.startswith("score."):
        return 0, 0
    baseline = find_recipe("baseline")
    if technique.path.startswith("quantize"):  # what its members ask for
        rules = rate_aware().rules if technique.path == "quantize.rate" else baseline.quantize.rules
        plan = QuantizePlan(rules=rules, calibration=TrainText(outputs=True))
        baseline = baseline.replace(quantize=plan)
    held = value_at(baseline, technique.path)
    many = technique.kind is not None and isinstance(held, tuple)
    changed = baseline.replace({technique.path: (*held, technique.example) if many else technique.example})
    before, after = (_weight(recipe) for recipe in (baseline, changed))
    return after[0] - before[0], after[1] - before[1]


@functools.cache
def _weight(recipe: Recipe) -> tuple[int, int]:
    shapes = parameter_shapes(recipe.model.shipped())
    packed = 0
    for name, shape in shapes.items():
        if rule := recipe.quantize.rule_of(name, torch.empty(shape, device="meta")):
            packed += _packed(rule.quantizer, shape, recipe.pack.codec)
    return sum(math.prod(shape) for shape in shapes.values()), packed


@functools.cache
def _packed(quantizer: Quantizer, shape: tuple[int, ...], codec: Codec) -> int:
    return packed_size(quantizer, shape, codec)[1]


def record(technique: Technique) -> dict[str, Any]:
    """All that is known of a technique, as JSON data."""
    parameters, packed = weight_of(technique)
    return {
        "name": technique.name,
        "slot": technique.slot,
        "path": technique.path,
        **technique.card._asdict(),
        "parameters": parameters,
        "bytes": packed,
        "settings": [row | {"default": literal(row["default"])} for row in settings_of(technique)],
        "public_variables": list(technique.variables),
        "recipes": recipes_with(technique),
    }


def by_slot() -> Iterator[tuple[str, list[Technique]]]:
    """Groups of techniques under a heading: the slot, its path, what it is for."""
    purposes = {slot.__name__: (inspect.getdoc(slot) or "").partition("\n")[0] for slot in slots()}
    for slot in dict.fromkeys(one.slot for one in techniques()):
        group = [one for one in techniques() if one.slot == slot]
        if slot == PLAIN_SETTINGS:
            yield f"{slot}: single settings that are a technique", group
            continue
        purpose = re.split(r"[.;]( |$)", re.sub(r"^(The slot of|Slot:) ", "", purposes[slot]))[0]
        yield f"{slot} ({path_in_words(group[0].path)}): {purpose[:1].lower()}{purpose[1:]}", group


def catalogue() -> dict[str, dict[str, Any]]:
    """What `bitgolf.catalog.shipped` reads again: techniques, recipes, and the defaults of their classes."""
    names = [name + ending for name in recipe_names() for ending in ("", LAPTOP)]
    kinds = {type(plan) for name in names for plan in plans_in(find_recipe(name))}
    kinds |= {kind for slot in slots() for _, kind in own_members(slot)}
    return {
        "sources": source_hashes(),
        **technique_entries(),
        "recipes": {name: glance_at(name) for name in names},
        "classes": {
            kind.__name__: defaults_of(kind) for kind in sorted(kinds, key=lambda kind: kind.__name__)
        },
    }


def technique_entries() -> dict[str, dict[str, Any]]:
    """The techniques of each heading by name, and all that is known of each."""
    return {
        "groups": {heading: [one.name for one in group] for heading, group in by_slot()},
        "techniques": {one.name: record(one) for one in techniques()},
    }


def defaults_of(kind: type[Plan]) -> dict[str, Any]:
    """The defaults of its settings as JSON data, as far as they have any."""
    fields = dataclasses.fields(kind)
    return {f.name: to_json(f.default) for f in fields if f.default is not dataclasses.MISSING}


INTRODUCTION = """\
# Techniques

Each is one class or one setting: its card in five lines, its settings, and the environment variables of the
public scripts that set them (`bitgolf run RECIPE --env NAME=VALUE`). `bitgolf techniques` prints them with
what they weigh.

This page is generated by `python -m bitgolf.catalog.techniques`; a test keeps it up to date.
"""

VARIABLES = """\
## Public variables

All that are given are applied together, before `--set`; their order is nothing. 0 or an empty text is off, as
in the public scripts. A parameter of a new part is trained in the public group that it belongs to: where a
recipe has no row for that group, its table becomes that of `public_rows`, with the same rates.
"""


def page() -> str:
    """The text of docs/techniques.md."""
    lines = [INTRODUCTION]
    for heading, group in by_slot():
        lines += [f"## {heading}", ""]
        for one in group:
            lines += [f"### {one.name}", "", _escaped(one.card.title), ""]
            values = (one.card.what, one.card.source, one.card.cost, one.card.not_for, one.card.neutral)
            lines += [f"- **{label}:** {_escaped(value)}" for label, value in zip(LABELS, values)]
            if parameters := weight_of(one)[0]:
                lines.append(
                    f"- **Parameters:** {parameters:+,} with `{literal(one.example)}` in the baseline."
                )
            if one.kind is None:
                lines.append(f"- **Setting:** `{one.path}`")
            rows = settings_of(one)
            switches = [n for n in one.variables if not any(n in row["variables"] for row in rows)]
            if switches:
                lines.append(f"- **Public variables:** {_codes(switches)}")
            lines += ["", _escaped(one.card.notes)] if one.card.notes else []
            lines += ["", *_settings_table(rows), ""] if rows else [""]
    return "\n".join([*lines, VARIABLES, *_variables_table(), ""])


def _settings_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| setting | type | default | limits | public variables |"
    yield "|---|---|---|---|---|"
    for row in rows:
        default = literal(row["default"]) or "''"
        cells = (f"`{row['name']}`", row["type"], f"`{default}`", row["limits"], _codes(row["variables"]))
        yield f"| {' | '.join(cells)} |"


def _variables_table() -> Iterator[str]:
    yield "| variable | also called | sets |"
    yield "|---|---|---|"
    for name in sorted(KINDS):
        others = [other for other, first in OTHER_NAMES.items() if first == name]
        yield f"| `{name}` | {_codes(others)} | {'; '.join(label for label, _ in targets(name))} |"
    yield ""
    yield "Known, and refused unless they are off:"
    yield ""
    yield from (f"- `{name}`: {what}" for name, what in LATER.items())
    yield ""
    yield f"Ignored, for they describe the machine, its files or the log: {_codes(IGNORED)}."


def _codes(names: typing.Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _escaped(text: str) -> str:
    return re.sub(r"([*<])", r"\\\1", text)


if __name__ == "__main__":
    # Known weights are kept; delete the file to weigh all again.
    write_json(WEIGHTS, {one.name: weight_of(one) for one in techniques()})
    SHIPPED.write_text(written(catalogue()), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
