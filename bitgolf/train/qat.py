"""Quantization-aware training (QAT): quantization noise on the weights while the loss is computed."""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from bitgolf.base.plan import Plan, setting
from bitgolf.squeeze.grid import as_matrix
from bitgolf.squeeze.quantize import QuantizeError, QuantizePlan, QuantRule, Rounding, named
from bitgolf.train.schedule import Progress


class CustomGradient(NamedTuple):
    """Values that replace a weight, with their own gradient.

    backward: maps the gradient at the values to the gradient of the weight.
    """

    values: Tensor
    backward: Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise(Plan):
    """The slot of quantization noise on the weights while a training loss is computed."""

    abstract: ClassVar[bool] = True

    def validate_for(self, names: Iterable[str]) -> list[str]:
        """Why it does not fit a model with tensors of these names, as sentences."""
        return []

    def fake_quantized(
        self, weights: Mapping[str, Tensor], quantize: QuantizePlan, progress: Progress, lr_scale: float
    ) -> Mapping[str, Tensor | CustomGradient]:
        """Replacements of weights in this step; gradients at plain tensors go to the weight unchanged."""
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoNoise(Noise):
    """The weights as they are.

    What: the loss is that of the float weights.
    Source: the public baseline.
    Cost: nothing.
    Not for: coarse grids, where training with noise costs less than rounding afterwards.
    Neutral: this is the neutral one.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class LateNoise(Noise):
    """Noise on some tensors in a part of the training, by the recipe's quantization rules or its own.

    from_progress, under_scale: it is on once the progress reaches the first and the scale of the rates is
    below the second (0: any scale).
    """

    abstract: ClassVar[bool] = True

    from_progress: float = setting(0.0, at_least=0.0, at_most=1.0)
    under_scale: float = setting(0.0, at_least=0.0, at_most=1.0)
    patterns: tuple[str, ...] = ("blocks.*",)
    rules: tuple[QuantRule, ...] = ()

    def noise_plan(self, quantize: QuantizePlan) -> QuantizePlan:
        """The quantization rules of the noise, given the recipe's."""
        return QuantizePlan(rules=self.rules) if self.rules else quantize

    def chosen(self, names: Iterable[str]) -> list[str]:
        """The names among these that match the patterns."""
        return [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in self.patterns)]

    def validate_for(self, names: Iterable[str]) -> list[str]:
        all_names = list(names)
        lost = [p for p in self.patterns if not any(fnmatch.fnmatchcase(name, p) for name in all_names)]
        return [f"patterns: {pattern!r} matches no tensor; names are like {all_names[0]}" for pattern in lost]

    def active(self, progress: Progress, lr_scale: float) -> bool:
        """Whether this step uses quantized weights."""
        late = progress.fraction >= self.from_progress and self.from_progress < 1.0
        return late and (self.under_scale == 0.0 or lr_scale < self.under_scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeQuantize(LateNoise):
    """The loss of the weights as they will be shipped (quantization-aware training).

    What: tensors that match `patterns` are replaced by their values after exactly the recipe's quantization
        rules, from the progress `from_progress` on and once the schedule's scale is under `under_scale` (0:
        any scale); the gradient passes straight through. Weights are swapped outside the graph, so nothing
        can be folded away. `rules` replace the recipe's for public scripts that trained on another grid than
        they shipped.
    Source: PR #297, #315 (scale under 0.1; never active there: the flag was folded), PR #488 (last 15% of
        the clock), PR #543, PR #1718 (matrices only; with embeddings "*").
    Cost: no bytes; one quantization of those tensors a step.
    Not for: int8, where it costs more steps than it saves (PR #212: +0.012); test-time training afterwards
        (#1718).
    Neutral: from_progress=1
    """

    def fake_quantized(
        self, weights: Mapping[str, Tensor], quantize: QuantizePlan, progress: Progress, lr_scale: float
    ) -> dict[str, Tensor]:
        if not self.active(progress, lr_scale):
            return {}
        plan = self.noise_plan(quantize)
        with torch.no_grad():
            rounded = {}
            for name in self.chosen(weights):
                if rule := plan.rule_of(name, weights[name]):
                    try:
                        rounded[name] = rule.quantizer.fake_quantize(weights[name])
                    except QuantizeError as error:
                        raise named(error, name, rule) from None
            return rounded


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftNoise(LateNoise):
    """Rounding that begins soft and ends nearly hard.

    softest, hardest: the sharpness a of its curve at both ends. It follows the schedule's scale from
        `under_scale` to 0 or, if that is 0, the progress from `from_progress` to 1. Only rules that round to
        a grid (Rounding) are used.
    """

    abstract: ClassVar[bool] = True

    softest: float = setting(1.0, above=0.0, at_most=100.0)
    hardest: float = setting(16.0, above=0.0, at_most=100.0)

    def sharpness(self, progress: Progress, lr_scale: float) -> float:
        """The sharpness of the curve at this point of the training."""
        if self.under_scale:
            done = 1 - lr_scale / self.under_scale
        else:
            done = (progress.fraction - self.from_progress) / (1 - self.from_progress)
        return self.softest + (self.hardest - self.softest) * min(max(done, 0.0), 1.0)

    def fake_quantized(
        self, weights: Mapping[str, Tensor], quantize: QuantizePlan, progress: Progress, lr_scale: float
    ) -> dict[str, CustomGradient]:
        if not self.active(progress, lr_scale):
            return {}
        plan, sharpness = self.noise_plan(quantize), self.sharpness(progress, lr_scale)
        rules = {name: plan.rule_of(name, weights[name]) for name in self.chosen(weights)}
        return {
            name: self.rounded(weights[name].detach(), rule.quantizer, sharpness)
            for name, rule in rules.items()
            if rule and isinstance(rule.quantizer, Rounding)
        }

    def rounded(self, weight: Tensor, quantizer: Rounding, sharpness: float) -> CustomGradient:
        """The values that training uses for a weight."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftRound(SoftNoise):
    """Rounding that begins soft and ends nearly hard, with its own gradient (soft-rounded QAT).

    What: a weight of y steps, n = floor(y), becomes n + 1/2 + tanh(a (y - n - 1/2)) / (2 tanh(a / 2)) steps
        within the codes of its grid. The gradient is that of this curve, steps held fixed. a goes from
        `softest` to `hardest`; when and on which tensors as in FakeQuantize.
    Source: PR #606 (a from 1 to 16), after Agustsson & Theis 2020, arXiv:2006.09952. PR #631 has the second
        half inside the brackets, which moves every weight by a quarter step.
    Cost: no bytes; a quantization of those tensors a step, and their size in memory twice.
    Not for: gains: none is isolated; at its hard end the gradient is near zero between two steps.
    Neutral: from_progress=1
    """

    def rounded(self, weight: Tensor, quantizer: Rounding, sharpness: float) -> CustomGradient:
        return soft_rounded(weight, quantizer, sharpness)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmoidRound(SoftNoise):
    """Soft rounding by a sigmoid, with a gradient through the steps as well.

    What: a weight of y steps, n = floor(y), becomes n + sigmoid(a (y - n - 1/2)) steps within the codes of
        its grid: at a = 1 hardly more than the middle between two codes. The gradient includes the steps: the
        largest weight of a row gets that of its step.
    Source: record 2026-03-31 (late QAT, scale under 0.15, a from 1 to 16 over 500 steps; not isolated).
    Cost: no bytes; two quantizations of those tensors a step.
    Not for: a small a, at which a weight's place between two codes is lost; gains: none is isolated.
    Neutral: from_progress=1
    """

    def rounded(self, weight: Tensor, quantizer: Rounding, sharpness: float) -> CustomGradient:
        def backward(gradient: Tensor) -> Tensor:
            with torch.enable_grad():
                own = weight.clone().requires_grad_()
                return torch.autograd.grad(sigmoid_rounded(own, quantizer, sharpness), own, gradient)[0]

        return CustomGradient(sigmoid_rounded(weight, quantizer, sharpness), backward)


def sigmoid_rounded(weight: Tensor, quantizer: Rounding, sharpness: float) -> Tensor:
    """The weight as SigmoidRound trains on it."""
    matrix, grid = as_matrix(weight).float(), quantizer.grid
    scales = grid.choose_scales(quantizer.clip(grid.granularity.groups(matrix)))
    steps = grid.granularity.spread(scales, matrix.shape)
    y = matrix / torch.where(steps > 0, steps, 1.0)  # a row of zeros stays zero, and so does its gradient
    soft = y.detach().floor() + torch.sigmoid(sharpness * (y - y.detach().floor() - 0.5))
    return (soft.clamp(grid.qmin, grid.qmax) * steps).reshape(weight.shape).to(weight.dtype)


@torch.no_grad()
def soft_rounded(weight: Tensor, quantizer: Rounding, sharpness: float) -> CustomGradient:
    """The weight as SoftRound trains on it; its gradient is multiplied by the slope of the curve."""
    matrix, grid = as_matrix(weight).float(), quantizer.grid
    scales = grid.choose_scales(quantizer.clip(grid.granularity.groups(matrix)))
    steps = grid.granularity.spread(scales, matrix.shape)
    y = torch.where(steps > 0, matrix / steps, 0.0)
    curve, reach = torch.tanh(sharpness * (y - y.floor() - 0.5)), math.tanh(sharpness / 2)
    soft = y.floor() + 0.5 + curve / (2 * reach)
    inside = (soft >= grid.qmin) & (soft <= grid.qmax) & (steps > 0)
    slope = torch.where(inside, sharpness * (1 - curve.square()) / (2 * reach), 0.0)
    result = (soft.clamp(grid.qmin, grid.qmax) * steps).reshape(weight.shape).to(weight.dtype)
    return CustomGradient(result, slope.reshape(weight.shape).to(weight.dtype).mul)
