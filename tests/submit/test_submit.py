"""A record folder holds what its runs hold, and runs that do not fit together never become one."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bitgolf.audit.audit import audit
from bitgolf.audit.rules import rules_named
from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.base.files import read_json, write_json
from bitgolf.net.backend import BackendPlan
from bitgolf.net.model import ModelPlan
from bitgolf.net.route import Plain
from bitgolf.recipe import BudgetPlan, DataPlan, Recipe
from bitgolf.run.stages import run
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Chunked
from bitgolf.script.counted import script_of
from bitgolf.squeeze.quantize import int6_rows
from bitgolf.submit.gather import gathered
from bitgolf.submit.write import Words, requirements, write_record
from bitgolf.train.loop import TrainPlan
from tests.run.test_run import result_of

TINY = Recipe(
    name="tiny",
    data=DataPlan(sequence_length=32),
    model=ModelPlan(vocabulary_size=320, layers=1, width=32, heads=2, kv_heads=1, route=Plain()),
    train=TrainPlan(steps=4, train_seconds=0, batch_tokens=128, accumulation=1, log_steps=1),
    quantize=int6_rows(),
    score=ScorePlan(windows=Chunked(length=32)),
    budget=BudgetPlan(budget_bytes=1_000_000),
    backend=BackendPlan(dtype="float32", threads=1),
)
WORDS = Words("tiny", "somebody", "own", date="2026-11-28", against=9.0)


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """Three seeds of a tiny recipe."""
    code = script_of(TINY)
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2, 3):
        result_of(run(TINY, dataset, folder / str(seed), seed, code=code))
    return folder


@pytest.fixture
def runs(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    return [tmp_path / "runs" / str(seed) for seed in (1, 2, 3)]


def test_the_folder_holds_what_was_counted_and_audits_clean(runs, tmp_path):
    found = gathered(runs)
    out = tmp_path / "record"
    claims = write_record(found, out, WORDS)
    assert (out / "train_gpt.py").read_bytes() == (runs[0] / "train_gpt.py").read_bytes()
    results = [read_json(folder / "result.json") for folder in runs]
    bits = [result["bits_per_byte"] for result in results]
    assert claims["val_bpb"] == pytest.approx(np.mean(bits), abs=1e-8)
    assert claims["val_bpb_std"] == pytest.approx(np.std(bits, ddof=1), abs=1e-8)
    assert claims["bytes_total"] == max(result["total_bytes"] for result in results)
    assert claims["t_statistic"] < 0 and claims["compliance"]["three_seeds"]["holds"]
    assert read_json(out / "submission.json") == claims
    assert {each.code for each in audit(out, rules_named()).real} <= {"K12"}  # speeds of steps so short


def test_a_changed_file_of_the_folder_is_told(runs, tmp_path):
    out = tmp_path / "record"
    write_record(gathered(runs), out, WORDS)
    log = out / "train_seed2.log"
    log.write_text(log.read_text().replace("val_bpb:", "val_bpb:1"))
    told = [each for each in audit(out, rules_named()).real if "manifest" in each.expected]
    assert [(each.code, each.where) for each in told] == [("K11", "train_seed2.log")]
    with pytest.raises(BitgolfError, match="not empty"):
        write_record(gathered(runs), out, WORDS)


def edited(folder, file="result.json", /, **changes):
    write_json(folder / file, read_json(folder / file) | changes)


BREAKS = {
    "a score": (lambda runs: edited(runs[1], bits_per_byte=1.0), "its scores add up to"),
    "a size": (lambda runs: edited(runs[1], artifact_bytes=7), "on the disk"),
    "over budget": (lambda runs: edited(runs[1], budget_bytes=99), "over the budget of 99"),
    "a status": (lambda runs: edited(runs[1], status="over budget"), "its status is 'over budget'"),
    "a seed twice": (lambda runs: edited(runs[1], seed=1), "seed 1 stands for several runs"),
    "the recipe": (
        lambda runs: edited(runs[1], "recipe.json", name="other"),
        "not the recipe of result.json",
    ),
    "steps": (lambda runs: edited(runs[1], steps=1), "the steps of metrics.jsonl"),
    "the clock": (lambda runs: edited(runs[1], train_seconds=-0.0), "the clock of metrics.jsonl"),
    "another script": (
        lambda runs: ((runs[1] / "train_gpt.py").write_bytes(b"x = 1\n"), edited(runs[1], code_bytes=6)),
        "another train_gpt.py",
    ),
    "a copy": (
        lambda runs: (shutil.rmtree(runs[1]), shutil.copytree(runs[0], runs[1]), edited(runs[1], seed=2)),
        "to the last digit",
    ),
    "no scores": (lambda runs: (runs[1] / "scores.npz").unlink(), "no scores.npz"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_does_not_fit_together_is_refused(runs, name):
    plant, words = BREAKS[name]
    plant(runs)
    with pytest.raises((PlanError, BitgolfError), match=words):
        gathered(runs)


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"status": 1}'])
def test_results_of_any_shape_are_refused_in_a_line(runs, text):
    (runs[1] / "result.json").write_text(text)
    with pytest.raises(BitgolfError, match="result.json"):
        gathered(runs)


def test_requirements_are_what_the_script_imports(runs):
    lines = requirements((runs[0] / "train_gpt.py").read_bytes()).splitlines()
    assert {"torch", "numpy"} <= {line.partition("==")[0] for line in lines}
    assert not any(line.startswith(("bitgolf", "json", "os")) for line in lines)


def test_the_verb(runs, tmp_path):
    words = [
        sys.executable,
        "-m",
        "bitgolf",
        "submit",
        *map(str, runs),
        "--out",
        str(tmp_path / "r"),
        "--json",
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    facts = json.loads(done.stdout)
    assert done.returncode == (facts["findings"] > 0) and facts["seeds"] == 3
    assert facts["status"] in ("clean", "flawed") and "Traceback" not in done.stderr
