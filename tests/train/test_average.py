"""Averages of weights: what is taken when, float32 whatever the weights are, states that can be stored."""

import pytest
import torch

from bitgolf.base.errors import PlanError
from bitgolf.base.plan import members
from bitgolf.base.tensors import read_tensors, write_tensors
from bitgolf.recipe import Recipe
from bitgolf.train.average import (
    TAKEN,
    Averager,
    Ema,
    LateEma,
    Latest,
    NoAverage,
    Several,
    Swa,
    SwaCount,
    TightSwa,
)
from bitgolf.train.schedule import Constant, Progress, WarmdownClock, WarmdownFraction, WarmupThen

STEPS = 20


def updated(averager, state, snapshot, step, scale, steps=STEPS):
    return averager.update(state, snapshot, Progress(step, steps), scale)


def states(averager, snapshots, scales):
    """The state at the start and after every step; scales[i] belongs to step i + 1."""
    state = averager.start(snapshots[0])
    yield state
    for step, (snapshot, scale) in enumerate(zip(snapshots[1:], scales), start=1):
        state = updated(averager, state, snapshot, step, scale, len(scales))
        yield state


def follow(averager, snapshots, scales=None):
    *_, state = states(averager, snapshots, scales or [1.0] * (len(snapshots) - 1))
    return averager.weights(state, snapshots[-1])


def snapshots(count, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [{"a": torch.randn(3, 4, generator=generator).to(dtype)} for _ in range(count)]


def mean(seen, steps):
    return torch.stack([seen[step]["a"].double() for step in steps]).mean(0)


def by(schedule, steps=STEPS):
    return [schedule.lr_scale(Progress(step, steps)) for step in range(steps)]


def differences(averager, scales, seen):
    """The steps at which the state changed."""
    kept = [{k: v.clone() for k, v in state.items()} for state in states(averager, seen, scales)]
    return [
        step
        for step, (before, after) in enumerate(zip(kept, kept[1:]), start=1)
        if before.keys() != after.keys() or any(not torch.equal(before[k], after[k]) for k in before)
    ]


SEEN = snapshots(STEPS + 1)
DOWN = by(WarmdownFraction(fraction=0.5))  # step 12 is the first below 1, step 17 the first below a half


class TestEma:
    def test_formula(self):
        expected = SEEN[0]["a"].double()
        for snapshot in SEEN[1:]:
            expected = 0.9 * expected + 0.1 * snapshot["a"].double()
        assert torch.allclose(follow(Ema(decay=0.9), SEEN)["a"].double(), expected, atol=1e-6)

    def test_a_share_is_packed_with_the_rest_of_the_last_weights(self):
        average, live = follow(Ema(decay=0.9), SEEN)["a"].double(), SEEN[-1]["a"].double()
        found = follow(Ema(decay=0.9, share=0.6), SEEN)
        assert torch.allclose(found["a"].double(), 0.6 * average + 0.4 * live, atol=1e-6)
        assert follow(Ema(decay=0.9, share=0.0), SEEN) is SEEN[-1]
        assert torch.equal(follow(Ema(decay=0.9, share=1.0), SEEN)["a"], follow(Ema(decay=0.9), SEEN)["a"])

    def test_a_share_leaves_the_state_and_the_last_weights_alone(self):
        averager, live = Ema(decay=0.5, share=0.6), {"a": torch.ones(2, 2)}
        state = {"a": torch.zeros(2, 2)}
        assert torch.allclose(averager.weights(state, live)["a"], torch.full((2, 2), 0.4))
        assert torch.equal(live["a"], torch.ones(2, 2)) and not state["a"].any()
        assert averager.weights({}, live) is live  # before it begins

    def test_start_is_a_copy(self):
        weights = snapshots(1)[0]
        state = Ema().start(weights)
        weights["a"].zero_()
        assert state["a"].any()

    def test_a_later_start_forgets_what_was_before(self):
        """From 60% of 20 steps on: begun with the weights after step 12."""
        expected = SEEN[12]["a"].double()
        for snapshot in SEEN[13:]:
            expected = 0.9 * expected + 0.1 * snapshot["a"].double()
        found = follow(Ema(decay=0.9, start_fraction=0.6), SEEN)["a"]
        assert torch.allclose(found.double(), expected, atol=1e-6)

    def test_before_its_start_the_live_weights_stand(self):
        ema = Ema(start_fraction=0.6)
        for step, state in enumerate(states(ema, SEEN, DOWN)):
            assert (ema.weights(state, SEEN[step]) is SEEN[step]) == (step < 12)

    def test_refuses_a_decay_that_never_moves(self):
        with pytest.raises(PlanError, match="below 1"):
            Ema(decay=1.0)


class TestLateEma:
    def test_begins_with_the_warm_down(self):
        late = LateEma(decay=0.9, start_fraction=0.3)
        assert differences(late, DOWN, SEEN)[0] == 12
        assert torch.equal(
            follow(late, SEEN, DOWN)["a"], follow(Ema(decay=0.9, start_fraction=0.6), SEEN)["a"]
        )

    def test_not_before_its_fraction(self):
        assert differences(LateEma(), DOWN, SEEN)[0] == 17

    def test_never_without_a_warm_down(self):
        assert follow(LateEma(start_fraction=0.0), SEEN) is SEEN[-1]

    def test_goes_on_once_begun(self):
        scales = [0.5] + [1.0] * (STEPS - 1)
        assert differences(LateEma(start_fraction=0.0), scales, SEEN) == list(range(1, STEPS + 1))


class TestSwa:
    def test_collects_where_step_and_scale_say(self):
        """The scale of the step just done, strictly below; the step counted after it was done."""
        assert differences(Swa(every=2, start_scale=0.5), DOWN, SEEN) == [18, 20]
        assert differences(Swa(every=1, start_scale=0.5), DOWN, SEEN) == [17, 18, 19, 20]
        assert differences(Swa(every=3, start_scale=0.85), DOWN, SEEN) == [15, 18]

    def test_mean(self):
        found = follow(Swa(every=1, start_scale=0.95), SEEN, DOWN)["a"]
        assert torch.allclose(found.double(), mean(SEEN, range(12, 21)), atol=1e-6)

    def test_tight_is_the_same_below_a_fifth(self):
        scales = [1.0] * 15 + [0.5, 0.25, 0.2, 0.19, 0.1]
        assert differences(TightSwa(every=1), scales, SEEN) == [19, 20]
        assert differences(TightSwa(every=1, guard=1.0), scales, SEEN) == [20]
        tight, loose = (
            follow(kind, SEEN, scales) for kind in (TightSwa(every=1), Swa(every=1, start_scale=0.2))
        )
        assert torch.equal(tight["a"], loose["a"])

    def test_nothing_collected_leaves_the_live_weights(self):
        for averager in (Swa(), Swa(every=1, start_scale=0.5), TightSwa(every=1)):
            assert follow(averager, SEEN, by(Constant())) is SEEN[-1]

    def test_a_warm_up_needs_the_guard(self):
        scales = by(WarmupThen(fraction=0.2, then=WarmdownFraction(fraction=0.5)))
        assert differences(Swa(every=1), scales, SEEN)[:2] == [1, 2]
        assert differences(Swa(every=1, guard=0.5), scales, SEEN) == [17, 18, 19, 20]


class TestSwaCount:
    def test_thresholds(self):
        """Of three: at scales of at most 3/4, 1/2 and 1/4."""
        assert differences(SwaCount(checkpoints=3), DOWN, SEEN) == [14, 16, 19]

    def test_one_a_step_where_the_scale_falls_fast(self):
        scales = [1.0] * 18 + [0.1, 0.05]
        assert differences(SwaCount(checkpoints=3), scales, SEEN) == [19, 20]

    def test_averages_with_the_final_weights(self):
        found = follow(SwaCount(checkpoints=3), SEEN, DOWN)["a"]
        assert torch.allclose(found.double(), mean(SEEN, [14, 16, 19, 20]), atol=1e-6)

    def test_looking_at_the_mean_does_not_change_it(self):
        averager = SwaCount(checkpoints=3)
        *_, state = states(averager, SEEN, DOWN)
        first = averager.weights(state, SEEN[-1])["a"]
        assert torch.equal(first, averager.weights(state, SEEN[-1])["a"])

    def test_guard(self):
        scales = [0.01] * STEPS
        assert differences(SwaCount(), scales, SEEN) == [11, 12, 13, 14, 15, 16, 17]
        assert differences(SwaCount(guard=0.0), scales, SEEN) == [1, 2, 3, 4, 5, 6, 7]


class TestLatest:
    def test_the_last_few(self):
        found = follow(Latest(snapshots=3, every=4), SEEN)["a"]
        assert torch.allclose(found.double(), mean(SEEN, [12, 16, 20]), atol=1e-6)

    def test_fewer_where_there_are_no_more(self):
        found = follow(Latest(snapshots=9, every=8), SEEN)["a"]
        assert torch.allclose(found.double(), mean(SEEN, [8, 16]), atol=1e-6)
        assert follow(Latest(snapshots=3, every=50), SEEN) is SEEN[-1]

    def test_snapshots_are_copies(self):
        latest = Latest(snapshots=1, every=1)
        weights = snapshots(1)[0]
        state = updated(latest, {}, weights, 1, 1.0)
        weights["a"].zero_()
        assert latest.weights(state, weights)["a"].any()


def stuttering(first_step_seconds=30.0, step_seconds=0.05, train_seconds=200.0):
    """Progress before every step of a training whose first step is slow."""
    seconds = 0.0
    for step in range(100_000):
        if seconds >= train_seconds:
            return
        yield Progress(step, 10**6, seconds, train_seconds)
        seconds += step_seconds if step else first_step_seconds


@pytest.mark.parametrize(
    "guarded, premature",
    [
        (Swa(every=1, guard=0.5), Swa(every=1)),
        (TightSwa(every=1, guard=0.5), TightSwa(every=1)),
        (SwaCount(), SwaCount(guard=0.0)),
        (LateEma(), LateEma(start_fraction=0.0)),
    ],
)
def test_a_fooled_clock_collects_at_once_unless_guarded(guarded, premature):
    """PR #488: after one step of 30 s the public warm-down is at 0.005, and a test of the scale fires."""

    def first(averager, schedule):
        before, *rest = stuttering()
        for done in rest:
            if averager.update({}, SEEN[0], done, schedule.lr_scale(before)):
                return done
            before = done
        return None

    public = WarmdownClock(warmdown_steps=1200)
    assert first(premature, public).step == 2
    assert first(guarded, public).fraction > 0.5
    assert first(premature, WarmdownFraction(fraction=0.15)).fraction > 0.84


EAGER = [
    Ema(),
    Ema(decay=0.9, start_fraction=0.6),
    LateEma(start_fraction=0.3),
    Swa(every=1, start_scale=0.95),
    TightSwa(every=1),
    SwaCount(),
    Latest(snapshots=3, every=2),
    Several(averages=(Ema(decay=0.9), Latest(snapshots=3, every=2)), shipped=1),
]


@pytest.mark.parametrize("averager", EAGER)
class TestEveryAverage:
    @pytest.mark.parametrize("count", [3, 7, 20])
    def test_equal_weights_are_their_own_average_to_the_last_bit(self, averager, count):
        seen = snapshots(1) * (count + 1)
        scales = by(WarmdownFraction(fraction=1.0), count)
        assert torch.equal(follow(averager, seen, scales)["a"], seen[0]["a"])

    def test_something_was_averaged_in_float32(self, averager):
        seen = snapshots(STEPS + 1, torch.bfloat16)
        found = follow(averager, seen, DOWN)["a"]
        assert found.dtype == torch.float32
        assert not torch.equal(found, seen[-1]["a"].float())

    def test_goes_on_from_a_stored_state_bit_by_bit(self, averager, tmp_path):
        whole = follow(averager, SEEN, DOWN)
        for stop in (5, 12, 16, 18):
            state = averager.start(SEEN[0])
            for step in range(1, STEPS + 1):
                state = updated(averager, state, SEEN[step], step, DOWN[step - 1])
                if step == stop:
                    write_tensors(tmp_path / "state", state, {})
                    # A file keeps no order of its tensors.
                    state = dict(reversed(read_tensors(tmp_path / "state")[0].items()))
            found = averager.weights(state, SEEN[-1])
            assert found.keys() == whole.keys() == {"a"}
            assert torch.equal(found["a"], whole["a"])

    def test_does_not_touch_the_weights(self, averager):
        before = [snapshot["a"].clone() for snapshot in SEEN]
        follow(averager, SEEN, DOWN)
        assert all(torch.equal(old, new["a"]) for old, new in zip(before, SEEN))


@pytest.mark.parametrize(
    "neutral",
    [
        Ema(decay=0.0),
        LateEma(decay=0.0, start_fraction=0.0),
        Swa(every=1, start_scale=0.0),
        TightSwa(every=STEPS + 1),
        SwaCount(checkpoints=0),
        Latest(snapshots=1, every=1),
        Several(averages=(Ema(), Swa(every=1, start_scale=0.9))),
        NoAverage(),
    ],
)
def test_neutral_settings_are_exact(neutral):
    assert torch.equal(follow(neutral, SEEN, DOWN)["a"], SEEN[-1]["a"])


@pytest.mark.parametrize(
    "averager, changes",
    [
        (Ema(decay=0.5), {"decay": 0.6, "start_fraction": 0.95}),
        (LateEma(decay=0.5, start_fraction=0.0), {"decay": 0.6, "start_fraction": 0.95}),
        (Swa(every=1, start_scale=0.9), {"every": 2, "start_scale": 0.5, "guard": 0.8}),
        (TightSwa(every=1), {"every": 2, "guard": 0.99}),
        (SwaCount(checkpoints=3), {"checkpoints": 4, "guard": 0.9}),
        (Latest(snapshots=3, every=1), {"snapshots": 4, "every": 2}),
        (Several(averages=(Ema(), Ema(decay=0.5)), shipped=0), {"averages": (Ema(decay=0.9),), "shipped": 1}),
    ],
)
def test_every_setting_bites(averager, changes):
    for name, value in changes.items():
        other = averager.replace({name: value})
        assert not torch.equal(follow(averager, SEEN, DOWN)["a"], follow(other, SEEN, DOWN)["a"]), name


class TestSeveral:
    MEMBERS = (Ema(decay=0.9), Swa(every=1, start_scale=0.9), Latest(snapshots=3, every=2))

    @pytest.mark.parametrize("place", range(3))
    def test_ships_what_each_average_alone_would(self, place):
        together = Several(averages=self.MEMBERS, shipped=place)
        alone = follow(self.MEMBERS[place], SEEN, DOWN)["a"]
        assert torch.equal(follow(together, SEEN, DOWN)["a"], alone)

    def test_what_ships_is_no_part_of_the_training(self):
        recipes = [Recipe(average=Several(averages=self.MEMBERS, shipped=place)) for place in (-1, 0, 2)]
        assert len({recipe.training().identity() for recipe in recipes}) == 1
        other = Recipe(average=Several(averages=self.MEMBERS[:2]))
        assert other.training().identity() != recipes[0].training().identity()

    def test_a_place_without_an_average_is_refused(self):
        with pytest.raises(PlanError, match="must be below 1"):
            Several(averages=(Ema(),), shipped=1)


def test_no_parameter_can_have_the_name_of_the_count():
    assert TAKEN.rpartition(".")[2] == ""
    with pytest.raises(KeyError, match="empty"):
        torch.nn.Module().register_parameter("", torch.nn.Parameter(torch.zeros(1)))
    state = updated(Swa(every=1, start_scale=1.0), {}, SEEN[0], 1, 0.5)
    assert state[TAKEN] == 1
    assert Swa().weights(state, SEEN[0]).keys() == {"a"}


class Bfloat16Ema:
    """The planted bug: the same average, kept in the parameter's own dtype."""

    decay = 0.997

    def start(self, weights):
        return {name: tensor.clone() for name, tensor in weights.items()}

    def update(self, state, weights, progress, scale):
        for name, tensor in state.items():
            tensor.lerp_(weights[name], 1 - self.decay)
        return state

    def weights(self, state, live):
        return state


class Bfloat16Swa:
    """The planted bug of the public scripts: the sum in the parameter's own dtype."""

    def start(self, weights):
        return {"sum": torch.zeros_like(weights["a"]), "count": torch.zeros(())}

    def update(self, state, weights, progress, scale):
        state["sum"] += weights["a"]
        state["count"] += 1
        return state

    def weights(self, state, live):
        return {"a": state["sum"] / state["count"]}


RISING = torch.linspace(1.0, 1.25, 10_000)  # each step far below what bfloat16 can tell apart


@pytest.mark.parametrize("averager, right", [(Ema(decay=0.997), True), (Bfloat16Ema(), False)])
def test_ema_of_many_tiny_steps_of_a_bfloat16_parameter(averager, right):
    state = averager.start({"a": RISING[:1].bfloat16()})
    expected = 1.0
    for value in RISING[1:]:
        live = {"a": value.view(1).bfloat16()}
        state = updated(averager, state, live, 1, 1.0)
        expected = 0.997 * expected + 0.003 * float(live["a"])
    found = averager.weights(state, live)["a"]
    assert (abs(float(found) - expected) < 1e-4) == right
    assert (found.dtype == torch.float32) == right


@pytest.mark.parametrize(
    "averager, right",
    [
        (Swa(every=1, start_scale=1.0), True),
        (TightSwa(every=1), True),
        (SwaCount(checkpoints=10_000, guard=0.0), True),
        (Bfloat16Swa(), False),
    ],
)
@pytest.mark.parametrize("count", [30, 10_000])
def test_mean_of_many_snapshots_of_a_bfloat16_parameter(averager, right, count):
    values = RISING[:: len(RISING) // count].bfloat16()
    state = averager.start({"a": values[:1]})
    for value in values:
        state = updated(averager, state, {"a": value.view(1)}, 1, 0.0)
    found = averager.weights(state, {"a": values.double().mean().view(1).float()})["a"]
    error = abs(float(found) - float(values.double().mean()))
    assert (error < 1e-4) == right


@pytest.mark.parametrize("member", members(Averager).values())
def test_members_have_a_card(member):
    for label in ("What:", "Source:", "Cost:", "Not for:", "Neutral:"):
        assert label in member.__doc__
