"""What overlapping windows share in the first layer, against each window by itself."""

import pytest
import torch

from bitgolf.catalog.probes import perturbed
from bitgolf.net import overlap
from bitgolf.net.backend import Backend
from bitgolf.net.model import Model, ModelPlan
from bitgolf.net.native import native
from bitgolf.net.position import Alibi, AttentionWindow, NoPosition, Rope

PLAN = ModelPlan(vocabulary_size=64, layers=3, width=32, heads=4, kv_heads=2)
EXACT = Backend(attention="math", dtype=torch.float64, fused=True)


def windows(rows: int, time: int, stride: int) -> torch.Tensor:
    text = torch.randint(2, 64, (time + rows * stride,), generator=torch.Generator().manual_seed(1))
    return torch.stack([text[row * stride : row * stride + time] for row in range(rows)])


def shared(monkeypatch) -> list[int]:
    """What is appended to whenever something is shared."""
    calls, true = [], overlap.attend_in_windows
    monkeypatch.setattr(overlap, "attend_in_windows", lambda *given: calls.append(1) or true(*given))
    return calls


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        PLAN.replace(heads=4, kv_heads=4, position=Rope(dims=4)),
        PLAN.replace(position=NoPosition(), layers=2, kv_heads=1),
        PLAN.replace(position=Rope(reference_length=8), qk_gain=40.0),
    ],
)
@pytest.mark.parametrize("rows, time, stride", [(9, 16, 4), (2, 16, 4), (3, 16, 8), (5, 12, 1)])
def test_equals_each_window_by_itself(plan, rows, time, stride, monkeypatch):
    calls, inputs = shared(monkeypatch), windows(rows, time, stride)
    model = perturbed(plan).double().use(EXACT).eval()
    model.window = 24
    with torch.inference_mode():
        plain = model.hidden(inputs, stride)
        found = native(model).hidden(inputs, stride)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=2e-6)  # tables of places are float32
    assert calls


@pytest.mark.parametrize(
    "plan, change",
    [
        (PLAN, None),  # in bfloat16
        (PLAN.replace(layers=1), None),
        (PLAN.replace(position=Alibi()), None),
        (PLAN.replace(scope=(AttentionWindow(tokens=5),)), None),
        (PLAN, lambda inputs: inputs[[0, 2, 1]]),
        (PLAN, lambda inputs: inputs[:1]),
        (PLAN, lambda inputs: inputs[:, 1:]),
    ],
)
def test_what_cannot_be_shared_is_not(plan, change, monkeypatch):
    calls, inputs = shared(monkeypatch), windows(3, 16, 4)
    inputs = change(inputs) if change else inputs
    coarse = Backend(attention="chunk", dtype=torch.bfloat16, fused=True)
    model = native(perturbed(plan).use(EXACT if change or plan != PLAN else coarse).eval())
    with torch.inference_mode():
        assert torch.equal(model.hidden(inputs, 4), Model.hidden(model, inputs, 4))
    assert not calls


def test_nothing_is_shared_while_it_learns_or_rows_differ(monkeypatch):
    calls, inputs = shared(monkeypatch), windows(3, 16, 4)
    model = native(perturbed(PLAN).use(EXACT).eval())
    model.hidden(inputs, 4)
    handle = model.blocks[0].attn.register_forward_hook(lambda *given: None)
    with torch.inference_mode():
        model.hidden(inputs, 4)
        handle.remove()
        assert not calls
        model.hidden(inputs, 4)
    assert calls


def test_a_pass_that_fails_leaves_the_model_as_it_was(monkeypatch):
    model = native(perturbed(PLAN).use(EXACT).eval())
    monkeypatch.setattr(model, "through", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError), torch.inference_mode():
        model.hidden(windows(3, 16, 4), 4)
    assert "attended" not in vars(overlap.first_block(model))
