"""What would fill a budget: the largest setting that fits, the next that does not, settings in the way."""

import pytest

from bitgolf.base.errors import PlanError
from bitgolf.forecast.budget import forecast
from bitgolf.forecast.largest_fit import Largest, largest, largest_fit
from bitgolf.inputs.resolve import find_recipe
from bitgolf.net.model import ModelPlan
from bitgolf.recipe import Recipe
from bitgolf.squeeze.quantize import int6_rows

START = Recipe(
    model=ModelPlan(vocabulary_size=512, layers=3, width=96, heads=4, kv_heads=2), quantize=int6_rows()
)


@pytest.mark.parametrize("now", [10, 50, 100, 130, 1000])
@pytest.mark.parametrize("limit", [10, 57, 100, 999])
def test_bisection_finds_the_largest_multiple(now, limit):
    tried = []

    def fits(value: int) -> bool:
        tried.append(value)
        return value <= limit

    found = largest(fits, now, 10, now <= limit)
    assert found == Largest(limit // 10 * 10)
    assert all(value % 10 == 0 for value in tried)
    assert len(tried) < 15  # each is a forecast


def test_where_nothing_fits():
    assert largest(lambda value: False, 80, 16, False) == Largest(None, "no multiple of 16 fits")


def refuse_outside(first: int, last: int, limit: int):
    def fits(value: int) -> bool:
        if not first <= value <= last:
            raise PlanError([f"plan: {value} is outside"])
        return value <= limit

    return fits


def test_settings_in_the_way_are_named():
    assert largest(refuse_outside(4, 9, 20), 8, 1, True) == Largest(9, "plan: 10 is outside")
    assert largest(refuse_outside(4, 9, 6), 8, 1, False) == Largest(6)
    assert largest(refuse_outside(4, 9, 2), 8, 1, False) == Largest(None, "plan: 3 is outside")


@pytest.mark.parametrize("budget_bytes", [100_000, 300_000, 1_000_000])
def test_the_next_size_does_not_fit(budget_bytes):
    recipe = START.replace({"budget.budget_bytes": budget_bytes})
    width, layers, bits = largest_fit(recipe, forecast(recipe, 20_000))
    assert (width["now"], layers["now"]) == (96, 3)
    for row, step in ((width, 8), (layers, 1)):
        steps = (0, step) if row["value"] else (step,)
        for more in steps:
            changed = recipe.replace({row["setting"]: (row["value"] or 0) + more})
            assert (forecast(changed, 20_000)["headroom_bytes"] >= 0) == (more == 0), row
    assert bits["value"] == pytest.approx(8 * (budget_bytes - 20_000) / forecast(recipe, 0)["parameters"])


def test_bits_that_make_no_sense_are_called_so():
    notes = []
    for budget_bytes in (80_000, 170_000, 1_000_000):
        recipe = START.replace({"budget.budget_bytes": budget_bytes})
        notes.append(largest_fit(recipe, forecast(recipe, 20_000))[2]["note"])
    assert notes[1] == ""
    assert "below 2.5: too large a model" in notes[0]
    assert "above 5: a larger model would do better" in notes[2]


def test_layers_that_other_settings_name_cannot_be_left_out():
    recipe = find_recipe("pr543-laptop").replace({"budget.budget_bytes": 500_000})
    width, layers, _ = largest_fit(recipe, forecast(recipe, 0))
    assert 32 <= width["value"] < 128
    assert layers["value"] is None
    assert "ValueEmbedding.layers: 5 is none of layers 0 to 4" in layers["note"]
