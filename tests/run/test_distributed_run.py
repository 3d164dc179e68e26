"""A whole run by two processes under torchrun: the result of one, one folder, one voice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitgolf.base.events import finish
from bitgolf.base.files import read_json, write_json
from bitgolf.base.plan import to_json
from bitgolf.base.tensors import read_tensors
from bitgolf.net.backend import choose_backend
from bitgolf.pipeline.work import work
from bitgolf.report.screen import follow
from bitgolf.run.scoring import score_variants
from bitgolf.run.spec import RunSpec
from bitgolf.run.training import VALIDATED
from bitgolf.train.world import World

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
    return lambda parts: recipe.replace(
        {"train.steps": STEPS, "train.accumulation": parts, "train.validate_steps": STEPS}
    )


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


@pytest.mark.usefixtures("any_script_here")
def test_two_processes_are_one(cut, together, dataset, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    alone = follow(work(cut(2), str(dataset.folder), one, 3))
    code, out, err = together(two)
    assert code == 0, err
    result = json.loads(out)  # one object: the second process says nothing
    ended = [line.split()[:2] for line in err.splitlines()]
    assert ended.count(["pack", "100%"]) == 1
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
    scores = (two / "scores.npz").read_bytes()  # which both have made
    spec = RunSpec(cut(1), dataset, two, 3, b"")
    rows, _ = finish(score_variants(spec, choose_backend(spec.recipe.backend, result["dtype"]), World()))
    assert (two / "scores.npz").read_bytes() == scores
    bits = [row["bits_per_byte"] for row in rows]
    assert bits == [row["bits_per_byte"] for row in result["variants"]]
    assert bits[0] == json.loads((two / "metrics.jsonl").read_text().splitlines()[-1])[VALIDATED]


def test_two_processes_refuse_a_folder_in_use(together, tmp_path):
    write_json(tmp_path / "used" / "recipe.json", {})
    code, out, err = together(tmp_path / "used")
    assert code != 0
    assert json.loads(out)["exit_code"] == 2  # one object, of the first process
    assert err.count("this folder holds a run already") == 1
    assert {path.name for path in (tmp_path / "used").iterdir()} - {".lock"} == {"recipe.json"}


def steps_done(folder):
    """How many steps a run has logged so far."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are found in /proc")
@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_are_killed_and_resumed_are_one(cut, dataset, tmp_path, count):
    recipe = cut(1).replace({"train.steps": 60, "train.checkpoint_seconds": 0.0})
    alone = follow(
        work(recipe.replace({"train.accumulation": count}), str(dataset.folder), tmp_path / "one", 3)
    )
    write_json(tmp_path / "recipe.json", to_json(recipe))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "bitgolf"]
    words += ["run", str(tmp_path / "recipe.json"), "--data", str(dataset.folder), "--seed", "3", "--json"]
    words += ["--out", str(tmp_path / "several")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen([sys.executable, *words], env=environment, **quiet)
    until = time.monotonic() + 240
    while steps_done(tmp_path / "several") < 5 and child.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    workers = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    for process in (child.pid, *map(int, workers)):  # workers are sessions of their own
        os.kill(process, signal.SIGKILL)
    child.wait()
    reached = steps_done(tmp_path / "several")
    assert 5 <= reached < 60
    assert not (tmp_path / "several" / "result.json").is_file()
    subprocess.run([sys.executable, *words, "--resume"], env=environment, check=True, timeout=400, **quiet)
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "several")
    ]
    assert [row["step"] for row in rows[1]] == list(range(1, 61))
    nats = [[row["nats_per_token"] for row in each] for each in rows]
    assert nats[1] == pytest.approx(nats[0], abs=1e-3)
    weights, others = (
        read_tensors(tmp_path / name / "weights.safetensors")[0] for name in ("one", "several")
    )
    gap = max(float((weights[name] - others[name]).abs().max()) for name in weights)
    print(
        f"{count} processes, killed at step {reached}: losses within "
        f"{max(abs(a - b) for a, b in zip(*nats)):.1e}, weights within {gap:.1e}"
    )
    assert gap < 5e-3
    bits = read_json(tmp_path / "several" / "result.json")["bits_per_byte"]
    assert bits == pytest.approx(alone["bits_per_byte"], abs=2e-3)
