"""The verbs of studies from a command line: plan, run, report, search, findings, compare."""

import json
import os

import pytest
from typer.testing import CliRunner

from bitgolf.base.files import write_json
from bitgolf.base.plan import to_json
from bitgolf.cli.main import app
from bitgolf.study.design import Study, add_one
from bitgolf.study.power import disturbances

pytestmark = pytest.mark.usefixtures("any_script")
FILE = """
import json
from pathlib import Path
from bitgolf.base.plan import from_json
from bitgolf.recipe import Recipe
from bitgolf.study.design import Margin, Study, add_one

def study():
    base = from_json(Recipe, json.loads(Path({recipe!r}).read_text()))
    arms = add_one(base, {{"longer": {{"train.steps": 6}}}})
    rest = {{"seeds": (1, 2), "data": {data!r}, "margin": Margin(value=0.001)}}
    return Study(name="tiny", question="?", baseline=base, arms=arms, **rest)
"""


@pytest.fixture
def file(tmp_path, recipe, dataset):
    write_json(tmp_path / "recipe.json", to_json(recipe))
    path = tmp_path / "tiny.py"
    path.write_text(FILE.format(recipe=str(tmp_path / "recipe.json"), data=str(dataset.folder)))
    return path


@pytest.fixture
def bitgolf(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def call(*words, code=0):
        result = runner.invoke(app, [str(word) for word in words], catch_exceptions=code == 2)
        assert result.exit_code == code or code == 2, result.output
        return result

    return call


def test_a_plan_warns_of_clocks_that_run_beside_each_other(recipe):
    def said(change, *how):
        arms = add_one(recipe, {"other": change})
        return disturbances(Study(name="t", question="?", baseline=recipe, arms=arms, seeds=(1, 2)), *how)

    clock = {"train.train_seconds": 5.0}
    assert said(clock, 2, "cpu")[0].startswith("other: ends by the clock")
    assert not said(clock, 1, "cpu") and not said(clock, 2, "cuda")
    assert not said({"train.steps": 6}, 2, "cpu")


@pytest.mark.skipif(os.cpu_count() == 1, reason="two processes need two cores")
def test_a_plan_prints_its_warnings(file, bitgolf, recipe, tmp_path):
    write_json(tmp_path / "recipe.json", to_json(recipe.replace({"train.train_seconds": 60})))
    assert (
        "disturbed: baseline, longer: ends by the"
        in bitgolf("study", file, "--plan", "--processes", 2).stdout
    )
    assert "disturbed" not in bitgolf("study", file, "--plan").stdout


def test_plan_run_report_findings_and_compare(file, bitgolf, tmp_path):
    planned = bitgolf("study", file, "--plan").stdout
    assert "train.steps" in planned and "4 -> 6" in planned
    assert "assumed: five public seeds of PR #212" in planned
    assert not (tmp_path / "runs/studies/tiny").exists()

    ran = bitgolf("study", file)
    assert "no evidence" in ran.stdout and "study.html" in ran.stdout
    assert "beyond the margin of 0.0010" in ran.stdout
    folder = tmp_path / "runs/studies/tiny"
    first = {name: (folder / name).read_bytes() for name in ("study.json", "study.md", "study.html")}

    again = json.loads(bitgolf("study", file, "--report", "--json").stdout)
    assert again["status"] == "finished" and len(again["arms"]) == 2
    assert {name: (folder / name).read_bytes() for name in first} == first

    facts = json.loads(bitgolf("study", folder, "--plan", "--json").stdout)
    assert facts["runs_to_do"] == 0 and facts["noise_from"] == "2 earlier runs of the same baseline"
    (tmp_path / "runs/studies").rename(tmp_path / "moved")
    assert json.loads(bitgolf("study", "moved/tiny", "--report", "--json").stdout)["status"] == "finished"
    assert not (tmp_path / "runs/studies").exists()  # a study goes on where it lies
    (tmp_path / "moved").rename(tmp_path / "runs/studies")

    found = json.loads(bitgolf("findings", "longer", "--in", "runs", "--json").stdout)
    assert [each["technique"] for each in found["measured"]] == ["longer"] and found["cited"] == []
    assert "PR #212" in bitgolf("findings", "recurrence", "--in", "runs").stdout

    sets = [
        ",".join(str(tmp_path / "runs/studies/runs" / run["folder"]) for run in arm["runs"])
        for arm in again["arms"]
    ]
    compared = json.loads(bitgolf("compare", *sets, "--json").stdout)
    (row,) = compared["comparisons"]
    assert row["changes"] == [{"path": "train.steps", "left": 4, "right": 6}]
    assert row["effect"] == pytest.approx(again["comparisons"][0]["effect"])
    for words in (
        [tmp_path / "runs/studies/tiny"],
        [f"runs/studies/tiny/{arm}" for arm in ("baseline", "longer")],
    ):
        (arms,) = json.loads(bitgolf("compare", *words, "--json").stdout)["comparisons"]
        assert arms["effect"] == row["effect"] and arms["runs"] == 2
    folders = [tmp_path / name for name in ("one", "other")]
    for folder, runs in zip(folders, sets):
        folder.mkdir()
        for path in runs.split(","):
            (folder / path.rpartition("/")[2]).symlink_to(path)
    (same,) = json.loads(bitgolf("compare", *folders, "--json").stdout)["comparisons"]
    assert same["effect"] == row["effect"] and same["runs"] == 2
    assert row["claim"] in bitgolf("compare", *sets).stdout.replace("\n", " ") + row["claim"]


def test_a_search_ends_in_a_study_on_fresh_seeds(file, bitgolf, tmp_path):
    found = bitgolf("study", file, "--search", "train.steps=5..9", "--search-seconds", 0)
    assert "2 trials" in found.stdout and "winner of the search" in found.stdout
    receipt = json.loads((tmp_path / "runs/studies/tiny_search/plan.json").read_text())
    assert {row["seed"] for row in receipt["runs"]} == {1, 2}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study", "nowhere.py"], "no such study"),
        (["study", "{file}", "--report"], "no study was begun here"),
        (["study", "{file}", "--processes", "999"], "cores"),
        (["study", "{file}", "--slurm", "partition"], "expected NAME=VALUE"),
        (["study", "{file}", "--search", "model.layers"], "not a range or a list"),
        (["study", "{file}", "--plan", "--search", "train.steps=5..9"], "not known before it ran"),
        (["findings", "--in", "nowhere"], "no such folder"),
        (["compare", "demo"], "expected two recipes, or finished runs"),
    ],
)
def test_wrong_use_says_what_and_how(file, bitgolf, words, said):
    result = bitgolf(*(word.format(file=file) for word in words), code=2)
    assert said in str(result.exception)
    assert type(result.exception).__name__ == "BitgolfError"


def test_a_failed_run_is_exit_code_one(file, bitgolf, monkeypatch):
    from bitgolf.study import runs

    real = runs.run

    def failing(recipe, *rest, **named):
        if recipe.train.steps == 6:
            raise RuntimeError("no luck")
        return real(recipe, *rest, **named)

    monkeypatch.setattr(runs, "run", failing)
    said = bitgolf("study", file, code=1).stdout
    assert "RuntimeError: no luck" in said and "invalid" in said
    monkeypatch.setattr(runs, "run", real)
    assert "no luck" not in bitgolf("study", file, "--retry").stdout
