"""What is made of the runs of a study: verdicts fixed beforehand, factors, units, what failed."""

import math

import numpy as np
import pytest

from bitgolf.score.score import Scores
from bitgolf.score.windows import Chunked
from bitgolf.study.design import AllSeeds, DropLosers, Margin, Study, add_one, changed, factorial
from bitgolf.study.runner import losers
from bitgolf.study.values import figures
from bitgolf.study.verdicts import analyse, curves
from tests.fake_study import fake_study

BASE = [2.000, 2.001, 1.999]


@pytest.fixture
def study(recipe) -> Study:
    arms = add_one(
        recipe,
        {"good": {"model.layers": 3}, "bad": {"model.layers": 1}, "same": {"train.steps": 5}},
    )
    return Study(name="s", baseline=recipe, arms=arms, equivalent_within=Margin(value=0.02))


def verdicts(folder) -> dict[str, str]:
    return {row["name"]: row["verdict"] for row in analyse(folder)["comparisons"]}


def test_every_verdict_in_one_table(tmp_path, study):
    values = {"baseline": BASE, "good": [1.9, 1.901, 1.899], "bad": [2.1, 2.102, 2.098], "same": BASE[::-1]}
    found = analyse(fake_study(tmp_path, study, values))
    assert {r["name"]: r["verdict"] for r in found["comparisons"]} == {
        "good": "better", "bad": "worse", "same": "equivalent",
    }  # fmt: skip
    assert found["status"] == "finished"
    good = found["comparisons"][0]
    assert good["effect"] == pytest.approx(-0.1) and good["low"] < -0.1 < good["high"] < 0
    assert good["p_corrected"] > good["p"]
    assert good["against"] == "baseline"


def test_noise_hides_an_effect_and_the_table_says_what_it_could_have_seen(tmp_path, study):
    loud = [2.0, 2.1, 1.9]
    values = {"baseline": loud, "good": [1.95, 2.05, 1.9], "bad": loud[::-1], "same": loud[::-1]}
    found = analyse(fake_study(tmp_path, study, values))
    assert {row["verdict"] for row in found["comparisons"]} == {"no evidence"}
    assert all(row["detectable"] > 0.2 for row in found["comparisons"])
    assert found["noise"]["seeds_for_the_challenge"] > 1000


@pytest.mark.parametrize("word", ["crash", "diverged"])
def test_a_failed_run_makes_its_arm_invalid_and_no_other(tmp_path, study, word):
    values = {"baseline": BASE, "good": [1.9, 1.901, word], "bad": [2.1, 2.102, 2.098], "same": BASE}
    found = analyse(fake_study(tmp_path, study, values))
    rows = {row["name"]: row for row in found["comparisons"]}
    assert rows["good"]["verdict"] == "invalid" and "1 of 3 runs" in rows["good"]["why"]
    assert rows["bad"]["verdict"] == "worse"
    failed = [run for arm in found["arms"] for run in arm["runs"] if run["state"] == "failed"]
    assert [(run["seed"], run["error"]) for run in failed] == [(3, f"{word} on purpose")]


def test_over_budget_cannot_be_claimed(tmp_path, study):
    values = {"baseline": BASE, "good": [1.9, 1.901, 1.899], "bad": BASE, "same": BASE}
    found = analyse(fake_study(tmp_path, study, values, status="over budget"))
    assert {row["verdict"] for row in found["comparisons"]} == {"invalid"}
    assert "over the byte budget" in found["comparisons"][0]["why"]


def test_scores_of_different_parts_of_the_text_cannot_be_claimed(tmp_path, study):
    values = {"baseline": BASE, "good": [1.9, 1.901, 1.899], "bad": [2.1, 2.102, 2.098], "same": BASE}
    folder = fake_study(tmp_path, study, values)
    for seed in study.seeds:
        path = tmp_path / "runs" / f"s-good-{seed}" / "result.json"
        path.write_text(path.read_text().replace('"text_bytes": 3000,', '"text_bytes": 2900,'))
    rows = {row["name"]: row for row in analyse(folder)["comparisons"]}
    assert rows["good"]["verdict"] == "invalid" and "2,900 and 3,000 bytes" in rows["good"]["why"]
    assert rows["bad"]["verdict"] == "worse"


def test_a_change_that_does_nothing_is_no_experiment(tmp_path, study):
    values = {"baseline": BASE, "good": BASE, "bad": [*BASE[:2], 2.1], "same": [None, None, None]}
    rows = {row["name"]: row for row in analyse(fake_study(tmp_path, study, values))["comparisons"]}
    assert rows["good"]["verdict"] == "invalid" and "the change does nothing" in rows["good"]["why"]
    assert rows["bad"]["why"] == "" and "nothing" not in rows["same"]["why"]


def test_missing_runs_leave_it_unfinished(tmp_path, study):
    values = {"baseline": BASE, "good": [1.9, 1.901, None], "bad": [None] * 3, "same": BASE}
    values["same"] = BASE[::-1]
    found = analyse(fake_study(tmp_path, study, values))
    assert verdicts(tmp_path / "s") == {"good": "unfinished", "bad": "unfinished", "same": "equivalent"}
    assert found["status"] == "unfinished"


def test_a_study_that_has_not_begun_to_run_can_be_shown(tmp_path, study):
    found = analyse(fake_study(tmp_path, study, {name: [None] * 3 for name in study.recipes()}))
    assert found["noise"]["deviation"] is None and found["machines"] == []


def test_the_margin_must_be_exceeded(tmp_path, study):
    values = {"baseline": BASE, "good": [1.9, 1.901, 1.899], "bad": BASE, "same": BASE}
    wide = study.replace(margin=Margin(value=0.2), name="w")
    assert verdicts(fake_study(tmp_path, wide, values))["good"] == "no evidence"
    nats = study.replace(margin=Margin(value=0.2, unit="nats per token"), name="n")
    found = analyse(fake_study(tmp_path, nats, values))
    assert found["margin"]["in_metric"] == pytest.approx(0.2 / math.log(2) / 3)  # 3 bytes a token


def test_the_challenges_margin_is_said_in_each_unit(tmp_path, study):
    values = dict.fromkeys(study.recipes(), BASE)
    read = analyse(fake_study(tmp_path, study, values))["challenge_margin"]
    assert read["bits per byte"] == 0.005
    assert read["nats per byte"] == pytest.approx(0.0072, abs=5e-5)
    assert read["nats per token"] == pytest.approx(0.0024, abs=5e-5)


def test_a_ladder_compares_with_the_step_below(tmp_path, recipe):
    first = changed(recipe, "first", {"model.layers": 3})
    second = changed(first.recipe, "second", {"train.steps": 5}, against="first")
    study = Study(name="l", baseline=recipe, arms=(first, second))
    values = {"baseline": BASE, "first": [1.5, 1.501, 1.499], "second": [1.6, 1.601, 1.599]}
    assert verdicts(fake_study(tmp_path, study, values)) == {"first": "better", "second": "worse"}


def test_a_two_by_two_reports_main_effects_and_the_interaction(tmp_path, recipe):
    arms, factors = factorial(
        recipe, {"depth": {"2": {}, "3": {"model.layers": 3}}, "steps": {"4": {}, "8": {"train.steps": 8}}}
    )
    study = Study(name="f", baseline=recipe, arms=arms, factors=factors)
    noise = np.array([0.0, 0.001, -0.001])
    cells = {("2", "4"): 2.0, ("3", "4"): 1.9, ("2", "8"): 1.8, ("3", "8"): 1.6}
    values = {"baseline": [*(2.0 + noise)]} | {arm.name: [*(cells[arm.levels] + noise)] for arm in arms}
    rows = {row["name"]: row for row in analyse(fake_study(tmp_path, study, values))["comparisons"]}
    assert {name: row["kind"] for name, row in rows.items()} == {
        "depth: 3": "main effect", "steps: 8": "main effect", "depth: 3 x steps: 8": "interaction",
    }  # fmt: skip
    assert rows["depth: 3"]["effect"] == pytest.approx(-0.15)
    assert rows["steps: 8"]["effect"] == pytest.approx(-0.25)
    assert rows["depth: 3 x steps: 8"]["effect"] == pytest.approx(-0.10)
    assert {row["verdict"] for row in rows.values()} == {"better"}


def test_effects_of_three_levels_count_each_against_the_first(tmp_path, recipe):
    depths = {"2": {}, "3": {"model.layers": 3}, "4": {"model.layers": 4}}
    arms, factors = factorial(recipe, {"depth": depths, "s": {"4": {}, "8": {"train.steps": 8}}})
    study = Study(name="f", baseline=recipe, arms=arms, factors=factors)
    noise = np.array([0.0, 0.001, -0.001])
    at = {"2": 2.0, "3": 1.9, "4": 1.7}
    values = {"baseline": [*(2.0 + noise)]} | {arm.name: [*(at[arm.levels[0]] + noise)] for arm in arms}
    rows = {row["name"]: row["effect"] for row in analyse(fake_study(tmp_path, study, values))["comparisons"]}
    assert len(rows) == study.comparisons_at_most == 5
    assert rows["depth: 3"] == pytest.approx(-0.1) and rows["depth: 4"] == pytest.approx(-0.3)
    assert rows["s: 8"] == pytest.approx(0) and rows["depth: 4 x s: 8"] == pytest.approx(0)


def test_losers_end_early_and_winners_never(recipe, study):
    stopping = study.replace(stop=DropLosers(after_seeds=3), seeds=(1, 2, 3, 4))
    values = np.array([BASE, [1.5, 1.501, 1.499], [2.5, 2.501, 2.499], [2.0, 2.002, 2.001]])
    assert losers(stopping, values) == {"bad"}
    assert losers(stopping, values[:, :2]) == set()
    assert losers(study.replace(stop=AllSeeds()), values) == set()
    leaning = changed(recipe.replace({"model.layers": 1}), "leaning", {"train.steps": 9}, against="bad")
    needed = stopping.replace(arms=(*stopping.arms, leaning))
    assert "bad" not in losers(needed, np.concatenate([values, values[:1]]))


def test_an_arm_that_was_ended_early_is_worse_and_not_unfinished(tmp_path, study):
    stopping = study.replace(stop=DropLosers(after_seeds=3), seeds=(1, 2, 3, 4))
    values = {
        "baseline": [*BASE, 2.0], "good": [1.9, 1.901, 1.899, 1.9],
        "bad": [2.5, 2.501, 2.499, None], "same": [*BASE, 2.0],
    }  # fmt: skip
    rows = {row["name"]: row for row in analyse(fake_study(tmp_path, stopping, values))["comparisons"]}
    assert rows["bad"]["verdict"] == "worse" and rows["bad"]["stopped_early"] and rows["bad"]["n"] == 3


def test_documents_are_counted_only_for_equal_weights(tmp_path, recipe):
    arms = add_one(recipe, {"chunks": {"score.windows": Chunked(length=32)}, "deeper": {"model.layers": 3}})
    study = Study(name="d", baseline=recipe, arms=arms)
    values = {"baseline": BASE, "chunks": [2.01, 2.011, 2.009], "deeper": BASE}
    folder = fake_study(tmp_path, study, values)
    draws = np.random.default_rng(0)
    for arm, extra in (("baseline", 0.0), ("chunks", 0.02), ("deeper", 0.0)):
        for seed in study.seeds:
            nats = np.random.default_rng(seed).uniform(3, 5, 1000) + extra + 0.001 * draws.normal(size=1000)
            write_scores(tmp_path / "runs" / f"d-{arm}-{seed}" / "scores.npz", nats)
    rows = {row["name"]: row for row in analyse(folder)["comparisons"]}
    assert rows["deeper"]["documents"] is None
    found = rows["chunks"]["documents"]
    assert found["documents"] == 20
    assert 0 < found["low"] < found["effect"] < found["high"]
    assert found["effect"] == pytest.approx(0.02 / math.log(2) / 3, rel=0.05)


def write_scores(path, nats: np.ndarray) -> None:
    n = len(nats)
    whole = np.full(n, 1, np.int32)
    Scores(
        target=np.arange(n, dtype=np.uint16),
        nats=nats.astype(np.float32),
        bytes=3 * whole,
        document=(np.arange(n) // 50).astype(np.int32),
        position=whole,
        context=whole,
        windows="chunked 32",
        complete=True,
        file_bytes=None,
    ).save(path)


def test_another_metric_of_the_same_runs(tmp_path, study):
    values = {"baseline": BASE, "good": [1.9, 1.901, 1.899], "bad": BASE, "same": BASE}
    folder = fake_study(tmp_path, study.replace(metric="quantization_gap"), values)
    found = analyse(folder)
    assert found["arms"][0]["mean"] == pytest.approx(0.01)
    assert found["comparisons"][0]["other_metrics"]["float_bits_per_byte"]["effect"] == pytest.approx(-0.1)


def test_what_adapts_has_columns_of_its_score_and_of_the_fixed_model():
    rows = [{"name": "live", "bits_per_byte": 1.0}, {"name": "quantized", "bits_per_byte": 1.3}]
    chunked = {"variants": rows, "bits_per_byte": 1.3}
    slid = {"name": "quantized", "bits_per_byte": 1.2}
    adapted = {"name": "adapted", "bits_per_byte": 1.1}
    sliding = {"variants": [*rows, slid, adapted], "bits_per_byte": 1.1}
    assert {"adapted_bits_per_byte", "fixed_bits_per_byte"}.isdisjoint(figures(chunked))
    names = ("quantized", "fixed", "adapted")
    assert [figures(sliding)[f"{name}_bits_per_byte"] for name in names] == [1.3, 1.2, 1.1]
    in_chunks = {"variants": [*rows, adapted], "bits_per_byte": 1.1}
    assert figures(in_chunks)["fixed_bits_per_byte"] == 1.3


def test_learning_curves_are_means_over_seeds(tmp_path, study):
    folder = fake_study(tmp_path, study, dict.fromkeys(study.recipes(), BASE))
    for seed, shift in zip(study.seeds, (0.0, 1.0, 2.0)):
        lines = [f'{{"progress": {p / 10}, "nats_per_token": {10 - p + shift}}}\n' for p in range(1, 11)]
        (tmp_path / "runs" / f"s-good-{seed}" / "metrics.jsonl").write_text("".join(lines))
    found = curves(folder)
    assert [*found] == ["good"]
    assert found["good"][0][1] == pytest.approx(10) and found["good"][-1][1] == pytest.approx(1)
