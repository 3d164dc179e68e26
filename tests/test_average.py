"""Averages of weights: float32 whatever the weights are."""

import pytest
import torch

from bitgolf.core.average import Averager, Ema, NoAverage
from bitgolf.core.errors import PlanError
from bitgolf.core.plan import members
from bitgolf.core.schedule import Progress

NOW = Progress(1, 10)


def follow(averager, snapshots):
    state = averager.start(snapshots[0])
    for snapshot in snapshots[1:]:
        state = averager.update(state, snapshot, NOW)
    return averager.weights(state, snapshots[-1])


def snapshots(count, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [{"a": torch.randn(3, 4, generator=generator).to(dtype)} for _ in range(count)]


def test_formula():
    seen = snapshots(6)
    expected = seen[0]["a"].double()
    for snapshot in seen[1:]:
        expected = 0.9 * expected + 0.1 * snapshot["a"].double()
    assert torch.allclose(follow(Ema(decay=0.9), seen)["a"].double(), expected, atol=1e-6)


def test_constant_weights_are_their_own_average():
    seen = snapshots(1) * 50
    assert torch.equal(follow(Ema(decay=0.997), seen)["a"], seen[0]["a"])


def test_neutral_settings_are_exact_and_decay_bites():
    seen = snapshots(6)
    assert torch.equal(follow(Ema(decay=0.0), seen)["a"], seen[-1]["a"])
    assert follow(NoAverage(), seen)["a"] is seen[-1]["a"]
    assert not torch.equal(follow(Ema(decay=0.5), seen)["a"], follow(Ema(decay=0.6), seen)["a"])


def test_start_is_a_copy():
    weights = snapshots(1)[0]
    state = Ema().start(weights)
    weights["a"].zero_()
    assert state["a"].any()


class Bfloat16Ema:
    """The planted bug: the same average, kept in the parameter's own dtype."""

    decay = 0.997

    def start(self, weights):
        return {name: tensor.clone() for name, tensor in weights.items()}

    def update(self, state, weights, progress):
        for name, tensor in state.items():
            tensor.lerp_(weights[name], 1 - self.decay)
        return state

    def weights(self, state, live):
        return state


@pytest.mark.parametrize("averager, right", [(Ema(decay=0.997), True), (Bfloat16Ema(), False)])
def test_many_tiny_steps_of_a_bfloat16_parameter(averager, right):
    values = torch.linspace(1.0, 1.25, 10_000)  # each step far below what bfloat16 can tell apart
    state = averager.start({"a": values[:1].bfloat16()})
    expected = 1.0
    for value in values[1:]:
        live = {"a": value.view(1).bfloat16()}
        state = averager.update(state, live, NOW)
        expected = 0.997 * expected + 0.003 * float(live["a"])
    found = averager.weights(state, live)["a"]
    assert (abs(float(found) - expected) < 1e-4) == right
    assert (found.dtype == torch.float32) == right


def test_refuses_a_decay_that_never_moves():
    with pytest.raises(PlanError, match="below 1"):
        Ema(decay=1.0)


@pytest.mark.parametrize("member", members(Averager).values())
def test_members_have_a_card(member):
    for label in ("What:", "Source:", "Cost:", "Not for:", "Neutral:"):
        assert label in member.__doc__
