"""Rates and momentum over the steps."""

import pytest

from bitgolf.train.schedule import Progress, Schedule, WarmdownClock, WarmdownFraction, momentum_at
from tests.golden_cases.case import Case
from tests.golden_cases.compare import limits


def check(case: Case) -> None:
    cap, allowed = clock_seconds(case), limits(case, "everything")["rel"]
    plan, steps = public_schedule(case), case.settings["iterations"]
    # With a clock the public fraction does not look at steps; ours follows whichever is further.
    steps = 10**12 if cap > 0 and isinstance(plan, WarmdownFraction) else steps
    rows = case.expected["lr_rows_step_elapsedms_multiplier"]
    assert [row[:2] for row in rows] == case.arguments["points"]
    for name, column in (("step", 0), ("elapsed_ms", 1), ("out.lr_multiplier", 2)):
        assert case.tensors[name].tolist() == [row[column] for row in rows]
    for step, elapsed_ms, scale in rows:
        found = plan.lr_scale(Progress(step, steps, elapsed_ms / 1000.0, cap))
        assert found == pytest.approx(scale, rel=allowed), step
    check_momentum(case, allowed)


def check_momentum(case: Case, allowed: float) -> None:
    rows = case.expected["momentum_rows_step_value"]
    assert [step for step, _ in rows] == case.arguments["momentum_steps"]
    assert case.tensors["out.momentum"].tolist() == [value for _, value in rows]
    names = ("muon_momentum_warmup_start", "muon_momentum", "muon_momentum_warmup_steps")
    for step, momentum in rows:
        found = momentum_at(step, *(case.settings[name] for name in names))
        assert found == pytest.approx(momentum, rel=allowed), step


def clock_seconds(case: Case) -> float:
    """How long the script trains, less what it reserves for quantization; 0 without a clock."""
    settings = case.settings
    reserved = settings.get("gptq_reserve_ms", 0.0) / 1000.0
    reserved = reserved if settings.get("use_gptq", True) else 0.0
    reserved = settings.get("gptq_reserve_seconds", reserved)
    cap = settings["max_wallclock_seconds"]
    return cap - reserved if cap > 0 else cap


def public_schedule(case: Case) -> Schedule:
    settings = case.settings
    if "warmdown_frac" in settings:
        return WarmdownFraction(fraction=settings["warmdown_frac"], minimum=settings["min_lr"])
    return WarmdownClock(warmdown_steps=settings["warmdown_iters"])
