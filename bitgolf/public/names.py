"""The table of public variables, `variables.toml`, and the parsing of their values.

A row is a part of a recipe and the variables that set it: a plan, a technique in its slot, or the rules of
groups of parameters. 0 or nothing is off.
"""

import dataclasses
import fnmatch
import functools
import math
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bitgolf import import_core
from bitgolf.base.errors import BitgolfError, PlanError, displayed, nearest
from bitgolf.base.plan import Plan, describe, parse_setting, type_at
from bitgolf.recipe import Recipe
from bitgolf.squeeze.codec import Brotli, Deflate, Lzma, Zstd
from bitgolf.train.optim import AdamRule, MuonRule

DEFAULT_SEED = 1337
PLAIN = Recipe()
Given = Mapping[str, Any]  # values that were read, under the first name of their variable


@dataclasses.dataclass(frozen=True)
class Row:
    """A part of a recipe and its variables.

    path: of the plan, the slot or the parameter table. fields: the field that each variable sets, "" where it
    is a switch alone. part: the technique or rule as the public scripts make it; None for a plan. without:
    what the slot holds when the technique is off. on: variables that put it there, unless one of them or of
    `also` is off. unless: variables that make another technique of all this. groups: of parameters.
    """

    path: str
    fields: Mapping[str, str]
    part: Plan | None = None
    without: Plan | None = None
    on: Sequence[str] = ()
    also: Sequence[str] = ()
    unless: Sequence[str] = ()
    groups: Sequence[str] = ()

    @property
    def kind(self) -> type:
        """The class of the technique or rule."""
        return type(self.part)

    def off(self, given: Given) -> list[str]:
        """The variables given that ask for the technique to be off."""
        return [name for name in (*self.on, *self.also) if name in given and not is_on(name, given[name])]

    def state(self, given: Given) -> bool | None:
        """Whether the technique is on or off; None where nothing was given for it."""
        if any(is_on(name, given[name]) for name in self.unless if name in given):
            return None
        return False if self.off(given) else any(name in given for name in self.on) or None

    def takes_out(self, part: object, given: Given) -> bool:
        """Whether a variable that is off takes out this part of a recipe, as it stands there."""
        off = self.off(given) if type(part) is self.kind else []
        return any(not (field := self.fields[name]) or is_on(name, getattr(part, field)) for name in off)

    def groups_with(self, name: str, given: Iterable[str]) -> Sequence[str]:
        """The groups of a rate; those that decay with a variable of their own are left to it."""
        return ("rest",) if name == "ADAM_WD" and "EMBED_WD" in given else self.groups

    def label(self, name: str, group: str = "") -> str:
        """What a variable sets here, in words."""
        if group:
            return f"{self.path}, {group}: {self.fields[name]}"
        owner = f"{self.path}: {self.kind.__name__}" if self.part else self.path
        return f"{owner}.{self.fields[name]}".rstrip(".")


def _pairs(text: str) -> dict[str, str]:
    return {name: field for name, _, field in (word.partition("=") for word in text.split())}


def _technique(path: str, row: Mapping[str, str]) -> Row:
    slot, without = type_at(PLAIN, path), functools.reduce(getattr, path.split("."), PLAIN)
    slot = typing.get_args(slot)[0] if typing.get_origin(slot) is tuple else slot
    part = parse_setting(slot, row["part"], path)
    without = parse_setting(slot, row["without"], path) if "without" in row else without
    on, also, sets = (_pairs(row.get(key, "")) for key in ("on", "also", "sets"))
    return Row(path, on | also | sets, part, without, [*on], [*also], row.get("unless", "").split())


TABLE = tomllib.loads(Path(__file__).with_name("variables.toml").read_text("utf-8"))
import_core()  # a slot finds its members among the classes that are there
PLANS = [Row(path, _pairs(text)) for path, text in TABLE["plans"].items()]
RATES = [
    Row("optim.rows", _pairs(text), MuonRule() if groups == "matrices" else AdamRule(), groups=groups.split())
    for groups, text in TABLE["rates"].items()
]
TECHNIQUES = [_technique(path, row) for path, rows in TABLE["techniques"].items() for row in rows]
# What follows a variable beside the field that it sets.
FOLLOWING = [Row(path, _pairs(text)) for path, text in TABLE["followed_by"].items()]
SWITCHES = {name for row in TECHNIQUES for name in row.on}
OTHER_NAMES = {other: first for first, others in TABLE["other_names"].items() for other in others.split()}
LATER = {name: what for names, what in TABLE["elsewhere"].items() for name in names.split()}
IGNORED, WHY_IGNORED = TABLE["ignored"]["names"].split(), TABLE["ignored"]["why"]
OFF = ("", "0", "0.0", "none", "off")  # at which a variable of LATER asks for nothing
UNUSED = {True: ("EMBED_LR", "HEAD_LR"), False: ("TIED_EMBED_LR",)}  # rates, with a tied table and without
FIRST_LAYER_IS_0 = ("PARALLEL_RESIDUAL_START",)  # where -1 is off and 0 is not
LORA_SWITCHES = {"TTT_K_LORA": "k", "TTT_O_LORA": "o", "TTT_MLP_LORA": "mlp"}  # and the targets of each
# The type of every variable: a switch is 0 or 1, others are as their field is, but for the last ones.
KINDS: dict[str, Any] = {name: bool for row in TECHNIQUES for name in row.fields}
for row in (*RATES, *reversed(TECHNIQUES), *PLANS):
    where = "" if row.part else f"{row.path}."
    KINDS |= {name: type_at(row.part or PLAIN, where + field) for name, field in row.fields.items() if field}
KINDS |= dict.fromkeys((*LORA_SWITCHES, "ROPE_YARN", "USE_ZSTD"), bool)
KINDS |= {"COMPRESSOR": str, "SEED": int, "TTT_FREEZE_BLOCKS": int}
READERS: dict[Any, Callable[[str], Any]] = {
    bool: lambda text: bool(int(text)),
    tuple[int, ...]: lambda text: tuple(int(item) for item in text.split(",") if item.strip()),
}
# Values that mean something else than they say; None says nothing.
MEANINGS: dict[str, dict[Any, Any]] = {
    "COMPRESSOR": {"brotli": Brotli(), "lzma": Lzma(), "zlib": Deflate(), "zstd": Zstd()},
    "GATE_ATTN_SRC": {"proj": "input", "q": "queries"},
    "NO_COMPILE": {True: False, False: None},
    "USE_ZSTD": {False: Deflate(), True: Zstd()},
    "WD_TAPER_START_FRAC": {0.0: 1.0},
}


def known_names() -> list[str]:
    """Every variable that has a meaning here, by all its names."""
    return sorted((*KINDS, *OTHER_NAMES, *IGNORED))


def variables_of(what: type[Plan] | str) -> tuple[str, ...]:
    """The public variables of a technique, or of the setting at a path, by all their names."""
    rows = (*TECHNIQUES, *RATES) if isinstance(what, type) else (*PLANS, *FOLLOWING, *TECHNIQUES)
    names = {
        name: None
        for row in rows
        for name, field in row.fields.items()
        if what in (row.kind, row.path, f"{row.path}.{field}")
    }
    return (*names, *(other for other, first in OTHER_NAMES.items() if first in names))


def is_on(name: str, value: Any) -> bool:
    """Whether a value switches its variable on."""
    return value >= 0 if name in FIRST_LAYER_IS_0 else bool(value) and value > type(value)()


def later(name: str) -> str | None:
    """What to give in place of a known variable that changes nothing here; None for any other name."""
    patterns = LATER.items() if name not in KINDS else ()
    return next((what for pattern, what in patterns if fnmatch.fnmatchcase(name, pattern)), None)


def parse_variables(texts: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE texts as a mapping. Raises PlanError for other texts, and for a name with two values."""
    variables: dict[str, str] = {}
    problems = []
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            problems.append(f"{displayed(text)}: expected NAME=VALUE, for example EMA_DECAY=0.997")
        elif (first := variables.setdefault(name, value)) != value:
            problems.append(f"{_shortened(name)}: given as {displayed(first)} and as {displayed(value)}")
    if problems:
        raise PlanError(problems)
    return variables


def read_variables(variables: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The values under the first name of each variable, and what is wrong with the rest."""
    given: dict[str, Any] = {}
    problems = []
    for name, text in variables.items():
        first = OTHER_NAMES.get(name, name)
        if name in IGNORED or (later(first) and text.lower() in OFF):
            continue
        try:
            value = _value(first, text)
            if given.setdefault(first, value) != value:
                raise ValueError(f"{first} is the same variable and has another value")
        except ValueError as error:
            problems.append(f"{_shortened(name)}: {error}")
    return given, problems


def seed_of(variables: Mapping[str, str], requested: int | None) -> int:
    """The seed by --seed or SEED; they must not differ."""
    seed = read_variables(variables)[0].get("SEED", requested)
    if requested is not None and seed != requested:
        raise BitgolfError("two seeds", value=f"--seed {requested}, SEED={seed}", way_out="give one of them")
    return DEFAULT_SEED if seed is None else seed


def _value(name: str, text: str) -> Any:
    """What a text means for a variable. Raises ValueError, which says why it means nothing."""
    if name not in KINDS:
        hint = nearest(name[:99].upper(), known_names())
        hint = hint if hint.startswith("did") else "`bitgolf techniques` names the variables"
        what = later(name)
        raise ValueError(f"known, but {what}" if what else f"unknown variable; {hint}")
    kind: Any = KINDS[name]
    if not text and (name in SWITCHES or kind is bool):
        text = "-1" if name in FIRST_LAYER_IS_0 else "0"
    try:
        value = READERS.get(kind, kind)(text)
    except ValueError:
        expected = "0 or 1" if kind is bool else describe(kind)
        raise ValueError(f"expected {expected}, found {displayed(text)}") from None
    if isinstance(value, float) and not math.isfinite(value):  # equal to nothing, itself included
        raise ValueError(f"expected a finite number, found {displayed(text)}")
    meanings = MEANINGS.get(name, {})
    if meanings and isinstance(value, str) and value not in meanings:
        raise ValueError(f"unknown value {displayed(text)}; {nearest(text[:99], meanings)}")
    return meanings.get(value, value)


def _shortened(name: str) -> str:
    return name if len(name) < 99 else name[:99] + "..."
