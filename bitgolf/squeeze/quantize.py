"""Weights and a table of rules to quantized tensors.

The first matching rule wins. A tensor without a rule and a rule without a tensor are errors. Quantizers that
use curvature have their own modules.
"""

import dataclasses
import fnmatch
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.base.plan import Plan, setting
from bitgolf.base.threads import in_threads
from bitgolf.net.model import Model
from bitgolf.squeeze.form import FLOAT_TYPES, FloatForm, QuantizedTensor
from bitgolf.squeeze.grid import (
    Grid,
    PerTensor,
    StraightThrough,
    absmax_clip,
    as_matrix,
    percentile_clip,
)
from bitgolf.text.shards import TokenStream

# Tensors that the public rules never quantize; patterns match anywhere in a name.
PUBLIC_CONTROLS = ("*attn_scale*", "*mlp_scale*", "*resid_mix*", "*q_gain*", "*skip_weight*")
PUBLIC_SMALL_ELEMENTS = 65_536
SMALL_ELEMENTS = 2**14  # largest size of a tensor of scales or gates
PUBLIC_PERCENTILE = 0.9999984


class QuantizeError(BitgolfError):
    """A tensor cannot be written as asked."""


class Curvature(NamedTuple):
    """The curvature of the loss at a matrix (rows, columns): means over the tokens of a calibration text.

    inputs: E[x x^T] (columns, columns) of its inputs. outputs: E[g g^T] (rows, rows) of the gradient of one
    token's loss at its products; for the head only the diagonal (rows,); None if not gathered.
    silent_rows: number of a table's rows that the text never looks up; silent_share: share of lookups of such
    rows in all other text.
    """

    inputs: Tensor
    outputs: Tensor | None
    tokens: int
    silent_rows: int = 0
    silent_share: float = 0.0


Curvatures = dict[str, Curvature]  # by the name of the tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantizer(Plan):
    """The slot of quantizers of one tensor."""

    abstract: ClassVar[bool] = True

    def quantize(self, weight: Tensor, curvature: Curvature | None = None) -> QuantizedTensor:
        """The tensor as it is shipped; without a curvature, by the weights alone."""
        raise NotImplementedError

    def needs_hessian(self) -> bool:
        """Whether it needs the curvature."""
        return False

    def needs_output_grads(self) -> bool:
        """Whether it needs the curvature's outputs too."""
        return False

    def coarser(self, factor: float) -> Self:
        """The same quantizer with longer steps by a factor; itself if its rate cannot be set."""
        return self

    def notes(self, weight: Tensor, tensor: QuantizedTensor) -> dict[str, Any]:
        """Facts about a tensor that it made, for a report."""
        return {}

    def fake_quantize(self, weight: Tensor) -> Tensor:
        """Exactly the loaded weight, without calibration; gradients pass straight through."""
        with torch.no_grad():
            shipped = self.quantize(weight.detach()).dequantize().to(weight.dtype)
        return StraightThrough.apply(weight, shipped)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keep(Quantizer):
    """The tensor as a float.

    What: rounds to a float type and stores that
    Source: the public baseline (control tensors float32, other small ones float16); record 2026-03-24 (tables
        in float8_e4m3fn, FP_STORAGE=FP8)
    Cost: one, two or four bytes a weight before packing
    Not for: matrices
    Neutral: float32
    """

    dtype: str = setting("float16", one_of=tuple(FLOAT_TYPES))

    def quantize(self, weight: Tensor, curvature: Curvature | None = None) -> QuantizedTensor:
        values = weight.to(FLOAT_TYPES[self.dtype])
        if not bool((weight.abs() <= torch.finfo(values.dtype).max).all()):  # a cast may saturate
            largest = float(weight.float().abs().max())
            raise QuantizeError(
                f"values that {self.dtype} cannot hold", value=largest, way_out="use Keep(dtype='float32')"
            )
        return QuantizedTensor(FloatForm(dtype=self.dtype), {"values": values}, tuple(weight.shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounding(Quantizer):
    """Rounds every weight to the nearest value of a grid; members choose where the grid ends."""

    abstract: ClassVar[bool] = True

    grid: Grid = Grid()

    def clip(self, groups: Tensor) -> Tensor:
        """The weight of each group (a row) that gets the largest code."""
        raise NotImplementedError

    def quantize(self, weight: Tensor, curvature: Curvature | None = None) -> QuantizedTensor:
        matrix, grid = as_matrix(weight), self.grid
        clip = self.clip(grid.granularity.groups(matrix))
        scales = grid.choose_scales(clip)
        codes = grid.quantize_codes(matrix, scales, clip)
        pieces = {"codes": codes, "scales": grid.stored_scales(scales)}
        return QuantizedTensor(grid, pieces, tuple(weight.shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbsMax(Rounding):
    """Plain rounding with the largest weight on the largest code.

    What: the scale of each row is max|w| / qmax; nothing is clipped
    Source: public records from 2026-03-20 on (int6 and int5 per row)
    Cost: int6 about 5.4 bits a weight after packing, 0.0005 bpb; int5 4.4 bits, 0.003; int4 3.4 bits, 0.015
    Not for: below 5 bits, where error feedback is worth half a bit
    Neutral: 8 bits: no loss measured on matrices
    """

    grid: Grid = Grid(bits=6)

    def clip(self, groups: Tensor) -> Tensor:
        return absmax_clip(groups)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Percentile(Rounding):
    """Rounding with the largest code at a percentile of the sizes.

    What: weights beyond the percentile of their row are clipped to it
    Source: the public baseline (0.9999984 at 8 bits)
    Cost: as AbsMax; a selection over each row
    Not for: rows of less than a million weights at the public percentile, where it is nearly the maximum
    Neutral: percentile 1
    """

    grid: Grid = Grid(bits=8)
    percentile: float = setting(PUBLIC_PERCENTILE, above=0, at_most=1)

    def clip(self, groups: Tensor) -> Tensor:
        return percentile_clip(groups, self.percentile)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SdClip(Rounding):
    """Rounding with the largest code at a number of standard deviations.

    What: the scale is sigmas * std(row) / qmax, unbiased; hardly anything is clipped: `sigmas` sets the rate.
        Never below the mean of a row, so that a row of equal weights keeps them.
    Source: record 2026-04-05 (SDClip; 6 bits at 12.85 for matrices, 8 bits at 20 for embeddings)
    Cost: 6 bits at 12.85 about 3.3 bits a weight after packing, relative error 1.4%
    Not for: use without error feedback (GPTQ), which its records have
    Neutral: none; choose AbsMax
    """

    grid: Grid = Grid(bits=6)
    sigmas: float = setting(12.85, above=0)

    def coarser(self, factor: float) -> Self:
        return self.replace(sigmas=self.sigmas * factor)

    def clip(self, groups: Tensor) -> Tensor:
        if not groups.numel():
            return groups.new_zeros(groups.shape[0])
        values = groups.float()
        deviation = values.std(dim=1) if groups.shape[1] > 1 else groups.new_zeros(groups.shape[0])
        return torch.maximum(self.sigmas * deviation, values.mean(dim=1).abs())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Improved(Quantizer):
    """A quantizer that improves the result of another one."""

    abstract: ClassVar[bool] = True

    quantizer: Quantizer = SdClip()

    def validate(self) -> Iterator[str]:
        if isinstance(self.quantizer, Keep) or hasattr(self.quantizer, "quantizer"):
            yield f"quantizer: expected one of codes and scales alone, found {type(self.quantizer).__name__}"

    def needs_hessian(self) -> bool:
        return self.quantizer.needs_hessian()

    def needs_output_grads(self) -> bool:
        return self.quantizer.needs_output_grads()

    def coarser(self, factor: float) -> Self:
        return self.replace(quantizer=self.quantizer.coarser(factor))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration(Plan):
    """The slot of the calibration text, from which quantizers get the curvature."""

    abstract: ClassVar[bool] = True

    def gives_outputs(self) -> bool:
        """Whether its curvatures include outputs."""
        return False

    def gather(
        self, names: list[str], model: Model, stream: TokenStream, length: int, trial: bool
    ) -> Curvatures:
        """The curvature of the tensors of these names in a model.

        stream: the training tokens. length: of a sequence. trial: only one sequence, as a test.
        Raises PlanError if it cannot be gathered.
        """
        raise PlanError([f"quantize.calibration: {names[0]} needs one; nearest: TrainText"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoCalibration(Calibration):
    """No calibration: quantizers use only the weights.

    What: no pass through the model.
    Source: the public baseline.
    Cost: nothing.
    Not for: quantizers that need a curvature, which are refused without one.
    Neutral: this is the neutral one.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantRule(Plan):
    """One rule of the table: which tensors, and their quantizer."""

    patterns: tuple[str, ...] = setting(("*",))  # any of these, with * and ?, matches the tensor's name
    quantizer: Quantizer = Keep()
    more_than: int = setting(0, at_least=0)  # only tensors with more elements than this (0: all)
    axes: int = setting(0, at_least=0)  # only tensors with this many axes (0: any)
    may_be_idle: bool = False  # a rule by size may match nothing in a small model

    def matches(self, name: str, weight: Tensor) -> bool:
        """Whether this rule matches the tensor."""
        return (
            any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)
            and (not self.more_than or weight.numel() > self.more_than)
            and (not self.axes or weight.ndim == self.axes)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate(Plan):
    """The slot of how many bytes the tensors get."""

    abstract: ClassVar[bool] = True

    def validate_for(self, plan: "QuantizePlan") -> Iterator[str]:
        """Problems of this rate with a table, as sentences."""
        yield from ()

    def allocate(
        self, plan: "QuantizePlan", budget_bytes: int, total_bytes: Callable[["QuantizePlan"], int]
    ) -> Generator[dict[str, Any], None, "QuantizePlan"]:
        """The table at its rate; yields facts about each try.

        total_bytes: the bytes of code and artifact with a table. Raises BudgetError if no rate fits.
        """
        yield from ()
        return plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed(Rate):
    """The rate of the rules as they are set.

    What: no quantizer is changed
    Source: the public baseline
    Cost: nothing
    Not for: filling a byte budget
    Neutral: this is the neutral one
    """


class TuningTask(NamedTuple):
    """What a tuning works on.

    exact, student: two models with the weights as trained; the student is changed. small: names of small
    tensors. rounded: from names, and weights that have changed, to the values of these tensors after
    rounding. stream: the training tokens. length: of a sequence. trial: as few steps as possible.
    """

    exact: Model
    student: Model
    small: list[str]
    rounded: Callable[[Iterable[str], dict[str, Tensor]], dict[str, Tensor]]
    stream: TokenStream
    length: int
    trial: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning(Plan):
    """The slot of fine-tuning: after all tensors are rounded, or between one and the next."""

    abstract: ClassVar[bool] = True
    one_rate: ClassVar[bool] = False  # whether it corrects the rounding errors of one rate, and of no other

    def tune(self, task: TuningTask) -> Generator[tuple[int, int], None, dict[str, Tensor]]:
        """New weights to quantize, float32 on the CPU, by name; yields (steps done, steps)."""
        yield from ()
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoTuning(Tuning):
    """Small tensors stay as trained.

    What: nothing is trained after rounding
    Source: the public records
    Cost: nothing
    Not for: five bits a weight and fewer, where TuneControls recovered 4 to 17% of the gap
    Neutral: this is the neutral one
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizePlan(Plan):
    """The table of rules; the first rule that matches a tensor wins."""

    rules: tuple[QuantRule, ...] = setting((QuantRule(),))
    calibration: Calibration = NoCalibration()
    rate: Rate = Fixed()
    tuning: Tuning = NoTuning()

    def validate(self) -> Iterator[str]:
        if not self.calibration.gives_outputs() and any(
            rule.quantizer.needs_output_grads() for rule in self.rules
        ):
            yield "calibration: RateAware needs TrainText(outputs=True) or OwnText(outputs=True)"
        yield from self.rate.validate_for(self)

    def rule_of(self, name: str, weight: Tensor) -> QuantRule | None:
        """The rule of a tensor; None if no rule matches."""
        return next((rule for rule in self.rules if rule.matches(name, weight)), None)

    def assign(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """The index of each tensor's rule. Raises PlanError with all tensors and rules without a match."""
        chosen = {
            name: next((i for i, rule in enumerate(self.rules) if rule.matches(name, weight)), -1)
            for name, weight in weights.items()
        }
        problems = [f"QuantizePlan.rules: no rule for {name}" for name, rule in chosen.items() if rule < 0]
        problems += [
            f"QuantizePlan.rules.{i}: {', '.join(rule.patterns)} decides no tensor; remove it, move it up, "
            "or set may_be_idle=True"
            for i, rule in enumerate(self.rules)
            if not rule.may_be_idle and i not in chosen.values()
        ]
        if problems:
            raise PlanError(problems)
        return chosen

    def tunable(self, weights: Mapping[str, Tensor]) -> list[str]:
        """The tensors that tuning may change: small ones whose quantizers need no curvature."""
        small = [name for name, weight in weights.items() if weight.numel() <= SMALL_ELEMENTS]
        rules = {name: self.rule_of(name, weights[name]) for name in small}
        return [
            name for name, rule in rules.items() if rule is not None and not rule.quantizer.needs_hessian()
        ]

    def curvatures(self, model: Model, stream: TokenStream, length: int, trial: bool = False) -> Curvatures:
        """The curvatures that the quantizers need, by Calibration.gather; empty if none needs any."""
        chosen = self.assign(dict(model.named_parameters()))
        names = [name for name, rule in chosen.items() if self.rules[rule].quantizer.needs_hessian()]
        return self.calibration.gather(names, model, stream, length, trial) if names else {}


def named(error: QuantizeError, name: str, rule: QuantRule) -> QuantizeError:
    """The error of a quantizer, with the names of tensor and quantizer."""
    way_out = f"{error.way_out}; now {rule.quantizer}"
    return QuantizeError(error.what, where=name, value=error.value, way_out=way_out)


class Made(NamedTuple):
    """A quantized tensor, with the weight and quantizer it came from, and the seconds it took."""

    weight: Tensor
    quantizer: Quantizer
    tensor: QuantizedTensor
    seconds: float


def quantize_weights(
    plan: QuantizePlan,
    weights: Mapping[str, Tensor],
    curvatures: Curvatures | None = None,
    made: dict[str, Made] | None = None,
) -> tuple[dict[str, QuantizedTensor], list[dict[str, Any]]]:
    """Every tensor quantized by its rule, and a row of facts for each.

    made: results of earlier calls with these curvatures, updated in place; reused if weight and quantizer are
    the same.
    """
    chosen, made = plan.assign(weights), {} if made is None else made
    rules, seen = {name: plan.rules[rule] for name, rule in chosen.items()}, curvatures or {}
    with_gradients = torch.is_grad_enabled()  # a setting of each thread

    def make(name: str) -> Made:
        weight, rule, started = weights[name], rules[name], time.perf_counter()
        if not bool(weight.isfinite().all()):
            raise QuantizeError("weights that are not finite", where=name, way_out="the training diverged")
        try:
            with torch.set_grad_enabled(with_gradients):
                tensor = rule.quantizer.quantize(weight, seen.get(name))
        except QuantizeError as error:
            raise named(error, name, rule) from None
        return Made(weight, rule.quantizer, tensor, time.perf_counter() - started)

    stale = [
        name
        for name, weight in weights.items()
        if name not in made
        or made[name].weight is not weight
        or made[name].quantizer != rules[name].quantizer
    ]
    made |= zip(stale, in_threads(make, stale))
    rows = [
        {"name": name, "rule": f"{chosen[name]}: {type(rules[name].quantizer).__name__}"}
        | ({"calibration_tokens": seen[name].tokens} if name in seen else {})
        | {"seconds": made[name].seconds}
        for name in weights
    ]
    return {name: made[name].tensor for name in weights}, rows


def public_int8() -> QuantizePlan:
    """The public baseline: int8 by percentile for large tensors; small ones float16, controls float32."""
    rows = Grid(bits=8, round_scale_first=False, scale_floor=1 / 127)
    whole = Grid(bits=8, granularity=PerTensor(), scale_dtype="float32", zero_scale=1.0)
    large = QuantRule(more_than=PUBLIC_SMALL_ELEMENTS, may_be_idle=True)
    return QuantizePlan(
        rules=(
            large.replace(axes=2, quantizer=Percentile(grid=rows)),
            large.replace(quantizer=Percentile(grid=whole)),
            QuantRule(patterns=PUBLIC_CONTROLS, quantizer=Keep(dtype="float32"), may_be_idle=True),
            QuantRule(quantizer=Keep(dtype="float16"), may_be_idle=True),
        )
    )


def absmax_rows(matrix_bits: int = 6, embedding_bits: int = 8) -> QuantizePlan:
    """Matrices and embeddings by row without a scale floor, everything else float16."""
    return QuantizePlan(
        rules=(
            QuantRule(
                patterns=("tok_emb.weight", "lm_head.weight"),
                quantizer=AbsMax(grid=Grid(bits=embedding_bits)),
            ),
            QuantRule(patterns=("blocks.*.weight",), axes=2, quantizer=AbsMax(grid=Grid(bits=matrix_bits))),
            QuantRule(quantizer=Keep(dtype="float16")),
        )
    )


def int6_rows() -> QuantizePlan:
    """int6 matrices, int8 embeddings, float16 controls: the default of bitgolf's own recipes."""
    return absmax_rows(matrix_bits=6, embedding_bits=8)
