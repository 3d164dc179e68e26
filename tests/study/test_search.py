"""A search proposes, runs, and leaves the claim to seeds that it never used."""

import math

import pytest

from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.report.screen import follow
from bitgolf.study import search as searching
from bitgolf.study.design import Study, add_one
from bitgolf.study.search import Trial, claim_of, parse_space, search
from bitgolf.train.average import NoAverage


@pytest.fixture
def study(recipe, dataset) -> Study:
    arms = add_one(recipe, {"longer": {"train.steps": 6}})
    return Study(name="tiny", baseline=recipe, arms=arms, seeds=(1, 2), data=str(dataset.folder))


def test_the_search_finds_what_is_better_and_names_fresh_seeds(study, tmp_path):
    space = parse_space(study.baseline, ["train.steps=2..12"])
    found = follow(search(study, space, tmp_path, seconds=6.0))
    assert len(found.trials) >= 2
    best = min(found.trials, key=lambda trial: trial.value)
    assert found.claim.arms[0].recipe.train.steps == int(best.overrides[0].partition("=")[2])
    assert found.claim.name == "tiny_search" and found.claim.seeds == (1, 2)
    used = {int(folder.name.rpartition("-")[2]) for folder in (tmp_path / "runs").iterdir()}
    assert used == {searching.SEARCH_SEED} and not used & {*found.claim.seeds}


def test_a_search_that_was_stopped_goes_on_with_its_runs(study, tmp_path):
    space = parse_space(study.baseline, ["train.steps=2..12"])
    first = follow(search(study, space, tmp_path, seconds=0.0))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
    again = follow(search(study, space, tmp_path, seconds=0.0))
    assert again.trials == first.trials
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")} == before


def test_the_search_seed_is_never_one_of_the_claim(study, tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "SEARCH_SEED", 1)
    follow(search(study, parse_space(study.baseline, ["train.steps=2..3"]), tmp_path, seconds=0.0))
    assert {folder.name.rpartition("-")[2] for folder in (tmp_path / "runs").iterdir()} == {"3"}


def test_ranges_and_lists_are_read(recipe):
    whole, real, texts = parse_space(
        recipe, ["model.layers=2..4", "train.grad_clip_norm=0.1..2.0", "average=NoAverage()|Ema(decay=0.9)"]
    )
    assert (whole.low, whole.high, whole.whole) == (2, 4, True)
    assert not real.whole and texts.texts == ("NoAverage()", "Ema(decay=0.9)")
    (tiny,) = parse_space(recipe, ["train.grad_clip_norm=1e-4..1e-1"])
    assert (tiny.low, tiny.high, tiny.whole) == (1e-4, 0.1, False)


@pytest.mark.parametrize("text", ["model.layers", "model.layers=3", "model.layers=4..2", "model.layers=a..b"])
def test_what_is_no_space_is_refused(recipe, text):
    with pytest.raises(BitgolfError, match="not a range or a list"):
        parse_space(recipe, [text])


def test_a_wrong_path_is_refused_before_any_trial(recipe):
    with pytest.raises(PlanError, match="layerz"):
        parse_space(recipe, ["model.layerz=2..4"])


def test_the_claim_is_the_best_trial_that_ran(study):
    trials = [
        Trial(("train.steps=9",), 1.5),
        Trial(("train.steps=8",), math.nan, "diverged"),
        Trial(("average=NoAverage()", "train.steps=7"), 1.4),
    ]
    (winner,) = claim_of(study, trials).arms
    assert winner.recipe.train.steps == 7 and winner.recipe.average == NoAverage()
    assert winner.bundle == "the best of 3 trials"
    with pytest.raises(BitgolfError, match="no trial could run"):
        claim_of(study, trials[1:2])
    with pytest.raises(BitgolfError, match="baseline was the best"):
        claim_of(study, [Trial(("train.steps=4",), 1.0)])
