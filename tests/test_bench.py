"""The benchmark runs, on shapes small enough for a test; its figures are not checked here."""

import json
import sys

import pytest

from bench import prove, score, train
from bitgolf.net.model import ModelPlan

MICRO = {"micro": (ModelPlan(vocabulary_size=64, layers=2, width=16, heads=2, kv_heads=1), 16, 2)}


def test_every_part_of_the_benchmark_runs(monkeypatch, capsys):
    monkeypatch.setattr(train, "SHAPES", MICRO)
    monkeypatch.setattr(
        sys, "argv", ["bench", "--shapes", "micro", "--rounds", "1", "--threads", "1", "--json"]
    )
    train.main()
    found = json.loads(capsys.readouterr().out)
    assert "micro" in json.dumps(found)


def test_every_part_of_the_scoring_benchmark_runs(monkeypatch, capsys):
    monkeypatch.setattr(score, "SHAPES", {"micro": (MICRO["micro"][0], 16, 4, 2, 3)})
    monkeypatch.setattr(score, "STRIDE", 4)
    options = ["--shapes", "micro", "--rounds", "1", "--json"]
    monkeypatch.setattr(sys, "argv", ["bench", *options])
    score.main()
    found = json.loads(capsys.readouterr().out)[1]
    assert found["largest_difference_in_nats"]["sliding float32"] == pytest.approx(0, abs=1e-5)


def test_the_benchmark_of_proofs_runs(monkeypatch, capsys):
    monkeypatch.setattr(prove, "SHAPES", {"micro": MICRO["micro"][0]})
    words = ["bench", "--shapes", "micro", "--lanes", "3", "--steps", "5", "--rounds", "1", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    prove.main()
    found = json.loads(capsys.readouterr().out)[1]
    assert found["tokens_per_second"] > 0 and set(found["milliseconds_a_step"]) >= {"model", "range coder"}
