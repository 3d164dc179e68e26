"""Small tensors tuned after rounding: it helps, it touches nothing else, and off is off."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from bitgolf.base.events import finish
from bitgolf.base.tensors import read_tensors
from bitgolf.net.backend import choose_backend
from bitgolf.net.model import model_with
from bitgolf.pipeline.repack import open_run, pack_again
from bitgolf.run.packer import Packer
from bitgolf.run.stages import run
from bitgolf.squeeze.artifact import unpack
from bitgolf.squeeze.fill import FillBudget, coarser
from bitgolf.squeeze.presets import by_part, entropy_coded, rate_aware
from bitgolf.squeeze.quantize import AbsMax, NoTuning, QuantizePlan, quantize_weights
from bitgolf.squeeze.rate import RateAware
from bitgolf.squeeze.tune import TuneByTensor, TuneControls, in_order
from tests.conftest import tiny_recipe
from tests.run.test_run import CODE, result_of

pytestmark = pytest.mark.usefixtures("any_script")

BY_TENSOR = TuneByTensor(steps=12, step_tokens=512)
COARSE = rate_aware(0.002)  # coarser, and every output projection of so short a training is zero
SMALL = ("attn_scale", "mlp_scale", "resid_mix", "q_gain", "skip_weights")


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory, any_script):
    folder = tmp_path_factory.mktemp("trained") / "run"
    result_of(run(tiny_recipe(), dataset, folder, 1, code=CODE))
    return open_run(folder, data=dataset.folder)


@pytest.fixture(scope="module")
def calibrated(trained):
    """What its tensors are rounded by, for all that is as coarse."""
    return packer_of(trained, COARSE)


def packer_of(trained, table: QuantizePlan) -> Packer:
    recipe = trained.recipe
    model = model_with(recipe.model.shipped(), trained.weights, choose_backend(recipe.backend))
    curvatures = table.curvatures(model, trained.dataset.train, recipe.data.sequence_length)
    return Packer(recipe, trained.dataset.tokenizer.to_bytes(), trained.weights, curvatures, 0)


def tuned(trained, packer: Packer, table: QuantizePlan) -> Packer:
    fresh = dataclasses.replace(packer, made={}, encoded={})
    return finish(fresh.tuned(table, choose_backend(trained.recipe.backend), trained.dataset.train))


def divergence(trained, packer: Packer, table: QuantizePlan) -> float:
    """Nats a token between the unrounded and the packed model, on the first sequences of the text."""
    backend, shipped = choose_backend(trained.recipe.backend), trained.recipe.model.shipped()
    opened = unpack(packer.packed(table)[1].data)
    length = trained.recipe.data.sequence_length
    ids = torch.from_numpy(trained.dataset.train.read(0, 16 * length).astype("int64")).reshape(16, length)
    with torch.no_grad():
        wanted, said = (
            F.log_softmax(model_with(shipped, weights, backend).logits(ids), dim=-1)
            for weights in (trained.weights, opened.weights)
        )
    return float((wanted.exp() * (wanted - said)).sum(-1).mean())


def test_a_packing_makes_anew_what_has_changed_alone(trained, monkeypatch):
    packer, rounded = packer_of(trained, COARSE), []
    quantize = RateAware.quantize
    monkeypatch.setattr(RateAware, "quantize", lambda *given: rounded.append(0) or quantize(*given))
    finer = coarser(COARSE, 0.5)
    first, other, again = (packer.packed(table)[1].data for table in (COARSE, finer, COARSE))
    made = len(rounded)
    assert first == again != other and first == packer.packed(COARSE)[1].data
    names = [name for name in trained.weights if name.endswith(SMALL)]
    changed = {name: trained.weights[name] + 0.5 for name in names}
    tuned_packer = dataclasses.replace(packer, weights={**trained.weights, **changed})
    rows, artifact = tuned_packer.packed(coarser(COARSE, 1.0))
    assert len(rounded) == made and len(rows) == len(trained.weights)
    fresh = dataclasses.replace(tuned_packer, made={}, encoded={})
    assert artifact.data == fresh.packed(COARSE)[1].data != first
    assert len(rounded) == made * 4 // 3


def test_two_threads_round_as_one_after_the_other(trained, monkeypatch):
    packer, before = packer_of(trained, COARSE), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            both = packer.packed(COARSE)[1].data
        monkeypatch.setattr("bitgolf.squeeze.quantize.in_threads", lambda make, names: list(map(make, names)))
        assert both == dataclasses.replace(packer, made={}, encoded={}).packed(COARSE)[1].data
    finally:
        torch.set_num_threads(before)


def test_the_packed_model_says_more_nearly_what_the_trained_one_does(trained, calibrated):
    before = divergence(trained, calibrated, COARSE)
    after = divergence(trained, tuned(trained, calibrated, COARSE), COARSE)
    assert 0 < after < 0.97 * before, (before, after)


def test_only_small_tensors_change(trained, calibrated):
    packer = tuned(trained, calibrated, COARSE)
    changed = {n for n, weight in trained.weights.items() if not torch.equal(weight, packer.weights[n])}
    assert changed and all(any(part in name for part in SMALL) for name in changed), changed
    assert changed <= set(COARSE.tunable(trained.weights))
    moved = {n for n in changed if float((trained.weights[n] - packer.weights[n]).abs().max()) > 0.01}
    assert all(any(part in name for name in moved) for part in SMALL), moved  # by more than their rounding
    before, after = (
        quantize_weights(COARSE, weights, packer.curvatures)[0]
        for weights in (trained.weights, packer.weights)
    )
    for name in set(before) - changed:
        assert torch.equal(before[name].dequantize(), after[name].dequantize())


def test_matrices_and_what_asks_for_curvature_are_not_tunable():
    weights = {
        "w": torch.zeros(200, 200),
        "blocks.0.mlp.fc.weight": torch.zeros(4, 4),
        "gain": torch.zeros(4),
    }
    assert rate_aware().tunable(weights) == ["gain"]
    assert by_part(AbsMax(), AbsMax()).tunable(weights) == ["blocks.0.mlp.fc.weight", "gain"]


def test_off_is_off(trained):
    table = COARSE.replace(tuning=NoTuning())
    packer = packer_of(trained, table)
    assert (
        finish(packer.tuned(table, choose_backend(trained.recipe.backend), trained.dataset.train)) is packer
    )
    assert QuantizePlan().tuning == NoTuning()


@pytest.mark.parametrize(
    "tuning", [TuneControls(step_tokens=256), TuneByTensor(steps=2, small_steps=2, step_tokens=256)], ids=str
)
def test_every_setting_bites_and_equal_ones_give_equal_bits(trained, calibrated, tuning):
    def weights(changed):
        return tuned(trained, calibrated, COARSE.replace(tuning=changed)).weights

    first, again = weights(tuning), weights(tuning)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for field in dataclasses.fields(tuning):
        other = weights(tuning.replace({field.name: getattr(tuning, field.name) * 2 + 3}))
        assert any(not torch.equal(first[name], other[name]) for name in first), field.name


def test_a_run_ships_what_was_tuned(recipe, dataset, tmp_path):
    changed = recipe.replace({"quantize": COARSE, "pack.codec": entropy_coded()})
    off = changed.replace({"quantize.tuning": NoTuning()})
    result, packing, _ = finish(run(changed, dataset, tmp_path / "tuned", 1, code=CODE))
    plain = result_of(run(off, dataset, tmp_path / "plain", 1, code=CODE))
    opened = [unpack((tmp_path / name / "model.bin").read_bytes()).weights for name in ("tuned", "plain")]
    differing = {name for name in opened[0] if not torch.equal(opened[0][name], opened[1][name])}
    assert differing and all(any(part in name for part in SMALL) for name in differing)
    assert result["variants"][-2]["nats_per_token"] != plain["variants"][-2]["nats_per_token"]
    for name, weight in packing.weights.items():  # what a report compares with
        assert "scale" not in name or torch.allclose(weight, opened[0][name], atol=0.006)
    weights = [read_tensors(tmp_path / name / "weights.safetensors")[0] for name in ("tuned", "plain")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])  # by training alone


def test_a_trained_run_is_tuned_when_it_is_packed_again(trained, tmp_path):
    again = trained._replace(
        recipe=trained.recipe.replace({"quantize": COARSE, "pack.codec": entropy_coded()})
    )
    result = finish(pack_again(again, tmp_path / "packed"))
    # Errors are of rounding to eight bits alone, not of what tuning moved, which is some hundredths.
    assert all(row["relative_error"] < 0.01 for row in result["quantization"] if "scale" in row["name"])
    plain = again._replace(recipe=again.recipe.replace({"quantize.tuning": NoTuning()}))
    assert finish(pack_again(plain, tmp_path / "plain"))["gap"] != result["gap"]


def test_later_tensors_make_good_what_earlier_ones_lost_at_as_many_bytes(trained, calibrated):
    table = COARSE.replace(tuning=BY_TENSOR)
    controls, packer = (tuned(trained, calibrated, each) for each in (COARSE, table))
    sizes = [len(each.packed(table)[1].data) for each in (controls, packer)]
    assert sizes[1] < 1.01 * sizes[0]
    assert divergence(trained, packer, table) < 0.9 * divergence(trained, controls, COARSE)
    # Planted: other errors than those that were made good.
    other, exact = coarser(table, 1.02), coarser(COARSE, 1.02)
    assert divergence(trained, packer, other) > 0.98 * divergence(trained, controls, exact)


def test_what_was_rounded_before_is_not_rounded_again_to_tune_controls(trained, calibrated, monkeypatch):
    calibrated.packed(COARSE)
    monkeypatch.delattr(RateAware, "quantize")
    tuning = TuneControls(steps=1, step_tokens=64)
    table = COARSE.replace(tuning=tuning)
    backend = choose_backend(trained.recipe.backend)
    finish(calibrated.tuned(table, backend, trained.dataset.train)).packed(table)


def test_what_ships_is_what_was_fine_tuned_around(trained, calibrated, monkeypatch):
    table, students = COARSE.replace(tuning=BY_TENSOR.replace(steps=1, small_steps=1)), []
    tune = TuneByTensor.tune
    monkeypatch.setattr(
        TuneByTensor, "tune", lambda self, task: students.append(task.student) or tune(self, task)
    )
    packer = tuned(trained, calibrated, table)
    shipped = unpack(packer.packed(table)[1].data).weights
    large = set(shipped) - set(table.tunable(trained.weights))
    parameters = dict(students[0].named_parameters())
    assert large and all(torch.equal(shipped[name], parameters[name].detach()) for name in large)


def test_tensors_are_rounded_as_the_model_uses_them():
    assert in_order(["blocks.10.a", "tok_emb.weight", "blocks.2.b", "blocks.2.a"]) == [
        "tok_emb.weight",
        "blocks.2.b",
        "blocks.2.a",
        "blocks.10.a",
    ]


@pytest.mark.parametrize("lost_bytes", [0, 300])
def test_a_budget_that_the_tuned_weights_leave_is_filled_by_tuning_again(
    trained, calibrated, monkeypatch, lost_bytes
):
    table = COARSE.replace(tuning=TuneByTensor(steps=1, small_steps=1), rate=FillBudget(least_share=0.97))
    budget = len(calibrated.packed(coarser(COARSE, 0.5))[1].data)
    recipe = trained.recipe.replace({"quantize": table, "budget.budget_bytes": budget})
    rates, tune = [], TuneByTensor.tune
    monkeypatch.setattr(TuneByTensor, "tune", lambda self, *given: rates.append(0) or tune(self, *given))
    total = Packer.total_bytes
    monkeypatch.setattr(
        Packer, "total_bytes", lambda self, artifact: total(self, artifact) + lost_bytes * bool(rates)
    )
    packer = dataclasses.replace(calibrated, recipe=recipe)
    packed, plan = finish(packer.allocated(choose_backend(recipe.backend), trained.dataset.train))
    assert 0.97 * budget <= packed.total_bytes(packed.packed(plan)[1]) <= budget
    assert len(rates) == 1 + bool(lost_bytes)


def test_where_all_tensors_are_small_these_are_tuned(trained, calibrated):
    table = by_part(AbsMax(), AbsMax()).replace(tuning=TuneByTensor(small_steps=2, step_tokens=64))
    packer = tuned(trained, calibrated, table)
    assert any(not torch.equal(packer.weights[name], weight) for name, weight in trained.weights.items())
