"""Validation while a model is trained: what it says, and that nothing else changes."""

import json
import math

import numpy as np
import pytest
import torch

from bitgolf.base.events import finish
from bitgolf.net.model import build_model
from bitgolf.public.variables import apply_variables
from bitgolf.report.report import write_report
from bitgolf.run import training
from bitgolf.run.scoring import validation
from bitgolf.run.spec import RunSpec, training_identity
from bitgolf.run.stages import run
from bitgolf.train.loop import TrainPlan
from bitgolf.train.world import World

CODE = b"print('the code that counts')\n"
EACH_SECOND = {"train.validate_steps": 2}


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def ran(recipe, dataset, folder, **options):
    return finish(run(recipe, dataset, folder, 1, code=CODE, **options)).result


@pytest.mark.parametrize(
    ("every", "steps", "validated"), [(0, 5, []), (2, 5, [2, 4, 5]), (3, 3, [3]), (9, 4, [4]), (1, 2, [1, 2])]
)
def test_every_so_many_steps_and_after_the_last_one_or_never(every, steps, validated):
    plan = TrainPlan(validate_steps=every)
    assert [step for step in range(1, steps + 1) if plan.validates(step, step == steps)] == validated


def test_no_bit_of_a_run_depends_on_it(recipe, dataset, tmp_path):
    plain = ran(recipe, dataset, tmp_path / "plain")
    watched = ran(recipe.replace(EACH_SECOND), dataset, tmp_path / "watched")
    for name in ("model.bin", "scores.npz"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "watched" / name).read_bytes()
    assert plain["variants"][0]["bits_per_byte"] == watched["variants"][0]["bits_per_byte"]
    timed = {"seconds", "tokens_per_second", training.VALIDATED}
    untimed = [
        [{k: v for k, v in row.items() if k not in timed} for row in rows_of(tmp_path / name)]
        for name in ("plain", "watched")
    ]
    assert untimed[0] == untimed[1]
    assert not any(training.VALIDATED in row for row in rows_of(tmp_path / "plain"))


def test_the_last_validation_is_the_score_of_the_live_weights(recipe, dataset, tmp_path):
    result = ran(recipe.replace(EACH_SECOND), dataset, tmp_path / "r")
    found = {
        row["step"]: row[training.VALIDATED] for row in rows_of(tmp_path / "r") if training.VALIDATED in row
    }
    assert list(found) == [2, 4] and found[2] != found[4]
    assert result["variants"][0]["name"] == "live"
    assert found[4] == result["variants"][0]["bits_per_byte"]


def test_what_is_validated_is_logged_though_no_line_was_due(recipe, dataset, tmp_path):
    ran(recipe.replace({**EACH_SECOND, "train.log_steps": 3}), dataset, tmp_path / "r")
    assert [row["step"] for row in rows_of(tmp_path / "r")] == [2, 3, 4]


def test_the_clock_of_the_training_stands_still(recipe, dataset, tmp_path, monkeypatch):
    now = 0.0

    def slow(spec, model, world):
        nonlocal now
        now += 1000.0
        yield 1, 1
        return 1.5

    monkeypatch.setattr(training, "validation", slow)
    ran(recipe.replace(EACH_SECOND), dataset, tmp_path / "r", clock=lambda: now)
    assert [row["seconds"] for row in rows_of(tmp_path / "r")] == [0.0] * 4
    assert now >= 2000.0


def test_the_screen_is_told_how_far_it_is_and_what_it_found(recipe, dataset, tmp_path):
    facts = [
        event.facts
        for event in run(recipe.replace(EACH_SECOND), dataset, tmp_path / "r", 1, code=CODE)
        if event.stage == "train"
    ]
    assert {"validated": "100%"} in facts
    assert training.VALIDATED not in facts[0]
    last = rows_of(tmp_path / "r")[-1][training.VALIDATED]
    assert facts[-1][training.VALIDATED] == last


def test_the_report_draws_it(recipe, dataset, tmp_path):
    for name, changes in (("plain", {}), ("watched", EACH_SECOND)):
        ran(recipe.replace(changes), dataset, tmp_path / name)
        page = write_report(tmp_path / name).read_text()
        assert ("Validation, bits per byte" in page) == bool(changes)


def test_mode_and_random_numbers_of_the_model_stay(recipe, dataset, tmp_path):
    spec = RunSpec(recipe, dataset, tmp_path, 1, CODE)
    model = build_model(recipe.network(), 1).train()
    before = torch.get_rng_state()
    assert 0 < finish(validation(spec, model, World())) < 20
    assert model.training and torch.equal(before, torch.get_rng_state())


def test_a_model_of_no_numbers_has_no_bits(recipe, dataset, tmp_path):
    model = build_model(recipe.network(), 1)
    with torch.no_grad():
        model.tok_emb.weight.fill_(np.nan)
    assert math.isnan(finish(validation(RunSpec(recipe, dataset, tmp_path, 1, CODE), model, World())))


def test_a_training_is_the_same_training_with_and_without(recipe, dataset):
    identity = training_identity(recipe, dataset, 1)
    assert training_identity(recipe.replace(EACH_SECOND), dataset, 1) == identity


def test_the_public_variable_sets_it(recipe):
    assert apply_variables(recipe, {"VAL_LOSS_EVERY": "200"}).train.validate_steps == 200
