"""Every recipe that ships can be built, said and read back; the baseline is the public one, the demo ours."""

import importlib

import pytest

from bitgolf.base.plan import diff, from_json, to_json
from bitgolf.inputs.resolve import find_recipe
from bitgolf.net.model import count_parameters, parameter_shapes
from bitgolf.net.route import USkips
from bitgolf.recipe import BudgetPlan, Recipe
from bitgolf.recipes import recipe_names
from bitgolf.recipes.baseline import baseline
from bitgolf.recipes.demo import demo
from bitgolf.score.windows import Chunked
from bitgolf.squeeze.codec import Deflate
from bitgolf.squeeze.quantize import public_int8
from bitgolf.text.batches import PublicOrder
from bitgolf.train.average import NoAverage
from bitgolf.train.optim import AdamRule, MuonRule, assign_parameters, baseline_rows
from bitgolf.train.schedule import Progress, WarmdownClock, momentum_at


def test_the_recipes_are_found():
    assert {"baseline", "demo"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_whole(name):
    recipe = find_recipe(name)
    assert recipe.name == name
    again = from_json(Recipe, to_json(recipe))
    assert again == recipe
    assert again.identity() == recipe.identity()
    assert diff(recipe, again) == []
    recipe.train.rows(recipe.data.sequence_length, 1)
    shapes = parameter_shapes(recipe.model)
    tensors = {tensor: AnyTensor(shape) for tensor, shape in shapes.items()}
    assert sum(map(len, assign_parameters(recipe.optim, tensors))) == len(shapes)


class AnyTensor:
    """A shape that says how many dimensions it has."""

    def __init__(self, shape):
        self.shape, self.ndim = shape, len(shape)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_how_to_run_it(name):
    title, blank, command, *_ = importlib.import_module(f"bitgolf.recipes.{name}").__doc__.splitlines()
    assert len(title) > 20
    assert blank == ""
    assert command.split()[0] == "bitgolf"
    assert {name, f"{name}-laptop"} & set(command.split())


def test_the_baseline_has_the_public_shape():
    model = baseline().model
    assert count_parameters(model) == 17_059_912
    assert (model.vocabulary_size, model.layers, model.width) == (1024, 9, 512)
    assert (model.heads, model.kv_heads, model.mlp_multiplier, model.tied) == (8, 4, 2.0, True)
    assert (model.logit_softcap, model.qk_gain, model.position.base, model.embed_std) == (
        30.0,
        1.5,
        10000.0,
        0.005,
    )
    assert model.route == USkips()


@pytest.mark.parametrize(
    ("change", "parameters"), [({"tied": False}, 1024 * 512), ({"kv_heads": 8}, 9 * 2 * 256 * 512)]
)
def test_the_count_follows_the_shape(change, parameters):
    assert count_parameters(baseline().model.replace(**change)) == 17_059_912 + parameters


def test_the_baseline_has_the_public_groups():
    """Catalogue A8 to A10: who is trained by what, and at which rate."""
    optim = baseline().optim
    parameters = {name: AnyTensor(shape) for name, shape in parameter_shapes(baseline().model).items()}
    embedding, matrices, rest = assign_parameters(optim, parameters)
    assert embedding == ["tok_emb.weight"]
    assert len(matrices) == 9 * 6
    assert all(parameters[name].ndim == 2 for name in matrices)
    controls = ("attn_scale", "mlp_scale", "resid_mix", "q_gain", "skip_weights")
    assert len(rest) == 9 * 4 + 1
    assert all(name.endswith(controls) for name in rest)
    rules = [row.rule for row in optim.rows]
    adam = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.0}
    assert rules[0] == AdamRule(lr=0.05, **adam)
    assert rules[2] == AdamRule(lr=0.04, **adam)
    assert rules[1] == MuonRule(
        lr=0.04, momentum=0.95, warmup_start=0.85, warmup_steps=500, backend_steps=5, nesterov=True,
        weight_decay=0.0,
    )  # fmt: skip
    momenta = [rules[1].rates(1.0, Progress(step, 9001))["momentum"] for step in (0, 250, 500, 9000)]
    assert momenta == pytest.approx([0.85, 0.90, 0.95, 0.95])
    assert momenta == [momentum_at(step, 0.85, 0.95, 500) for step in (0, 250, 500, 9000)]


def test_an_untied_baseline_has_rates_for_embedding_and_head():
    rows = {row.pattern: row.rule for row in baseline_rows(tied=False)}
    assert rows["tok_emb.weight"] == AdamRule(lr=0.6)
    assert rows["lm_head.weight"] == AdamRule(lr=0.008)
    untied = baseline().replace({"model.tied": False, "optim.rows": baseline_rows(tied=False)})
    names = {name: AnyTensor(shape) for name, shape in parameter_shapes(untied.model).items()}
    assert assign_parameters(untied.optim, names)[1] == ["lm_head.weight"]


def test_the_baseline_has_the_public_training():
    recipe = baseline()
    assert (recipe.train.steps, recipe.train.train_seconds) == (20_000, 600.0)
    assert (recipe.train.batch_tokens, recipe.data.sequence_length) == (524_288, 1024)
    assert [recipe.train.micro_batches(world) for world in (1, 2, 8)] == [8, 4, 1]
    assert recipe.train.rows(1024, 1) == recipe.train.rows(1024, 8) == 64
    assert recipe.train.grad_clip_norm == 0
    assert recipe.data.order == PublicOrder()
    assert recipe.average == NoAverage()


@pytest.mark.parametrize(
    ("step", "seconds", "scale"),
    [
        (0, 0.0, 1.0),
        (1, 0.05, 1.0),
        (10_000, 500.0, 1.0),  # 100 s are left, the warm-down takes 1200 steps of 0.05 s
        (11_400, 570.0, 0.5),
        (1, 30.0, 570 / 36_000),  # one slow first step starts it at once: kept for parity
    ],
)
def test_the_baseline_warms_down_against_the_clock(step, seconds, scale):
    schedule = baseline().optim.schedule
    assert schedule == WarmdownClock(warmdown_steps=1200)
    assert schedule.lr_scale(Progress(step, 20_000, seconds, 600.0)) == pytest.approx(scale)


def test_the_baseline_is_squeezed_and_scored_as_in_public():
    recipe = baseline()
    assert recipe.quantize == public_int8()
    assert recipe.quantize.rules[0].quantizer.percentile == 0.9999984
    assert recipe.quantize.rules[0].quantizer.grid.bits == 8
    assert recipe.pack.codec == Deflate(level=9)
    assert recipe.score.windows == Chunked(length=1024)
    assert (recipe.budget.budget_bytes, recipe.budget.count_tokenizer) == (16_000_000, False)


def test_the_demo_counts_every_byte():
    assert demo().budget == BudgetPlan(budget_bytes=1_000_000, count_tokenizer=True)
    assert 0 < demo().train.train_seconds <= 180


def test_a_changed_default_is_noticed():
    changed = baseline().replace({"model.qk_gain": 4.0})
    assert [(path, left, right) for path, left, right in diff(baseline(), changed)] == [
        ("model.qk_gain", 1.5, 4.0)
    ]
    assert changed.identity() != baseline().identity()
