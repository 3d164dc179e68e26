"""What is chosen for a text, a budget and a time: each of the three limits holds, and says so."""

import pytest

from bitgolf.base.errors import BudgetError
from bitgolf.forecast.choice import (
    MOST_PASSES,
    Text,
    bytes_in_words,
    choose,
    shapes,
    text_line,
    warmup_steps,
    with_pairs,
)
from bitgolf.forecast.speed import training_speed
from bitgolf.net.model import count_parameters
from bitgolf.recipes.demo import demo
from bitgolf.squeeze.quantize import Fixed

LARGE, SMALL = Text(100_000_000, 1000, 0.22), Text(200_000, 50, 0.28)


def chosen(text=LARGE, budget_bytes=1_000_000, seconds=180.0, speed=20_000.0):
    return choose(demo(), text, budget_bytes, seconds, lambda recipe: speed)


def test_a_large_text_and_enough_time_take_the_demo_with_fewer_word_pairs():
    recipe, _, lines = chosen()
    assert recipe.model == with_pairs(demo().model)  # more rows were measured at the demo's size alone
    assert recipe.quantize == demo().quantize
    assert recipe.train.expected_steps * recipe.train.batch_tokens == pytest.approx(180 * 20_000, rel=0.01)
    assert 1000 <= recipe.train.expected_steps <= 3000
    assert "fills these bytes" in lines[1] and "4.1 a weight" in lines[1]
    assert len(lines) == 4  # and one about the text


@pytest.mark.parametrize(
    ("change", "words"),
    [({"speed": 2000.0}, "less than one token a weight"), ({"text": SMALL}, "by heart")],
)
def test_what_holds_the_size_is_said(change, words):
    recipe, _, lines = chosen(**change)
    assert count_parameters(recipe.model) < count_parameters(demo().model)
    assert words in lines[1]
    assert isinstance(recipe.quantize.rate, Fixed)  # the budget is more than it can use


@pytest.mark.parametrize(
    "changes",
    [
        [{"budget_bytes": size, "seconds": 1e5} for size in (100_000, 1_000_000, 16_000_000)],
        [{"seconds": seconds, "speed": 5000.0} for seconds in (10, 60, 300)],
        [{"text": Text(size, 9, 0.25)} for size in (20_000, 100_000, 5_000_000)],
    ],
    ids=["budget", "time", "text"],
)
def test_sizes_grow_with(changes):
    found = [count_parameters(chosen(**change).recipe.model) for change in changes]
    assert found == sorted(set(found))


def test_a_small_text_ends_the_training_before_the_clock():
    recipe, _, lines = chosen(text=SMALL, seconds=3600.0)
    seen = recipe.train.steps * recipe.train.batch_tokens
    assert seen <= MOST_PASSES * SMALL.tokens(recipe.model)
    assert recipe.train.expected_steps == recipe.train.steps
    assert f"after {MOST_PASSES} passes" in lines[2]
    assert warmup_steps(recipe.optim) <= recipe.train.steps


def test_a_budget_below_the_code_is_refused():
    with pytest.raises(BudgetError, match="--bytes: the code takes about"):
        chosen(budget_bytes=20_000)


def test_every_shape_is_a_model_of_its_own():
    models = shapes(demo().model, 10**9)
    counts = [count_parameters(model) for model in models]
    assert counts == sorted(set(counts))


def test_the_line_about_the_text():
    said = text_line(Text(10_000_000, 3, 0.2), 1_000_000)
    assert "10 MB in 3 documents; xz -9e needs 2 MB (1.60 bits a byte)" in said
    assert "pays off from about 20 MB" in said and "smaller than the model" not in said
    assert "smaller than the model" in text_line(Text(1_000_000, 3, 0.2), 1_000_000)
    assert "needs about 2 MB" in text_line(Text(10_000_000, 3, 0.2, False), 1_000_000)


def test_sizes_as_people_say_them():
    assert [bytes_in_words(n) for n in (7, 430_000, 1_234_567, 999_999, 2.5e9)] == [
        "7 bytes", "430 kB", "1.23 MB", "1 MB", "2.5 GB",
    ]  # fmt: skip


def test_the_speed_is_that_of_whole_steps(recipe):
    """By a clock that moves one second with every look at it."""
    ticks = iter(range(10_000))
    assert training_speed(recipe, 3.0, lambda: float(next(ticks))) == recipe.train.batch_tokens
