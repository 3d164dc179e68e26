"""One golden case: what the public scripts computed, on given weights and inputs."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


class NotCoveredError(Exception):
    """The case needs a technique that bitgolf does not have yet; the test lists it by name."""


@dataclasses.dataclass(frozen=True)
class Case:
    path: Path

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @functools.cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.path.with_suffix(".safetensors"))

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def kind(self) -> str:
        return self.facts["kind"]

    @property
    def knobs(self) -> dict[str, str]:
        return self.facts["knobs"] or {}

    @property
    def settings(self) -> dict[str, Any]:
        """Every scalar hyperparameter of the public script under these knobs, lower-case."""
        return self.facts.get("effective_hyperparameters") or {}

    @property
    def arguments(self) -> dict[str, Any]:
        return self.facts.get("arguments") or {}

    @property
    def expected(self) -> dict[str, Any]:
        return self.facts.get("expected") or {}

    @property
    def tolerance(self) -> dict[str, Any]:
        return self.facts.get("tolerance") or {}

    def file(self, field: str) -> Path:
        """A third file that the case names, such as `packed_file` or `tokenizer_file`."""
        return self.path.parent / self.facts[field]

    def weights(self) -> dict[str, torch.Tensor]:
        prefix = "weights."
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}
