"""The benchmark runs, on shapes small enough for a test; its figures are not checked here."""

import json
import sys

import pytest
import torch

from bench import growth, machine, nncodec, pack, peers, prove, score, shared, start, table, train
from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import finish
from bitgolf.base.files import sha256_of
from bitgolf.net.model import ModelPlan
from bitgolf.pipeline.repack import float_scores, open_run
from bitgolf.run.stages import run
from bitgolf.squeeze.presets import rate_aware
from tests.run.test_run import CODE, result_of

MICRO = {"micro": (ModelPlan(vocabulary_size=64, layers=2, width=16, heads=2, kv_heads=1), 16, 2)}


def test_every_part_of_the_benchmark_runs(monkeypatch, capsys):
    monkeypatch.setattr(train, "SHAPES", MICRO)
    monkeypatch.setattr(
        sys, "argv", ["bench", "--shapes", "micro", "--rounds", "1", "--threads", "1", "--json"]
    )
    train.main()
    found = json.loads(capsys.readouterr().out)
    step, last = found[-2:]
    kinds = "low_quarter", "tokens_per_second", "high_quarter"
    low, middle, high = (step[kind]["ours float32"] for kind in kinds)
    assert low <= middle <= high
    assert max(step["gigaflops_by_product"].values()) == step["ceiling_gigaflops"]
    assert "32 x 16 x 16 float32" in step["gigaflops_by_product"]
    assert last["class"] and last["cores_busy_with_others"] >= -1
    figures = table.figures_of(found)
    assert figures["step micro: share of the ceiling"] and figures["attention: times as fast"]
    assert table.table({table.title_of(found): figures}).startswith(f"|  | {last['class']} (")


def test_every_part_of_the_scoring_benchmark_runs(monkeypatch, capsys):
    monkeypatch.setattr(score, "SHAPES", {"micro": (MICRO["micro"][0], 16, 4, 2, 3)})
    monkeypatch.setattr(score, "STRIDE", 4)
    options = ["--shapes", "micro", "--rounds", "1", "--json"]
    monkeypatch.setattr(sys, "argv", ["bench", *options])
    score.main()
    found = json.loads(capsys.readouterr().out)[1]
    assert found["largest_difference_in_nats"]["sliding float32"] == pytest.approx(0, abs=1e-5)


def test_the_benchmark_of_shared_evaluations_says_what_processes_took(monkeypatch, capsys):
    row = {"seconds": 8.0, "busy": 6.0, "sha256": "a"}
    found = {1: {"SGD": row}, 2: {"SGD": {**row, "seconds": 5.0}}}
    monkeypatch.setattr(shared, "together", lambda processes, names, tokens: found[processes])
    monkeypatch.setattr(sys, "argv", ["bench", "--adapters", "SGD", "--rounds", "1", "--json"])
    shared.main()
    assert json.loads(capsys.readouterr().out.splitlines()[0])["times as fast"] == 1.6
    found[2]["SGD"]["sha256"] = "b"
    shared.main()
    assert json.loads(capsys.readouterr().out.splitlines()[0])["same bits"] is False


def test_the_benchmark_of_proofs_runs(monkeypatch, capsys):
    monkeypatch.setattr(prove, "SHAPES", {"micro": MICRO["micro"][0]})
    words = ["bench", "--shapes", "micro", "--lanes", "3", "--steps", "5", "--rounds", "1", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    prove.main()
    found = json.loads(capsys.readouterr().out)[1]
    assert found["tokens_per_second"] > 0 and set(found["milliseconds_a_step"]) >= {"model", "range coder"}


def test_what_compiles_at_its_first_call_is_charged_to_nobody(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(machine, "clock", lambda: now[0])
    calls = []

    def slow_at_first():
        calls.append(0)
        now[0] += 1.0 if len(calls) > 1 else 60.0

    seconds = machine.interleaved({"a": slow_at_first}, 3)
    assert seconds == {"a": [1.0] * 3} and machine.medians(seconds) == {"a": 1.0}
    assert machine.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}


def test_work_of_others_is_told_from_our_own(monkeypatch):
    moments = iter([(10.0, 100.0, 5.0), (12.0, 104.0, 6.0)])  # wall, all processors, this process
    monkeypatch.setattr(machine.Watch, "_now", staticmethod(lambda: next(moments)))
    assert machine.Watch().facts()["cores_busy_with_others"] == 1.5


def test_starts_are_timed(monkeypatch, capsys):
    monkeypatch.setattr(start, "COMMANDS", {"python": ("-S", "-c", "pass")})
    monkeypatch.setattr(sys, "argv", ["bench", "--rounds", "1", "--json"])
    start.main()
    found = json.loads(capsys.readouterr().out)
    assert table.figures_of(found).keys() == {"start: python, s"}


def test_a_point_of_growth_is_measured():
    found = growth.measured(1, 2, 16, 64, 32, "float32")
    assert found["tokens_per_second"] > 0 and found["MiB"] > 50 and found["forecast_MiB"] > 0
    axis = {"bench": "growth width", **{kind: {"32": value} for kind, value in found.items()}}
    assert [*table.figures_of([axis])] == ["growth width: 32: tokens/s, MiB"]


PEER = """
import torch
from torch import nn

CONTROL_TENSOR_NAME_PATTERNS = ("scale",)


class Hyperparameters:
    tied_embed_init_std, logit_softcap, rope_base, qk_gain_init = 0.005, 30.0, 10000.0, 1.5
    matrix_lr, scalar_lr, tied_embed_lr, beta1, beta2, adam_eps = 0.04, 0.04, 0.05, 0.9, 0.95, 1e-8
    muon_momentum, muon_momentum_warmup_start, muon_momentum_warmup_steps = 0.95, 0.85, 4
    muon_backend_steps, warmdown_iters = 5, 3


class Muon(torch.optim.SGD):
    def __init__(self, params, lr, momentum, backend_steps):
        super().__init__(params, lr=lr, momentum=momentum)


class GPT(nn.Module):
    def __init__(self, vocab_size, model_dim, **settings):
        super().__init__()
        self.tok_emb = nn.Embedding(vocab_size, model_dim)
        self.blocks = nn.ModuleList([nn.Linear(model_dim, model_dim)])

    def forward(self, inputs, targets):
        logits = self.blocks[0](self.tok_emb(inputs)) @ self.tok_emb.weight.T
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


if __name__ == "__main__":
    raise SystemExit("it was run as a program")
"""


def test_peers_train_and_score_on_the_same_text(recipe, dataset, tmp_path):
    script = tmp_path / "train_gpt.py"
    script.write_text(PEER)
    recipe = recipe.replace({"train.steps": 100})
    ours, public = peers.bench_peers(dataset, recipe, {"ours": None, "public": script}, 0.2, 500)
    for found in (ours, public):
        assert found["steps"] > 0 and 0 < found["bits_per_byte"] < 20
    with pytest.raises(BitgolfError, match="not a script that runs here"):
        peers.functions_of(tmp_path / "missing.py")


NNCODEC = """
import io
import numpy as np

def encode(weights, args):
    print("words that the coder says of itself")
    held = io.BytesIO()
    step = 2.0 ** (args["qp"] / 4)
    np.savez(held, **{name: step * np.round(each / step) for name, each in weights.items()})
    return held.getvalue()

def decode(data):
    return dict(np.load(io.BytesIO(data)))
"""


def test_the_standards_coder_is_asked_in_an_environment_of_its_own(recipe, dataset, tmp_path, monkeypatch):
    (tmp_path / "there" / "nncodec").mkdir(parents=True)
    (tmp_path / "there" / "nncodec" / "nn.py").write_text(NNCODEC)
    result_of(run(recipe, dataset, tmp_path / "run", 1, code=CODE))
    trained = open_run(tmp_path / "run", data=dataset.folder)
    base = finish(float_scores(trained))
    fine, coarse = nncodec.Peer(sys.executable, -40), nncodec.Peer(sys.executable, -4)
    with pytest.raises(BitgolfError, match="NNCodec failed .*No module named 'nncodec'.*; give a Python"):
        nncodec.coded(fine, trained.weights)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "there"))
    back = nncodec.coded(fine, {"a": torch.tensor(0.3), "b": torch.ones(2, 3) / 3})
    assert torch.allclose(back.weights["a"], torch.tensor(0.3), atol=1e-3) and back.weights["a"].shape == ()
    assert torch.allclose(back.weights["b"], torch.ones(2, 3) / 3, atol=1e-3)
    lines = [finish(nncodec.measured(trained, "n", peer, base)) for peer in (fine, coarse)]
    assert abs(lines[0]["gap"]) < 1e-3 < lines[1]["gap"] and lines[0]["kl_gap"] < 1e-6 < lines[1]["kl_gap"]


def test_the_phases_of_packing_are_timed(recipe, dataset, tmp_path, any_script):
    recipe = recipe.replace(quantize=rate_aware(0.002))
    result_of(run(recipe, dataset, tmp_path / "run", 1, code=CODE))
    found = pack.bench_seconds(open_run(tmp_path / "run", data=dataset.folder))
    phases = {"calibrate", "script", "quantize", "code", "tune", "all"}
    assert found["process_seconds"].keys() == found["wall_seconds"].keys() == phases
    assert found["sha256"] == sha256_of(tmp_path / "run" / "model.bin")
