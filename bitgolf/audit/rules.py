"""Rules as data: sets by name and date, rulings with their source, and what the scored texts weigh."""

import datetime
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bitgolf.base.errors import BitgolfError, nearest

FILE = Path(__file__).parent / "rules.toml"
VIOLATION, DISPUTED, ALLOWED = "violation", "disputed", "allowed"
USUAL = "final"


class KnownText(NamedTuple):
    """The challenge's validation text under one tokenizer."""

    name: str
    vocabulary: int
    bytes_per_token: float
    tokens: int
    case_operators: bool = False


class Ruling(NamedTuple):
    """What was said of a fault, and where."""

    word: str
    source: str


class Rules(NamedTuple):
    """One set of rules. Sizes in decimal bytes, times in seconds.

    overshoot_steps: by how many training steps the clock may be passed, as it is read after a step.
    calibration_counts: whether calibration on text of the model's own is training time; slack: so much of it
    after the clock was let pass.
    """

    name: str
    title: str
    date: datetime.date
    budget_bytes: int
    train_seconds: float
    evaluation_seconds: float
    overshoot_steps: int
    calibration_counts: bool
    calibration_slack_seconds: float
    disputed_counts: bool
    least_bits_per_byte: float
    seeds: int

    def ruling(self, code: str) -> Ruling:
        """What holds for a fault on the day of these rules."""
        rulings = [each for each in _data()["rulings"] if each["code"] == code]
        until = [each for each in rulings if each["from"] <= self.date]
        if until:
            last = max(until, key=lambda each: each["from"])
            ruling = Ruling(last["word"], last["source"])
        elif any(each.get("open") for each in rulings):
            ruling = Ruling(DISPUTED, "no ruling yet on this day")
        else:
            ruling = Ruling(VIOLATION, "")
        return ruling._replace(word=VIOLATION) if self.disputed_counts else ruling

    def taken(self, sha256: str) -> Mapping[str, Ruling]:
        """What an entry was taken with, by the hash of its submission.json: reviewers ruled so."""
        if self.disputed_counts:
            return {}
        return {
            code: Ruling(DISPUTED, f"taken with it: {each['source']}")
            for each in _data()["taken"]
            if each["sha256"] == sha256
            for code in each["codes"]
        }


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def rules_named(name: str = USUAL) -> Rules:
    """A set of rules. Raises BitgolfError for an unknown name."""
    sets = _data()["sets"]
    if name not in sets:
        raise BitgolfError("no such rules", where="--rules", value=name, way_out=nearest(name, sets))
    return Rules(name=name, **(_data()["figures"] | sets[name]))


@cache
def known_texts() -> tuple[KnownText, ...]:
    """The scored text under each tokenizer that is known."""
    return tuple(KnownText(**each) for each in _data()["texts"])


def known_script(sha256: str) -> str:
    """What a script of this hash is; empty for one that nobody ships."""
    return next((each["name"] for each in _data()["scripts"] if each["sha256"] == sha256), "")
