"""Schedules at their corners, and under clocks that stutter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.core.plan import Plan, members
from bitgolf.core.schedule import (
    Constant,
    Progress,
    Schedule,
    WarmdownClock,
    WarmdownFraction,
    WarmdownSteps,
    momentum_at,
)


def by_step(schedule, steps=100):
    return [schedule.scale(Progress(step, steps)) for step in range(steps + 2)]


def test_progress_is_the_further_of_steps_and_clock():
    assert Progress(3, 10).fraction == 0.3
    assert Progress(3, 10, 5.0, 10.0).fraction == 0.5
    assert Progress(7, 10, 5.0, 10.0).fraction == 0.7
    assert Progress(3, 10, 5.0, 0.0).fraction == 0.3


def test_warmdown_by_steps_and_its_public_end():
    scales = by_step(WarmdownSteps(warmdown_steps=20))
    assert scales[:81] == [1.0] * 81
    assert scales[81] == 0.95
    assert scales[99] == 0.05
    assert scales[100:] == [1.0, 1.0]


def test_warmdown_longer_than_the_training_starts_below_one():
    assert WarmdownSteps(warmdown_steps=200).scale(Progress(0, 100)) == 0.5


def test_neutral_settings_are_constant():
    for neutral in (
        WarmdownSteps(warmdown_steps=0),
        WarmdownClock(warmdown_steps=0),
        WarmdownFraction(fraction=0),
        Constant(),
    ):
        assert by_step(neutral) == [1.0] * 102
        assert neutral.scale(Progress(99, 100, 59.0, 60.0)) == 1.0


def test_clock_formula_without_a_clock_counts_steps():
    assert by_step(WarmdownClock(warmdown_steps=20)) == by_step(WarmdownSteps(warmdown_steps=20))


def stutter(schedule):
    """Scales of 1000 steps of 50 ms each, but 30 s for the first, of 200 s."""
    seconds = [0.0] + [30.0 + 0.05 * step for step in range(1000)]
    return [schedule.scale(Progress(step, 10**6, time, 200.0)) for step, time in enumerate(seconds)]


def test_one_slow_step_fools_only_the_public_formula():
    assert min(stutter(WarmdownFraction(fraction=0.3))) == 1.0
    assert stutter(WarmdownClock(warmdown_steps=1200))[1] < 0.01


@given(
    fraction=st.floats(0.01, 1.0),
    minimum=st.floats(0.0, 1.0),
    done=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=30),
)
def test_fraction_falls_steadily_to_its_minimum(fraction, minimum, done):
    schedule = WarmdownFraction(fraction=fraction, minimum=minimum)
    scales = [schedule.scale(Progress(0, 1, part, 1.0)) for part in sorted(done)]
    assert scales == sorted(scales, reverse=True)
    assert all(minimum <= scale <= 1.0 + 1e-12 for scale in scales)
    assert schedule.scale(Progress(0, 1, 1.0, 1.0)) == minimum
    assert all(s == 1.0 for s, part in zip(scales, sorted(done)) if part < 1 - fraction)


def test_minimum_bites():
    last = Progress(99, 100)
    assert WarmdownFraction(fraction=0.5).scale(last) == pytest.approx(0.02)
    assert WarmdownFraction(fraction=0.5, minimum=0.1).scale(last) == 0.1


def test_momentum_rises_and_stays():
    assert [momentum_at(step, 0.85, 0.95, 50) for step in (0, 25, 50, 500)] == pytest.approx(
        [0.85, 0.9, 0.95, 0.95]
    )
    assert momentum_at(0, 0.85, 0.95, 0) == 0.95


@pytest.mark.parametrize("member", members(Schedule).values())
def test_members_are_settings_with_a_card(member):
    assert issubclass(member, Plan)
    for label in ("What:", "Source:", "Cost:", "Not for:", "Neutral:"):
        assert label in member.__doc__
