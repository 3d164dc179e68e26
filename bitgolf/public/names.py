"""The table of public variables, `variables.toml`, as it is read: each with what it sets in a recipe.

Most name one setting. Some together make one technique, and those stand in one row. 0 or nothing is off.
"""

import dataclasses
import fnmatch
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitgolf import import_core
from bitgolf.base.errors import PlanError
from bitgolf.base.plan import Plan, field_types, members, parse_changes
from bitgolf.recipe import Recipe
from bitgolf.squeeze.codec import Brotli, Deflate, Lzma, Zstd
from bitgolf.train.optim import AdamRule, MuonRule

Given = Mapping[str, Any]  # values that were read, under the first name of their variable


@dataclasses.dataclass(frozen=True)
class Row:
    """A place in a recipe and the variables that set it: a plan, a technique in its slot, or rules of groups.

    path: of the plan or the slot. fields: the field that each variable sets.
    part: the technique as the public scripts make it. without: what the slot holds when it is off; a slot
    that is a tuple holds nothing then. on: variables that put it there, unless one of them or of `also` is
    off. unless: a variable that makes another technique of all this. groups: of parameters.
    """

    path: str
    fields: Mapping[str, str]
    part: Plan | None = None
    without: Plan | None = None
    on: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @property
    def kind(self) -> type:
        """The class of the technique."""
        return type(self.part)

    def names(self) -> tuple[str, ...]:
        """All its variables."""
        return tuple(dict.fromkeys((*self.on, *self.also, *self.fields)))

    def state(self, given: Given) -> bool | None:
        """Whether the technique is on or off; None where nothing was values."""
        if any(is_on(name, given[name]) for name in self.unless if name in given):
            return None
        values = {name: is_on(name, given[name]) for name in (*self.on, *self.also) if name in given}
        if not all(values.values()):
            return False
        return True if any(name in values for name in self.on) else None

    def takes_out(self, part: object, given: Given) -> bool:
        """Whether a variable that is off takes out the technique as it stands in a recipe."""
        off = (name for name in (*self.on, *self.also) if name in given and not is_on(name, given[name]))
        return any(name not in self.fields or is_on(name, getattr(part, self.fields[name])) for name in off)

    def given_fields(self, given: Given) -> dict[str, Any]:
        """The fields that variables set. Raises PlanError where two of them disagree."""
        values: dict[str, str] = {}
        for name, field in self.fields.items():
            if name in given and given[values.setdefault(field, name)] != given[name]:
                raise PlanError([f"{values[field]} and {name} give {self.words(name)} two values"])
        return {field: given[name] for field, name in values.items()}

    def words(self, name: str, group: str = "") -> str:
        """What a variable sets here, in words."""
        field = self.fields.get(name, "")
        if self.part is None:
            return f"{self.path}, {group}: {field}" if group else f"{self.path}.{field}"
        return f"{self.path}: {self.kind.__name__}{'.' if field else ''}{field}"


TABLE = tomllib.loads(Path(__file__).with_name("variables.toml").read_text("utf-8"))
import_core()  # a slot finds its members among the classes that are there


def _kind_at(plan: Plan, path: str) -> Any:
    *owners, field = path.split(".")
    for key in owners:
        plan = getattr(plan, key)
    return field_types(type(plan))[field]


def _technique(path: str, row: Mapping[str, str]) -> Row:
    slot = _kind_at(Recipe(), path)
    known = members(typing.get_args(slot)[0] if typing.get_origin(slot) is tuple else slot)
    part = parse_changes(known[row["part"]](), [row["made"]] if "made" in row else [])
    words = {key: row.get(key, "").split() for key in ("on", "also", "sets", "unless")}
    on, also = (tuple(word.partition("=")[0] for word in words[key]) for key in ("on", "also"))
    without = known[row["without"]]() if "without" in row else None
    fields = " ".join(word for key in ("on", "also", "sets") for word in words[key] if "=" in word)
    return Row(path, _pairs(fields), part, without, on, also, tuple(words["unless"]))


def _pairs(text: str) -> dict[str, str]:
    return dict(word.split("=") for word in text.split())


PLANS = tuple(Row(path, _pairs(text)) for path, text in TABLE["plans"].items())
RATES = tuple(
    Row("optim.rows", _pairs(text), groups=tuple(groups.split())) for groups, text in TABLE["rates"].items()
)
TECHNIQUES = tuple(_technique(path, row) for path, rows in TABLE["techniques"].items() for row in rows)
SWITCHES = {name for row in TECHNIQUES for name in row.on}
FOLLOWED_BY: dict[str, str] = TABLE["followed_by"]
OTHER_NAMES = {other: first for first, others in TABLE["other_names"].items() for other in others.split()}
LATER = {name: what for names, what in TABLE["elsewhere"].items() for name in names.split()}
IGNORED = tuple(TABLE["ignored"]["names"].split())
WHY_IGNORED: str = TABLE["ignored"]["why"]
OFF = ("", "0", "0.0", "none", "off")  # at which a variable of LATER asks for nothing
FIRST_LAYER_IS_0 = ("PARALLEL_RESIDUAL_START",)  # where -1 is off and 0 is not
LORA_SWITCHES = {"TTT_K_LORA": "k", "TTT_O_LORA": "o", "TTT_MLP_LORA": "mlp"}  # and the targets of each

# Values that mean something else than they say; None says nothing.
MEANINGS: dict[str, dict[Any, Any]] = {
    "COMPRESSOR": {"brotli": Brotli(), "lzma": Lzma(), "zlib": Deflate(), "zstd": Zstd()},
    "GATE_ATTN_SRC": {"proj": "input", "q": "queries"},
    "NO_COMPILE": {True: False, False: None},
    "USE_ZSTD": {False: Deflate(), True: Zstd()},
    "WD_TAPER_START_FRAC": {0.0: 1.0},
}


def is_on(name: str, value: Any) -> bool:
    """Whether a value switches its variable on."""
    return value >= 0 if name in FIRST_LAYER_IS_0 else bool(value) and value > type(value)()


def _kinds() -> dict[str, Any]:
    """The type of every variable that is known: of its field, or of a switch."""
    kinds: dict[str, Any] = {name: bool for row in TECHNIQUES for name in row.names()}
    for row in (*RATES, *reversed(TECHNIQUES), *PLANS):
        owner = row.part or Recipe()
        prefix = ""
        if row.groups:
            owner = MuonRule() if row.groups == ("matrices",) else AdamRule()
        elif row.part is None:
            prefix = f"{row.path}."
        kinds |= {name: _kind_at(owner, prefix + field) for name, field in row.fields.items()}
    own = {"COMPRESSOR": str, "ROPE_YARN": bool, "SEED": int, "TTT_FREEZE_BLOCKS": int, "USE_ZSTD": bool}
    return kinds | own | dict.fromkeys(LORA_SWITCHES, bool)


KINDS = _kinds()


def later(name: str) -> str | None:
    """What to give in place of a known variable that changes nothing here; None for any other name."""
    patterns = LATER.items() if name not in KINDS else ()
    return next((what for pattern, what in patterns if fnmatch.fnmatchcase(name, pattern)), None)
