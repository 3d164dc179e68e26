"""The recipes of the pull requests against what their scripts set and their logs say, line by line."""

from typing import Any

import pytest
import torch

from bitgolf.base.plan import diff
from bitgolf.inputs.resolve import find_recipe
from bitgolf.net.model import build_model, parameter_shapes
from bitgolf.net.position import Rope
from bitgolf.net.route import Plain
from bitgolf.net.start import OrthogonalStart, UniformStart
from bitgolf.score.windows import Chunked, Sliding
from bitgolf.squeeze.clip import ClipSearch, CoarseCodes
from bitgolf.squeeze.codec import Brotli, Zstd
from bitgolf.squeeze.gptq import Gptq
from bitgolf.squeeze.grid import PerTensor, RowGroups
from bitgolf.squeeze.quantize import AbsMax, Keep, Percentile, SdClip
from bitgolf.text.batches import PublicOrder, ShuffledBlocks
from bitgolf.train.average import Ema, NoAverage, SwaCount, TightSwa
from bitgolf.train.optim import AdamRule, Frozen, MuonRule, assign_parameters
from bitgolf.train.qat import NoNoise
from bitgolf.train.schedule import Progress, WarmdownClock, WarmdownFraction

# What each script sets, and in `steps` what its log says the clock left of 20,000.
AS_RUN: dict[str, dict[str, Any]] = {
    "pr212": {
        "steps": 12_507, "seconds": 600.0, "batch": 524_288, "length": 1024, "clip": 1.0, "priming": 20,
        "schedule": WarmdownClock(warmdown_steps=20_000), "order": PublicOrder(),
        "embedding": (0.07, 0.0), "matrix": (0.06, 0.0), "scalar": (0.06, 0.0),
        "momentum": (0.99, 0.85, 500), "normalised": False,
        "qk_gain": 1.5, "position": Rope(), "start": UniformStart(),
        "average": NoAverage(), "codec": Zstd(level=22), "windows": Sliding(length=1024, stride=64),
    },
    "pr543": {
        "steps": 4071, "seconds": 600.0, "batch": 786_432, "length": 2048, "clip": 0.3, "priming": 20,
        "schedule": WarmdownClock(warmdown_steps=3000), "order": PublicOrder(),
        "embedding": (0.035, 0.0), "matrix": (0.025, 0.04), "scalar": (0.025, 0.0),
        "momentum": (0.99, 0.92, 1500), "normalised": False,
        "qk_gain": 1.5, "position": Rope(dims=16), "start": UniformStart(),
        "average": TightSwa(every=50), "codec": Zstd(level=22), "windows": Chunked(length=2048),
    },
    "pr488": {
        "steps": 950, "seconds": 600.0, "batch": 524_288, "length": 2048, "clip": 0.3, "priming": 20,
        "schedule": WarmdownFraction(fraction=0.15), "order": PublicOrder(),
        "embedding": (0.035, 0.02), "matrix": (0.025, 0.04), "scalar": (0.025, 0.02),
        "momentum": (0.99, 0.92, 1500), "normalised": False,
        "qk_gain": 1.5, "position": Rope(), "start": OrthogonalStart(smallest=64),
        "average": SwaCount(checkpoints=7, guard=0.5), "codec": Zstd(level=22),
        "windows": Sliding(length=2048, stride=64),
    },
    "pr1718": {
        "steps": 4393, "seconds": 588.0, "batch": 786_432, "length": 2048, "clip": 0.3, "priming": 20,
        "schedule": WarmdownFraction(fraction=0.72), "order": ShuffledBlocks(),
        "embedding": (0.03, 0.085), "matrix": (0.022, 0.095), "scalar": (0.02, 0.02),
        "momentum": (0.99, 0.92, 1500), "normalised": True,
        "qk_gain": 5.0, "position": Rope(dims=16, reference_length=2048),
        "start": OrthogonalStart(smallest=64),
        "average": Ema(decay=0.9965), "codec": Brotli(quality=11),
        "windows": Sliding(length=2048, stride=64),
    },
}  # fmt: skip
FROZEN = {
    "pr543": {"ve_shared.embed.weight", "ve_shared.proj.weight"},
    "pr1718": {"bigram.embed.weight"},
}


def rules_of(recipe):
    """The update rule of every parameter."""
    parameters = {
        name: torch.empty(shape, device="meta") for name, shape in parameter_shapes(recipe.model).items()
    }
    return {
        name: next(row.rule for row in recipe.optim.rows if row.matches(name, parameter))
        for name, parameter in parameters.items()
    }


def quantizers_of(table, recipe):
    """The quantizer of every parameter by a table; None where it has no rule."""
    found = {}
    for name, shape in parameter_shapes(recipe.model).items():
        rule = table.rule_of(name, torch.empty(shape, device="meta"))
        found[name] = rule and rule.quantizer
    return found


@pytest.mark.parametrize("name", AS_RUN)
def test_settings_are_those_of_the_script(name):
    recipe, wanted = find_recipe(name), AS_RUN[name]
    train, model, rules = recipe.train, recipe.model, rules_of(recipe)
    adam = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
    kept = {"backend_steps": 5, "nesterov": True, "polar_express": False}
    momentum, start, warmup = wanted["momentum"]
    assert (train.steps, train.step_seconds) == (20_000, 0)  # the clock ends it
    found = {
        "steps": train.expected_steps,
        "seconds": train.train_seconds,
        "batch": train.batch_tokens,
        "length": recipe.data.sequence_length,
        "clip": train.grad_clip_norm,
        "priming": train.priming_steps,
        "schedule": recipe.optim.schedule,
        "order": recipe.data.order,
        "qk_gain": model.qk_gain,
        "position": model.position,
        "start": model.start,
        "average": recipe.average,
        "codec": recipe.pack.codec,
        "windows": recipe.score.windows,
    }
    assert found == {key: wanted[key] for key in found}
    assert (model.tied, model.logit_softcap, model.embed_std, train.stages) == (True, 30.0, 0.005, ())
    assert (recipe.score.limit_tokens, recipe.budget.budget_bytes) == (0, 16_000_000)
    for parameter, key in (("tok_emb.weight", "embedding"), ("blocks.0.attn.q_gain", "scalar")):
        lr, decay = wanted[key]
        assert rules[parameter] == AdamRule(lr=lr, weight_decay=decay, **adam)
    lr, decay = wanted["matrix"]
    matrix = MuonRule(
        lr=lr, weight_decay=decay, momentum=momentum, warmup_start=start, warmup_steps=warmup,
        row_normalize=wanted["normalised"], **kept,
    )  # fmt: skip
    assert {rules[parameter] for parameter in rules if parameter.endswith("mlp.fc.weight")} == {matrix}
    scalars = [rules[p] for p in rules if p.endswith(("_scale", "resid_mix", "skip_weights", "skip_gates"))]
    assert set(scalars) == {rules["blocks.0.attn.q_gain"]}


@pytest.mark.parametrize("name", AS_RUN)
def test_what_was_in_no_optimizer_is_frozen_and_nothing_else(name):
    frozen = {parameter for parameter, rule in rules_of(find_recipe(name)).items() if rule == Frozen()}
    assert frozen == FROZEN.get(name, set())


def test_1718_as_meant_differs_in_the_forgotten_table_alone():
    run, meant = (rules_of(find_recipe(name)) for name in ("pr1718", "pr1718_meant"))
    assert {name for name in run if run[name] != meant[name]} == {"bigram.embed.weight"}
    assert meant["bigram.embed.weight"] == meant["tok_emb.weight"]
    paths = [path for path, *_ in diff(find_recipe("pr1718"), find_recipe("pr1718_meant"))]
    assert all(path == "name" or path.startswith("optim.rows") for path in paths)


def test_212_rates_fall_from_the_first_step_on():
    """Its log: 47.97 ms a step, so that 20,000 steps of warm-down are 959 s of 600."""
    schedule = find_recipe("pr212").optim.schedule
    scales = [schedule.lr_scale(Progress(step, 20_000, step * 0.04797, 600.0)) for step in (1, 6253, 12_507)]
    assert scales == pytest.approx([0.6253, 0.3127, 0.0], abs=1e-3)


def test_212_ships_int6_by_percentile_with_a_floor():
    recipe = find_recipe("pr212")
    quantizers = quantizers_of(recipe.quantize, recipe)
    six = quantizers["blocks.4.mlp.fc.weight"]
    assert isinstance(six, Percentile) and six.percentile == 0.9999984
    assert (six.grid.qmin, six.grid.qmax, six.grid.scale_floor) == (-31, 31, 1 / 31)
    assert quantizers["tok_emb.weight"] == Keep(dtype="float16")
    controls = ("attn_scale", "mlp_scale", "resid_mix", "q_gain", "skip_weights")
    for name, quantizer in quantizers.items():
        assert (quantizer == Keep(dtype="float32")) == name.endswith(controls)


def test_543_ships_multiples_of_four_between_two_layers_of_int8():
    recipe = find_recipe("pr543")
    quantizers = quantizers_of(recipe.quantize, recipe)
    eight = quantizers["blocks.0.attn.c_q.weight"]
    assert isinstance(eight, ClipSearch) and eight.choice == "tensor" and eight.under_floor
    assert eight.percentiles == (0.9999, 0.99999, 0.999999, 0.9999984, 1.0)
    assert (eight.grid.bits, eight.grid.scale_floor, eight.grid.round_scale_first) == (8, 1 / 127, False)
    for layer in range(11):
        wanted = eight if layer in (0, 10) else CoarseCodes(of=eight, step=4)
        for name in ("attn.c_q", "attn.c_k", "attn.c_v", "attn.proj", "mlp.fc", "mlp.proj"):
            assert quantizers[f"blocks.{layer}.{name}.weight"] == wanted
    assert quantizers["ve_shared.embed.weight"] == eight
    for name in ("tok_emb.weight", "ve_shared.proj.weight", "smear.gate", "ve_scales.3"):
        assert quantizers[name] == Keep(dtype="float16")
    for name in ("blocks.3.attn_scale", "blocks.0.resid_mix", "skip_weights", "blocks.10.attn.q_gain"):
        assert quantizers[name] == Keep(dtype="float32")


def test_543_has_a_scale_for_every_layer_and_a_table_of_unit_size():
    shapes = parameter_shapes(find_recipe("pr543").model)
    assert {name for name in shapes if name.startswith("ve_")} == {
        "ve_shared.embed.weight", "ve_shared.proj.weight", *(f"ve_scales.{layer}" for layer in range(11))
    }  # fmt: skip
    model = build_model(find_recipe("pr543-laptop").model, seed=3)
    assert model.ve_shared.embed.weight.std().item() == pytest.approx(1.0, rel=0.02)
    bound = model.ve_shared.proj.weight.shape[1] ** -0.5
    assert 0.9 * bound < model.ve_shared.proj.weight.abs().max().item() <= bound
    assert {scale.item() for scale in model.ve_scales.parameters()} == {torch.tensor(0.1).item()}


def test_543_has_late_noise_on_plain_int6():
    recipe = find_recipe("pr543")
    six = quantizers_of(recipe.noise.noise_plan(recipe.quantize), recipe)["blocks.4.mlp.fc.weight"]
    assert isinstance(six, AbsMax) and (six.grid.qmax, six.grid.scale_floor) == (31, 0.0)
    names = recipe.noise.chosen(parameter_shapes(recipe.model))
    assert len(names) == 11 * 6 + 1 and "ve_shared.proj.weight" in names
    # Its log: scale 0.095 in step 4,070, the first below a tenth that it kept; then the clock had ended.
    assert recipe.noise.active(Progress(4070, 20_000, 561.0, 600.0), 0.095)
    assert not recipe.noise.active(Progress(4060, 20_000, 559.0, 600.0), 0.1)


def test_488_trains_on_more_than_it_ships():
    recipe = find_recipe("pr488")
    shipped = quantizers_of(recipe.quantize, recipe)
    noisy = quantizers_of(recipe.noise.noise_plan(recipe.quantize), recipe)
    six = shipped["blocks.0.attn.c_q.weight"]
    assert isinstance(six, AbsMax) and six.grid.granularity == RowGroups(rows=8)
    assert (six.grid.qmin, six.grid.qmax, six.grid.scale_floor) == (-32, 31, 1 / 31)
    chosen = recipe.noise.chosen(shipped)
    # Every parameter with two dimensions: six matrices and the mix of each layer, the embedding, the skips.
    assert sorted(chosen) == sorted(n for n, s in parameter_shapes(recipe.model).items() if len(s) == 2)
    assert noisy["tok_emb.weight"] == six != shipped["tok_emb.weight"] == Keep(dtype="float16")
    assert isinstance(noisy["skip_weights"], Percentile) and noisy["skip_weights"].grid.bits == 8
    assert recipe.noise.active(Progress(800, 20_000, 510.0, 600.0), 1.0)
    assert not recipe.noise.active(Progress(800, 20_000, 509.0, 600.0), 1.0)


def test_1718_ships_what_its_log_lists():
    recipe = find_recipe("pr1718")
    quantizers = quantizers_of(recipe.quantize, recipe)
    assert recipe.noise == NoNoise()
    for name, (bits, sigmas) in {"tok_emb.weight": (8, 20.0), "blocks.5.mlp.proj.weight": (6, 12.85)}.items():
        quantizer = quantizers[name]
        assert isinstance(quantizer, Gptq) and (quantizer.damping, quantizer.block) == (0.01, 128)
        (scales,) = quantizer.scales
        assert isinstance(scales, SdClip) and (scales.grid.bits, scales.sigmas) == (bits, sigmas)
    for name in ("blocks.3.attn_scale", "blocks.3.mlp_scale", "blocks.3.resid_mix", "skip_gates"):
        assert isinstance(quantizers[name], AbsMax) and quantizers[name].grid.granularity == PerTensor()
    for name, bits in {
        "bigram.proj.weight": 8, "blocks.2.attn.attn_gate_proj.weight": 8, "smear_gate.weight": 8,
        "bigram.embed.weight": 6,
    }.items():  # fmt: skip
        assert isinstance(quantizers[name], AbsMax) and quantizers[name].grid.bits == bits
    for name in ("bigram.scale", "blocks.0.attn.q_gain", "smear_lambda"):
        assert quantizers[name] == Keep(dtype="float16")
    rules = rules_of(recipe)
    assert rules["bigram.proj.weight"] == rules["smear_gate.weight"] == rules["blocks.0.mlp.fc.weight"]
    assert rules["blocks.0.attn.attn_gate_proj.weight"] == rules["smear_lambda"] == rules["skip_gates"]
    model = build_model(find_recipe("pr1718-laptop").model)
    assert not model.bigram.embed.weight.any() and model.bigram.proj.weight.any()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("pr543", {"model.values": ()}),
        ("pr543", {"model.embed": (), "model.heads_out": (), "noise": NoNoise()}),
        ("pr1718", {"model.embed": ()}),
        ("pr1718", {"model.embed": (), "model.heads_out": (), "model.route": Plain()}),
    ],
)
def test_parts_can_be_left_out(name, changes):
    """An ablation changes the part alone: rows, rules and noise of what is gone are idle."""
    recipe = find_recipe(f"{name}-laptop").replace(changes)
    shapes = parameter_shapes(recipe.model)
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert sum(map(len, assign_parameters(recipe.optim, tensors))) == len(shapes)
    assert recipe.quantize.assign(tensors).keys() == shapes.keys()
    assert recipe.noise.validate_for(shapes) == []
