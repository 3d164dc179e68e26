"""The studies that ship build with the recipes of today; a page says of which recipe each table is."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from bitgolf.inputs.resolve import from_python
from bitgolf.net.model import Model
from bitgolf.study.design import BASELINE, Study, changed_paths
from bitgolf.study.power import change_rows, forecast_run_seconds
from bitgolf.train.average import Several
from bitgolf.train.optim import assign_parameters

ROOT = Path(__file__).parents[2]
FUNCTIONS = [
    (path, function)
    for path in sorted((ROOT / "studies").glob("*.py"))
    for function in re.findall(r"^def ([a-z]\w*)\(\) -> Study:", path.read_text(), re.MULTILINE)
]
STATES = ("current", "earlier", "not run yet")


def built(path: Path, function: str) -> Study:
    return from_python(path, function, Study)


def rows() -> dict[str, str]:
    """The table of the page of studies: the state of each by name."""
    page = (ROOT / "docs/studies/README.md").read_text()
    return {
        cells[0]: cells[2]
        for line in page.splitlines()
        if line.startswith(("| [", "| `"))
        if (
            cells := [
                re.sub(r"\[(\w+)\]\(.*\)|`(\w+)`", r"\1\2", cell.strip()) for cell in line.split("|")[1:]
            ]
        )
    }


def test_every_file_of_studies_has_a_study():
    assert {path for path, _ in FUNCTIONS} == set((ROOT / "studies").glob("*.py"))
    assert ("pr1718", "context") in {(path.stem, function) for path, function in FUNCTIONS}


@pytest.mark.parametrize(("path", "function"), FUNCTIONS, ids=[f"{p.stem}:{f}" for p, f in FUNCTIONS])
def test_a_study_builds_and_its_cost_is_known(path, function):
    study = built(path, function)
    assert study.name == path.stem + ("" if function == "study" else f"_{function}")
    assert len(change_rows(study)) >= len(study.arms)
    for recipe in {recipe.identity(): recipe for recipe in study.recipes().values()}.values():
        with torch.device("meta"):
            parameters = dict(Model(recipe.network()).named_parameters())
        assign_parameters(recipe.optim, parameters)  # raise where a table has an idle row or lacks one
        recipe.quantize.assign({name: each for name, each in parameters.items() if "mtp_head" not in name})
        assert not recipe.noise.validate_for(parameters)
    assert 0 < forecast_run_seconds(study.baseline) < math.inf  # how many, the machine and its load decide


@pytest.mark.parametrize(("path", "function"), FUNCTIONS, ids=[f"{p.stem}:{f}" for p, f in FUNCTIONS])
def test_the_page_says_of_which_recipe_a_table_is(path, function):
    study = built(path, function)
    state, shipped = rows()[study.name], ROOT / f"docs/studies/{study.name}.json"
    assert state in STATES
    assert (state == "not run yet") == (not shipped.exists())
    if state == "current":
        said = {
            arm["name"]: [change["path"] for change in arm["changes"]]
            for arm in json.loads(shipped.read_text())["arms"]
        }
        recipes = study.recipes()
        ours = {arm.name: changed_paths(recipes[arm.against], recipes[arm.name]) for arm in study.arms}
        assert said == {BASELINE: []} | ours


def test_arms_of_212_are_those_it_ran():
    study = built(ROOT / "studies/pr212.py", "study")
    recipes = study.recipes()
    huginn = recipes["Huginn, skips"].model
    assert [len(huginn.layer_calls(training=training)) for training in (True, False)] == [9, 18]
    assert [visit.source for visit in huginn.layer_calls()] == 4 * [-1] + [3, 2, 1, 0] + 10 * [-1]
    assert isinstance(study.baseline.average, Several)
    alike = {name for name, each in recipes.items() if each.training() == recipes[BASELINE].training()}
    windows = {"stride 16", "stride 16, documents alone", "stride 64, documents alone"}
    assert windows | {"SWA"} <= alike  # trained once
    lengths = {recipes[name].score.windows.longest() for name in windows}
    assert lengths == {256} and study.data == "sotu:paragraphs"
