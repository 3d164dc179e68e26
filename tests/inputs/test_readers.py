"""Files from outside: whatever parses is read by type, and names stay inside their folder."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from bitgolf.base.errors import BitgolfError, CheckpointError, PlanError, displayed
from bitgolf.base.files import is_plain_name, read_json, write_json
from bitgolf.base.plan import from_json, parse_overrides, to_json
from bitgolf.base.tensors import read_tensors, write_tensors
from bitgolf.inputs.typed import MOST_JSON_BYTES, MOST_JSON_ITEMS, Result, read_as, read_outside, read_plan
from bitgolf.net.values import ValueEmbedding
from bitgolf.recipe import Recipe
from bitgolf.study.design import Study, add_one
from bitgolf.train.loop import State

ODD_NAMES = [
    "",
    ".",
    "..",
    "../../../escape",
    "/tmp/x",
    "a/b",
    "a\\b",
    "a b",
    "a\n",
    ".hidden",
    "-rf",
    "x" * 101,
    "[/b]",
    "a\u202eb",
    "a\0",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_that_leave_their_folder_are_refused(name, recipe):
    assert not is_plain_name(name)
    with pytest.raises(PlanError, match="name: a name is letters") as raised:
        from_json(Recipe, {**to_json(recipe), "name": name})
    assert displayed(name) in str(raised.value)
    with pytest.raises(PlanError, match="name: a name is letters"):
        Study(name=name, baseline=recipe, arms=add_one(recipe, {"deeper": {"model.layers": 3}}))


def test_plain_names_are_taken(recipe):
    for name in ("pr682", "baseline-laptop", "a.b_c-1", "größe", "x" * 100):
        assert recipe.replace(name=name).name == name


def test_deep_json_is_refused_wherever_it_stands(tmp_path, recipe):
    path = tmp_path / "recipe.json"
    path.write_text("[" * 100_000)
    with pytest.raises(BitgolfError, match=r"recipe\.json.*nested too deeply"):
        read_json(path)
    data, name = to_json(recipe), []
    for _ in range(5_000):
        data, name = {"class": "Recipe", "model": data}, [name]
    for deep in (data, {"class": "Recipe", "name": name}):
        with pytest.raises(PlanError, match="nested too deeply|expected|unknown class"):
            from_json(Recipe, deep)
    for text in ("train.steps=" + "[" * 300, "train.steps={[]: 1}", "train.steps=" + "-" * 10_000 + "1"):
        with pytest.raises(PlanError, match=r"train\.steps"):
            parse_overrides(recipe, [text])


def test_numbers_beyond_all_floats_are_refused(recipe):
    data = to_json(recipe)
    data["train"]["train_seconds"] = 10**400
    with pytest.raises(PlanError, match=r"train_seconds.*finite number"):
        from_json(Recipe, data)


def test_numbers_in_lists_of_settings_have_the_same_limits(recipe):
    values = ValueEmbedding(layers=(1,))
    for odd in (2**63, 10**30, -(10**400)):
        with pytest.raises(PlanError, match=r"ValueEmbedding\.layers: expected a finite number below"):
            values.replace(layers=(1, odd))
    for odd in (2**63, 10**30, -(10**300)):
        with pytest.raises(PlanError, match=r"seed: expected a finite number below .*found"):
            parse_overrides(recipe, [f"data.order=ShuffledBlocks(seed={odd})"])
    for odd in (math.nan, math.inf, -math.inf, 1e300, 9.3e18):
        with pytest.raises(PlanError, match=r"train_seconds: expected a finite number below"):
            recipe.replace({"train.train_seconds": odd})
    assert recipe.replace({"train.train_seconds": 9.2e18}).train.train_seconds == 9.2e18


def test_json_that_is_no_file_or_of_absurd_size_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(BitgolfError, match=r"pipe\.json: not a regular file"):
        read_plan(tmp_path / "pipe.json", Recipe)
    for path in ("/dev/zero", "/dev/null", str(tmp_path)):
        with pytest.raises(BitgolfError, match="not a regular file"):
            read_outside(Path(path))
    large = tmp_path / "large.json"
    large.write_text('{"rules": [' + "{}," * MOST_JSON_ITEMS + "{}]}")
    with pytest.raises(BitgolfError, match=r"large\.json: more than 100,000 items in one .*100,001"):
        read_plan(large, Recipe)
    with large.open("wb") as file:
        file.truncate(MOST_JSON_BYTES + 1)
    with pytest.raises(BitgolfError, match=r"large\.json: more than 67,108,864 bytes of JSON"):
        read_as(large, Result)


def test_a_message_shows_a_bounded_part_of_a_value():
    assert len(str(BitgolfError("odd", value="x" * 10**6))) < 400
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert "endless" in str(BitgolfError("odd", value=deep))
    while deep:
        deep = deep.pop()


STATE = {"identity": "a", "step": 3, "seconds": 1.0, "position": 4, "tokens": 5}


def test_a_state_with_right_facts_is_read(tmp_path):
    path = tmp_path / "state.safetensors"
    write_tensors(path, {"weights/a": torch.zeros(2)}, STATE)
    assert State.load(path, "a").step == 3


@pytest.mark.parametrize(
    "facts",
    [[], None, "x", 1, {}, {**STATE, "step": "3"}, {**STATE, "step": None}, {**STATE, "seconds": math.nan},
     {**STATE, "tokens": -1}, {**STATE, "position": True}, {**STATE, "more": 1}, {"identity": "a"}],
)  # fmt: skip
def test_a_state_with_odd_facts_is_refused(tmp_path, facts):
    path = tmp_path / "state.safetensors"
    write_tensors(path, {"weights/a": torch.zeros(2)}, facts)
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        State.load(path, "a")


@pytest.mark.parametrize("name", ["step/a", "a", "else/a", "copy/a", "__class__/a"])
def test_a_state_with_tensors_of_no_part_is_refused(tmp_path, name):
    path = tmp_path / "state.safetensors"
    write_tensors(path, {name: torch.zeros(2)}, STATE)
    with pytest.raises(CheckpointError, match="not a training state"):
        State.load(path, "a")


@pytest.mark.parametrize("note", ["[]", "null", "3", "{}", '{"facts": 3, "sha256": 3}', "[" * 10_000, "{"])
def test_a_tensor_file_with_another_note_is_refused(tmp_path, note):
    import safetensors.torch

    path = tmp_path / "state.safetensors"
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(2)}, metadata={"bitgolf": note}))
    with pytest.raises(CheckpointError, match="damaged"):
        read_tensors(path)
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match="damaged"):
        read_tensors(path)
    assert json.dumps(note)


def test_settings_of_older_runs_are_read_by_their_new_names(recipe, tmp_path):
    data = to_json(recipe)
    assert data["quantize"]["rate"]["class"] == "Fixed"
    data["quantize"]["rate"]["class"] = "AsSet"
    write_json(tmp_path / "recipe.json", data)
    assert read_plan(tmp_path / "recipe.json", Recipe) == recipe
