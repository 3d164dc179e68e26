"""Parts of the network that stand in public scripts, each against an independent twin in plain torch."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from bitgolf.base.errors import PlanError
from bitgolf.net.kernels import PlainKernels
from bitgolf.net.mlp import GatedMlp, LeakyReluSquared, Mlp, ReluSquared
from bitgolf.net.model import ModelPlan, build_model, keyed_generator
from bitgolf.net.objective import MultiToken, TokenAfterNext

PLAN = ModelPlan(vocabulary_size=40, layers=3, width=32, heads=2, kv_heads=1)
IDS = torch.randint(40, (2, 25), generator=torch.Generator().manual_seed(3))


def drawn(plan, seed=1):
    """A model whose tensors are nowhere special."""
    model = build_model(plan, seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor += 0.2 * torch.randn(tensor.shape, generator=keyed_generator(seed, name))
    return model


@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_the_gated_mlp_is_the_public_one(slope):
    inner = LeakyReluSquared(slope=slope) if slope else ReluSquared()
    mlp = Mlp(32, 64, GatedMlp(inner=inner, channels=12))
    with torch.no_grad():
        for name, tensor in mlp.named_parameters():
            tensor.normal_(0, 0.3, generator=keyed_generator(0, name))
    assert {name: tuple(t.shape) for name, t in mlp.named_parameters()} == {
        "fc.weight": (64, 32),
        "proj.weight": (32, 64),
        "mlp_gate_proj.weight": (1, 12),
    }
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))
    up, down, gate = (
        mlp.get_parameter(f"{n}.weight").detach().double() for n in ("fc", "proj", "mlp_gate_proj")
    )
    for row, found in zip(
        x.flatten(0, 1).double(), mlp(x, SimpleNamespace(kernels=PlainKernels())).flatten(0, 1)
    ):
        hidden = [max(float(h), slope * float(h)) ** 2 for h in up @ row]
        share = 2 / (1 + math.exp(-float(gate[0] @ row[:12])))
        expected = share * (down @ torch.tensor(hidden, dtype=torch.float64))
        assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_gate_within_a_gate_is_refused():
    with pytest.raises(PlanError, match="inner: one gate is enough"):
        GatedMlp(inner=GatedMlp())


def test_the_token_after_the_next_as_published():
    model = drawn(PLAN.replace(objective=TokenAfterNext()))
    x, y = IDS[:, :-1], IDS[:, 1:]
    assert model.mtp_head.weight.shape == (32, 32)
    hidden = model.hidden(x)
    table, loss = model.tok_emb.weight, 0.0
    for row in range(2):
        for place in range(24):
            logits = 30 * torch.tanh(table @ hidden[row, place] / 30)
            loss += F.cross_entropy(logits[None], y[row, place][None]) / (2 * 24)
            if place < 23:
                ahead = model.mtp_head.weight @ hidden[row, place]
                logits = 30 * torch.tanh(table @ ahead / 30)
                loss += 0.5 * F.cross_entropy(logits[None], IDS[row, place + 2][None]) / (2 * 23)
    assert math.isclose(model(x, y).item(), loss.item(), rel_tol=1e-5)
    model.eval()  # scores are those of the model without it
    assert torch.equal(model(x, y), model.nats(x, y).mean())


@pytest.mark.parametrize("objective", [TokenAfterNext(), MultiToken(heads=2)])
def test_sequences_of_one_token_have_nothing_ahead(objective):
    model = drawn(PLAN.replace(objective=objective))
    assert torch.equal(model(IDS[:, :1], IDS[:, 1:2]), model.nats(IDS[:, :1], IDS[:, 1:2]).mean())


def test_only_training_needs_the_matrix_of_the_token_after_the_next():
    plan = PLAN.replace(objective=TokenAfterNext())
    assert plan.shipped() == PLAN
    assert "mtp_head.weight" not in dict(build_model(plan.shipped()).named_parameters())
