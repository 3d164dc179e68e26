"""Schedules at their corners, and under clocks that stutter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.base.plan import Plan, members
from bitgolf.train.schedule import (
    Constant,
    Cosine,
    Progress,
    Schedule,
    WarmdownClock,
    WarmdownFraction,
    WarmdownSteps,
    WarmupThen,
    momentum_at,
)


def by_step(schedule, steps=100):
    return [schedule.lr_scale(Progress(step, steps)) for step in range(steps + 2)]


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
    assert WarmdownSteps(warmdown_steps=200).lr_scale(Progress(0, 100)) == 0.5


def test_neutral_settings_are_constant():
    for neutral in (
        WarmdownSteps(warmdown_steps=0),
        WarmdownClock(warmdown_steps=0),
        WarmdownFraction(fraction=0),
        Cosine(minimum=1),
        WarmupThen(fraction=0),
        Constant(),
    ):
        assert by_step(neutral) == [1.0] * 102
        assert neutral.lr_scale(Progress(99, 100, 59.0, 60.0)) == 1.0


def test_clock_formula_without_a_clock_counts_steps():
    assert by_step(WarmdownClock(warmdown_steps=20)) == by_step(WarmdownSteps(warmdown_steps=20))


def clocked(schedule, *, step_seconds, first_seconds=None, train_seconds=600.0):
    """The scale of every step of a training that the clock ends."""
    scales, seconds = [], 0.0
    while seconds < train_seconds:
        scales.append(schedule.lr_scale(Progress(len(scales), 10**6, seconds, train_seconds)))
        seconds += first_seconds if first_seconds and len(scales) == 1 else step_seconds
    return scales


def first_below_one(scales):
    return next(step for step, scale in enumerate(scales) if scale < 1.0)


def test_steps_of_one_length_warm_down_as_planned():
    """12,000 steps of 50 ms in 600 s: 1200 of them, or a tenth, are the last 60 s."""
    for schedule in (WarmdownClock(warmdown_steps=1200), WarmdownFraction(fraction=0.1)):
        assert first_below_one(clocked(schedule, step_seconds=0.05)) == pytest.approx(10_800, abs=2)


def test_one_slow_step_collapses_the_public_warm_down():
    """The bug found in PR #488: 1200 steps seem to need 36,000 s, of which 570 are left."""
    scales = clocked(WarmdownClock(warmdown_steps=1200), step_seconds=0.05, first_seconds=30.0)
    assert scales[0] == 1.0
    assert scales[1] == pytest.approx(570 / 36_000)  # 0.016
    assert all(scale < 1.0 for scale in scales[1:71])
    assert scales[71] == 1.0  # the mean has recovered, 70 steps that learned next to nothing later


def test_one_slow_step_leaves_the_fraction_alone():
    scales = clocked(WarmdownFraction(fraction=0.15), step_seconds=0.05, first_seconds=30.0)
    start = 1 + (0.85 * 600 - 30) / 0.05  # 510 s are over
    assert first_below_one(scales) == pytest.approx(start, abs=2)
    assert scales == sorted(scales, reverse=True)


def test_a_slow_device_never_has_the_full_rate_in_public():
    """1200 steps of 0.6 s are 720 s of 600; 3000, as in PR #488, are 1800 s."""
    assert clocked(WarmdownClock(warmdown_steps=1200), step_seconds=0.6)[1] == pytest.approx(599.4 / 720)
    scales = clocked(WarmdownClock(warmdown_steps=3000), step_seconds=0.6)
    assert scales[1] == pytest.approx(599.4 / 1800)  # 0.33
    assert max(scales[1:]) == scales[1]
    assert first_below_one(clocked(WarmdownFraction(fraction=0.15), step_seconds=0.6)) == pytest.approx(
        850, abs=2
    )


@given(
    fraction=st.floats(0.01, 1.0),
    minimum=st.floats(0.0, 1.0),
    done=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=30),
)
def test_fraction_falls_steadily_to_its_minimum(fraction, minimum, done):
    schedule = WarmdownFraction(fraction=fraction, minimum=minimum)
    scales = [schedule.lr_scale(Progress(0, 1, part, 1.0)) for part in sorted(done)]
    assert scales == sorted(scales, reverse=True)
    assert all(minimum <= scale <= 1.0 + 1e-12 for scale in scales)
    assert schedule.lr_scale(Progress(0, 1, 1.0, 1.0)) == minimum
    assert all(s == 1.0 for s, part in zip(scales, sorted(done)) if part < 1 - fraction)


def test_minimum_bites():
    last = Progress(99, 100)
    assert WarmdownFraction(fraction=0.5).lr_scale(last) == pytest.approx(0.02)
    assert WarmdownFraction(fraction=0.5, minimum=0.1).lr_scale(last) == 0.1


def test_cosine():
    scales = by_step(Cosine(minimum=0.2))
    assert scales[0] == 1.0
    assert scales[50] == pytest.approx(0.6)
    assert scales[25] == pytest.approx(0.2 + 0.8 * (0.5 + 0.5 / 2**0.5))
    assert scales[100] == scales[101] == pytest.approx(0.2)
    assert scales == sorted(scales, reverse=True)


def test_warm_up_in_front_of_a_schedule():
    scales = by_step(WarmupThen(fraction=0.2, then=WarmdownFraction(fraction=0.5)))
    assert scales[:5] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert scales[20:51] == [1.0] * 31
    assert scales[20:] == by_step(WarmdownFraction(fraction=0.5))[20:]


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
