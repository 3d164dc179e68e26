"""The page on `frontier` is what its table says, and tells how far such forecasts are off."""

import tomllib

import pytest

from bench import frontier


@pytest.fixture
def facts():
    return tomllib.loads(frontier.TABLE.read_text())


def test_the_page_is_that_of_its_table(facts):
    assert (frontier.TABLE.parents[1] / frontier.PAGE).read_text() == frontier.page(facts)


def test_a_published_time_that_is_wrong_is_seen_when_it_is_left_out(facts):
    before = frontier.left_out(facts["step"])
    facts["step"][0]["seconds"] *= 10
    after = frontier.left_out(facts["step"])
    assert abs(before["baseline"]) < 0.2
    assert after["baseline"] < -0.8


def test_equal_rates_say_each_other_exactly(facts):
    rows = [{**facts["step"][0], "name": name} for name in "abc"]
    assert list(frontier.left_out(rows).values()) == pytest.approx([0.0] * 3)


def test_goals_are_claimed_only_where_the_figures_reach_them(facts):
    assert "The goal of 0.0025 is not reached on paper" in " ".join(frontier.page(facts).split())
    facts["score"]["published"] += 0.01
    assert "The goal of 1.05 is not reached on paper" in frontier.page(facts)
    facts["score"]["published"] -= 0.02
    assert "The goal of 1.05 is reached on paper" in frontier.page(facts)


def test_the_share_of_the_trellis_counts_once_in_the_loss_of_packing(facts):
    facts["packing"]["states"] = 0.0
    assert "**0.0000, between 0.0000 and 0.0000**" in " ".join(frontier.page(facts).split())
