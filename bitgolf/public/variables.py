"""The environment variables of the public scripts as changes to a recipe: `--env EMA_DECAY=0.997`.

All that are given are applied together, so that their order is nothing.
"""

import functools
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from bitgolf.adapt.documents import LoraAdapter, LoraDocuments
from bitgolf.adapt.lora import LORA_TARGETS
from bitgolf.base.errors import PlanError
from bitgolf.base.plan import field_types
from bitgolf.net.model import parameter_shapes
from bitgolf.public import names as table
from bitgolf.public.names import Given, Row, is_on, read_variables
from bitgolf.public.rates import row_groups, with_rates
from bitgolf.recipe import Recipe
from bitgolf.score.windows import Chunked, Growing, PerDocument, Sliding

Shown = tuple[str, str, str, Any, Any]  # a variable, its value, the setting, what it was and what it is

# Variables whose value is not that of the field, or is not read where another one is given.
WORKED_OUT = {*table.LORA_SWITCHES} | {
    *("EMBEDDING_DIM", "MAX_VAL_SEQS", "MLP_HIDDEN", "ROPE_TRAIN_SEQ_LEN", "ROPE_YARN", "TTT_FREEZE_BLOCKS")
}


def apply_variables(recipe: Recipe, variables: Mapping[str, str]) -> Recipe:
    """The recipe as the public variables change it, all of them together. SEED changes no recipe.

    Raises PlanError with all problems: unknown variables, techniques that are not built, values of another
    type, variables that would change nothing, and settings that do not fit.
    """
    given, problems = read_variables(variables)
    lora = any(isinstance(row.part, LoraAdapter) and row.state(given) for row in table.TECHNIQUES)
    if lora and not isinstance(recipe.score.windows, PerDocument):
        recipe = recipe.replace({"score.windows": PerDocument(within=Growing())})
    values = _values(recipe, given)
    overrides: dict[str, Any] = {}
    for path in dict.fromkeys(row.path for row in table.TECHNIQUES):
        inner, slot = _at(recipe, path)
        overrides[inner] = _slot(slot, path, given, problems)
    held = {type(part) for slot in overrides.values() for part in _parts(slot)}
    problems += _idle(recipe, held, given, values)
    for row in (*table.PLANS, *table.TECHNIQUES):
        inner, slot = _at(recipe, row.path)
        places = _places(row, inner, overrides.get(inner, slot)) if row.state(given) is not False else ()
        for path, name, field in [(p, n, f) for p, _ in places for n, f in row.fields.items() if f]:
            if name in values and overrides.setdefault(f"{path}.{field}", values[name]) != values[name]:
                names = [one for one, its_field in row.fields.items() if its_field == field and one in values]
                problems.append(f"{' and '.join(names)} give {row.label(name)} two values")
    try:
        recipe = with_rates(recipe, recipe.replace(overrides), given)
    except PlanError as error:
        problems += [_with_names(problem, given) for problem in error.problems]
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
    if switched := {target: given[name] for name, target in table.LORA_SWITCHES.items() if name in given}:
        targets = getattr(recipe.score.adapter, "targets", LoraDocuments().targets)
        adapted = tuple(one for one in LORA_TARGETS if switched.get(one, one in targets))
        values |= dict.fromkeys(table.LORA_SWITCHES, adapted)
    windows = _at(recipe, "score.windows")[1]
    if isinstance(windows, (Chunked, Sliding)):
        # A recipe that scores at its training length goes on to do so, as in public.
        follows = "EVAL_SEQ_LEN" in given or windows.length == recipe.data.sequence_length
        values["EVAL_SEQ_LEN"] = given.get("EVAL_SEQ_LEN") or (length if follows else windows.length)
    return values


def _at(recipe: Recipe, path: str) -> tuple[str, Any]:
    """The path of a setting and its value; of windows cut by documents, those within each."""
    value: Any = functools.reduce(getattr, path.split("."), recipe)
    return _at(recipe, f"{path}.within") if isinstance(value, PerDocument) else (path, value)


def _parts(slot: Any) -> tuple[Any, ...]:
    return slot if isinstance(slot, tuple) else (slot,)


def _slot(slot: Any, path: str, given: Given, problems: list[str]) -> Any:
    """The techniques that a slot holds after the variables, given what it holds now."""
    rows, held = [row for row in table.TECHNIQUES if row.path == path], _parts(slot)
    on = {row.kind: row for row in rows if row.state(given)}
    out = {type(part) for part in held if any(row.takes_out(part, given) for row in rows)} - on.keys()
    parts: list[Any] = [part for part in held if type(part) not in out]
    new = [row for row in on.values() if row.kind not in map(type, held)]
    if isinstance(slot, tuple):
        order = [row.kind for row in rows]
        for row in new:  # before the first that comes later in the table
            later_kinds = order[order.index(row.kind) :]
            index = next((i for i, part in enumerate(parts) if type(part) in later_kinds), len(parts))
            parts.insert(index, row.part)
        return tuple(parts)
    # What the technique that is there shares with another one does not bring in the other.
    own = [row for row in rows if row.kind is type(slot)]
    shared = {name for row in own for name in row.fields}
    new = [row for row in new if row.fields.keys() & given.keys() - shared]
    competing = [on[type(slot)], *new] if type(slot) in on else new
    if len(competing) > 1:
        names = ", ".join(name for row in competing for name in row.fields if name in given)
        problems.append(f"{names}: {path} holds only one of {_words(competing)}; give one of them")
        return slot
    return [*(row.part for row in new), *parts, *(row.without for row in own)][0]


def _with_names(problem: str, given: Iterable[str]) -> str:
    """A problem of settings with the variables that it may come from."""
    words_of = {name: set(re.findall(r"\w+", str(targets(name)))) for name in given}
    keys = problem.partition(":")[0].split(".")
    slot = next((row.path for row in table.TECHNIQUES if row.kind.__name__ == keys[0]), "?").split(".")
    wanted = (keys, keys[-1:], slot)
    candidates = ([name for name in given if words_of[name].issuperset(each)] for each in wanted)
    names = [] if keys[0] in table.KINDS else next(filter(None, candidates), [])
    return f"{problem} ({', '.join(names)})" if names else problem


def _idle(recipe: Recipe, held: Container[type], given: Given, values: Given) -> Iterator[str]:
    """Variables of techniques that are not there, and that nothing given switches on or off."""
    for name in given:
        owners = [row for row in table.TECHNIQUES if name in row.fields]
        if not owners or name in table.SWITCHES or not is_on(name, given[name]):
            continue
        switches = ({*row.on, *row.also, *row.unless} & {*given} - {name} for row in owners)
        if not any(row.kind in held or switched for row, switched in zip(owners, switches)):
            ways = " or ".join(row.on[0] for row in owners if row.on)
            way_out = f"; give {ways} too" if ways else f" in {owners[0].path}"
            yield f"{name}: the recipe has no {_words(owners)}{way_out}"
    if given.get("ROPE_TRAIN_SEQ_LEN") and not (values["ROPE_YARN"] or given.keys() & {"ROPE_YARN", "NOPE"}):
        yield "ROPE_TRAIN_SEQ_LEN: the recipe rescales no base; give ROPE_YARN too"
    for name in table.UNUSED[recipe.model.tied]:
        if name in given and "TIE_EMBEDDINGS" not in given:
            tied = "the head" if recipe.model.tied else "not the head"
            yield f"{name}: the token table of this recipe is {tied}; give TIE_EMBEDDINGS too"


def _words(rows: Iterable[Row]) -> str:
    return " and ".join(row.kind.__name__ for row in rows)


def targets(name: str, recipe: Recipe | None = None, given: Iterable[str] = ()) -> list[tuple[str, Any]]:
    """What a variable sets, among others that are given: in words, and what it is in a recipe.

    None is what it is where the recipe has no such part.
    """
    first = table.OTHER_NAMES.get(name, name)
    settings = [
        (row.label(first, group), recipe and _look(recipe, row, row.fields[first], group))
        for row in (*table.PLANS, *table.RATES, *table.TECHNIQUES, *table.FOLLOWING)
        if first in row.fields
        for group in row.groups_with(first, given) or ("",)
    ]
    return settings or [("the seed of the run", None)]


def _look(recipe: Recipe, row: Row, field: str, group: str) -> Any:
    parts = [part for _, part in _standing(row, recipe, group)]
    keys, last = field.split("."), [None, *parts][-1]
    return functools.reduce(lambda one, key: getattr(one, key, None), keys, last) if field else bool(parts)


def _standing(row: Row, recipe: Recipe, group: str = "") -> Iterator[tuple[str, Any]]:
    """The parts of a recipe that a row is about, each with its path; all rules of a group, if it is given."""
    if not row.groups:
        yield from _places(row, *_at(recipe, row.path))
        return
    groups = row_groups(recipe.optim.rows, parameter_shapes(recipe.model))
    for index, (own, own_groups) in enumerate(zip(recipe.optim.rows, groups)):
        if group in own_groups if group else own_groups and own_groups <= {*row.groups}:
            yield f"optim.rows.{index}.rule", own.rule


def _places(row: Row, path: str, slot: Any) -> Iterator[tuple[str, Any]]:
    """The parts in a slot, or the plan there, that a row is about, each with its path."""
    for index, part in enumerate(_parts(slot)):
        if row.part is None or type(part) is row.kind:
            yield f"{path}.{index}" if isinstance(slot, tuple) else path, part


def variable_rows(before: Recipe, after: Recipe, variables: Mapping[str, str]) -> list[Shown]:
    """What the variables did, for people: name, value, setting, before, after; one row for all ignored."""
    rows: list[Shown] = []
    ignored = [name for name in variables if name in table.IGNORED]
    for name, text in variables.items():
        if name in ignored:
            continue
        if table.later(name):
            rows.append((name, text, "off here too", None, None))
            continue
        pairs = zip(targets(name, before, variables), targets(name, after, variables))
        effects = [(name, text, words, was, is_now) for (words, was), (_, is_now) in pairs]
        effects = [row for row in effects if row[4] is not None] or effects
        rows += [row for row in effects if row[3] != row[4]] or effects[:1]
    if ignored:
        rows.append((", ".join(ignored), "", table.WHY_IGNORED, None, None))
    if len(before.optim.rows) != len(after.optim.rows):
        was, is_now = (f"{len(recipe.optim.rows)} rows" for recipe in (before, after))
        rows.append(("", "", "optim.rows, for new parameters", was, is_now))
    return rows


def names_by_path(recipe: Recipe) -> dict[str, str]:
    """The public variables of which each is one setting of this recipe, by the path of that setting."""
    skipped = {
        *WORKED_OUT,
        *table.UNUSED[recipe.model.tied],
        *(["MLP_MULT"] if recipe.model.mlp_hidden else []),
    }
    names: dict[str, str] = {}
    for row in (*table.PLANS, *table.TECHNIQUES, *table.RATES):
        for path, part in _standing(row, recipe):
            for name, field in row.fields.items():
                own = getattr(part, "weight_decay", 0) or not field.startswith("taper")  # else nothing tapers
                if own and name not in skipped and field.partition(".")[0] in field_types(type(part)):
                    names[f"{path}.{field}"] = name
    if type(recipe.score.windows) is Chunked and recipe.score.windows.length == recipe.data.sequence_length:
        names["score.windows.length"] = "TRAIN_SEQ_LEN"
    return names
