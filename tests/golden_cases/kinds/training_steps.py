"""A few steps of training: losses, rates, and where they lead."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bitgolf.train.average import NoAverage
from bitgolf.train.loop import TrainPlan, train
from bitgolf.train.optim import AdamRule, OptimPlan, ParameterRow, make_optimizers
from bitgolf.train.world import World
from tests.golden_cases.case import Case
from tests.golden_cases.compare import limits, relative
from tests.golden_cases.kinds.schedule import clock_seconds, public_schedule
from tests.golden_cases.network import bank_members, loaded, looping, public_plan, public_weights
from tests.golden_cases.optimizers import public_table


@dataclasses.dataclass
class GivenBatches:
    """The batches that the case holds, one for each step."""

    tokens: Tensor

    @property
    def length(self) -> int:
        return self.tokens.shape[2] - 1

    def next_batch(self, position: int, rows: int, world: World, length: int) -> tuple[Tensor, Tensor, int]:
        tokens = self.tokens[position]
        return tokens[:, :-1], tokens[:, 1:], position + 1

    def synthetic(self, rows: int) -> tuple[Tensor, Tensor]:
        return self.tokens[0][:, :-1], self.tokens[0][:, 1:]


OTHERWISE = "_if_newton_schulz_is_not_bf16"  # how a tolerance for an iteration in float32 ends


def check(case: Case) -> None:
    try:
        check_steps(case, torch.bfloat16, "")
    except AssertionError:  # bfloat16 rounds by the order of sums; a case may say what float32 may differ by
        if f"abs{OTHERWISE}" not in limits(case, "loss_before_each_step"):
            raise
        check_steps(case, torch.float32, OTHERWISE)


def check_steps(case: Case, iteration_dtype: torch.dtype, ends: str) -> None:
    arguments, settings, expected = case.arguments, case.settings, case.expected
    tokens, steps = case.tensors["tokens"].long(), arguments["n_steps"]
    assert tuple(tokens.shape) == (steps, arguments["batch"], arguments["seq"] + 1)
    weights = public_weights(case)
    model, total = loaded(public_plan(case, weights), weights), settings["iterations"]
    clock = clock_seconds(case)
    plan = TrainPlan(
        # With a clock the public fraction of the warm-down does not look at steps.
        steps=10**12 if clock > 0 and "warmdown_frac" in settings else total,
        train_seconds=max(clock, 0.0),
        batch_tokens=arguments["batch"] * arguments["seq"],
        accumulation=1,
        grad_clip_norm=settings["grad_clip_norm"],
    )
    rows = (*untouched(case), *public_table(case))
    table = OptimPlan(rows=rows, schedule=public_schedule(case))
    optimizers = make_optimizers(table, model, iteration_dtype=iteration_dtype)
    settings.get("enable_looping_at")  # the case says whether layers are passed again in its steps
    assert looping(case) or arguments.get("looping_active") is not None
    shown = readings(arguments["elapsed_ms"])
    batches = GivenBatches(tokens)
    reports = train(model, plan, optimizers, NoAverage(), batches, clock=lambda: next(shown, 0.0))
    columns = "loss_before_each_step lr_multiplier muon_momentum total_grad_norm_before_clip".split()
    exact = limits(case, "lr_multiplier")["rel"]
    for step, report in zip(range(steps), reports):
        loss, scale, momentum, norm = (expected[name][step] for name in columns)
        stated = limits(case, "loss_before_each_step" if step else "loss_before_each_step0")
        near = stated[f"abs{ends}" if step else "abs"]
        assert report.nats_per_token == pytest.approx(loss, abs=near), step
        assert report.scale == pytest.approx(scale, rel=exact), step
        assert report.momentum == pytest.approx(momentum, rel=exact), step
        far = (0.1 if ends else 0.02) if step else 1e-4
        assert report.gradient_norm == pytest.approx(norm, rel=far), step
    assert all(len(expected[name]) == steps for name in columns)
    allowed = limits(case, "out.after.*")
    allowed = allowed[f"rel{ends}" if ends else "rel_frobenius_of_total_change"]
    check_weights(case, weights, dict(model.named_parameters()), allowed)


def check_weights(
    case: Case, weights: dict[str, Tensor], found: dict[str, torch.nn.Parameter], allowed: float
) -> None:
    """How far each tensor went, by public names."""
    for name, after in case.tensors.starting("out.after.").items():
        members = [name] if name in weights else bank_members(case, name)
        start = case.tensors[f"weights.{name}"].float()
        if not members or torch.equal(after.float(), start):
            assert all(torch.equal(found[member], weights[member]) for member in members), name
            continue
        now = torch.stack([found[member].detach() for member in members])
        if name.startswith("skip_"):  # fewer rows where passes are not switched on yet
            now, start, after = now[0], start[: now.shape[1]], after[: now.shape[1]]
        now = now.view_as(start)
        assert relative(now - start, after - start) <= allowed, name


def untouched(case: Case) -> Iterator[ParameterRow]:
    """Rows that do not move what the script leaves as it was, because it is in none of its groups."""
    after = public_weights(case, case.tensors.starting("out.after."))
    for name, tensor in public_weights(case).items():
        if torch.equal(after[name], tensor):
            yield ParameterRow(pattern=name, rule=AdamRule(lr=0.0))


def readings(elapsed_ms: list[float]) -> Iterator[float]:
    """What the clock must show at the start and end of every step."""
    for now, then in zip(elapsed_ms, [*elapsed_ms[1:], elapsed_ms[-1]]):
        yield now / 1000.0
        yield then / 1000.0
