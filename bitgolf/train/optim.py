"""The parameter table: the update rule and learning rate of every parameter."""

import dataclasses
import fnmatch
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bitgolf.base.errors import CheckpointError, PlanError
from bitgolf.base.plan import Plan, setting
from bitgolf.train.muon import NEWTON_SCHULZ, POLAR_EXPRESS, Coefficients, Muon
from bitgolf.train.schedule import Progress, Schedule, WarmdownClock, momentum_at
from bitgolf.train.world import World


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule(Plan):
    """The slot of update rules."""

    abstract: ClassVar[bool] = True

    def make(
        self, parameters: list[nn.Parameter], world: World, dtype: torch.dtype
    ) -> torch.optim.Optimizer | None:
        """The optimizer for these parameters; None if they are frozen."""
        raise NotImplementedError

    def rates(self, lr_scale: float, progress: Progress) -> dict[str, float]:
        """Values that are set before every step: the rate times the schedule's scale, and others."""
        raise NotImplementedError

    @property
    def moves(self) -> bool:
        """Whether it changes parameters at all."""
        return self.rates(1.0, Progress(0, 1)).get("lr") != 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamRule(Rule):
    """Adam, with decoupled weight decay (AdamW) if it is set.

    What: running means of gradient and squared gradient set the step of each number separately.
    Source: Kingma and Ba 2014; Loshchilov and Hutter 2017; the public baseline for embeddings and scalars.
    Cost: two float32 copies of its parameters.
    Not for: matrices of the blocks, where Muon learns faster.
    Neutral: lr=0
    """

    lr: float = setting(0.04, at_least=0.0)
    beta1: float = setting(0.9, at_least=0.0, below=1.0)
    beta2: float = setting(0.95, at_least=0.0, below=1.0)
    eps: float = setting(1e-8, above=0.0)
    weight_decay: float = setting(0.0, at_least=0.0)

    def make(self, parameters: list[nn.Parameter], world: World, dtype: torch.dtype) -> torch.optim.Optimizer:
        betas = self.beta1, self.beta2
        return torch.optim.AdamW(
            parameters, lr=self.lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )

    def rates(self, lr_scale: float, progress: Progress) -> dict[str, float]:
        return {"lr": self.lr * lr_scale}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuonRule(Rule):
    """Muon: the momentum of each matrix, orthogonalised.

    What: all singular values of an update are about equal; the momentum rises over the first steps.
        row_normalize (MuonEq-R): every row of a direction is first scaled to length 1. polar_express: a
        steeper iteration with its own coefficients in each step, never more than five of them. The decay
        falls linearly to taper_final times its value, from a progress of taper_start to the end.
    Source: Jordan 2024; the public baseline; decoupled weight decay from the 2026-03-19 records, rows from
        PR #1217, Polar Express from PR #1344 and #1787, taper from PR #1729.
    Cost: one float32 copy of its parameters; 5 to 20% of the seconds of a small step.
    Not for: embeddings, heads, vectors and control tensors.
    Neutral: lr=0
    """

    lr: float = setting(0.04, at_least=0.0)
    momentum: float = setting(0.95, at_least=0.0, below=1.0)
    warmup_start: float = setting(0.85, at_least=0.0, below=1.0)
    warmup_steps: int = setting(500, at_least=0)
    backend_steps: int = setting(5, at_least=1, at_most=100)
    nesterov: bool = True
    weight_decay: float = setting(0.0, at_least=0.0)
    row_normalize: bool = False
    polar_express: bool = False
    taper_start: float = setting(1.0, at_least=0.0, at_most=1.0)
    taper_final: float = setting(1.0, at_least=0.0, at_most=1.0)

    def make(self, parameters: list[nn.Parameter], world: World, dtype: torch.dtype) -> torch.optim.Optimizer:
        return Muon(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            row_normalize=self.row_normalize,
            coefficients=self.coefficients(),
            iteration_dtype=dtype,
            world=world,
        )

    def coefficients(self) -> tuple[Coefficients, ...]:
        """The coefficients of each step; Polar Express has at most the five that were published."""
        if self.polar_express:
            return POLAR_EXPRESS[: self.backend_steps]
        return (NEWTON_SCHULZ,) * self.backend_steps

    def rates(self, lr_scale: float, progress: Progress) -> dict[str, float]:
        lr, decay = self.lr * lr_scale, self._decay(progress.fraction)
        momentum = momentum_at(progress.step, self.warmup_start, self.momentum, self.warmup_steps)
        return {"lr": lr, "momentum": momentum, "weight_decay": decay}

    def _decay(self, done: float) -> float:
        if done <= self.taper_start or self.taper_start == 1.0:
            return self.weight_decay
        tapered = min((done - self.taper_start) / (1.0 - self.taper_start), 1.0)
        return self.weight_decay * (1.0 - tapered * (1.0 - self.taper_final))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SgdRule(Rule):
    """Plain gradient descent with momentum (SGD).

    What: v = momentum v + gradient, and the parameter loses lr v.
    Source: PR #461, #549 while scoring: lr 0.002 at 1,024 pieces, 0.005 at 8,192.
    Cost: one float32 copy of its parameters.
    Not for: training from the start, where Muon and Adam learn many times faster.
    Neutral: lr=0
    """

    lr: float = setting(0.002, at_least=0.0)
    momentum: float = setting(0.9, at_least=0.0, below=1.0)
    weight_decay: float = setting(0.0, at_least=0.0)

    def make(self, parameters: list[nn.Parameter], world: World, dtype: torch.dtype) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def rates(self, lr_scale: float, progress: Progress) -> dict[str, float]:
        return {"lr": self.lr * lr_scale}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frozen(Rule):
    """No update: tensors stay exactly as they start.

    What: they are in no optimizer, have no gradient, and do not count in the gradient norm for clipping. They
        are averaged, quantized, tuned after rounding if a recipe says so, and shipped like all others. Only
        an explicit row freezes anything.
    Source: tensors that public scripts forgot to train: the value embedding of PR #543, smear and bigram
        table in an ablation of PR #212, the bigram table of PR #1716 and #1718. There their gradients were
        accumulated from step to step and counted in the clipping.
    Cost: none in training; bytes as any tensor, next to none where it starts at zero.
    Not for: parts that start without information: a table of zeros adds zero forever.
    Neutral: lr=0 of another rule without decay
    """

    def make(
        self, parameters: list[nn.Parameter], world: World, dtype: torch.dtype
    ) -> torch.optim.Optimizer | None:
        for parameter in parameters:
            parameter.requires_grad_(False)
        return None

    def rates(self, lr_scale: float, progress: Progress) -> dict[str, float]:
        return {"lr": 0.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterRow(Plan):
    """One row of the parameter table: parameters by name pattern and number of dimensions, and their rule.

    may_be_idle: the row may match nothing, as in a table that serves models with and without some part.
    """

    pattern: str = "*"
    rule: Rule = AdamRule()
    minimum_ndim: int = setting(0, at_least=0)
    maximum_ndim: int = setting(9, at_least=0)
    may_be_idle: bool = False

    def matches(self, name: str, parameter: Tensor) -> bool:
        """Whether the row matches this parameter; the first matching row wins."""
        fits = self.minimum_ndim <= parameter.ndim <= self.maximum_ndim
        return fits and fnmatch.fnmatchcase(name, self.pattern)


def baseline_rows(tied: bool = True) -> tuple[ParameterRow, ...]:
    """The public groups: matrices of blocks by Muon; embedding, head and small tensors by Adam."""
    embedding = ParameterRow(pattern="tok_emb.weight", rule=AdamRule(lr=0.05 if tied else 0.6))
    head = ParameterRow(pattern="lm_head.weight", rule=AdamRule(lr=0.008))
    matrices = ParameterRow(pattern="blocks.*.weight", minimum_ndim=2, maximum_ndim=2, rule=MuonRule())
    rest = ParameterRow(pattern="*", rule=AdamRule(lr=0.04))
    return (embedding, matrices, rest) if tied else (embedding, head, matrices, rest)


def public_rows(
    *, embedding: Rule, matrices: Rule, rest: Rule, head: Rule | None = None
) -> tuple[ParameterRow, ...]:
    """The groups of the public records, for a model with any of their parts.

    embedding: every table of ids. head: a separate output matrix, at the public rate if not given.
    rest: vectors, scalars, and the control tensors and gates, matrices or not.
    """
    # Separate from baseline_rows, which is in every script as the default of OptimPlan.
    return (
        ParameterRow(pattern="tok_emb.weight", rule=embedding),
        ParameterRow(pattern="*embed.weight", rule=embedding, may_be_idle=True),
        ParameterRow(pattern="lm_head.weight", rule=head or AdamRule(lr=0.008), may_be_idle=True),
        ParameterRow(pattern="*_gate*", rule=rest, may_be_idle=True),
        ParameterRow(pattern="*.weight", minimum_ndim=2, maximum_ndim=2, rule=matrices),
        ParameterRow(pattern="*", rule=rest),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimPlan(Plan):
    """The parameter table (first match wins) and the schedule of all its rates."""

    rows: tuple[ParameterRow, ...] = baseline_rows()
    schedule: Schedule = WarmdownClock()


def assign_parameters(plan: OptimPlan, parameters: dict[str, Any]) -> list[list[str]]:
    """The names that each row matches. Raises PlanError for a name without row, or a row without name."""
    taken: list[list[str]] = [[] for _ in plan.rows]
    homeless = []
    for name, parameter in parameters.items():
        row = next((i for i, row in enumerate(plan.rows) if row.matches(name, parameter)), None)
        if row is None:
            homeless.append(name)
        else:
            taken[row].append(name)
    problems = [
        f"rows: no row matches parameter {name!r} with {parameters[name].ndim} dimensions; add a row for it"
        for name in homeless
    ]
    problems += [
        f"rows.{i}: pattern {row.pattern!r} with {row.minimum_ndim} to {row.maximum_ndim} dimensions takes "
        f"no parameter; {_taken_before(plan, i, parameters)}"
        for i, row in enumerate(plan.rows)
        if not taken[i] and not row.may_be_idle
    ]
    if problems:
        raise PlanError(f"optim.{problem}" for problem in problems)
    return taken


def _taken_before(plan: OptimPlan, index: int, parameters: dict[str, Any]) -> str:
    matching = [name for name, parameter in parameters.items() if plan.rows[index].matches(name, parameter)]
    if matching:
        return f"rows before it already take {', '.join(matching[:3])}"
    return f"the names are like {', '.join(list(parameters)[:3])}"


class Optimizers:
    """One optimizer per row that has parameters, and their state under the names of the parameters."""

    def __init__(self, plan: OptimPlan, model: nn.Module, world: World, dtype: torch.dtype) -> None:
        self.plan = plan
        self.parameters = dict(model.named_parameters())
        taken = assign_parameters(plan, self.parameters)
        self.rows = [row for row, names in zip(plan.rows, taken) if names]
        self.names = [names for names in taken if names]
        self.optimizers = [
            row.rule.make([self.parameters[name] for name in names], world, dtype)
            for row, names in zip(self.rows, self.names)
        ]
        if not any(self.optimizers):
            raise PlanError(["optim.rows: every parameter is frozen; give one of them a rule that trains"])

    def zero(self) -> None:
        """Clear all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """The existing gradients, in the order of the parameters."""
        return [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]

    def step(self, lr_scale: float, progress: Progress) -> None:
        """Take one step, every rate multiplied by lr_scale; progress: before this step."""
        for row, optimizer in zip(self.rows, self.optimizers):
            if optimizer is not None:
                optimizer.param_groups[0].update(row.rule.rates(lr_scale, progress))
                optimizer.step()

    def momentum(self, progress: Progress) -> float:
        """Muon's momentum in the next step; 0 without Muon."""
        rates = (row.rule.rates(1.0, progress) for row in self.rows)
        return next((rate["momentum"] for rate in rates if "momentum" in rate), 0.0)

    def parameter_table(self) -> list[dict[str, Any]]:
        """The parameter table with the parameters of each row, for people."""
        return [
            {
                "pattern": row.pattern,
                "rule": type(row.rule).__name__,
                "lr": row.rule.rates(1.0, Progress(0, 1))["lr"],
                "tensors": len(names),
                "elements": sum(self.parameters[name].numel() for name in names),
                "names": names,
            }
            for row, names in zip(self.rows, self.names)
        ]

    def state(self) -> dict[str, Tensor]:
        """Every tensor the optimizers keep, as 'parameter/what'; references, not copies."""
        return {
            f"{name}/{key}": tensor
            for name, optimizer in self._owners()
            for key, tensor in optimizer.state.get(self.parameters[name], {}).items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the result of `state`; an empty state is that of optimizers before any step."""
        owners = dict(self._owners())
        for optimizer in owners.values():
            optimizer.state.clear()
        for key, tensor in state.items():
            name, _, what = key.rpartition("/")
            if name not in owners:
                raise CheckpointError("optimizer state of an unknown parameter", value=name)
            parameter = self.parameters[name]
            owners[name].state[parameter][what] = tensor.to(parameter.device, copy=True)

    def _owners(self) -> Iterator[tuple[str, torch.optim.Optimizer]]:
        for names, optimizer in zip(self.names, self.optimizers):
            if optimizer is not None:
                yield from ((name, optimizer) for name in names)


def make_optimizers(
    plan: OptimPlan,
    model: nn.Module,
    world: World | None = None,
    iteration_dtype: torch.dtype = torch.bfloat16,
) -> Optimizers:
    """The optimizers of a model. Raises PlanError if table and parameters do not fit.

    iteration_dtype: of Muon's Newton-Schulz products; float32 if the device is slow at bfloat16.
    """
    return Optimizers(plan, model, world or World(), iteration_dtype)
