"""Findings of the five pull requests that need no training to be shown; docs/findings.md has the others."""

import pytest
import torch

from bitgolf.base.errors import PlanError
from bitgolf.net.embed import BigramHash
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.train.average import Ema
from bitgolf.train.optim import AdamRule, MuonRule, OptimPlan, ParameterRow, make_optimizers, public_rows
from bitgolf.train.schedule import Progress

PLAN = ModelPlan(
    vocabulary_size=64,
    layers=2,
    width=32,
    heads=2,
    kv_heads=1,
    embed=(BigramHash(buckets=50, dimension=8),),
)
ROWS = public_rows(embedding=AdamRule(lr=0.02), matrices=MuonRule(warmup_steps=0), rest=AdamRule(lr=0.02))


def trained(rows: tuple[ParameterRow, ...], steps: int = 30) -> torch.nn.Module:
    model = build_model(PLAN, seed=1)
    optimizers = make_optimizers(OptimPlan(rows=rows), model)
    ids = torch.randint(64, (4, 33), generator=torch.Generator().manual_seed(1))
    for step in range(steps):
        optimizers.zero()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizers.step(1.0, Progress(step, steps))
    return model


def test_a_bigram_table_outside_the_optimizers_stays_zero():
    """PR #1716, and so the BIGRAM_DIM of #1718: a table in no group, a branch that adds exactly nothing."""
    outside = ParameterRow(pattern="bigram.embed.weight", rule=AdamRule(lr=0.0))
    dead = trained((outside, *ROWS))
    assert not dead.bigram.embed.weight.any()
    gradient = dead.bigram.proj.weight.grad
    assert not gradient.any()  # nothing to learn from: it gets decay alone
    alive = trained(ROWS)
    assert alive.bigram.embed.weight.abs().max() > 0.01
    assert alive.bigram.proj.weight.grad.any()


def test_a_table_without_an_optimizer_cannot_happen_by_accident():
    named = tuple(row for row in ROWS if row.pattern not in ("*embed.weight", "*.weight", "*"))
    with pytest.raises(PlanError) as caught:
        make_optimizers(OptimPlan(rows=named), build_model(PLAN))
    assert any("no row matches parameter 'bigram.embed.weight'" in each for each in caught.value.problems)


def test_two_zeros_never_leave_zero():
    """The public constructor zeroes table and projection; only its orthogonal start saves it."""
    model = build_model(PLAN, seed=1)
    assert not model.bigram.embed.weight.any() and model.bigram.proj.weight.any()
    with torch.no_grad():
        model.bigram.proj.weight.zero_()
    ids = torch.arange(33).view(1, -1) % 64
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    assert not model.bigram.embed.weight.grad.any() and not model.bigram.proj.weight.grad.any()


def test_a_long_memory_keeps_the_start_of_a_short_run():
    """Why #682 takes 0.97 for 200 steps: at 0.997 more than half of the average is the untrained model."""
    start, end = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    for decay, share in ((0.97, 0.0023), (0.997, 0.5483)):
        state = Ema(decay=decay).start(start)
        for step in range(1, 201):
            state = Ema(decay=decay).update(state, end, Progress(step, 200), 1.0)
        assert 1 - float(state["w"]) == pytest.approx(share, abs=1e-4)
