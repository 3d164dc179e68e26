"""A training that went on too long is told so, by validations that were made during it."""

import json

import pytest
import torch

from bitgolf.base.events import finish
from bitgolf.base.tensors import read_tensors
from bitgolf.pipeline.overfit import overfitting
from bitgolf.run.scoring import score_variants, validation
from bitgolf.run.stages import run
from tests.text.test_belonging import DOCUMENTS, SPLITS, build, model, put


def written(tmp_path, *bits):
    lines = [
        {"step": 10 * (i + 1), "progress": 0.1, "val_bits_per_byte": each} for i, each in enumerate(bits)
    ]
    lines.insert(1, {"step": 11})  # a step without a validation
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_rising_validation_is_told_with_the_step(tmp_path):
    sentence = overfitting(written(tmp_path, 4.56, 4.52, 4.56, 4.58))
    assert "4.5200 bits per byte after step 20" in sentence and "4.5800 after the last, 40" in sentence
    assert "--set train.steps=20" in sentence


@pytest.mark.parametrize("bits", [(), (4.5,), (4.6, 4.5), (4.6, 4.5, 4.503), (4.5, None)])
def test_falling_level_and_unknown_ones_are_not(tmp_path, bits):
    assert overfitting(written(tmp_path, *bits)) == ""


def test_no_file_is_no_validation(tmp_path):
    assert overfitting(tmp_path / "metrics.jsonl") == ""


def run_on_two_texts(recipe, tmp_path):
    """Bits per byte, weights and artifact of one training, validated and scored on either of two texts."""
    tiny = recipe.replace({"model.vocabulary_size": 330, "train.validate_steps": 2, "backend.threads": 1})
    for name, kept in (("a", DOCUMENTS[6:]), ("b", DOCUMENTS[:5:-1])):
        put(tmp_path / name, model(1), {**SPLITS, "val_0.bin": kept})
        dataset, folder = build(tmp_path / name), tmp_path / f"run-{name}"
        outcome = finish(run(tiny, dataset, folder, 3, code=b""))
        weights = read_tensors(folder / "weights.safetensors")[0]
        yield outcome.result["bits_per_byte"], weights, (folder / "model.bin").read_bytes()


def same_weights(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_nothing_is_chosen_by_the_text_that_is_scored(recipe, tmp_path):
    (bits, weights, packed), (other_bits, others, other_packed) = run_on_two_texts(recipe, tmp_path)
    assert bits != other_bits  # the texts differ, and were scored
    assert same_weights(weights, others) and packed == other_packed


def trains_by(spec, model, world):
    """Planted: what a validation finds changes the weights that the training goes on from."""
    bits = yield from validation(spec, model, world)
    with torch.no_grad():
        model.tok_emb.weight.mul_(1 + bits / 1000)
    return bits


def keeps_by(spec, backend, world):
    """Planted: the score decides what is kept in the artifact."""
    variants, sums = yield from score_variants(spec, backend, world)
    choice = int(1e6 * variants[0]["bits_per_byte"]) % 256
    path = spec.folder / "model.bin"
    path.write_bytes(path.read_bytes()[:-1] + bytes([choice]))
    return variants, sums


@pytest.mark.parametrize("fault", ["trains", "keeps"])
def test_a_choice_by_the_scored_text_is_caught(recipe, tmp_path, monkeypatch, fault):
    if fault == "trains":
        monkeypatch.setattr("bitgolf.run.training.validation", trains_by)
    else:
        monkeypatch.setattr("bitgolf.run.stages.score_variants", keeps_by)
    (_, weights, packed), (_, others, other_packed) = run_on_two_texts(recipe, tmp_path)
    assert same_weights(weights, others) == (fault == "keeps")
    assert fault == "trains" or packed != other_packed
