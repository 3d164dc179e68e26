"""What training is expected to do to weights: how far they go, what stays of their start, what is unseen."""

import math
import time

import pytest
import torch

from bitgolf.base.errors import PlanError
from bitgolf.forecast.weight_model import (
    ADAM_WALK,
    LARGEST,
    UNSEEN_TOKENS,
    ExpectedWeights,
    likely_steps,
    random_walk,
)
from bitgolf.net.embed import BigramHash, BigramSum
from bitgolf.net.model import ModelPlan, parameter_shapes
from bitgolf.net.values import ValueEmbedding
from bitgolf.recipe import Recipe
from bitgolf.train.loop import TrainPlan
from bitgolf.train.optim import AdamRule, MuonRule, OptimPlan, public_rows
from bitgolf.train.schedule import Constant, Schedule, WarmdownClock, WarmdownFraction

MODEL = ModelPlan(vocabulary_size=1024, layers=2, width=64, heads=4, kv_heads=2)


def training(steps: int = 100, batch_tokens: int = 4096, schedule: Schedule | None = None) -> Recipe:
    plan = TrainPlan(steps=steps, train_seconds=0, batch_tokens=batch_tokens, accumulation=1)
    return Recipe(model=MODEL, train=plan, optim=OptimPlan(schedule=schedule or Constant()))


def at_rest(model: ModelPlan = MODEL) -> Recipe:
    """A recipe whose rates are all zero."""
    rows = public_rows(embedding=AdamRule(lr=0), matrices=MuonRule(lr=0), rest=AdamRule(lr=0))
    return training().replace({"model": model, "optim.rows": rows})


def test_steps_of_adam_make_a_random_walk():
    assert random_walk(training(), AdamRule(lr=0.01)) == (1.0, pytest.approx(ADAM_WALK * 0.01 * 10))
    assert random_walk(training(10_000), AdamRule(lr=0.01)).length == pytest.approx(ADAM_WALK, rel=0.01)
    warmdown = random_walk(training(schedule=WarmdownFraction(fraction=1.0)), AdamRule(lr=0.01))
    assert warmdown.length == pytest.approx(ADAM_WALK * 0.1 / math.sqrt(3), rel=0.02)


def test_decay_keeps_a_share_of_the_start_and_ends_the_walk():
    rule = AdamRule(lr=0.01, weight_decay=0.5)
    assert random_walk(training(), rule).kept == pytest.approx(0.995**100)
    long = random_walk(training(10_000), rule)
    assert long.kept < 1e-6
    assert long.length == pytest.approx(ADAM_WALK * 0.01 / math.sqrt(2 * 0.005), rel=0.15)


def test_momentum_and_a_larger_batch_go_further():
    slow, fast = (random_walk(training(), MuonRule(momentum=m, warmup_steps=0)).length for m in (0.9, 0.99))
    assert fast / slow == pytest.approx(math.sqrt(199 / 19))
    larger = random_walk(training(batch_tokens=524_288), MuonRule(momentum=0.9, warmup_steps=0)).length
    assert larger / slow == pytest.approx(128 ** (1 / 18))


def test_without_steps_weights_are_as_they_start():
    expected = ExpectedWeights(at_rest())
    queries = expected.sample("blocks.1.attn.c_q.weight", 2048)
    assert queries.shape == (32, 64)
    assert queries.abs().max() <= 1 / 8 < 1.05 * queries.abs().max()
    assert not expected.sample("blocks.1.mlp.proj.weight", 2048).any()
    assert torch.equal(expected.sample("blocks.0.attn_scale", 1), torch.ones(64))


def test_every_tensor_can_be_expected_whole_and_the_same_again():
    expected = ExpectedWeights(training())
    for name, shape in parameter_shapes(MODEL).items():
        drawn = expected.sample(name, math.prod(shape))
        assert drawn.shape == shape
        assert torch.equal(drawn, ExpectedWeights(training()).sample(name, math.prod(shape)))


@pytest.mark.parametrize("tied", [True, False])
def test_tokens_that_no_text_has_are_alike_in_the_head(tied):
    name, other = ("tok_emb.weight", "lm_head.weight")[:: 1 if tied else -1]
    recipe = training(1000).replace({"model.tied": tied})
    head = ExpectedWeights(recipe).sample(name, 1024 * 64)
    half = UNSEEN_TOKENS // 2
    unseen = torch.cat((head[:half], head[512 : 512 + half]))
    seen = torch.cat((head[half:512], head[512 + half :]))
    assert torch.corrcoef(unseen).min() > 0.95
    assert torch.corrcoef(seen).fill_diagonal_(0).abs().max() < 0.8
    if not tied:
        assert torch.corrcoef(ExpectedWeights(recipe).sample(other, 1024 * 64)).fill_diagonal_(0).max() < 0.8


def test_rows_of_a_matrix_are_as_long_whatever_its_width():
    sizes = []
    for width in (64, 256):
        recipe = training(400).replace({"model.width": width})
        proj = ExpectedWeights(recipe).sample("blocks.0.attn.proj.weight", 16_384)
        sizes.append(float(proj.square().sum(1).mean().sqrt()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_a_walk_follows_the_clock_that_ends_it():
    """By steps alone the warm-down of 1,200 would begin at a sixth of the rate and end at none."""
    rule = AdamRule(lr=0.01)
    counted = training(200, schedule=WarmdownClock(warmdown_steps=1200)).replace(
        {"train.train_seconds": 600.0, "train.step_seconds": 1.04}
    )
    scales = [(600 - 1.04 * step) / (1200 * 1.04) if step else 1.0 for step in range(200)]
    expected = ADAM_WALK * 0.01 * math.sqrt(sum(scale**2 for scale in scales))
    assert random_walk(counted, rule).length == pytest.approx(expected, rel=1e-6)
    known = counted.replace({"train.step_seconds": 0.0, "train.steps": 20_000, "train.expected_steps": 500})
    assert likely_steps(known.train) == 500 and likely_steps(counted.train) == 200
    assert likely_steps(counted.train.replace(steps=20_000)) == 577
    by_tokens = known.replace({"train.tokens": 300 * known.train.batch_tokens})
    assert likely_steps(by_tokens.train) == 300
    scales = [min(1.0, (600 - 1.2 * step) / (1200 * 1.2)) if step else 1.0 for step in range(0, 500, 3)]
    expected = ADAM_WALK * 0.01 * math.sqrt(3 * sum(scale**2 for scale in scales))
    assert random_walk(known, rule).length == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("value", [5e-324, 1e-300, 1e18, 9.2e18])
def test_settings_at_their_limits_have_a_forecast(recipe, value):
    """What comes of them is for the run to find out."""
    rule = AdamRule(lr=value, weight_decay=value)
    assert all(number == number for number in random_walk(recipe, rule))
    clocked = recipe.train.replace(train_seconds=9.2e18, step_seconds=value, steps=7)
    assert 1 <= likely_steps(clocked) <= 7


def test_weights_beyond_all_floats_keep_their_shape():
    """Numbers that are cut at a limit are two numbers, on which a compressor takes minutes."""
    rows = public_rows(embedding=AdamRule(lr=9e18), matrices=MuonRule(lr=9e18), rest=AdamRule(lr=9e18))
    recipe = training(10**18).replace({"optim.rows": rows})
    drawn = ExpectedWeights(recipe).sample("blocks.0.mlp.fc.weight", 2**14)
    assert bool(drawn.isfinite().all()) and float(drawn.abs().max()) < 1.001 * LARGEST
    assert len(drawn.unique()) > 0.9 * drawn.numel()
    assert float((drawn / drawn.std()).pow(4).mean()) == pytest.approx(3, rel=0.2)


@pytest.mark.parametrize(
    ("path", "part", "value"),
    [
        ("model.embed", BigramHash(), {"buckets": 2**62}),
        ("model.embed", BigramSum(), {"dimension": 2**40}),
        ("model.values", ValueEmbedding(), {"dimension": 2**62}),
        ("optim.rows.0.rule", MuonRule(), {"backend_steps": 2**62}),
    ],
)
def test_sizes_of_parts_have_limits(path, part, value):
    with pytest.raises(PlanError, match="must be at most"):
        training().replace(
            {path: part.replace(value) if path.startswith("optim") else (part.replace(value),)}
        )


def test_a_table_larger_than_memory_has_a_forecast():
    recipe = training().replace({"model.embed": (BigramHash(buckets=2**24, dimension=2**15),)})
    started = time.process_time()
    drawn = ExpectedWeights(recipe).sample("bigram.embed.weight", 2**17)
    assert drawn.shape == (4, 2**15) and time.process_time() - started < 5
