"""Operations as machine code against plain torch, and what they leave alone."""

import numpy as np
import pytest
import torch

from bitgolf.catalog.probes import CHUNK, PLAIN, perturbed
from bitgolf.net import native as module
from bitgolf.net.backend import Backend
from bitgolf.net.kernels import FusedKernels, PlainKernels
from bitgolf.net.model import ModelPlan
from bitgolf.net.native import NativeKernels, native
from bitgolf.score.chained import Chained
from bitgolf.score.score import ScorePlan, score
from bitgolf.score.windows import Sliding
from tests.score.test_score import Bytes
from tests.test_behaviour import FACTORS, ROWS, model_of

FAST = Backend(attention="sdpa", fused=True)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("width, half", [(8, 4), (12, 2), (6, 0), (40, 20)])
def test_each_operation_is_the_plain_one(width, half):
    x, y, weight = drawn(3, 5, width), drawn(5, 3, width).transpose(0, 1).contiguous(), drawn(2, width)
    qkv, gain, cos, sin = drawn(3, 5, 4, width), drawn(3), drawn(5, half), drawn(5, half) + 1
    calls = {
        "norm": (x, 0.7),
        "mix": (x, y, weight),
        "relu_squared": (x,),
        "qk_norm_rope": (qkv, gain, cos, sin),
    }
    for name, given in calls.items():
        with torch.inference_mode():
            found, plain = (getattr(kind(), name)(*given) for kind in (NativeKernels, PlainKernels))
        torch.testing.assert_close(found, plain, rtol=2e-6, atol=2e-6, msg=name)
        assert all(each is not found for each in given)
    with torch.inference_mode():
        torch.testing.assert_close(NativeKernels().norm(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_nats_are_those_of_plain_torch_and_as_near_to_float64():
    """The way that trains has its logits off by the cap, and rounds four times as much."""
    given, cap = (drawn(700, 32), drawn(300, 32) * 0.1, torch.arange(700) % 300), 30.0
    exact = PlainKernels().nats(given[0].double(), given[1].double(), given[2], cap)
    with torch.inference_mode():
        fast, plain, trained = (
            kind().nats(*given, cap) for kind in (NativeKernels, PlainKernels, FusedKernels)
        )
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-6)
    apart = [float((each - exact).abs().max()) for each in (fast, plain, trained)]
    assert max(apart[:2]) < 1e-6 and apart[2] > 2e-6
    assert abs(float((fast.double() - exact).mean())) < 1e-7


def test_other_numbers_and_gradients_take_the_operations_by_hand(monkeypatch):
    for name in ("norm_rows", "mix_rows", "square_positive", "turn_heads"):
        monkeypatch.setattr(module, name, None)
    given = {
        "norm": (drawn(4, 6),),
        "relu_squared": (drawn(4, 6),),
        "mix": (drawn(4, 6), drawn(4, 6), drawn(2, 6)),
    }
    given["qk_norm_rope"] = drawn(2, 3, 4, 6), drawn(3), drawn(3, 3), drawn(3, 3)
    for name, each in given.items():
        by_hand = getattr(FusedKernels(), name)
        assert torch.equal(getattr(NativeKernels(), name)(*each), by_hand(*each))
        with torch.inference_mode():
            wide = [x.double() for x in each]
            assert torch.equal(getattr(NativeKernels(), name)(*wide), by_hand(*wide))
            if name in ("norm", "relu_squared"):
                gaps = drawn(4, 12)[:, ::2]
                assert torch.equal(getattr(NativeKernels(), name)(gaps), by_hand(gaps))


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_every_two_techniques_score_as_plain_torch_does(number):
    plan = model_of({name: FACTORS[name][i] for name, i in ROWS[number].items()}, 64)
    tokens = np.random.default_rng(3).integers(2, 64, 90).astype(np.uint16)
    tokens[[0, 30, 31]] = 1
    for windows in (Sliding(length=16, stride=4), Chained(history=12, stride=4, lanes=2)):
        plain, fast = (
            score(model, tokens, Bytes(), ScorePlan(windows=windows)).nats
            for model in (perturbed(plan).use(PLAIN).eval(), native(perturbed(plan).use(FAST).eval()))
        )
        np.testing.assert_allclose(fast, plain, rtol=1e-3, atol=1e-4)


def test_a_model_that_is_trained_through_keeps_its_gradients():
    plan = ModelPlan(vocabulary_size=64, layers=2, width=16, heads=4, kv_heads=2)
    row = torch.arange(20)[None] % 7
    for backend in (FAST, CHUNK):
        found = []
        for make in (native, lambda model: model):
            model = make(perturbed(plan).use(backend))
            model(row[:, :-1], row[:, 1:]).backward()
            found.append([each.grad for each in model.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_only_what_can_be_is_native():
    plan = ModelPlan(vocabulary_size=64, layers=2, width=16, heads=4, kv_heads=2)
    kinds = {
        type(native(perturbed(plan).use(backend)).kernels)
        for backend in (
            PLAIN,
            Backend(fused=True, dtype=torch.bfloat16),
            Backend(fused=True, dtype=torch.float64),
        )
    }
    assert NativeKernels not in kinds
    assert type(native(perturbed(plan).use(FAST)).kernels) is NativeKernels
