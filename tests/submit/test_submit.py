"""A record folder holds what its runs hold, and runs that do not fit together never become one."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitgolf.audit.audit import audit
from bitgolf.audit.folder import read_record
from bitgolf.audit.folder_checks import manifest
from bitgolf.audit.rules import rules_named
from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.base.events import finish
from bitgolf.base.files import read_json, sha256_of, write_json
from bitgolf.net.backend import BackendPlan
from bitgolf.net.model import ModelPlan
from bitgolf.net.route import Plain
from bitgolf.pipeline.coding import prove_artifact
from bitgolf.recipe import BudgetPlan, DataPlan, Recipe
from bitgolf.run.stages import run
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Chunked
from bitgolf.squeeze.quantize import int6_rows
from bitgolf.study.runs import code_of
from bitgolf.submit.claims import credits
from bitgolf.submit.gather import gathered
from bitgolf.submit.write import Metadata, data_lines, requirements, write_record
from bitgolf.train.loop import TrainPlan
from tests.cli.test_cli import bitgolf, refused  # noqa: F401
from tests.run.test_run import result_of

STUDY = Path(__file__).parents[2] / "docs" / "studies" / "pr682.json"

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
WORDS = Metadata("tiny", "somebody", "own", date="2026-11-28", against=9.0)


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """Three seeds of a tiny recipe."""
    code = code_of(TINY)
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2, 3):
        result_of(run(TINY, dataset, folder / str(seed), seed, code=code))
    return folder


@pytest.fixture(scope="module")
def record(finished, tmp_path_factory):
    """The record of all three, with its claims."""
    folder = tmp_path_factory.mktemp("records") / "mine"
    runs = gathered([finished / str(seed) for seed in (1, 2, 3)], [3, 1, 2])
    claims = write_record(runs, folder, WORDS, studies=[STUDY], declared=[3, 1, 2])
    return folder, claims


@pytest.fixture
def runs(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    return [tmp_path / "runs" / str(seed) for seed in (1, 2, 3)]


def test_the_folder_holds_what_was_counted_and_audits_clean(finished, record):
    out, claims = record
    assert (out / "train_gpt.py").read_bytes() == (finished / "1" / "train_gpt.py").read_bytes()
    results = [read_json(finished / str(seed) / "result.json") for seed in (1, 2, 3)]
    bits = [result["bits_per_byte"] for result in results]
    assert claims["val_bpb"] == pytest.approx(np.mean(bits), abs=1e-8)
    assert claims["val_bpb_std"] == pytest.approx(np.std(bits, ddof=1), abs=1e-8)
    assert claims["bytes_total"] == max(result["total_bytes"] for result in results)
    assert [row["bytes_total"] for row in claims["seed_results"].values()] == [
        result["total_bytes"] for result in results
    ]
    assert claims["bytes_code"] == (out / "train_gpt.py").stat().st_size
    assert claims["code_sha256"] == sha256_of(out / "train_gpt.py")
    assert claims["eval_time_seconds"] >= claims["eval_time_s_mean"] > 0
    ratio = results[0]["text_bytes"] / results[0]["tokens"]
    assert claims["delta_nats_per_token"] == pytest.approx(claims["delta_bpb"] * np.log(2) * ratio, abs=1e-7)
    assert claims["t_statistic"] < 0 < claims["p_value"] < 0.01
    assert read_json(out / "submission.json") == claims
    audited = audit(out, rules_named())
    assert {each.code for each in audited.findings} <= {"K12"}  # speeds of steps so short; nothing is untold


def test_what_is_claimed_to_comply_was_checked(record):
    checked = record[1]["compliance"]
    assert all(each["holds"] is True and each["how"] for each in checked.values()), checked
    assert {"artifact_under_16mb", "train_under_600s", "eval_under_600s", "three_seeds", "no_ttt"} <= {
        *checked
    }
    assert {"files_as_written", "script_is_the_recipes", "seeds_as_declared", "every_seed_told"} <= {*checked}
    assert "proven" not in checked  # there are no certificates


def test_the_readme_has_seeds_ablations_sizes_and_credits(record):
    text = (record[0] / "README.md").read_text()
    assert "## Ablations: pr682" in text and "| worse |" in text and "parameters, " in text
    for seed, row in record[1]["seed_results"].items():
        assert f"| {seed} | {row['val_bpb']:.6f} |" in text
    assert f"{record[1]['bytes_total']:,} of" in text and "torchrun --standalone --nproc_per_node=4 " in text
    assert all(f"- {name}: " in text for name in credits(TINY))
    assert {"Rope", "MuonRule", "AbsMax"} & {*credits(TINY)} and "QkGain" not in credits(TINY)
    assert "QkGain" in credits(TINY.replace({"model.qk_gain": 5.0}))


def test_the_log_has_the_lines_that_reviewers_look_for(record):
    log = (record[0] / "train_seed2.log").read_text()
    assert re.search(r"^step:4/4 train_loss:\d\.\d{4} train_time:\d+ms step_avg:\d+\.\d\dms$", log, re.M)
    assert re.search(r"^final_quantized_roundtrip val_loss:\S+ val_bpb:\S+ eval_time:\d+ms$", log, re.M)
    exact = re.search(r"^final_quantized_roundtrip_exact val_loss:\S+ val_bpb:(\S+)$", log, re.M)
    assert float(exact[1]) == record[1]["seed_results"]["2"]["val_bpb"]
    assert f"train_gpt.py sha256:{record[1]['code_sha256']}\n" in log


def test_the_log_names_tokenizer_and_text_so_that_bytes_can_be_checked(record, tmp_path):
    """Of own texts too, which no auditor knows: a score by too many bytes does not fit what the log says."""
    log = (record[0] / "train_seed2.log").read_text()
    assert re.search(r"^val_bpb:enabled .* sha256:[0-9a-f]{64} pieces:320$", log, re.M)
    said = re.search(
        r"^val_loader:dataset:\S* tokens:(\d+) text_bytes:(\d+) text_sha256:[0-9a-f]{64}$", log, re.M
    )
    more = log.replace(f"text_bytes:{said[2]}", f"text_bytes:{int(int(said[2]) / 1.17)}")
    for text, codes in ((log, []), (more, ["B01"]), (log.replace(said[0], ""), ["B01"])):
        (tmp_path / "train_seed2.log").write_text(text)
        found = audit(tmp_path / "train_seed2.log", rules_named())
        assert [each.code for each in found.findings if each.code.startswith("B")] == codes
        assert (found.verdict == "clean") == (text != more)


def test_a_changed_file_of_the_folder_is_told(record, finished, tmp_path):
    out = shutil.copytree(record[0], tmp_path / "record")
    log = out / "train_seed2.log"
    log.write_text(log.read_text().replace("val_bpb:", "val_bpb:1"))
    told = [*manifest(read_record(out))]
    assert [(each.code, each.where) for each in told] == [("K11", "train_seed2.log")]
    with pytest.raises(BitgolfError, match="not empty"):
        write_record(gathered([finished / "1"]), out, WORDS)


def test_a_readable_script_is_counted_as_such(runs, tmp_path, monkeypatch):
    text = "import torch\n" * 4000  # a true one takes seconds to make; the slow test below runs it
    monkeypatch.setattr("bitgolf.submit.gather.flatten", lambda recipe: text)
    claims = write_record(gathered(runs[:1]), tmp_path / "record", WORDS, readable=True)
    script = (tmp_path / "record" / "train_gpt.py").read_bytes()
    assert script == text.encode()
    packed, model = (runs[0] / name for name in ("train_gpt.py", "model.bin"))
    assert claims["bytes_code"] == len(script) > packed.stat().st_size
    assert claims["bytes_total"] == claims["seed_results"]["1"]["bytes_total"]
    before = read_json(runs[0] / "result.json")["total_bytes"]
    assert claims["bytes_total"] == before - packed.stat().st_size + len(script)
    assert f"Code size: {len(script)} bytes" in (tmp_path / "record" / "train_seed1.log").read_text()
    assert not claims["compliance"]["every_seed_told"]["holds"]  # two more lie beside it
    assert model.is_file()
    (run,) = gathered(runs[:1])
    tight = run._replace(result=run.result | {"budget_bytes": before})
    with pytest.raises(BitgolfError, match="with the readable script over the budget"):
        write_record([tight], tmp_path / "other", WORDS, readable=True)
    assert not (tmp_path / "other").exists()


def test_a_certificate_goes_with_its_run(runs, tmp_path):
    for folder in runs[:2]:
        finish(prove_artifact(str(folder), None, None, 600, None, processes=1))
    claims = write_record(gathered(runs[:2]), tmp_path / "record", WORDS)
    held = read_json(tmp_path / "record" / "certificate_seed2.json")
    assert held == read_json(runs[1] / "proof" / "certificate.json")
    assert claims["seed_results"]["2"]["proof"]["coded_bytes"] == held["coded_bytes"]
    assert claims["compliance"]["proven"]["holds"]
    assert f"| {held['bits_per_byte']:.6f} |" in (tmp_path / "record" / "README.md").read_text()
    edited(runs[1], "proof/certificate.json", bits_per_byte=1.0)
    with pytest.raises(PlanError, match="its certificate says 1.000000, and its sizes"):
        gathered(runs[:2])
    edited(runs[1], "proof/certificate.json", bits_per_byte=held["bits_per_byte"])
    (runs[1] / "proof" / "coded.bin").write_bytes(b"something else")
    with pytest.raises(PlanError, match="another coded file"):
        gathered(runs[:2])
    shutil.copy(runs[0] / "proof" / "certificate.json", runs[1] / "proof" / "certificate.json")
    with pytest.raises(PlanError, match="another artifact"):
        gathered(runs[:2])


def edited(folder, file="result.json", /, **changes):
    write_json(folder / file, read_json(folder / file) | changes)


def without(folder, key):
    write_json(
        folder / "result.json", {k: v for k, v in read_json(folder / "result.json").items() if k != key}
    )


def planned(runs, *seeds):
    """A study beside the runs that planned these seeds."""
    rows = [{"arm": "mine", "seed": seed, "folder": f"../runs/{seed}"} for seed in seeds]
    receipt = {"written": "2026-01-02T03:04:05+00:00", "plan": {}, "amendments": [], "runs": rows}
    write_json(runs[0].parent.parent / "study" / "plan.json", receipt)


def replaced(path, before, after):
    data = path.read_bytes()
    assert before in data and len(before) == len(after)
    path.write_bytes(data.replace(before, after, 1))


def another_recipe(folder):
    other = TINY.replace(name="other")
    edited(folder, "recipe.json", name="other")
    edited(folder, recipe_identity=other.identity(), sha256={})


BREAKS = {
    "a score": (lambda runs: edited(runs[1], bits_per_byte=1.0), "its scores add up to"),
    "a size": (lambda runs: edited(runs[1], artifact_bytes=7), "on the disk"),
    "over budget": (lambda runs: edited(runs[1], budget_bytes=99), "over the budget of 99"),
    "another budget": (lambda runs: edited(runs[1], budget_bytes=2_000_000), "in recipe.json 1,000,000"),
    "parameters": (lambda runs: edited(runs[1], parameters=7), "parameters is 7, and the recipe's model has"),
    "a loss": (lambda runs: edited(runs[1], nats_per_token=1.0), "and the mean of its scores"),
    "tokens": (lambda runs: edited(runs[1], tokens=7), "tokens is 7, and scores.npz has"),
    "a status": (lambda runs: edited(runs[1], status="over budget"), "its status is 'over budget'"),
    "a seed twice": (lambda runs: edited(runs[1], seed=1), "seed 1 stands for several runs"),
    "no seed": (lambda runs: without(runs[1], "seed"), "seed: is missing"),
    "a planned seed": (lambda runs: planned(runs, 1, 2, 3, 4), "arm 'mine' has seed 4 too"),
    "the recipe": (
        lambda runs: edited(runs[1], "recipe.json", name="other"),
        "not the recipe of result.json",
    ),
    "another recipe": (lambda runs: another_recipe(runs[1]), "another configuration than"),
    "an edited log": (
        lambda runs: replaced(runs[1] / "metrics.jsonl", b'"nats_per_token": 5', b'"nats_per_token": 3'),
        "metrics.jsonl is not the file that the run wrote",
    ),
    "a log cut short, without hashes": (
        lambda runs: (
            edited(runs[1], sha256={}),
            (runs[1] / "metrics.jsonl").write_bytes(
                b"".join((runs[1] / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:-1])
            ),
        ),
        "the steps of metrics.jsonl",
    ),
    "a log with a hole, without hashes": (
        lambda runs: (
            edited(runs[1], sha256={}),
            (runs[1] / "metrics.jsonl").write_bytes(
                b"".join((runs[1] / "metrics.jsonl").read_bytes().splitlines(keepends=True)[::3])
            ),
        ),
        "the steps of metrics.jsonl",
    ),
    "edited scores": (
        lambda runs: shutil.copy(runs[0] / "scores.npz", runs[1]),
        "scores.npz is not the file",
    ),
    "an edited script": (
        lambda runs: replaced(runs[1] / "train_gpt.py", b"import", b"impork"),
        "train_gpt.py is not the file that the run wrote",
    ),
    "steps": (lambda runs: edited(runs[1], steps=1), "the steps of metrics.jsonl"),
    "the clock": (lambda runs: edited(runs[1], train_seconds=-0.0), "the clock of metrics.jsonl"),
    "another script": (
        lambda runs: (
            (runs[1] / "train_gpt.py").write_bytes(b"x = 1\n"),
            edited(runs[1], code_bytes=6, sha256={}),
        ),
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
    gathered(runs, [1, 2, 3])
    plant(runs)
    with pytest.raises((PlanError, BitgolfError), match=words):
        gathered(runs)


def test_declared_seeds_are_those_that_are_there(runs):
    with pytest.raises(PlanError, match="seed 4 was declared, and no run here has it"):
        gathered(runs, [1, 2, 3, 4])
    with pytest.raises(PlanError, match="seed 3 was not declared"):
        gathered(runs, [1, 2])


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"status": 1}'])
def test_results_of_any_shape_are_refused_in_a_line(runs, text):
    (runs[1] / "result.json").write_text(text)
    with pytest.raises(BitgolfError, match="result.json"):
        gathered(runs)


def test_requirements_are_what_the_script_imports(runs):
    lines = requirements((runs[0] / "train_gpt.py").read_bytes()).splitlines()
    assert {"torch", "numpy"} <= {line.partition("==")[0] for line in lines}
    assert not any(line.startswith(("bitgolf", "json", "os")) for line in lines)


def test_the_verb(bitgolf, runs, tmp_path):  # noqa: F811
    words = ("--out", tmp_path / "r", "--packed", "--seeds", "1,2,3", "--json")
    code, out, err = bitgolf("submit", *runs, *words)
    facts = json.loads(out)
    assert code == (facts["findings"] > 0) and facts["seeds"] == 3 and "Traceback" not in err
    assert facts["status"] in ("clean", "flawed") and facts["claims"] == read_json(
        tmp_path / "r" / "submission.json"
    )
    refused(bitgolf("submit", *runs, "--out", tmp_path / "r"), "not empty")
    refused(bitgolf("submit", *runs, "--out", tmp_path / "s", "--seeds", "1,b"), "not a seed")
    for figure in ("nan", "inf", "-1", "0"):
        refused(bitgolf("submit", *runs, "--out", tmp_path / "s", "--against", figure), "--against: no score")
    refused(bitgolf("submit", *runs, "--out", tmp_path / "s", "--study", tmp_path), "no result of a study")
    assert not (tmp_path / "s").exists()


def test_an_arm_of_a_study_is_all_its_seeds(bitgolf, runs, tmp_path):  # noqa: F811
    rows = [{"arm": "a/b, c", "seed": seed, "folder": f"../runs/{seed}"} for seed in (1, 2, 3)]
    plan = {"written": "2026-01-02T03:04:05+00:00", "plan": {}, "amendments": [], "runs": rows}
    write_json(tmp_path / "study" / "plan.json", plan)
    _, out, _ = bitgolf("submit", tmp_path / "study" / "a/b, c", "--out", tmp_path / "r", "--json")
    assert json.loads(out)["seeds"] == 3
    refused(bitgolf("submit", tmp_path / "study" / "a", "--out", tmp_path / "s"), "no such arm")


def test_a_log_counts_the_bytes_that_were_scored(runs):
    (run, *_) = gathered(runs)
    part = run._replace(result={**run.result, "text_bytes": 1000})
    whole = run.result["data"]["splits"]["val"]["text_bytes"]
    assert f" text_bytes:1000 of:{whole} " in data_lines(part)[-1]
    assert " of:" not in data_lines(run)[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "readable"), [(1, False), (2, False), (1, True)])
def test_the_folder_runs_alone_in_an_empty_place(record, finished, dataset, tmp_path, processes, readable):
    """By the command of its README, where bitgolf cannot be imported; it scores what it claims."""
    if readable:
        record = (
            tmp_path / "record",
            write_record(gathered([finished / "2"]), tmp_path / "record", WORDS, readable=True),
        )
        assert (tmp_path / "record" / "train_gpt.py").read_text().startswith('"""bitgolf recipe')
    alone = shutil.copytree(record[0], tmp_path / "alone")
    (tmp_path / "none" / "bitgolf").mkdir(parents=True)
    (tmp_path / "none" / "bitgolf" / "__init__.py").write_text(
        "raise ImportError('there is no bitgolf here')\n"
    )
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "none"),
        "DATA_PATH": str(dataset.folder),
        "TOKENIZER_PATH": str(dataset.folder / "tokenizer.bin"),
        "SEED": "2",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *(several if processes > 1 else []), "train_gpt.py"]
    done = subprocess.run(command, cwd=alone, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    words = [sys.executable, "-c", "import bitgolf"]
    refused = subprocess.run(words, cwd=alone, env=environment, capture_output=True)
    assert refused.returncode == 1
    claimed = record[1]["seed_results"]["2"]
    bits = float(re.search(r"roundtrip_exact val_loss:\S+ val_bpb:(\S+)", done.stdout)[1])
    assert bits == pytest.approx(claimed["val_bpb"], abs=1e-7 if processes == 1 else 1e-3)
    assert f"world_size:{processes} seed:2" in done.stdout
    assert (alone / "model.bin").stat().st_size == pytest.approx(claimed["artifact_bytes"], rel=0.01)
