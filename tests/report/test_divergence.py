"""What packing moves, by KL divergence: against plain numpy, zero for equal models, less noisy than a gap."""

import dataclasses

import numpy as np
import pytest
import torch

from bitgolf.net.model import ModelPlan, build_model, keyed_generator
from bitgolf.report.divergence import divergence
from bitgolf.squeeze.hessian import drawn_text

PLAN = ModelPlan(vocabulary_size=40, layers=2, width=32, heads=2, kv_heads=1)


class Stream:
    tokens = 4000

    def read(self, start, count):
        return np.random.default_rng(0).integers(0, 40, self.tokens).astype(np.uint16)[start : start + count]


def pair(change):
    models = [build_model(PLAN).eval(), build_model(PLAN).eval()]
    with torch.no_grad():
        for model in models:
            model.tok_emb.weight.normal_(0, 0.5, generator=keyed_generator(1, "table"))
        models[1].tok_emb.weight.add_(change * torch.randn(40, 32, generator=keyed_generator(2, "change")))
    return models


def test_equal_models_do_not_diverge():
    found = divergence(*pair(0.0), Stream(), 32)
    assert found == (0.0, 0.0)


def test_it_is_the_mean_over_training_text():
    exact, packed = pair(0.05)
    found = divergence(exact, packed, Stream(), 1200)
    text = drawn_text(Stream(), 16, 1200, keyed_generator(0, "divergence"))
    with torch.no_grad():
        p, q = (model.logits(text).double().log_softmax(-1).numpy() for model in (exact, packed))
    each = (np.exp(p) * (p - q)).sum(-1).mean(1)
    assert found.nats == pytest.approx(each.mean(), rel=1e-5) and found.nats > 0
    assert found.error == pytest.approx(each.std(ddof=1) / 4, rel=1e-4)


def test_a_larger_change_moves_more():
    small, large = (divergence(*pair(change), Stream(), 64).nats for change in (0.02, 0.04))
    assert large == pytest.approx(4 * small, rel=0.3)


def test_the_number_type_of_the_backend_is_not_in_it():
    """Planted: in bfloat16 the rounding of two passes hid what packing did."""
    exact, packed = pair(0.001)
    found = divergence(exact, packed, Stream(), 32)
    for model in (exact, packed):
        model.use(dataclasses.replace(model.backend, dtype=torch.bfloat16))
    assert divergence(exact, packed, Stream(), 32) == found
    assert exact.backend.dtype == packed.backend.dtype == torch.bfloat16
