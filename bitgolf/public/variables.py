"""The environment variables of the public scripts as changes to a recipe: `--env EMA_DECAY=0.997`.

All that are given are applied together, so that their order is nothing.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from bitgolf.adapt.documents import LoraAdapter, LoraDocuments
from bitgolf.adapt.lora import LORA_TARGETS
from bitgolf.base.errors import BitgolfError, PlanError, displayed, nearest
from bitgolf.base.plan import Plan, describe, field_types
from bitgolf.net.model import parameter_shapes
from bitgolf.public.names import (
    FIRST_LAYER_IS_0,
    FOLLOWED_BY,
    IGNORED,
    KINDS,
    LORA_SWITCHES,
    MEANINGS,
    OFF,
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
)
from bitgolf.public.rates import Rate, group_rules, regrouped, row_groups, with_rates
from bitgolf.recipe import Recipe
from bitgolf.score.windows import Chunked, Growing, PerDocument, Sliding
from bitgolf.train.optim import AdamRule, MuonRule, baseline_rows
from bitgolf.train.schedule import Progress

DEFAULT_SEED = 1337
# Variables whose value is not that of the field, or is not read where another one is given.
WORKED_OUT = frozenset(
    ("EMBEDDING_DIM", "MAX_VAL_SEQS", "MLP_HIDDEN", "ROPE_TRAIN_SEQ_LEN", "ROPE_YARN", "TTT_FREEZE_BLOCKS")
).union(LORA_SWITCHES)


def known_names() -> list[str]:
    """Every variable that has a meaning here, by all its names."""
    return sorted((*KINDS, *OTHER_NAMES, *IGNORED))


def parse_variables(texts: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE texts as a mapping. Raises PlanError for other texts, and for a name with two values."""
    variables: dict[str, str] = {}
    problems = []
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            problems.append(f"{displayed(text)}: expected NAME=VALUE, for example EMA_DECAY=0.997")
        elif variables.setdefault(name, value) != value:
            problems.append(
                f"{shortened(name)}: given as {displayed(variables[name])} and as {displayed(value)}"
            )
    if problems:
        raise PlanError(problems)
    return variables


def apply_variables(recipe: Recipe, variables: Mapping[str, str]) -> Recipe:
    """The recipe as the public variables change it, all of them together. SEED changes no recipe.

    Raises PlanError with all problems: unknown variables, techniques that are not built, values of another
    type, variables that would change nothing, and settings that do not fit.
    """
    given, problems = read_variables(variables)
    recipe = _by_documents(recipe, given)
    values = _values(recipe, given)
    slots: dict[str, Any] = {}
    for path in dict.fromkeys(row.path for row in TECHNIQUES):
        try:
            slots[path] = _slot(_at(recipe, path), path, given, values)
        except PlanError as error:
            slots[path] = _at(recipe, path)
            problems += [_signed(problem, given, path) for problem in error.problems]
    problems += _idle(slots, given, values)
    changes = {_inner(recipe, path): value for path, value in slots.items()}
    try:
        for row in PLANS:
            changes |= {f"{row.path}.{field}": value for field, value in row.given_fields(values).items()}
        recipe = _with_rates(recipe, recipe.replace(changes), given)
    except PlanError as error:
        problems += [_signed(problem, given) for problem in error.problems]
    if problems:
        raise PlanError(dict.fromkeys(problems))
    return recipe


def read_variables(variables: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The values under the first name of each variable, and what is wrong with the rest."""
    given: dict[str, Any] = {}
    problems = []
    for name, text in variables.items():
        first, shown = OTHER_NAMES.get(name, name), shortened(name)
        if name in IGNORED:
            continue
        if first not in KINDS:
            what = later(first)
            if what is None:
                hint = nearest(name[:99].upper(), known_names())
                hint = hint if hint.startswith("did") else "`bitgolf techniques` names the variables"
                problems.append(f"{shown}: unknown variable; {hint}")
            elif text.lower() not in OFF:
                problems.append(f"{name}: known, but {what}")
            continue
        try:
            value = _read(first, text)
        except ValueError:
            kind = "0 or 1" if KINDS[first] is bool else describe(KINDS[first])
            problems.append(f"{name}: expected {kind}, found {displayed(text)}")
            continue
        if isinstance(value, float) and not math.isfinite(value):  # equal to nothing, itself included
            problems.append(f"{name}: expected a finite number, found {displayed(text)}")
            continue
        if first in MEANINGS and isinstance(value, str) and value not in MEANINGS[first]:
            hint = nearest(text[:99], MEANINGS[first])
            problems.append(f"{name}: unknown value {displayed(text)}; {hint}")
            continue
        value = MEANINGS.get(first, {}).get(value, value)
        if given.setdefault(first, value) != value:
            problems.append(f"{name}: {first} is the same variable and has another value")
    return given, problems


def shortened(name: str) -> str:
    """A name as a message shows it."""
    return name if len(name) < 99 else name[:99] + "..."


def _read(name: str, text: str) -> Any:
    kind = KINDS[name]
    if not text and (name in SWITCHES or kind is bool):
        text = "-1" if name in FIRST_LAYER_IS_0 else "0"
    if kind is bool:
        return bool(int(text))
    if kind in (int, float, str):
        return kind(text)
    return tuple(int(item) for item in text.split(",") if item.strip())


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
    if not {"ROPE_YARN", "ROPE_TRAIN_SEQ_LEN"}.isdisjoint(given):  # from which length on the base is rescaled
        on = given.get("ROPE_YARN", getattr(recipe.model.position, "reference_length", 0) > 0)
        reference = given.get("ROPE_TRAIN_SEQ_LEN", length) if on else 0
        values |= {"ROPE_YARN": reference, "ROPE_TRAIN_SEQ_LEN": reference}
    if "TTT_FREEZE_BLOCKS" in given:
        layers = given.get("NUM_LAYERS", recipe.model.layers)
        count = min(given["TTT_FREEZE_BLOCKS"], layers)
        values["TTT_FREEZE_BLOCKS"] = tuple(f"blocks.{layer}.*" for layer in range(count))
    if switched := {target: given[name] for name, target in LORA_SWITCHES.items() if name in given}:
        has = (
            dict.fromkeys(getattr(recipe.score.adapter, "targets", LoraDocuments().targets), True) | switched
        )
        values |= dict.fromkeys(LORA_SWITCHES, tuple(one for one in LORA_TARGETS if has.get(one)))
    windows = _at(recipe, "score.windows")
    if isinstance(windows, (Chunked, Sliding)):
        # A recipe that scores at its training length goes on to do so, as in public.
        follows = "EVAL_SEQ_LEN" in given or windows.length == recipe.data.sequence_length
        values["EVAL_SEQ_LEN"] = given.get("EVAL_SEQ_LEN") or (length if follows else windows.length)
    return values


def _by_documents(recipe: Recipe, given: Given) -> Recipe:
    """The recipe, with windows of each document alone where variables bring low-rank additions for each."""
    adapters = [row.part for row in TECHNIQUES if row.path == "score.adapter" and row.state(given)]
    if not any(isinstance(one, LoraAdapter) for one in adapters):
        return recipe
    if isinstance(recipe.score.windows, PerDocument):
        return recipe
    return recipe.replace({"score.windows": PerDocument(within=Growing())})


def _inner(recipe: Recipe, path: str) -> str:
    """The path of a part: of the windows within each document, where they are cut by documents."""
    value: Any = recipe
    for key in path.split("."):
        value = getattr(value, key)
    return _inner(recipe, f"{path}.within") if isinstance(value, PerDocument) else path


def _at(recipe: Recipe, path: str) -> Any:
    value: Any = recipe
    for key in _inner(recipe, path).split("."):
        value = getattr(value, key)
    return value


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _slot(now: Any, path: str, given: Given, values: Given) -> Any:
    """What a slot holds after the variables, given what it holds now."""
    rows = [row for row in TECHNIQUES if row.path == path]
    on = {row.kind: row for row in rows if row.state(given)}
    fields: dict[type, dict[str, Any]] = {row.kind: {} for row in rows}
    for row in rows:
        if row.state(given) is not False:
            fields[row.kind] |= row.given_fields(values)
    held = _parts(now)
    own = [row for row in rows if row.kind in map(type, held)]
    pairs = [(row, part) for row in own for part in held if type(part) is row.kind]
    gone = {type(part) for row, part in pairs if row.takes_out(part, given)}
    kept = [
        part.replace(fields.get(type(part), {}))
        for part in held
        if type(part) in on or type(part) not in gone
    ]
    new = [row for kind, row in on.items() if kind not in map(type, held)]
    if isinstance(now, tuple):
        return _inserted(kept, [_made(row.part, fields) for row in new], list(fields))
    # What the technique that is there shares with another one does not bring in the other.
    shared = {name for row in own for name in row.names()}
    new = [row for row in new if {*row.names()} & {*given} - shared]
    rivals = [on[type(now)], *new] if type(now) in on else new
    if len(rivals) > 1:
        names = ", ".join(name for row in rivals for name in row.names() if name in given)
        raise PlanError([f"{names}: {path} holds only one of {_words(rivals)}; give one of them"])
    if new:
        return _made(new[0].part, fields)
    return kept[0] if kept else _made(next(row.without for row in own if row.without), fields)


def _made(part: Any, fields: Mapping[type, Mapping[str, Any]]) -> Any:
    return part.replace(fields.get(type(part), {}))


def _inserted(held: list[Plan], new: Iterable[Plan], order: list[type]) -> tuple[Plan, ...]:
    """Parts with new ones among them, each before the first that comes later in the order."""
    for part in new:
        later_kinds = order[order.index(type(part)) :]
        index = next((i for i, other in enumerate(held) if type(other) in later_kinds), len(held))
        held.insert(index, part)
    return tuple(held)


def _idle(slots: Mapping[str, Any], given: Given, values: Given) -> Iterator[str]:
    """Variables of techniques that are not there, and that nothing given switches on or off."""
    held = {type(part) for value in slots.values() for part in _parts(value)}
    for name in given:
        owners = [row for row in TECHNIQUES if name in row.names()]
        if not owners or name in SWITCHES or not is_on(name, given[name]):
            continue
        others = ({*row.on, *row.also, *row.unless} & {*given} - {name} for row in owners)
        if not any(row.kind in held or switched for row, switched in zip(owners, others)):
            ways = " or ".join(row.on[0] for row in owners if row.on)
            yield f"{name}: the recipe has no {_words(owners)}" + (
                f"; give {ways} too" if ways else f" in {owners[0].path}"
            )
    if given.get("ROPE_TRAIN_SEQ_LEN") and not (values["ROPE_YARN"] or given.keys() & {"ROPE_YARN", "NOPE"}):
        yield "ROPE_TRAIN_SEQ_LEN: the recipe rescales no base; give ROPE_YARN too"


def _with_rates(before: Recipe, after: Recipe, given: Given) -> Recipe:
    """The changed recipe with a row for each of its parameters and the given rates."""
    shapes = parameter_shapes(after.model)
    optim = after.optim
    if (old := parameter_shapes(before.model)).keys() != shapes.keys():
        optim = regrouped(optim, old, shapes)
    rates: dict[str, Rate] = {}
    if after.model.tied != before.model.tied:  # a table that is no head learns at another rate
        public = baseline_rows(after.model.tied)[0].rule.rates(1.0, Progress(0, 1))
        rates["TIE_EMBEDDINGS"] = Rate(public["lr"], "lr", ("embedding",))
    unused = ("EMBED_LR", "HEAD_LR") if after.model.tied else ("TIED_EMBED_LR",)
    for row in RATES:
        for name, field in row.fields.items():
            if name in given and name not in unused:
                rates[name] = Rate(given[name], field, _groups(row, name, given))
            elif name in given and "TIE_EMBEDDINGS" not in given:
                tied = "the head" if after.model.tied else "not the head"
                problem = f"{name}: the token table of this recipe is {tied}; give TIE_EMBEDDINGS too"
                raise PlanError([problem])
    return after.replace(optim=with_rates(optim, shapes, rates))


def _groups(row: Row, name: str, given: Iterable[str]) -> tuple[str, ...]:
    """The groups of a rate; those that decay with a variable of their own are left to it."""
    return ("rest",) if name == "ADAM_WD" and "EMBED_WD" in given else row.groups


def _signed(problem: str, given: Given, path: str = "") -> str:
    """A problem, in a slot if it has a path, with the variables that it may come from."""
    keys = problem.partition(":")[0].split(".")
    words = {
        name: set(re.findall(r"\w+", "/".join(target.words for target in targets(name)))) for name in given
    }
    names = [name for name in given if set(keys) <= words[name]]
    names = names or [name for name in given if keys[-1] in words[name]]
    names = names or [name for name in given if path and set(path.split(".")) <= words[name]]
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
        Target(row.words(first, group), partial(_look, row, row.fields.get(first, ""), group))
        for row in (*PLANS, *RATES, *TECHNIQUES)
        if first in row.names()
        for group in _groups(row, first, given) or ("",)
    ]
    if first in FOLLOWED_BY:
        found.append(Target(FOLLOWED_BY[first], partial(_followed, FOLLOWED_BY[first])))
    if first == "TIE_EMBEDDINGS":
        rate = Row("optim.rows", {first: "lr"}, groups=("embedding",))
        found.append(Target(rate.words(first, "embedding"), partial(_look, rate, "lr", "embedding")))
    return found or [Target("the seed of the run", lambda recipe: None)]


def _followed(path: str, recipe: Recipe) -> Any:
    """The setting at a path; None where windows of another kind stand in between, which have none of it."""
    owner, _, field = path.rpartition(".")
    return getattr(_at(recipe, owner), field, None)


def _look(row: Row, field: str, group: str, recipe: Recipe) -> Any:
    if group:
        return getattr(group_rules(recipe.optim, parameter_shapes(recipe.model)).get(group), field, None)
    if row.part is None:
        return _at(recipe, f"{row.path}.{field}")
    held = [part for part in _parts(_at(recipe, row.path)) if type(part) is row.kind]
    if not field:
        return bool(held)
    value: Any = held[0] if held else None
    for key in field.split("."):
        value = getattr(value, key, None)
    return value


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
    rows = [row for row in TECHNIQUES if row.kind is technique]
    if technique in (MuonRule, AdamRule):
        rows += [row for row in RATES if (row.groups == ("matrices",)) == (technique is MuonRule)]
    return _with_other_names(name for row in rows for name in row.names())


def variables_at(path: str) -> tuple[str, ...]:
    """The public variables that set the setting at a path."""
    names = [name for row in PLANS for name in row.fields if row.words(name) == path]
    names += [name for name, follows in FOLLOWED_BY.items() if follows == path]
    names += [name for row in TECHNIQUES if row.path == path for name in row.names()]
    return _with_other_names(names)


def names_by_path(recipe: Recipe) -> dict[str, str]:
    """The public variables of which each is one setting of this recipe, by the path of that setting."""
    found: dict[str, str] = {}
    for row in (*PLANS, *TECHNIQUES):
        if row.part is None or type(_at(recipe, row.path)) is row.kind:
            path = _inner(recipe, row.path)
            found |= {f"{path}.{field}": name for name, field in row.fields.items() if name not in WORKED_OUT}
    if recipe.model.mlp_hidden:
        del found["model.mlp_multiplier"]
    unused = ("EMBED_LR", "HEAD_LR") if recipe.model.tied else ("TIED_EMBED_LR",)
    groups = row_groups(recipe.optim.rows, parameter_shapes(recipe.model))
    for row in RATES:
        for place, (own, known) in enumerate(zip(recipe.optim.rows, groups)):
            fields = field_types(type(own.rule)) if known and known <= set(row.groups) else {}
            still = not getattr(own.rule, "weight_decay", 0)  # then nothing tapers
            for name, field in row.fields.items():
                if field in fields and name not in unused and not (still and field.startswith("taper")):
                    found[f"optim.rows.{place}.rule.{field}"] = name
    if type(recipe.score.windows) is Chunked and recipe.score.windows.length == recipe.data.sequence_length:
        found["score.windows.length"] = "TRAIN_SEQ_LEN"
    return found


def _with_other_names(names: Iterable[str]) -> tuple[str, ...]:
    first = dict.fromkeys(names)
    return (*first, *(other for other, name in OTHER_NAMES.items() if name in first))


def seed_of(variables: Mapping[str, str], asked: int | None) -> int:
    """The seed by --seed or SEED; they must not differ."""
    given, _ = read_variables({name: text for name, text in variables.items() if name == "SEED"})
    seed = given.get("SEED", asked)
    if asked is not None and seed != asked:
        raise BitgolfError("two seeds", value=f"--seed {asked}, SEED={seed}", way_out="give one of them")
    return DEFAULT_SEED if seed is None else seed
