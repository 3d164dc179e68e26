"""The environment variables of the public scripts as changes to a recipe: `--env EMA_DECAY=0.997`.

All that are given are applied together, so that their order is nothing.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from bitgolf.base.errors import BitgolfError, PlanError, displayed, nearest
from bitgolf.base.plan import Plan, describe
from bitgolf.net.model import parameter_shapes
from bitgolf.net.position import Rope
from bitgolf.public.names import (
    FIRST_LAYER_IS_0,
    FURTHER,
    IGNORED,
    KINDS,
    MEANINGS,
    OFF,
    OTHER_NAMES,
    RATES,
    SETTINGS,
    SWITCHED,
    SWITCHES,
    WHY_IGNORED,
    Given,
    Switched,
    is_on,
    later,
)
from bitgolf.public.rates import Rate, group_rules, regrouped, with_rates
from bitgolf.recipe import Recipe
from bitgolf.score.windows import Chunked, PerDocument, Sliding, Windows
from bitgolf.train.optim import AdamRule, MuonRule, baseline_rows
from bitgolf.train.schedule import Progress

DEFAULT_SEED = 1337


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
    slots: dict[str, Any] = {}
    for path in dict.fromkeys(one.path for one in SWITCHED):
        try:
            slots[path] = _slot(_at(recipe, path), path, given)
        except PlanError as error:
            slots[path] = _at(recipe, path)
            problems += [_signed(problem, given) for problem in error.problems]
    problems += _idle(slots, given)
    changes = {path: given[name] for name, path in SETTINGS.items() if name in given} | slots
    try:
        changes |= _further(recipe, slots, given)
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


def _at(plan: Plan, path: str) -> Any:
    value: Any = plan
    for key in path.split("."):
        value = getattr(value, key, None)
    return value


def _slot(now: Any, path: str, given: Given) -> Any:
    """What a slot holds after the variables, given what it holds now."""
    known = [one for one in SWITCHED if one.path == path]
    on = {one.kind: one for one in known if one.state(given)}
    fields: dict[type[Plan], dict[str, Any]] = {one.kind: {} for one in known}
    for one in known:
        if one.state(given) is not False:
            fields[one.kind] |= one.given_fields(given)
    held = now if isinstance(now, tuple) else (now,)
    own = [one for one in known if any(one.kind is type(part) for part in held)]
    gone = {one.kind for one in own for part in held if one.kind is type(part) and one.takes_out(part, given)}
    kept = [
        part.replace(fields.get(type(part), {}))
        for part in held
        if type(part) in on or type(part) not in gone
    ]
    new = [one for kind, one in on.items() if kind not in map(type, held)]
    if isinstance(now, tuple):
        return _inserted(kept, [one.made.replace(fields[one.kind]) for one in new], list(fields))
    # What the technique that is there shares with another one does not bring in the other.
    shared = {name for one in own for name in one.names()}
    new = [one for one in new if {*one.names()} & {*given} - shared]
    rivals = [on[type(now)], *new] if type(now) in on else new
    if len(rivals) > 1:
        names = [name for one in rivals for name in one.names() if name in given]
        kinds = _words(one.kind for one in rivals)
        raise PlanError([f"{', '.join(names)}: {path} holds only one of {kinds}; give one of them"])
    if new:
        return new[0].made.replace(fields[new[0].kind])
    if kept:
        return kept[0]
    without = next(one.without for one in own if one.without)
    return without.replace(fields.get(type(without), {}))


def _inserted(held: list[Plan], new: Iterable[Plan], order: list[type[Plan]]) -> tuple[Plan, ...]:
    """Parts with new ones among them, each before the first that comes later in the order."""
    for part in new:
        later_kinds = order[order.index(type(part)) :]
        index = next((i for i, other in enumerate(held) if type(other) in later_kinds), len(held))
        held.insert(index, part)
    return tuple(held)


def _idle(slots: Mapping[str, Any], given: Given) -> Iterator[str]:
    """Variables of techniques that are not there, and that nothing given switches on or off."""
    held = {
        type(part) for value in slots.values() for part in (value if isinstance(value, tuple) else [value])
    }
    for name in given:
        owners = [one for one in SWITCHED if name in one.fields]
        if not owners or name in SWITCHES or not is_on(name, given[name]):
            continue
        allocated = (one.kind in held or {*one.on, *one.also, one.replaced_by} & set(given) for one in owners)
        if not any(allocated):
            ways = " or ".join(one.on[0] for one in owners if one.on)
            way_out = f"; give {ways} too" if ways else f" in {owners[0].path}"
            yield f"{name}: the recipe has no {_words(one.kind for one in owners)}{way_out}"


def _further(recipe: Recipe, slots: Mapping[str, Any], given: Given) -> dict[str, Any]:
    """Changes by the variables that depend on other settings."""
    changes: dict[str, Any] = {}
    if given.get("NO_COMPILE"):
        changes["backend.compile"] = False
    if "TORCH_COMPILE" in given:
        changes["backend.compile"] = given["TORCH_COMPILE"]
    if given.get("COMPRESSOR", given.get("USE_ZSTD")) != given.get("USE_ZSTD", given.get("COMPRESSOR")):
        return _refuse("COMPRESSOR and USE_ZSTD name two compressors; give one of them")
    for name in ("COMPRESSOR", "USE_ZSTD"):
        if name in given:
            changes["pack.codec"] = given[name]
    if "MLP_MULT" in given:
        changes |= {"model.mlp_multiplier": given["MLP_MULT"], "model.mlp_hidden": 0}
    if "MLP_HIDDEN" in given:
        changes["model.mlp_hidden"] = given["MLP_HIDDEN"]
    if "EMBEDDING_DIM" in given:
        as_wide = given["EMBEDDING_DIM"] == given.get("MODEL_DIM", recipe.model.width)
        changes["model.embedding_width"] = 0 if as_wide else given["EMBEDDING_DIM"]
    length = given.get("TRAIN_SEQ_LEN", recipe.data.sequence_length)
    changes["data.sequence_length"] = length
    if "MAX_VAL_SEQS" in given:  # sequences of training, which public scripts score side by side
        changes["score.limit_tokens"] = given["MAX_VAL_SEQS"] * length
    changes |= _windows(recipe, length, given) | _reference_length(slots["model.position"], length, given)
    return changes


def _windows(recipe: Recipe, length: int, given: Given) -> dict[str, Any]:
    """How to score. A recipe that scores at its training length goes on to do so, as in public."""
    names = [name for name in ("TRAIN_SEQ_LEN", "EVAL_SEQ_LEN", "EVAL_STRIDE") if name in given]
    windows, path = recipe.score.windows, "score.windows"
    while isinstance(windows, PerDocument):
        windows, path = windows.within, f"{path}.within"
    if not isinstance(windows, (Chunked, Sliding)):
        return {}
    follows = windows.length == recipe.data.sequence_length or "EVAL_SEQ_LEN" in given
    wanted = given.get("EVAL_SEQ_LEN") or (length if follows else windows.length)
    stride = given.get("EVAL_STRIDE", windows.stride if isinstance(windows, Sliding) else 0)
    if not given.get("SLIDING_WINDOW_ENABLED", True):
        stride = 0
    elif "SLIDING_WINDOW_ENABLED" in given and not stride:
        return _refuse("SLIDING_WINDOW_ENABLED: the recipe has no stride; give EVAL_STRIDE too")
    try:
        changed: Windows = Sliding(length=wanted, stride=stride) if stride > 0 else Chunked(length=wanted)
        if type(changed) is type(windows):
            changed = windows.replace({"length": wanted} | ({"stride": stride} if stride > 0 else {}))
    except PlanError as error:
        raise PlanError(f"{', '.join(names)}: {problem}" for problem in error.problems) from None
    return {path: changed}


def _reference_length(position: Any, length: int, given: Given) -> dict[str, Any]:
    """From which length on RoPE rescales its base; with ROPE_YARN alone, from that of the training."""
    if "ROPE_YARN" not in given and "ROPE_TRAIN_SEQ_LEN" not in given:
        return {}
    if not isinstance(position, Rope):
        return {} if "NOPE" in given else _refuse("ROPE_YARN: the recipe has no Rope in model.position")
    on = given.get("ROPE_YARN", position.reference_length > 0)
    if "ROPE_YARN" not in given and not on:
        return _refuse("ROPE_TRAIN_SEQ_LEN: the recipe rescales no base; give ROPE_YARN too")
    return {"model.position.reference_length": given.get("ROPE_TRAIN_SEQ_LEN", length) if on else 0}


def _refuse(problem: str) -> Any:
    raise PlanError([problem])


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
    for name, (field, _) in RATES.items():
        if name in given and name not in unused:
            rates[name] = Rate(given[name], field, _groups(name, given))
        elif name in given and "TIE_EMBEDDINGS" not in given:
            tied = "the head" if after.model.tied else "not the head"
            _refuse(f"{name}: the token table of this recipe is {tied}; give TIE_EMBEDDINGS too")
    return after.replace(optim=with_rates(optim, shapes, rates))


def _groups(name: str, given: Iterable[str]) -> tuple[str, ...]:
    """The groups of a rate; those that decay with a variable of their own are left to it."""
    return ("rest",) if name == "ADAM_WD" and "EMBED_WD" in given else RATES[name][1]


def _signed(problem: str, given: Given) -> str:
    """A problem with the variables that it may come from."""
    keys = problem.partition(":")[0].split(".")
    words = {
        name: set(re.findall(r"\w+", "/".join(target.words for target in targets(name)))) for name in given
    }
    names = [name for name in given if set(keys) <= words[name]]
    names = names or [name for name in given if keys[-1] in words[name]]
    return f"{problem} ({', '.join(names)})" if names and keys[0] not in KINDS else problem


def _words(kinds: Iterable[type[Plan]]) -> str:
    return " and ".join(kind.__name__ for kind in kinds)


class Target(NamedTuple):
    """What a variable sets: in words, and how to look it up; None where it is not in a recipe."""

    words: str
    look: Callable[[Recipe], Any]


def targets(name: str, given: Iterable[str] = ()) -> list[Target]:
    """What a variable sets, among others that are given."""
    first = OTHER_NAMES.get(name, name)
    paths = [SETTINGS[first]] if first in SETTINGS else FURTHER[first].paths if first in FURTHER else []
    found = [Target(path, partial(_at, path=path)) for path in paths]
    if first in RATES:
        field = RATES[first][0]
        found += [
            Target(f"optim.rows, {g}: {field}", partial(_rate, g, field)) for g in _groups(first, given)
        ]
    if first == "TIE_EMBEDDINGS":
        found.append(Target("optim.rows, embedding: lr", partial(_rate, "embedding", "lr")))
    for one in SWITCHED:
        if first in one.names():
            field = one.fields.get(first, "")
            words = f"{one.path}: {one.kind.__name__}{'.' if field else ''}{field}"
            found.append(Target(words, partial(_held, one, field)))
    return found or [Target("the seed of the run", lambda recipe: None)]


def _rate(group: str, field: str, recipe: Recipe) -> Any:
    return getattr(group_rules(recipe.optim, parameter_shapes(recipe.model)).get(group), field, None)


def _held(one: Switched, field: str, recipe: Recipe) -> Any:
    value = _at(recipe, one.path)
    held = [part for part in (value if isinstance(value, tuple) else [value]) if type(part) is one.kind]
    if not field:
        return bool(held)
    return _at(held[0], field) if held else None


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
        rows += [row for row in found if row[3] != row[4]] or found[:1]
    if ignored:
        rows.append((", ".join(ignored), "", WHY_IGNORED, None, None))
    if len(before.optim.rows) != len(after.optim.rows):
        was, is_now = (f"{len(recipe.optim.rows)} rows" for recipe in (before, after))
        rows.append(("", "", "optim.rows, for new parameters", was, is_now))
    return rows


def variables_of(technique: type[Plan]) -> tuple[str, ...]:
    """The public variables that switch a technique on or set something in it."""
    names = [name for one in SWITCHED if one.kind is technique for name in one.names()]
    names += [name for name, further in FURTHER.items() if technique in further.techniques]
    rules = {
        MuonRule: lambda groups: groups == ("matrices",),
        AdamRule: lambda groups: groups != ("matrices",),
    }
    if technique in rules:
        names += [name for name, (_, groups) in RATES.items() if rules[technique](groups)]
    return _with_other_names(names)


def variables_at(path: str) -> tuple[str, ...]:
    """The public variables that set the setting at a path."""
    names = [name for name, own in SETTINGS.items() if own == path]
    names += [name for name, further in FURTHER.items() if path in further.paths]
    names += [name for one in SWITCHED if one.path == path for name in one.names()]
    return _with_other_names(names)


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
