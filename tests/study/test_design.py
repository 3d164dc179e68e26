"""A study is checked whole before anything runs; helpers make arms that change one thing."""

import pytest

from bitgolf.base.errors import PlanError
from bitgolf.base.plan import from_json, to_json
from bitgolf.study.design import (
    Arm,
    Factor,
    Margin,
    Study,
    add_one,
    changed,
    changed_paths,
    factorial,
    ladder,
    leave_one_out,
)
from bitgolf.train.average import Ema, NoAverage
from bitgolf.train.qat import FakeQuantize

DEEPER = {"model.layers": 3}
LONGER = {"train.steps": 8}


def make(recipe, arms=None, **settings) -> Study:
    return Study(
        baseline=recipe, arms=add_one(recipe, {"deeper": DEEPER}) if arms is None else arms, **settings
    )


def problems(recipe, arms=None, **settings) -> str:
    with pytest.raises(PlanError) as caught:
        make(recipe, arms, **settings)
    return "\n".join(caught.value.problems)


def test_add_one_leave_one_out_and_ladder(recipe):
    arms = add_one(recipe, {"deeper": DEEPER, "longer": LONGER})
    assert [(arm.name, arm.against) for arm in arms] == [("deeper", "baseline"), ("longer", "baseline")]
    assert changed_paths(recipe, arms[1].recipe) == ["train.steps"]
    (without,) = leave_one_out(recipe, {"EMA": {"average": NoAverage()}})
    assert without.name == "without EMA" and without.recipe.average == NoAverage()
    first, second = ladder(recipe, {"deeper": DEEPER, "longer": LONGER})
    assert (first.against, second.against) == ("baseline", "+ deeper")
    assert second.recipe == recipe.replace(DEEPER | LONGER)
    assert make(recipe, (first, second)).comparisons_at_most == 2


def test_a_factorial_has_every_cell_once(recipe):
    arms, factors = factorial(
        recipe, {"depth": {"2": {}, "3": DEEPER, "4": {"model.layers": 4}}, "length": {"4": {}, "8": LONGER}}
    )
    study = make(recipe, arms, factors=factors)
    assert len(arms) == 5 and study.comparisons_at_most == 5
    assert {arm.levels for arm in arms} == {("2", "8"), ("3", "4"), ("3", "8"), ("4", "4"), ("4", "8")}
    assert next(a for a in arms if a.levels == ("3", "8")).recipe == recipe.replace(DEEPER | LONGER)
    assert "('4', '8')" in problems(recipe, arms[:-1], factors=factors)
    assert "has 2 arms" in problems(recipe, (*arms, arms[0].replace(name="again")), factors=factors)
    assert "different levels" in problems(recipe, arms, factors=(Factor(name="depth", levels=("2",)),))


def test_a_study_is_a_value_that_json_keeps(recipe):
    study = make(recipe)
    assert from_json(Study, to_json(study)) == study


def test_several_changes_need_a_reason(recipe):
    both = DEEPER | LONGER
    said = problems(recipe, (changed(recipe, "both", both),))
    assert "2 things at once, model.layers, train.steps" in said
    make(recipe, (changed(recipe, "both", both, bundle="they share a budget"),))


def test_a_renamed_recipe_is_no_change(recipe):
    assert "is the same recipe" in problems(recipe, (Arm(name="same", recipe=recipe.replace(name="other")),))


def test_arms_that_make_no_sense_are_refused_all_at_once(recipe):
    deeper = changed(recipe, "deeper", DEEPER)
    said = problems(
        recipe,
        (
            deeper,
            deeper,
            changed(recipe, "lost", LONGER, against="depper"),
            changed(recipe, "baseline", LONGER),
        ),
        seeds=(1, 1),
    )
    assert "two are called 'deeper'" in said
    assert "two are called 'baseline'" in said
    assert "did you mean 'deeper'?" in said
    assert "seeds: 1 is there twice" in said


def test_no_arms_and_no_seeds_are_refused(recipe):
    said = problems(recipe, (), seeds=(1,))
    assert "nothing to compare" in said and "one run shows no noise" in said


def test_an_arm_against_itself_is_refused(recipe):
    assert "is against 'x'" in problems(recipe, (changed(recipe, "x", DEEPER, against="x"),))


def test_a_test_that_cannot_reach_its_threshold_is_refused(recipe):
    said = problems(recipe, seeds=(1, 2, 3), test="sign-flip")
    assert "no p is below 0.25" in said and "name 6 seeds" in said
    make(recipe, seeds=(1, 2, 3, 4, 5, 6), test="sign-flip")
    arms = add_one(recipe, {"deeper": DEEPER, "longer": LONGER})
    assert "name 7 seeds" in problems(recipe, arms, seeds=(1, 2, 3, 4, 5, 6), test="sign-flip")


def test_nats_are_no_unit_of_bytes(recipe):
    nats = Margin(value=0.005, unit="nats per token")
    assert "nats say nothing about total_bytes" in problems(recipe, metric="total_bytes", margin=nats)
    make(recipe, margin=nats)


def test_a_wrong_setting_names_its_arm(recipe):
    with pytest.raises(PlanError, match="arm 'deeper'.*layerz"):
        add_one(recipe, {"deeper": {"model.layerz": 3}})


def test_all_arms_run_under_one_name_and_thread_count(recipe):
    study = make(recipe, (changed(recipe.replace(name="b"), "deeper", DEEPER),), threads=2)
    assert {r.name for r in study.recipes().values()} == {"tiny"}
    assert {r.backend.threads for r in study.recipes().values()} == {2}


def test_equal_recipes_share_a_training_only_if_no_step_sees_the_difference(recipe):
    fewer_bits = {"quantize.rules.0.quantizer.grid.bits": 5}
    same = ({"name": "other"}, {"score.limit_tokens": 3}, {"budget.budget_bytes": 9}, fewer_bits)
    assert all(recipe.replace(change).training() == recipe.training() for change in same)
    other = (LONGER, {"average": Ema(decay=0.9)}, {"data.sequence_length": 64}, {"backend.threads": 2})
    assert all(recipe.replace(change).training() != recipe.training() for change in other)
    noisy = recipe.replace(noise=FakeQuantize())
    assert noisy.replace(fewer_bits).training() != noisy.training()
