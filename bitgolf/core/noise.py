"""Training on the weights that will be shipped: quantization noise while the loss is taken."""

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from bitgolf.core.plan import Plan, setting
from bitgolf.core.quantize import QuantizeError, QuantizePlan, QuantRule, named
from bitgolf.core.schedule import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise(Plan):
    """The slot of what the weights look like while a training loss is taken."""

    abstract: ClassVar[bool] = True

    def misfits(self, names: Iterable[str]) -> list[str]:
        """What keeps it from a model with tensors of these names, as sentences."""
        return []

    def replaced(
        self, weights: Mapping[str, Tensor], quantize: QuantizePlan, progress: Progress, scale: float
    ) -> dict[str, Tensor]:
        """The weights that stand in for others in this step; the gradient at them goes to those others."""
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoNoise(Noise):
    """The weights as they are.

    What: the loss is that of the float weights.
    Source: the public baseline.
    Cost: nothing.
    Not for: grids so coarse that rounding costs more than training on them.
    Neutral: this is the neutral one.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeQuantize(Noise):
    """The loss of the weights as they will be shipped (quantization-aware training).

    What: tensors that match `patterns` are replaced by what the recipe's own quantization rules make of
        them, exactly, from the progress `from_progress` on and once the schedule's scale is under
        `under_scale` (0: any scale); the gradient passes straight through. Weights are swapped outside the
        graph, so nothing can be folded away. `rules` stand in for the recipe's where a public script trained
        on another grid than it shipped.
    Source: PR #297, #315 (scale under 0.1; never active there: the flag was folded), PR #488 (last 15% of
        the clock), PR #543, PR #1718 (matrices only; with embeddings "*").
    Cost: no bytes; one quantization of those tensors a step.
    Not for: int8, where it costs more steps than it saves (PR #212: +0.012); test-time training afterwards
        (#1718).
    Neutral: from_progress=1
    """

    from_progress: float = setting(0.0, at_least=0.0, at_most=1.0)
    under_scale: float = setting(0.0, at_least=0.0, at_most=1.0)
    patterns: tuple[str, ...] = ("blocks.*",)
    rules: tuple[QuantRule, ...] = ()

    def table(self, quantize: QuantizePlan) -> QuantizePlan:
        """The rules of the noise, given the recipe's."""
        return QuantizePlan(rules=self.rules) if self.rules else quantize

    def chosen(self, names: Iterable[str]) -> list[str]:
        """Those of these tensors that the patterns name."""
        return [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in self.patterns)]

    def misfits(self, names: Iterable[str]) -> list[str]:
        known = list(names)
        lost = [p for p in self.patterns if not any(fnmatch.fnmatchcase(name, p) for name in known)]
        return [f"patterns: {pattern!r} matches no tensor; names are like {known[0]}" for pattern in lost]

    def active(self, progress: Progress, scale: float) -> bool:
        """Whether this step is taken on quantized weights."""
        late = progress.fraction >= self.from_progress and self.from_progress < 1.0
        return late and (self.under_scale == 0.0 or scale < self.under_scale)

    def replaced(
        self, weights: Mapping[str, Tensor], quantize: QuantizePlan, progress: Progress, scale: float
    ) -> dict[str, Tensor]:
        if not self.active(progress, scale):
            return {}
        table = self.table(quantize)
        with torch.no_grad():
            found = {}
            for name in self.chosen(weights):
                if rule := table.rule_of(name, weights[name]):
                    try:
                        found[name] = rule.quantizer.fake_quantize(weights[name])
                    except QuantizeError as error:
                        raise named(error, name, rule) from None
            return found
