"""A whole run by two processes under torchrun: the result of one, one folder, one voice."""

import json
import os
import subprocess
import sys

import pytest

from bitgolf.base.files import read_json, write_json
from bitgolf.base.plan import to_json
from bitgolf.base.tensors import read_tensors
from bitgolf.pipeline.work import work
from bitgolf.report.screen import follow

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STEPS = 12


def outcome(*command):
    """Exit code, stdout and stderr of a command on one thread."""
    words = [str(word) for word in command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def cut(recipe):
    """The tiny recipe in float32, its batch cut into that many micro-batches."""
    return lambda parts: recipe.replace({"train.steps": STEPS, "train.accumulation": parts})


@pytest.fixture
def together(cut, dataset, tmp_path):
    """Run the recipe by two processes into a folder."""
    write_json(tmp_path / "recipe.json", to_json(cut(1)))
    words = (
        "-m",
        "bitgolf",
        "run",
        tmp_path / "recipe.json",
        "--data",
        dataset.folder,
        "--seed",
        3,
        "--json",
    )
    return lambda folder: outcome(*TORCHRUN, *words, "--out", folder)


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return [row["nats_per_token"] for row in rows]


def test_two_processes_are_one(cut, together, dataset, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    alone = follow(work(cut(2), str(dataset.folder), one, 3))
    code, out, err = together(two)
    assert code == 0, err
    result = json.loads(out)  # one object: the second process says nothing
    assert err.count("pack       100%") == 1
    assert read_json(two / "result.json").items() <= result.items()
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert losses(one)[-1] < losses(one)[0] - 1
    weights, others = (read_tensors(folder / "weights.safetensors")[0] for folder in (one, two))
    assert weights.keys() == others.keys()
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < 1e-3
    assert result["train_tokens"] == alone["train_tokens"]
    assert result["bits_per_byte"] == pytest.approx(alone["bits_per_byte"], abs=1e-3)
    assert (two / "report.html").stat().st_size > 10_000


def test_two_processes_refuse_a_folder_in_use(together, tmp_path):
    write_json(tmp_path / "used" / "recipe.json", {})
    code, out, err = together(tmp_path / "used")
    assert code != 0
    assert json.loads(out)["exit_code"] == 2  # one object, of the first process
    assert err.count("this folder holds a run already") == 1
    assert {path.name for path in (tmp_path / "used").iterdir()} - {".lock"} == {"recipe.json"}
