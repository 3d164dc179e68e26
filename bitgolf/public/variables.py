"""The environment variables of the public scripts as changes to a recipe: `--env EMA_DECAY=0.997`.

All that are given are applied together, so that their order is nothing.
"""

import functools
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bitgolf.adapt.documents import LoraAdapter, LoraDocuments
from bitgolf.adapt.lora import LORA_TARGETS
from bitgolf.base.errors import PlanError
from bitgolf.base.plan import Plan, field_types
from bitgolf.net.model import parameter_shapes
from bitgolf.public.names import (
    FOLLOWING,
    IGNORED,
    KINDS,
    LORA_SWITCHES,
    OTHER_NAMES,
    PLANS,
    RATES,
    SWITCHES,
    TECHNIQUES,
    WHY_IGNORED,
    Given,
    Row,
    is_on,
    later,
    read_variables,
)
from bitgolf.public.rates import group_rules, groups_with, row_groups, unused_rates, with_rates
from bitgolf.recipe import Recipe
from bitgolf.score.windows import Chunked, Growing, PerDocument, Sliding

# Variables whose value is not that of the field, or is not read where another one is given.
WORKED_OUT = {*LORA_SWITCHES} | {
    *("EMBEDDING_DIM", "MAX_VAL_SEQS", "MLP_HIDDEN", "ROPE_TRAIN_SEQ_LEN", "ROPE_YARN", "TTT_FREEZE_BLOCKS")
}


def apply_variables(recipe: Recipe, variables: Mapping[str, str]) -> Recipe:
    """The recipe as the public variables change it, all of them together. SEED changes no recipe.

    Raises PlanError with all problems: unknown variables, techniques that are not built, values of another
    type, variables that would change nothing, and settings that do not fit.
    """
    given, problems = read_variables(variables)
    recipe = _by_documents(recipe, given)
    values = _values(recipe, given)
    changes: dict[str, Any] = {}
    held: set[type] = set()
    for path in dict.fromkeys(row.path for row in TECHNIQUES):
        inner, slot = _at(recipe, path)
        try:
            slot = _slot(slot, path, given, values)
        except PlanError as error:
            problems += [_signed(problem, given, path) for problem in error.problems]
        changes[inner] = slot
        held |= {type(part) for part in _parts(slot)}
    problems += _idle(held, given, values)
    try:
        for row in PLANS:
            changes |= {f"{row.path}.{field}": value for field, value in row.given_fields(values).items()}
        recipe = with_rates(recipe, recipe.replace(changes), given)
    except PlanError as error:
        problems += [_signed(problem, given) for problem in error.problems]
    if problems:
        raise PlanError(dict.fromkeys(problems))
    return recipe


def _values(recipe: Recipe, given: Given) -> dict[str, Any]:
    """The values as this recipe takes them, where they depend on others or on what it has."""
    values = {name: value for name, value in given.items() if value is not None}
    length = given.get("TRAIN_SEQ_LEN", recipe.data.sequence_length)
    if given.get("EMBEDDING_DIM") == given.get("MODEL_DIM", recipe.model.width):
        values["EMBEDDING_DIM"] = 0
    if "MAX_VAL_SEQS" in given:  # sequences of training, which public scripts score side by side
        values["MAX_VAL_SEQS"] *= length
    if "MLP_MULT" in given:
        values.setdefault("MLP_HIDDEN", 0)
    if given.keys() & {"ROPE_YARN", "ROPE_TRAIN_SEQ_LEN"}:  # from which length on the base is rescaled
        on = given.get("ROPE_YARN", getattr(recipe.model.position, "reference_length", 0) > 0)
        reference = given.get("ROPE_TRAIN_SEQ_LEN", length) if on else 0
        values |= {"ROPE_YARN": reference, "ROPE_TRAIN_SEQ_LEN": reference}
    if "TTT_FREEZE_BLOCKS" in given:
        count = min(given["TTT_FREEZE_BLOCKS"], given.get("NUM_LAYERS", recipe.model.layers))
        values["TTT_FREEZE_BLOCKS"] = tuple(f"blocks.{layer}.*" for layer in range(count))
    if switched := {target: given[name] for name, target in LORA_SWITCHES.items() if name in given}:
        targets = getattr(recipe.score.adapter, "targets", LoraDocuments().targets)
        adapted = tuple(one for one in LORA_TARGETS if switched.get(one, one in targets))
        values |= dict.fromkeys(LORA_SWITCHES, adapted)
    windows = _at(recipe, "score.windows")[1]
    if isinstance(windows, (Chunked, Sliding)):
        # A recipe that scores at its training length goes on to do so, as in public.
        follows = "EVAL_SEQ_LEN" in given or windows.length == recipe.data.sequence_length
        values["EVAL_SEQ_LEN"] = given.get("EVAL_SEQ_LEN") or (length if follows else windows.length)
    return values


def _by_documents(recipe: Recipe, given: Given) -> Recipe:
    """The recipe, with windows of each document alone where variables bring low-rank additions for each."""
    lora = any(isinstance(row.part, LoraAdapter) and row.state(given) for row in TECHNIQUES)
    if lora and not isinstance(recipe.score.windows, PerDocument):
        return recipe.replace({"score.windows": PerDocument(within=Growing())})
    return recipe


def _at(recipe: Recipe, path: str) -> tuple[str, Any]:
    """The path of a setting and its value; of windows cut by documents, those within each."""
    value: Any = functools.reduce(getattr, path.split("."), recipe)
    return _at(recipe, f"{path}.within") if isinstance(value, PerDocument) else (path, value)


def _parts(slot: Any) -> tuple[Any, ...]:
    return slot if isinstance(slot, tuple) else (slot,)


def _slot(slot: Any, path: str, given: Given, values: Given) -> Any:
    """What a slot holds after the variables, given what it holds now."""
    rows = [row for row in TECHNIQUES if row.path == path]
    held = _parts(slot)
    own = [row for row in rows if row.kind in map(type, held)]
    on = {row.kind: row for row in rows if row.state(given)}
    out = {row.kind for row in own for part in held if type(part) is row.kind and row.takes_out(part, given)}
    parts = [part for part in held if type(part) in on or type(part) not in out]
    new = [row for row in on.values() if row not in own]
    if isinstance(slot, tuple):
        order = [row.kind for row in rows]
        for row in new:  # before the first that comes later in the table
            later_kinds = order[order.index(row.kind) :]
            index = next((i for i, part in enumerate(parts) if type(part) in later_kinds), len(parts))
            parts.insert(index, row.part)
    else:
        # What the technique that is there shares with another one does not bring in the other.
        shared = {name for row in own for name in row.fields}
        new = [row for row in new if row.fields.keys() & given.keys() - shared]
        rivals = [on[type(slot)], *new] if type(slot) in on else new
        if len(rivals) > 1:
            names = ", ".join(name for row in rivals for name in row.fields if name in given)
            raise PlanError([f"{names}: {path} holds only one of {_words(rivals)}; give one of them"])
        parts = [row.part for row in new] or parts or [own[0].without]
    fields: dict[type, dict[str, Any]] = {}
    for row in rows:
        if row.state(given) is not False:
            fields[row.kind] = fields.get(row.kind, {}) | row.given_fields(values)
    parts = [part.replace(fields.get(type(part), {})) for part in parts]
    return tuple(parts) if isinstance(slot, tuple) else parts[0]


def _idle(held: Container[type], given: Given, values: Given) -> Iterator[str]:
    """Variables of techniques that are not there, and that nothing given switches on or off."""
    for name in given:
        owners = [row for row in TECHNIQUES if name in row.fields]
        if not owners or name in SWITCHES or not is_on(name, given[name]):
            continue
        switches = ({*row.on, *row.also, *row.unless} & {*given} - {name} for row in owners)
        if not any(row.kind in held or switched for row, switched in zip(owners, switches)):
            ways = " or ".join(row.on[0] for row in owners if row.on)
            way_out = f"; give {ways} too" if ways else f" in {owners[0].path}"
            yield f"{name}: the recipe has no {_words(owners)}{way_out}"
    if given.get("ROPE_TRAIN_SEQ_LEN") and not (values["ROPE_YARN"] or given.keys() & {"ROPE_YARN", "NOPE"}):
        yield "ROPE_TRAIN_SEQ_LEN: the recipe rescales no base; give ROPE_YARN too"


def _signed(problem: str, given: Given, path: str = "") -> str:
    """A problem, in a slot if it has a path, with the variables that it may come from."""
    keys = problem.partition(":")[0].split(".")
    words = {name: set(re.findall(r"\w+", " ".join(one.words for one in targets(name)))) for name in given}
    names = [name for name in given if words[name].issuperset(keys)]
    names = names or [name for name in given if keys[-1] in words[name]]
    names = names or [name for name in given if path and words[name].issuperset(path.split("."))]
    return f"{problem} ({', '.join(names)})" if names and keys[0] not in KINDS else problem


def _words(rows: Iterable[Row]) -> str:
    return " and ".join(row.kind.__name__ for row in rows)


class Target(NamedTuple):
    """What a variable sets: in words, and how to look it up; None where it is not in a recipe."""

    words: str
    look: Callable[[Recipe], Any]


def targets(name: str, given: Iterable[str] = ()) -> list[Target]:
    """What a variable sets, among others that are given."""
    first = OTHER_NAMES.get(name, name)
    found = [
        Target(row.words(first, group), functools.partial(_look, row, row.fields[first], group))
        for row in (*PLANS, *RATES, *TECHNIQUES, *FOLLOWING)
        if first in row.fields
        for group in groups_with(row, first, given) or ("",)
    ]
    return found or [Target("the seed of the run", lambda recipe: None)]


def _look(row: Row, field: str, group: str, recipe: Recipe) -> Any:
    parts = [part for _, part in _standing(row, recipe)]
    if group:
        parts = [group_rules(recipe.optim, parameter_shapes(recipe.model)).get(group)]
    value = parts[0] if parts else None
    for key in field.split(".") if field else ():
        value = getattr(value, key, None)
    return value if field else bool(parts)


def _standing(row: Row, recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """The parts of a recipe that a row is about, each with its path."""
    if row.groups:
        groups = row_groups(recipe.optim.rows, parameter_shapes(recipe.model))
        for index, (own, known) in enumerate(zip(recipe.optim.rows, groups)):
            if known and known <= set(row.groups):
                yield f"optim.rows.{index}.rule", own.rule
        return
    path, slot = _at(recipe, row.path)
    for index, part in enumerate(_parts(slot)):
        if row.part is None or type(part) is row.kind:
            yield f"{path}.{index}" if isinstance(slot, tuple) else path, part


def variable_rows(
    before: Recipe, after: Recipe, variables: Mapping[str, str]
) -> list[tuple[str, str, str, Any, Any]]:
    """What the variables did, for people: name, value, setting, before, after; one row for all ignored."""
    rows: list[tuple[str, str, str, Any, Any]] = []
    ignored = [name for name in variables if name in IGNORED]
    for name, text in variables.items():
        if name in ignored:
            continue
        if later(name):
            rows.append((name, text, "off here too", None, None))
            continue
        found = [(name, text, p.words, p.look(before), p.look(after)) for p in targets(name, variables)]
        found = [row for row in found if row[4] is not None] or found
        rows += [row for row in found if row[3] != row[4]] or found[:1]
    if ignored:
        rows.append((", ".join(ignored), "", WHY_IGNORED, None, None))
    if len(before.optim.rows) != len(after.optim.rows):
        was, is_now = (f"{len(recipe.optim.rows)} rows" for recipe in (before, after))
        rows.append(("", "", "optim.rows, for new parameters", was, is_now))
    return rows


def variables_of(technique: type[Plan]) -> tuple[str, ...]:
    """The public variables that switch a technique on or set something in it."""
    rows = [row for row in (*TECHNIQUES, *RATES) if row.kind is technique]
    return _with_other_names(name for row in rows for name in row.fields)


def variables_at(path: str) -> tuple[str, ...]:
    """The public variables that set the setting at a path."""
    names = [n for row in (*PLANS, *FOLLOWING) for n in row.fields if f"{row.path}.{row.fields[n]}" == path]
    return _with_other_names([*names, *(n for row in TECHNIQUES if row.path == path for n in row.fields)])


def names_by_path(recipe: Recipe) -> dict[str, str]:
    """The public variables of which each is one setting of this recipe, by the path of that setting."""
    skipped = {*WORKED_OUT, *unused_rates(recipe), *(["MLP_MULT"] if recipe.model.mlp_hidden else [])}
    found: dict[str, str] = {}
    for row in (*PLANS, *TECHNIQUES, *RATES):
        for path, part in _standing(row, recipe):
            for name, field in row.fields.items():
                own = getattr(part, "weight_decay", 0) or not field.startswith("taper")  # else nothing tapers
                if own and name not in skipped and field.partition(".")[0] in field_types(type(part)):
                    found[f"{path}.{field}"] = name
    if type(recipe.score.windows) is Chunked and recipe.score.windows.length == recipe.data.sequence_length:
        found["score.windows.length"] = "TRAIN_SEQ_LEN"
    return found


def _with_other_names(names: Iterable[str]) -> tuple[str, ...]:
    first = dict.fromkeys(names)
    return (*first, *(other for other, name in OTHER_NAMES.items() if name in first))
