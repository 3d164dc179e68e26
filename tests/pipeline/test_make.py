"""From texts to a packed model in one line: what it says before, what it leaves, and going on from a run."""

import json

import pytest

from bitgolf.base.events import finish
from bitgolf.base.files import read_json
from bitgolf.pipeline import make as making
from tests.cli.test_cli import bitgolf, refused  # noqa: F401
from tests.conftest import generated_text

QUICK = ("--minutes", "0.05", "--set", "train.steps=3", "--set", "train.validate_steps=0")


@pytest.fixture(autouse=True)
def quick(monkeypatch, any_script, recipe):
    """Packing and windows of the tiny recipe; a machine of always the same speed."""
    monkeypatch.setattr(making, "find_recipe", lambda name: recipe)
    monkeypatch.setattr(making, "training_speed", lambda recipe: 5000.0)
    monkeypatch.setattr(making, "PROVEN_BYTES", 1000)


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(generated_text(number, 400))
    return folder


def test_a_folder_of_text_becomes_a_model_that_is_compared(bitgolf, texts, tmp_path):  # noqa: F811
    code, out, err = bitgolf("make", texts, "--bytes", "300000", *QUICK, "--json")
    assert code == 0, err
    said = json.loads(out)
    for word in ("text: ", "pays off from about", "vocabulary: ", "shape: ", "training: ", "schedule: "):
        assert f"note: {word}" in err or word == "pays off from about" and word in err
    assert len(said["chosen"]) == 5
    assert said["total_bytes"] <= 300_000
    assert {row["name"] for row in said["rivals"]} >= {"bzip3 -b 64", "PPMd order 16"}
    assert said["proof"]["text_bytes"] > 0
    assert "bits per byte" in err  # of the steps so far
    folder = tmp_path / "runs" / "made"
    assert read_json(folder / "result.json")["chosen"] == said["chosen"]
    assert said["chosen"][1] in (folder / "report.html").read_text()

    code, out, err = bitgolf("make", texts, *QUICK, "--continue-from", folder, "--out", "more", "--json")
    assert code == 0, err
    more = json.loads(out)
    assert more["continued_from"] == str(folder / "weights.safetensors")
    assert more["data"]["tokenizer_identity"] == said["data"]["tokenizer_identity"]
    first = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    then = [json.loads(line) for line in (tmp_path / "more" / "metrics.jsonl").read_text().splitlines()]
    assert then[0]["nats_per_token"] < first[0]["nats_per_token"] - 0.1  # not from the beginning again

    found = bitgolf("make", texts, *QUICK, "--set", "model.layers=3", "--continue-from", folder, "--out", "o")
    assert found[0] == 2 and "do not fit" in found[2] and "blocks.2" in found[2]
    assert not (tmp_path / "o").exists()


def test_a_plan_trains_and_writes_nothing(bitgolf, texts, tmp_path):  # noqa: F811
    before = set(tmp_path.rglob("*"))
    code, out, _ = bitgolf("make", texts, "--minutes", "1", "--plan")
    assert code == 0
    assert "parameters:" in out and "train_seconds_at_most:" in out
    assert set(tmp_path.rglob("*")) == before


def test_wrong_use_is_refused_before_any_work(bitgolf, texts, tmp_path):  # noqa: F811
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "runs" / "old" / "recipe.json").write_text("{}")
    refused(bitgolf("make", texts, "--out", "runs/old"), "holds a run already")
    refused(bitgolf("make", "nowhere"), "no such text source or path")
    refused(bitgolf("make", texts, "--continue-from", "nowhere"), "no weights to start from")
    refused(bitgolf("make", texts, "--bytes", "1000"), "--bytes", "give at least")
    refused(bitgolf("make", texts, "--set", "model.widht=3"), "width")


def larger(recipe):
    return recipe.replace({"model.vocabulary_size": 1024})


def test_a_text_of_few_pieces_gets_a_smaller_vocabulary(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITGOLF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "same.txt").write_text(generated_text(1, 5) * 100)
    plan = finish(making.planned(making.requested(["same.txt"], 10**6, 3600, (), "")))
    assert plan.recipe.model.vocabulary_size == 320
    recipe, dataset = finish(making.tokenized(plan._replace(recipe=larger(plan.recipe)), None))
    assert recipe.model.vocabulary_size == dataset.tokenizer.vocabulary_size == 512


def test_too_little_text_is_said_before_anything_is_measured(bitgolf, tmp_path):  # noqa: F811
    (tmp_path / "little.txt").write_text("a few words")
    for words in (("--plan",), QUICK):
        code, _, err = bitgolf("make", "little.txt", *words)
        assert code == 2 and "shape:" not in err
        assert "too little text to keep some of it for validation" in err
