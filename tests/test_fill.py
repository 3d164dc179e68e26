"""Filling a byte budget to its last tenth of a percent, or naming the smallest that would do."""

import json

import pytest

from bitgolf.core.errors import BudgetError
from bitgolf.core.run import run
from bitgolf.lab.fill import fill_budget, rate_aware_run, with_step
from bitgolf.lab.repack import open_run, pack_again
from tests.test_cli import bitgolf, refused  # noqa: F401
from tests.test_run import CODE, drive


@pytest.fixture
def folder(recipe, dataset, tmp_path):
    drive(run(recipe, dataset, tmp_path / "run", 1, code=CODE))
    return tmp_path / "run"


@pytest.mark.parametrize("budget_bytes", [56_000, 64_000])
def test_a_budget_is_filled(folder, dataset, tmp_path, budget_bytes):
    trained = rate_aware_run(open_run(folder, data=dataset.folder))
    filled = trained._replace(recipe=drive(fill_budget(trained, budget_bytes)))
    result = drive(pack_again(filled, tmp_path / "packed"))
    assert 0.999 * budget_bytes <= result["total_bytes"] <= budget_bytes
    assert result["status"] == "ok" and result["budget_bytes"] == budget_bytes


def test_a_larger_budget_never_costs_bits(folder, dataset, tmp_path):
    trained = rate_aware_run(open_run(folder, data=dataset.folder))
    gaps = []
    for budget_bytes in (52_000, 58_000, 66_000):
        filled = trained._replace(recipe=drive(fill_budget(trained, budget_bytes)))
        gaps.append(abs(drive(pack_again(filled, tmp_path / str(budget_bytes)))["gap"]))
    assert gaps[0] > gaps[-1]


def test_what_cannot_fit_names_the_smallest_that_does(folder, dataset):
    trained = rate_aware_run(open_run(folder, data=dataset.folder))
    with pytest.raises(BudgetError, match=r"smallest feasible budget is [\d,]+ bytes") as refusal:
        drive(fill_budget(trained, 30_000))
    smallest = int(str(refusal.value).split("budget is ")[1].split(" bytes")[0].replace(",", ""))
    assert drive(fill_budget(trained, smallest + 200)).budget.budget_bytes == smallest + 200


def test_a_table_without_a_rate_is_refused(recipe):
    with pytest.raises(BudgetError, match="no rule of this table has a rate"):
        with_step(recipe, 0.1)


def test_on_the_command_line(bitgolf, folder, dataset):  # noqa: F811
    code, out, err = bitgolf("pack", folder, "--data", dataset.folder, "--budget-bytes", 60_000, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert 59_940 <= result["total_bytes"] <= 60_000
    refused(bitgolf("pack", folder, "--data", dataset.folder, "--budget-bytes", 20_000), "smallest feasible")
