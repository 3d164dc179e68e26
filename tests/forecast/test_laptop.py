"""The recipes of the five pull requests: published sizes, and laptop forms that keep every technique."""

import dataclasses

import pytest

from bitgolf.adapt.documents import PhasedLora
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.base.plan import diff
from bitgolf.forecast.budget import flops_per_token
from bitgolf.forecast.laptop import STEPS, laptop
from bitgolf.inputs.resolve import find_recipe
from bitgolf.net.model import count_parameters
from bitgolf.net.position import Rope
from bitgolf.net.route import Looped
from bitgolf.score.windows import Chunked, Growing, PerDocument, Sliding
from bitgolf.script.own import plans_in
from bitgolf.squeeze.quantize import Fixed
from bitgolf.train.average import Ema, SwaCount
from bitgolf.train.loop import Stage
from bitgolf.train.optim import SgdRule
from bitgolf.train.schedule import Progress
from tests.peak_memory import peak_of

PULL_REQUESTS = ("pr682", "pr212", "pr543", "pr488", "pr1718")
NAMES = (*PULL_REQUESTS, "frontier", "baseline")
PUBLISHED_PARAMETERS = {
    "pr682": 17_059_912,
    "pr212": 21_778_504,
    "pr543": 25_224_291,
    "pr488": 26_501_720,
    "pr1718": 36_486_278,
}
FULL_SIZE_BYTES = 12 << 30
# What the laptop form may change; everything else must be as it was.
CHANGED = (
    "name",
    "data.sequence_length",
    "train.",
    "model.",
    "optim.",
    "average.",
    "quantize.",
    "budget.budget_bytes",  # of recipes that fill it
    "score.windows",
    "score.adapter",
    "backend.attention",  # the full recipe names the way of GPUs
)
KEPT_OF_MODEL = (
    "vocabulary_size",
    "mlp_multiplier",
    "tied",
    "logit_softcap",
    "qk_gain",
    "embed_std",
    "bos_id",
)


@pytest.mark.parametrize("name", PULL_REQUESTS)
def test_full_sizes_are_the_published_ones(name):
    assert count_parameters(find_recipe(name).model) == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_laptop_form_keeps_every_technique(name):
    full, small = find_recipe(name), find_recipe(f"{name}-laptop")
    assert [type(plan) for plan in plans_in(small)] == [type(plan) for plan in plans_in(full)]
    for path, _, _ in diff(full, small):
        assert path.startswith(CHANGED), path
    assert all(getattr(small.model, key) == getattr(full.model, key) for key in KEPT_OF_MODEL)
    assert (small.budget == full.budget) is (full.quantize.rate == Fixed())  # else as many bytes a weight
    for key in ("noise", "pack"):
        assert getattr(small, key) == getattr(full, key)
    assert small.backend == full.backend.replace(attention=small.backend.attention)
    assert small.train.steps <= STEPS
    assert not small.train.train_seconds or small.train.step_seconds, "ends by a clock of its own"
    work = small.train.steps * small.train.batch_tokens * flops_per_token(small.model, 256)
    assert work < 5e13, "some minutes of two cores"


def test_what_adapts_learns_from_chunks_of_as_many_sequences():
    full, small = find_recipe("pr1718_ttt"), find_recipe("pr1718_ttt-laptop")
    assert full.score.adapter == ScoreFirst(epochs=3, rule=SgdRule(lr=0.005), chunk_tokens=16 * 2048)
    assert small.score.adapter == full.score.adapter.replace(chunk_tokens=16 * 256)
    phased = PhasedLora(globally=ScoreFirst(chunk_tokens=8192, sequence_length=2048))
    windows = PerDocument(within=Growing(length=2048, stride=48))
    found = laptop(full.replace({"score.windows": windows, "score.adapter": phased})).score.adapter
    fewer = {"rank": 2, "batch_documents": round(64 * 16 / 384), "prefix_documents": 8}
    assert found == phased.replace({"globally.chunk_tokens": 1024, "globally.sequence_length": 256, **fewer})


def test_stages_keep_their_shares_in_powers_of_two():
    stages = (Stage(until=0.1, sequence_length=1024), Stage(until=0.7, batch_tokens=98_304))
    full = find_recipe("frontier")
    small = laptop(full.replace({"train.stages": stages}))
    assert small.train.stages == (stages[0].replace(sequence_length=64), stages[1].replace(batch_tokens=512))


def test_what_counts_layers_tokens_or_steps_follows():
    small = laptop(find_recipe("pr543"))
    (table,) = small.model.values
    assert (small.model.layers, table.layers, table.dimension) == (6, (4, 5), 32)
    assert small.model.position == Rope(dims=8)
    assert small.quantize.rules[2].patterns == ("blocks.0.*.weight", "blocks.5.*.weight")
    assert small.score.windows == Chunked(length=256)
    share = small.train.steps / 4071
    assert small.optim.rows[5].rule.warmup_steps == round(1500 * share)
    assert small.optim.schedule.warmdown_steps == round(3000 * share)
    assert small.average.every == round(50 * share)
    looped = laptop(find_recipe("pr1718"))
    assert looped.model.position == Rope(dims=8, reference_length=256)
    assert looped.quantize.calibration.sequences == 128
    assert looped.model.recurrence == Looped(first=1, last=2, loops=2, enable_at=0.35)
    assert isinstance(looped.average, Ema)
    share = STEPS / 4393  # the average remembers the same share of the training
    assert 1 - looped.average.decay == pytest.approx((1 - 0.9965) / share)
    assert laptop(find_recipe("pr488")).average == SwaCount(checkpoints=7, guard=0.5)
    assert laptop(find_recipe("pr212")).score.windows == Sliding(length=256, stride=64)


@pytest.mark.parametrize("name", ["pr212", "pr543", "pr488", "pr1718"])
def test_a_clock_that_ends_a_recipe_ends_no_laptop_form(name):
    """Rates follow the same course over the steps that the clock was seen to leave, and over the laptop's."""
    full, small = find_recipe(name), find_recipe(f"{name}-laptop")
    seen, seconds = full.train.expected_steps, full.train.train_seconds
    assert (full.train.steps, small.train.steps) == (20_000, STEPS)
    assert small.train.train_seconds == small.train.expected_steps == 0
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        step = round(share * seen)
        clocked = full.optim.schedule.lr_scale(Progress(step, 20_000, step * seconds / seen, seconds))
        counted = small.optim.schedule.lr_scale(Progress(round(share * STEPS), STEPS))
        assert counted == pytest.approx(clocked, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_full_size_steps_fit_in_memory(name, tmp_path):
    """Full width, depth and sequences; fewer tokens a step, which are taken 8,192 at a time anyway."""
    recipe = find_recipe(name)
    tokens = 16_384
    train = dataclasses.replace(
        recipe.train, steps=2, train_seconds=0.0, batch_tokens=tokens, accumulation=1, priming_steps=0
    )
    peak = peak_of(recipe.replace(train=train), tmp_path)
    print(f"{name}: {peak / 2**30:.2f} GiB")
    assert peak < FULL_SIZE_BYTES
