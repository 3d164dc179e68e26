"""The list of techniques: complete, weighed by building them, readable at any width, with its page."""

import importlib
import inspect
import subprocess
import sys

import pytest

from bitgolf import READING_ORDER
from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import read_json
from bitgolf.base.plan import Plan, field_types, members
from bitgolf.catalog.shipped import SHIPPED, find_entry, table_row
from bitgolf.catalog.single_settings import SINGLE_SETTINGS
from bitgolf.catalog.techniques import (
    PAGE,
    WEIGHTS,
    by_slot,
    card_of,
    page,
    recipes_with,
    record,
    settings_of,
    slots,
    techniques,
    weigh,
    weight_of,
)
from bitgolf.cli.techniques import TECHNIQUE_COLUMNS
from bitgolf.net.embed import BigramHash
from bitgolf.net.model import count_parameters
from bitgolf.net.route import Plain
from bitgolf.public.names import KINDS, PLANS
from bitgolf.recipe import Recipe
from bitgolf.recipes.baseline import baseline
from bitgolf.report import screen

NAMED = {one.name: one for one in techniques()}
# Variables that only say how long, how large or on what: no technique is theirs.
OF_NO_TECHNIQUE = {"SEED", *(name for row in PLANS for name in row.fields)}


def test_every_member_of_every_slot_is_listed():
    modules = [importlib.import_module(f"bitgolf.{name}") for name in READING_ORDER]
    abstract = {
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Plan) and kind.__dict__.get("abstract")
    }
    expected = {
        name
        for slot in abstract
        for name, kind in members(slot).items()
        if kind.__module__.startswith("bitgolf.")
    }
    assert {one.name for one in techniques() if one.kind is not None} == expected
    assert len({one.name for one in techniques()}) == len(techniques())
    assert sum(len(group) for _, group in by_slot()) == len(techniques())


def test_every_card_has_text_on_all_lines():
    for one in techniques():
        assert all(one.card[:6]), one.name
        assert "\n" not in one.card.title, one.name


def test_a_card_is_read_with_its_long_lines_and_notes():
    lines = ("What: a", "    b: c", "Source: d", "Cost: e", "Not for: f", "Neutral: g", "", "More.")
    card = card_of("Title.\n\n" + "".join(f"    {line}\n" for line in lines))
    assert card == ("Title.", "a b: c", "d", "e", "f", "g", "More.")


def test_single_settings_are_settings_of_a_recipe():
    for name, path, example, _ in SINGLE_SETTINGS:
        kind = Recipe
        *owners, last = path.split(".")
        for key in owners:
            kind = field_types(kind)[key]
        assert last in field_types(kind), name
        assert Recipe().replace({path: example}) != Recipe(), name


def test_weights_are_those_of_models_that_were_built():
    model = baseline().model
    built = {
        "BigramHash": {"embed": (BigramHash(),)},
        "UntiedHead": {"tied": False},
        "Plain": {"route": Plain()},
    }
    for name, change in built.items():
        grown = count_parameters(model.replace(change)) - count_parameters(model)
        assert weight_of(NAMED[name])[0] == grown
    assert weight_of(NAMED["BigramHash"])[0] == 2048 * 128 + 512 * 128 + 1
    for name in ("Xsa", "Rope", "MultiToken", "Ema", "Sliding"):
        assert weight_of(NAMED[name]) == (0, 0)
    assert weight_of(NAMED["AbsMax"])[1] < -3_000_000
    assert weight_of(NAMED["Raw"])[1] > 1_000_000


def test_settings_come_with_limits_and_variables():
    assert settings_of(NAMED["Xsa"]) == [
        {"name": "last", "type": "int", "default": 4, "limits": "at least 0", "variables": ["XSA_LAST_N"]}
    ]
    gate = {row["name"]: row for row in settings_of(NAMED["AttentionOutputGate"])}
    assert gate["source"]["limits"] == "one of input, queries"
    assert gate["channels"]["variables"] == ["GATE_WIDTH", "GATE_WINDOW"]
    muon = {row["name"]: row["variables"] for row in settings_of(NAMED["MuonRule"])}
    assert muon["lr"] == ["MATRIX_LR"]
    assert muon["polar_express"] == []
    adam = {row["name"]: row["variables"] for row in settings_of(NAMED["AdamRule"])}
    assert set(adam["lr"]) == {"TIE_EMBEDDINGS", "SCALAR_LR", "EMBED_LR", "TIED_EMBED_LR", "HEAD_LR"}
    stages = settings_of(NAMED["Stages"])
    assert [row["name"] for row in stages] == ["stages"]
    assert stages[0]["variables"] == ["BATCH_TOKENS_START", "BATCH_SCHEDULE_FRACTION"]


def test_every_variable_of_a_technique_is_with_one():
    owned = {name for one in techniques() for name in one.variables}
    assert set(KINDS) - owned <= OF_NO_TECHNIQUE
    for one in techniques():
        shown = {name for row in settings_of(one) for name in row["variables"]}
        assert shown <= set(one.variables), one.name


def test_a_technique_is_found_by_name_or_variable():
    entries = [record(one) for one in techniques()]
    assert find_entry(entries, "xsa")["name"] == "Xsa"
    assert find_entry(entries, "EMA_DECAY")["name"] == "Ema"
    with pytest.raises(BitgolfError, match="did you mean 'BigramHash'"):
        find_entry(entries, "BigramHsh")


def test_recipes_that_use_it_are_found():
    assert {"baseline", "demo"} <= set(recipes_with(NAMED["MuonRule"]))
    assert "demo" in recipes_with(NAMED["WarmdownFraction"])
    assert "baseline" not in recipes_with(NAMED["WarmdownFraction"])
    assert "demo" in recipes_with(NAMED["GroupedQueryAttention"])
    assert "baseline" not in recipes_with(NAMED["GroupedQueryAttention"])


def test_slots_have_the_paths_that_a_recipe_can_be_changed_at():
    assert len(slots()) == len({*slots().values()})
    for one in techniques():
        data = record(one)
        assert data["path"] == one.path
        assert set(data) >= {"what", "source", "cost", "not_for", "neutral", "parameters", "bytes", "recipes"}


@pytest.fixture(scope="module")
def groups():
    return [(heading, [table_row(record(one)) for one in group]) for heading, group in by_slot()]


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_the_table_is_readable_at_any_width(columns, groups, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    screen.grouped_table(TECHNIQUE_COLUMNS, groups, as_json=False)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    first_words = {line.split()[0] for line in out.splitlines() if line[:1].strip()}
    assert {one.name for one in techniques()} <= first_words
    assert ("PR #1667" in out) == (columns == 160)
    assert ("XSA_LAST_N" in out) == (columns >= 100)


def test_the_page_and_the_catalogue_are_up_to_date():
    # In a process of its own: other tests make techniques that would be listed with ours.
    program = "from bitgolf.catalog.shipped import written; from bitgolf.catalog.techniques import *; "
    for what, path in (("page()", PAGE), ("written(catalogue())", SHIPPED)):
        command = [sys.executable, "-c", f"{program}print({what}, end='')"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert text == path.read_text(encoding="utf-8"), "run `python -m bitgolf.catalog.techniques`"


def test_the_page_names_every_technique_and_variable():
    text = page()
    assert all(f"### {one.name}\n" in text for one in techniques())
    assert all(f"| `{name}` |" in text for name in KINDS)


def test_the_known_weights_are_those_that_are_measured():
    """All parameters; bytes of every fourth, as packing takes a while."""
    names = [one.name for one in techniques()]
    known = read_json(WEIGHTS)
    assert [*known] == names
    for one in techniques()[::4]:
        assert weigh(one) == weight_of(one) == tuple(known[one.name]), one.name
