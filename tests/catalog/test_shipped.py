"""What is known without importing it: equal to what it stands for, or not used at all."""

import json
import re

import pytest

from bitgolf.base.plan import diff, to_json
from bitgolf.catalog import shipped
from bitgolf.catalog.glance import parent_of, recipes_used
from bitgolf.catalog.shipped import catalogue, recipe_in, shipped_recipe, stand_in
from bitgolf.inputs.resolve import LAPTOP, find_recipe
from bitgolf.recipe import Recipe
from bitgolf.recipes import recipe_names
from bitgolf.report import screen
from bitgolf.score.windows import Chunked
from bitgolf.squeeze.codec import Zstd
from bitgolf.squeeze.quantize import int6_rows
from bitgolf.study.compare import trained_alike
from bitgolf.train.average import Ema, Latest, Several
from bitgolf.train.qat import FakeQuantize
from tests.cli.test_cli import bitgolf, refused  # noqa: F401

NAMES = [name + ending for name in recipe_names() for ending in ("", LAPTOP)]


@pytest.fixture
def stale(monkeypatch):
    """The code is another than that which wrote the catalogue."""
    monkeypatch.setattr(shipped, "source_hashes", dict)
    catalogue.cache_clear()
    yield
    catalogue.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_a_stand_in_is_shown_compared_and_named_as_its_recipe(name):
    recipe, known = find_recipe(name), stand_in(shipped_recipe(name)["settings"])
    assert to_json(known) == to_json(recipe) and known.identity() == recipe.identity()
    other, its_own = find_recipe("demo"), stand_in(shipped_recipe("demo")["settings"])
    shown = [
        [(p, screen.number(a), screen.number(b)) for p, a, b in diff(*pair)]
        for pair in ((other, recipe), (its_own, known))
    ]
    assert shown[0] == shown[1]


def test_verbs_say_the_same_where_the_catalogue_is_stale(bitgolf, stale):  # noqa: F811
    answers = {}
    verbs = (
        ("show", "demo"),
        ("techniques", "Xsa"),
        ("compare", "demo", "pr543"),
        ("show", "pr488", "--json"),
    )
    for words in verbs:
        answers[words] = bitgolf(*words)
        assert catalogue() is None
    shipped.source_hashes = lambda: json.loads(shipped.SHIPPED.read_text())["sources"]
    catalogue.cache_clear()
    assert catalogue() is not None
    assert {words: bitgolf(*words) for words in verbs} == answers


def test_settings_of_a_run_are_read_by_type_unless_they_are_what_was_run():
    data = to_json(Recipe(average=Ema(decay=0.5)))
    assert recipe_in(data, Recipe(average=Ema(decay=0.5)).identity())
    assert recipe_in(data, Recipe().identity()) is None
    for change in ({"class": "Mine"}, {"steps": 3}, {"average": {"class": "Mine"}}, {"average": {}}):
        odd = data | change
        assert recipe_in(odd, shipped._identity(odd)) is None
    for odd in ([], None, "x", {}):
        assert recipe_in(odd, shipped._identity(odd)) is None


def test_trained_alike_says_what_recipes_say():
    two = Several(averages=(Ema(decay=0.5), Latest(snapshots=2, every=1)), shipped=1)
    changes = (
        {}, {"name": "x"}, {"pack.codec": Zstd()}, {"score.windows": Chunked(length=32)},
        {"budget.budget_bytes": 5}, {"train.expected_steps": 3}, {"train.steps": 3},
        {"quantize": int6_rows()}, {"backend.dtype": "float32"}, {"model.layers": 2},
        {"noise": FakeQuantize()}, {"noise": FakeQuantize(), "quantize": int6_rows()}, {"average": Ema()},
        {"average": two}, {"average": two.replace(shipped=0)},
        {"optim.schedule.warmdown_steps": 7},
    )  # fmt: skip
    recipes = [Recipe().replace(change) for change in changes]
    for left in recipes:
        for right in recipes:
            expected = left.training() == right.training()
            assert trained_alike(left, right) == expected, diff(left, right)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_fits_on_one_screen(name, bitgolf, monkeypatch):  # noqa: F811
    monkeypatch.setenv("COLUMNS", "100")
    _, out, _ = bitgolf("show", name)
    first, *_ = lines = out.splitlines()
    assert (
        len(lines) <= 45
        and len(first) <= 120
        and re.match(rf"{name}: (from [\w-]+, \d+ change|the defaults)", first)
    )
    titles = ("Parameters, first match wins", "Quantization, first match wins", "Stages, in order")
    assert [line for line in lines if line in titles] == [*titles]
    stages = [line.split()[0] for line in lines[lines.index("Stages, in order") + 1 :] if line[:1].strip()]
    order = ["data", "model", "train", "average", "quantize", "pack", "score"]
    assert [word for word in stages if word in order] == order


def test_parents_are_what_sources_and_command_lines_say(bitgolf, tmp_path):  # noqa: F811
    assert parent_of("pr1718_meant", "") == "pr1718" and parent_of("pr543", "") == "baseline"
    assert parent_of("demo-laptop", "") == "demo" and parent_of("baseline", "") == ""
    text = (
        "from bitgolf.recipes.demo import demo\nfrom bitgolf.recipes.pr543 import pr543 as base\n"
        "def one():\n    return demo()\ndef two():\n    return base().replace({'train.steps': 5})\n"
    )
    assert recipes_used(text, "two") == ["pr543", "demo"] and recipes_used("x = 1", "two") == []
    (tmp_path / "mine.py").write_text(text)
    _, out, _ = bitgolf("show", "mine.py:two")
    assert out.startswith("pr543: from pr543, 1 change: train.steps 20,000 -> 5\n")
    _, out, _ = bitgolf("show", "demo", "--set", "train.steps=7")
    assert out.startswith("demo: from demo, 1 change: train.steps 100,000 -> 7\n")
    refused(bitgolf("show", "demo", "--set", "train.stepz=7"), "did you mean 'steps'")
