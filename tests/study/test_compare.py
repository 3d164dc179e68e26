"""Runs compared: the test that fits what they are, and one sentence that claims no more than it shows."""

import json
from pathlib import Path

import numpy as np
import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.cli.compare import show_comparison
from bitgolf.score.windows import Chunked
from bitgolf.study.compare import compare_runs, read_run_set, sets_within
from bitgolf.study.design import Study, add_one
from bitgolf.study.verdicts import analyse
from tests.fake_study import fake_study
from tests.study.test_verdicts import write_scores

BASE = [2.000, 2.002, 1.999]


@pytest.fixture
def runs(tmp_path, recipe):
    """A function from values by arm to words that name their runs."""

    def made(**values):
        changes = {"deeper": {"model.layers": 3}, "chunks": {"score.windows": Chunked(length=32)}}
        arms = add_one(recipe, {name: changes[name] for name in values})
        study = Study(name="c", baseline=recipe, arms=arms)
        fake_study(tmp_path, study, {"baseline": BASE} | values)
        names = ["baseline", *values]
        return [",".join(str(tmp_path / "runs" / f"c-{arm}-{seed}") for seed in (1, 2, 3)) for arm in names]

    return made


def compared(words, metric="bits_per_byte"):
    return compare_runs([read_run_set(word) for word in words], metric)["comparisons"]


def test_sets_of_seeds_are_tested_over_seeds(runs):
    (row,) = compared(runs(deeper=[1.9, 1.903, 1.899]))
    assert row["effect"] == pytest.approx(-0.1, abs=0.01) and row["p_corrected"] < 0.01
    assert row["claim"].endswith("can be claimed.") and "lower than" in row["claim"]


def test_noise_is_not_claimed(runs):
    (row,) = compared(runs(deeper=[2.001, 1.998, 2.001]))
    assert row["claim"].endswith("no evidence at this number of seeds.")


def test_one_run_on_a_side_claims_nothing(runs):
    base, deeper = runs(deeper=[1.5, 1.5, 1.5])
    (row,) = compared([base.split(",")[0], deeper.split(",")[0]])
    assert row["p"] is None and "nothing can be claimed" in row["claim"]


def test_equal_weights_are_compared_over_documents(runs, tmp_path):
    words = runs(chunks=[2.01, 2.012, 2.009])
    for arm, extra in (("baseline", 0.0), ("chunks", 0.05)):
        for seed in (1, 2, 3):
            nats = np.random.default_rng(seed).uniform(3, 5, 1000) + extra
            write_scores(tmp_path / "runs" / f"c-{arm}-{seed}" / "scores.npz", nats)
    (row,) = compared(words)
    assert row["same_weights"] and row["documents"]["low"] > 0
    assert "20 documents" in row["claim"] and "a real change" in row["claim"]
    first = [word.split(",")[0] for word in words]
    (single,) = compared(first)
    assert "a real change" in single["claim"]


def test_several_comparisons_are_corrected_together(runs):
    words = runs(deeper=[1.9, 1.903, 1.899])
    alone = compared(words)[0]["p_corrected"]
    both = compared([*words, words[1]])
    assert both[0]["p_corrected"] == pytest.approx(2 * alone)


def test_a_folder_of_runs_is_a_set(runs, tmp_path):
    base, deeper = runs(deeper=[1.9, 1.903, 1.899])
    folder = tmp_path / "deep"
    folder.mkdir()
    for part in deeper.split(","):
        (folder / part.rpartition("/")[2]).symlink_to(part)
    (row,) = compared([base, str(folder)])
    assert row["runs"] == 3


def test_runs_packed_again_are_no_seeds(runs, tmp_path):
    base, deeper = runs(deeper=[1.9, 1.903, 1.899])
    folder = tmp_path / "all"
    folder.mkdir()
    for part in [*base.split(","), *deeper.split(",")]:
        (folder / part.rpartition("/")[2]).symlink_to(part)
    packed = folder / "packed"
    packed.mkdir()
    result = json.loads(Path(base.split(",")[0], "result.json").read_text())
    del result["seed"]
    (packed / "result.json").write_text(json.dumps(result | {"packed_from": "there"}))
    assert [len(each.folders) for each in sets_within(str(folder))] == [3, 3]
    with pytest.raises(BitgolfError, match="packed again.*there.*--compare"):
        compared([base, str(packed)])


def test_what_cannot_be_compared_says_why(runs, tmp_path):
    base, deeper = runs(deeper=[1.9, "crash", 1.899])
    with pytest.raises(BitgolfError, match="has no score"):
        read_run_set(deeper)
    with pytest.raises(BitgolfError, match="one recipe with several seeds"):
        read_run_set(base.split(",")[0] + "," + deeper.split(",")[0])
    with pytest.raises(BitgolfError, match="two runs of one seed"):
        read_run_set(base.split(",")[0] + "," + base.split(",")[0])


def test_other_texts_are_refused(runs, tmp_path):
    base, deeper = runs(deeper=[1.9, 1.903, 1.899])
    path = tmp_path / "runs" / "c-deeper-1" / "result.json"
    path.write_text(path.read_text().replace('"text_bytes": 3000\n      }', '"text_bytes": 3001\n      }'))
    with pytest.raises(BitgolfError, match="different texts"):
        compared([base, deeper])


def test_an_arm_of_a_study_is_a_set(runs, tmp_path):
    runs(deeper=[1.9, 1.903, 1.899])
    study = tmp_path / "c"
    (row,) = compared([f"{study}/baseline", f"{study}/deeper"])
    assert row["runs"] == 3 and row["name"] == f"{study}/deeper"
    with pytest.raises(BitgolfError, match="no such arm.*did you mean 'deeper'"):
        read_run_set(f"{study}/deepr")


def test_the_name_of_an_arm_may_hold_slashes_and_commas(recipe, tmp_path):
    arms = add_one(recipe, {"depth 3, a/b": {"model.layers": 3}})
    study = Study(name="c", baseline=recipe, arms=arms)
    fake_study(tmp_path, study, {"baseline": BASE, "depth 3, a/b": [1.9, 1.903, "crash"]})
    with pytest.raises(BitgolfError, match="has no score"):
        read_run_set(f"{tmp_path}/c/depth 3, a/b")


def test_one_folder_is_compared_by_its_recipes(runs, tmp_path, capsys):
    runs(deeper=[1.9, 1.903, 1.899])
    of_study = sets_within(str(tmp_path / "c"))
    assert [each.name for each in of_study] == ["baseline", "deeper"]
    (tmp_path / "runs" / "c-baseline-1" / "result.json").write_text('{"status": "crash"}')
    baseline, deeper = sets_within(str(tmp_path / "runs"))
    assert baseline.name == "c-baseline-2,c-baseline-3" and len(deeper.results) == 3
    assert "c-baseline-1: left out" in capsys.readouterr().err
    for path in (tmp_path / "runs").glob("c-deeper-*/result.json"):
        path.unlink()
    with pytest.raises(BitgolfError, match="only one recipe"):
        sets_within(str(tmp_path / "runs"))


def test_a_study_has_the_intervals_of_its_own_table(runs, tmp_path, capsys):
    # Seeds move both arms together, so that a paired test, which this study does not declare, is narrower.
    runs(deeper=[value - 0.01 + change for value, change in zip(BASE, (0, 1e-4, -1e-4))])
    show_comparison([str(tmp_path / "c")], "bits_per_byte", True)
    (row,) = json.loads(capsys.readouterr().out)["comparisons"]
    (own,) = analyse(tmp_path / "c")["comparisons"]
    assert (row["test"], row["low"], row["high"]) == ("welch", own["low"], own["high"])
    (other,) = compare_runs(sets_within(str(tmp_path / "c")))["comparisons"]
    assert other["test"] == "paired" and other["high"] - other["low"] < own["high"] - own["low"]


def test_long_names_are_letters_in_sentences(runs, capsys):
    folders = runs(deeper=[1.9, 1.903, 1.899])
    show_comparison(folders, "bits_per_byte", False)
    out = capsys.readouterr().out
    assert out.startswith(f"A: {folders[0]}\nB: {folders[1]}\n") and out.count(folders[0]) == 1
    assert "A against B\n" in out and "\nB is " in out and " than A" in out
