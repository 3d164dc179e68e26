"""One golden case: what a script computed on given weights and inputs, and which of its facts were used."""

import fnmatch
import json
import lzma
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load

from tests.golden_cases.hyperparameters import NAMES, concerns, is_off

# What describes a case to people; everything else in it has to be used.
DESCRIPTIONS = {"format", "case", "kind", "what", "notes", "seed", "computed_with"}
GROUPS = ("knobs", "arguments", "expected", "tensors")  # in which everything has to be used


class NotCoveredError(Exception):
    """The case needs something that bitgolf does not have, or that no handler knows; the text names it."""


class Fields(Mapping[str, Any]):
    """Facts of a case by name. It remembers which were looked at; to ask whether one is there is no look."""

    def __init__(self, place: str, values: Mapping[str, Any]) -> None:
        self.place, self.seen = place, set[str]()
        self.held = {
            name: Fields(f"{place}.{name}", value) if isinstance(value, dict) else value
            for name, value in values.items()
        }

    def __getitem__(self, name: str) -> Any:
        value = self.held[name]
        self.seen.add(name)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self.held

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    def unseen(self) -> list[str]:
        """The places of the facts that nobody looked at."""
        places = [f"{self.place}.{name}" for name in self.held if name not in self.seen]
        inner = (self.held[name] for name in self.seen)
        return places + [place for value in inner if isinstance(value, Fields) for place in value.unseen()]

    def starting(self, prefix: str) -> dict[str, Any]:
        """The facts whose names start so, by the rest of their names."""
        return {name[len(prefix) :]: self[name] for name in self if name.startswith(prefix)}


class Case:
    """The facts of a case by group; `settings` are the hyperparameters of its script under its knobs."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        self.facts = Fields("", json.loads(path.read_text()))
        self.kind: str = self.facts["kind"]
        groups = {name: self.facts.get(name) or Fields(name, {}) for name in GROUPS}
        self.knobs, self.arguments, self.expected = (groups[name] for name in GROUPS[:3])
        self.settings = self.facts.get("effective_hyperparameters") or Fields("settings", {})
        self.tolerance = self.facts.get("tolerance") or Fields("tolerance", {})
        self.record: str = self.facts["source"]["record"]
        self.file: str = self.facts["source"]["file"]
        self.loaded: Fields | None = None

    @property
    def tensors(self) -> Fields:
        if self.loaded is None:
            plain = self.path.with_suffix(".safetensors")
            packed = self.path.with_suffix(".safetensors.xz")  # the largest of ours
            data = plain.read_bytes() if plain.exists() else lzma.decompress(packed.read_bytes())
            self.loaded = Fields("tensors", load(data))
        return self.loaded

    def beside(self, name: str) -> Path:
        """A third file that belongs to the case."""
        return self.path.parent / name

    def unused(self) -> list[str]:
        """The facts that no handler used, by place; those of a hyperparameter with its value.

        A hyperparameter that can touch this kind of case must have been used or be off. A knob was set on
        purpose, so its hyperparameter must have been used whatever it is about.
        """
        used = self.settings.seen
        places = [
            f"knobs.{name}"
            for name in self.knobs
            if name not in self.knobs.seen and not {name.lower(), NAMES.get(name)} & used
        ]
        places += self.arguments.unseen() + self.expected.unseen() + self.tensors.unseen()
        places += [name for name in self.facts if name not in self.facts.seen | DESCRIPTIONS]
        places += [
            f"effective_hyperparameters.{name} = {value!r}"
            for name, value in self.settings.held.items()
            if name not in self.settings.seen and concerns(self.kind, name) and not is_off(value)
        ]
        places += [
            f"tolerance.{name}"
            for name, limits in self.tolerance.held.items()
            if isinstance(limits, Fields) and name not in self.tolerance.seen and self.has_any(name)
        ]
        return places

    def has_any(self, pattern: str) -> bool:
        """Whether a tolerance is for something that the case has; any but one for absent tensors is."""
        return not pattern.startswith("out.") or bool(fnmatch.filter(self.tensors, pattern.split(",")[0]))
