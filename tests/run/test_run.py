"""The stages end to end on a tiny model: the folder, the result, failures as rows, kill and resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from bitgolf.base.errors import BitgolfError, DataError
from bitgolf.base.events import finish
from bitgolf.base.files import read_json, write_json
from bitgolf.base.plan import from_json, to_json
from bitgolf.base.tensors import read_tensors
from bitgolf.inputs.machine import other_machine
from bitgolf.mix.ngram import NgramCache
from bitgolf.net import backend as backend_module
from bitgolf.net.backend import Backend, choose_backend
from bitgolf.net.model import count_parameters
from bitgolf.net.objective import MultiToken
from bitgolf.pipeline.repack import open_run, pack_again
from bitgolf.recipe import Recipe
from bitgolf.run import scoring as scoring_module
from bitgolf.run.command import main
from bitgolf.run.preflight import PREFLIGHT_WINDOWS, preflight
from bitgolf.run.scoring import score_split
from bitgolf.run.stages import run
from bitgolf.score.metric import bits_per_byte, summary
from bitgolf.score.score import Scores
from bitgolf.score.windows import Chunked, PerDocument
from bitgolf.squeeze.artifact import load_model, pack, unpack
from bitgolf.squeeze.presets import feedback_rows
from bitgolf.squeeze.quantize import quantize_weights
from bitgolf.train.average import Ema, Latest, NoAverage, Swa, SwaCount
from bitgolf.train.optim import AdamRule
from bitgolf.train.qat import FakeQuantize
from bitgolf.train.schedule import WarmdownFraction

CODE = b"print('the code that counts')\n"


def result_of(steps):
    """The figures of a run that has been driven to its end."""
    return finish(steps).result


@pytest.fixture
def finished(recipe, dataset, tmp_path):
    return result_of(run(recipe, dataset, tmp_path / "run", 1, code=CODE)), tmp_path / "run"


def test_a_run_leaves_everything_behind(finished, recipe, dataset):
    result, folder = finished
    assert result["status"] == "ok"
    assert result == read_json(folder / "result.json")
    assert from_json(Recipe, read_json(folder / "recipe.json")) == recipe
    assert (folder / "train_gpt.py").read_bytes() == CODE
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert dict(map(tuple, result["ledger"]))["code"] == len(CODE)
    assert sum(size for _, size in result["ledger"]) == result["total_bytes"]
    assert result["artifact_bytes"] == (folder / "model.bin").stat().st_size
    names = [(row["name"], row["windows"]) for row in result["variants"]]
    assert [name for name, _ in names] == ["live", "averaged", "quantized", "quantized"]
    assert len({windows for _, windows in names[:3]}) == 1
    assert result["text_bytes"] == dataset.passport["splits"]["val"]["text_bytes"]


def test_only_the_packed_bytes_are_scored(finished, recipe, dataset):
    result, folder = finished
    model = load_model(unpack((folder / "model.bin").read_bytes()), choose_backend(recipe.backend))
    again = finish(score_split(model, dataset, recipe.score, "score")).scores
    saved = Scores.load(folder / "scores.npz")
    assert np.array_equal(again.nats, saved.nats)
    assert bits_per_byte(saved) == result["bits_per_byte"] == result["variants"][-1]["bits_per_byte"]
    averaged = read_tensors(folder / "weights.safetensors")[0]["averaged/tok_emb.weight"]
    packed = unpack((folder / "model.bin").read_bytes()).weights["tok_emb.weight"]
    assert not np.array_equal(averaged.numpy(), packed.numpy())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(finished, recipe, dataset, tmp_path):
    _, folder = finished
    result_of(run(recipe, dataset, tmp_path / "again", 1, code=CODE))
    result_of(run(recipe, dataset, tmp_path / "other", 2, code=CODE))
    data = [(path / "model.bin").read_bytes() for path in (folder, tmp_path / "again", tmp_path / "other")]
    assert data[0] == data[1] != data[2]


def test_the_tokenizer_counts_only_where_the_rules_say_so(finished, recipe, dataset, tmp_path):
    counted, _ = finished
    free = result_of(
        run(recipe.replace({"budget.count_tokenizer": False}), dataset, tmp_path / "free", 1, code=CODE)
    )
    tokenizer = dict(map(tuple, free["ledger"]))["tokenizer"]
    assert tokenizer > 0
    assert counted["total_bytes"] - free["total_bytes"] == tokenizer


def test_without_an_average_there_is_one_set_of_weights(recipe, dataset, tmp_path):
    result = result_of(run(recipe.replace(average=NoAverage()), dataset, tmp_path / "r", 1, code=CODE))
    assert [row["name"] for row in result["variants"]] == ["live", "quantized", "quantized"]
    weights = read_tensors(tmp_path / "r" / "weights.safetensors")[0]
    assert all(name.startswith("live/") for name in weights)


def test_fewer_lines_are_logged_where_asked_for(recipe, dataset, tmp_path):
    result_of(run(recipe.replace({"train.log_steps": 3}), dataset, tmp_path / "r", 1, code=CODE))
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 4]  # the last step always


def test_what_is_scored_once_is_one_row(recipe, dataset, tmp_path):
    """The final windows of this recipe are those of the comparison."""
    plan = recipe.replace({"score.windows": Chunked(length=32), "average": NoAverage()})
    result = result_of(run(plan, dataset, tmp_path / "r", 1, code=CODE))
    assert [row["name"] for row in result["variants"]] == ["live", "quantized"]
    assert result["bits_per_byte"] == result["variants"][-1]["bits_per_byte"]


def test_mixers_and_the_model_alone_are_scored_in_one_pass(recipe, dataset, tmp_path, monkeypatch):
    plan = recipe.replace({"score.mixers": (NgramCache(weight=0.3),), "average": NoAverage()})
    passes = []
    real = scoring_module.score_split
    monkeypatch.setattr(
        scoring_module,
        "score_split",
        lambda *given, **named: passes.append(given[2]) or real(*given, **named),
    )
    rows = result_of(run(plan, dataset, tmp_path / "r", 1, code=CODE))["variants"]
    assert [row["name"] for row in rows] == ["live", "quantized", "quantized", "adapted"]
    assert [each.mixers for each in passes] == [(), (), plan.score.mixers]
    model = load_model(unpack((tmp_path / "r" / "model.bin").read_bytes()), choose_backend(recipe.backend))
    alone = summary(finish(real(model, dataset, plan.score.fixed(), "score")).scores)
    assert rows[2]["windows"] == alone["windows"] != rows[1]["windows"]
    assert rows[2]["bits_per_byte"] == pytest.approx(alone["bits_per_byte"], rel=1e-6)
    assert rows[2]["bits_per_byte"] != rows[3]["bits_per_byte"]


def test_over_budget_is_a_result(recipe, dataset, tmp_path):
    result = result_of(
        run(recipe.replace({"budget.budget_bytes": 5000}), dataset, tmp_path / "r", 1, code=CODE)
    )
    assert result["status"] == "over budget"
    assert result["bits_per_byte"] > 0


def test_divergence_is_a_result(recipe, dataset, tmp_path):
    rows = [row.replace(rule=AdamRule(lr=1e18)) if row.pattern == "*" else row for row in recipe.optim.rows]
    wild = recipe.replace({"optim.rows": tuple(rows)})
    result = result_of(run(wild, dataset, tmp_path / "r", 1, code=CODE))
    assert result["status"] == "diverged"
    assert "bits_per_byte" not in result
    assert read_json(tmp_path / "r" / "result.json")["status"] == "diverged"
    last = json.loads((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["status"] == "diverged"
    assert last["nats_per_token"] is None


def test_a_crash_is_a_result_and_the_run_can_go_on(finished, recipe, dataset, tmp_path, monkeypatch):
    _, whole = finished

    def broken(*_):
        raise RuntimeError("planted")

    with monkeypatch.context() as patch:
        patch.setattr("bitgolf.run.stages.write_tensors", broken)
        with pytest.raises(RuntimeError, match="planted"):
            result_of(run(recipe, dataset, tmp_path / "r", 1, code=CODE))
    crash = read_json(tmp_path / "r" / "result.json")
    assert crash["status"] == "crash"
    assert "planted" in crash["error"]
    result = result_of(run(recipe, dataset, tmp_path / "r", 1, code=CODE, resume=True))
    assert result["status"] == "ok"
    assert (tmp_path / "r" / "model.bin").read_bytes() == (whole / "model.bin").read_bytes()


def test_one_command_serves_before_and_after_a_kill_at_any_moment(finished, recipe, dataset, tmp_path):
    """Whatever a killed run has left, the same call with resume ends in the same bytes."""
    _, whole = finished
    left = {
        "nothing": [],
        "before recipe.json": ["environment.json"],
        "before the first checkpoint": ["environment.json", "train_gpt.py", "recipe.json", "metrics.jsonl"],
        "before the result": [*(p.name for p in whole.iterdir() if p.is_file() and p.name != "result.json")],
        "after it": [path.name for path in whole.iterdir() if path.is_file()],
    }
    for place, (moment, names) in enumerate(left.items()):
        folder = tmp_path / str(place)
        folder.mkdir()
        for name in names:
            shutil.copy(whole / name, folder)
        if "result" in moment or "after" in moment:
            shutil.copytree(whole / "checkpoint", folder / "checkpoint")
        result = result_of(run(recipe, dataset, folder, 1, code=CODE, resume=True))
        assert result["status"] == "ok", moment
        assert (folder / "model.bin").read_bytes() == (whole / "model.bin").read_bytes(), moment
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4], moment


@pytest.mark.parametrize(
    "line", [b"\0\0\0\0", b"\xff\xfe", b"{}", b"[]", b"null", b'{"step": "2"}', b'{"step": 2', b"[" * 9999]
)
def test_a_line_of_metrics_that_cannot_be_read_is_dropped(finished, recipe, dataset, line):
    _, folder = finished
    good = (folder / "metrics.jsonl").read_bytes()
    (folder / "result.json").unlink()
    first, rest = good.split(b"\n", 1)
    (folder / "metrics.jsonl").write_bytes(first + b"\n" + line + b"\n" + rest + line)
    assert result_of(run(recipe, dataset, folder, 1, code=CODE, resume=True))["status"] == "ok"
    assert (folder / "metrics.jsonl").read_bytes() == good


def test_what_fails_after_training_is_a_result_with_what_is_known(recipe, dataset, tmp_path, monkeypatch):
    folder = tmp_path / "r"

    def broken(*_, **__):
        raise DataError("planted")

    with monkeypatch.context() as patch:
        patch.setattr("bitgolf.run.scoring.score_split", broken)
        with pytest.raises(DataError, match="planted"):
            result_of(run(recipe, dataset, folder, 1, code=CODE))
    crash = read_json(folder / "result.json")
    assert crash["status"] == "crash" and crash["error"] == "DataError: planted"
    assert "broken" in crash["trace"]
    assert crash["steps"] == 4 and crash["dtype"] == "float32" and crash["train_tokens"] == 512
    assert finish(pack_again(open_run(folder), tmp_path / "packed"))["status"] == "ok"


@pytest.mark.parametrize("rate", [1e9, 9e18])
def test_a_spike_names_its_tensor(recipe, dataset, tmp_path, rate):
    rows = [row.replace(rule=AdamRule(lr=rate)) if row.pattern == "*" else row for row in recipe.optim.rows]
    wild = recipe.replace({"optim.rows": tuple(rows), "train.steps": 1})
    result = result_of(run(wild, dataset, tmp_path / "r", 1, code=CODE))
    assert result["status"] == "diverged"
    assert "skip_weights" in result["error"] or "live/" in result["error"]
    assert result == read_json(tmp_path / "r" / "result.json")


def test_the_number_type_that_a_run_began_in_is_kept(recipe, dataset, tmp_path, monkeypatch):
    """The machine measures otherwise when the run goes on; it ends as if nothing had been measured."""
    auto = recipe.replace({"backend.dtype": "auto"})
    for place, began in enumerate(("bfloat16", "float32")):
        folder, gains = tmp_path / began, {"bfloat16": 9.0, "float32": 0.1}
        monkeypatch.setattr(backend_module, "bfloat16_gain", lambda _, gain=gains[began]: gain)
        result_of(run(auto, dataset, folder, 1, code=CODE))
        before = (folder / "model.bin").read_bytes()
        result = read_json(folder / "result.json")
        assert result["dtype"] == began
        other = ("float32", "bfloat16")[place]
        monkeypatch.setattr(backend_module, "bfloat16_gain", lambda _, gain=gains[other]: gain)
        again = result_of(run(auto, dataset, folder, 1, code=CODE, resume=True))
        assert again["dtype"] == began and (folder / "model.bin").read_bytes() == before
        assert again["bits_per_byte"] == result["bits_per_byte"]
        assert again["environment"]["backend"]["dtype"] == f"{began}: kept, it was begun in this"
        assert open_run(folder).backend.dtype_name == began


def test_preflight_packs_with_what_calibration_saw_and_scores(recipe, dataset, monkeypatch):
    asked = recipe.replace({"quantize": feedback_rows()})
    seen = []
    monkeypatch.setattr(
        "bitgolf.run.preflight.quantize_weights",
        lambda *given: seen.append(given) or quantize_weights(*given),
    )
    unpacked = finish(preflight(asked, dataset, Backend(), 1))
    assert seen[0][2] and unpacked.model == recipe.model
    monkeypatch.setattr("bitgolf.run.preflight.summary", lambda scores: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finish(preflight(asked, dataset, Backend(), 1))


def test_a_folder_in_use_is_refused_and_left_alone(finished, recipe, dataset, tmp_path):
    _, folder = finished
    before = (folder / "result.json").read_bytes()
    with pytest.raises(BitgolfError, match="holds a run already"):
        result_of(run(recipe, dataset, folder, 1, code=CODE))
    with pytest.raises(BitgolfError, match="run of another recipe"):
        result_of(run(recipe.replace({"train.steps": 5}), dataset, folder, 1, code=CODE, resume=True))
    with pytest.raises(BitgolfError, match="state of another recipe"):
        result_of(run(recipe, dataset, folder, 2, code=CODE, resume=True))
    assert (folder / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.vocabulary_size": 300}, "the tokenizer has 320 pieces, the model 300"),
        ({"data.sequence_length": 65536, "train.batch_tokens": 65536}, "shorter than one sequence"),
        ({"optim.rows": ()}, "no row matches parameter"),
        ({"quantize.rules": ()}, "no rule for"),
    ],
)
def test_preflight_refuses_before_any_training(recipe, dataset, tmp_path, changes, message):
    with pytest.raises(BitgolfError, match=message):
        result_of(run(recipe.replace(changes), dataset, tmp_path / "r", 1, code=CODE))
    assert not (tmp_path / "r").exists()


def test_a_killed_run_resumes_to_the_same_bytes(recipe, dataset, tmp_path):
    """Kill -9 somewhere in training, twice; what comes out is what an undisturbed run gives."""
    long = recipe.replace({"train.steps": 120, "train.checkpoint_seconds": 0.0})
    result_of(run(long, dataset, tmp_path / "whole", 3, code=b""))
    write_json(tmp_path / "recipe.json", to_json(long))
    command = [sys.executable, "-m", "tests.run_tiny", str(tmp_path / "recipe.json"), str(dataset.folder)]
    folder = tmp_path / "killed"
    for steps, extra in ((20, []), (60, ["--resume"])):
        process = subprocess.Popen(
            [*command, str(folder), *extra], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        wait_for_lines(folder / "metrics.jsonl", steps, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "model.bin").exists(), "killed too late to prove anything"
    result_of(run(long, dataset, folder, 3, code=b"", resume=True))
    assert (folder / "model.bin").read_bytes() == (tmp_path / "whole" / "model.bin").read_bytes()
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 121))


def wait_for_lines(path, lines, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.is_file() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_model_needs_nothing_but_its_artifact(finished):
    _, folder = finished
    unpacked = unpack((folder / "model.bin").read_bytes())
    assert load_model(unpacked, Backend()).plan == unpacked.model


def test_heads_of_training_never_enter_the_artifact(recipe, dataset, tmp_path):
    ahead = recipe.replace({"model.objective": MultiToken(heads=2, weight=0.5)})
    result = result_of(run(ahead, dataset, tmp_path / "ahead", 1, code=CODE))
    data = (tmp_path / "ahead" / "model.bin").read_bytes()
    opened = unpack(data)
    assert opened.model == recipe.model
    assert result["parameters"] == count_parameters(recipe.model) < count_parameters(ahead.model)
    stored, _ = read_tensors(tmp_path / "ahead" / "weights.safetensors")
    assert "averaged/mtp_heads.1.weight" in stored
    plain = {name: stored[f"averaged/{name}"] for name in opened.weights}
    tensors, _ = quantize_weights(recipe.quantize, plain)
    assert pack(recipe.model, tensors, dataset.tokenizer.to_bytes(), recipe.pack).data == data


def test_live_and_averaged_stand_side_by_side_whatever_the_average(recipe, dataset, tmp_path):
    averages = {
        "ema": Ema(decay=0.5),
        "swa": Swa(every=1, start_scale=0.9),
        "count": SwaCount(checkpoints=2, guard=0.2),
        "latest": Latest(snapshots=2, every=1),
    }
    recipe = recipe.replace({"optim.schedule": WarmdownFraction(fraction=1.0)})
    for name, average in averages.items():
        result = result_of(run(recipe.replace(average=average), dataset, tmp_path / name, 1, code=CODE))
        scores = {row["name"]: row["bits_per_byte"] for row in result["variants"]}
        assert scores["live"] != scores["averaged"], name
    nothing = recipe.replace(average=Swa(every=1000))
    result = result_of(run(nothing, dataset, tmp_path / "nothing", 1, code=CODE))
    assert "averaged" not in {row["name"] for row in result["variants"]}


def test_settings_that_do_not_fit_the_data_are_refused_before_training(recipe, dataset, tmp_path):
    cases = {
        "documents open with token 1": {"model.bos_id": 5},
        "matches no tensor": {"noise": FakeQuantize(patterns=("layer.*",))},
    }
    for message, changes in cases.items():
        with pytest.raises(BitgolfError, match=message):
            result_of(run(recipe.replace(changes), dataset, tmp_path / "refused", 1, code=CODE))
        assert not (tmp_path / "refused" / "recipe.json").exists()


def test_preflight_scores_windows_from_all_over_the_text(recipe, dataset, monkeypatch):
    """Its end and its start among them: what goes wrong anywhere goes wrong before the training."""
    seen = []
    monkeypatch.setattr("bitgolf.run.preflight.summary", seen.append)
    windows = [recipe.score.windows, Chunked(length=32), PerDocument(within=Chunked(length=32))]
    for each in windows:
        finish(preflight(recipe.replace({"score.windows": each}), dataset, Backend(), 1))
    tokens = dataset.val.all()
    for scores in seen:
        assert not scores.complete and np.isfinite(scores.nats).all()
        assert scores.target[scores.position.argsort()[0]] in tokens
        assert 0 < len(scores.nats) <= PREFLIGHT_WINDOWS * 32
        documents = set(scores.document.tolist())
        assert len(documents) > 1 and scores.document.max() == (tokens == dataset.tokenizer.bos).sum() - 1
    end = seen[0].target[: int((seen[0].context[1:] <= seen[0].context[:-1]).argmax()) + 1]
    assert np.array_equal(end, tokens[-len(end) :])


def test_a_run_that_goes_on_elsewhere_says_so(recipe, dataset, tmp_path, monkeypatch):
    assert other_machine(tmp_path, recipe) == ""
    result_of(run(recipe, dataset, tmp_path, 1, code=CODE))
    assert other_machine(tmp_path, recipe) == ""
    begun = read_json(tmp_path / "environment.json")
    begun |= {"torch": "2.6.0", "backend": {**begun["backend"], "device": "cuda: the best one found"}}
    write_json(tmp_path / "environment.json", begun)
    said = other_machine(tmp_path, recipe.replace({"backend.device": "cpu"}))
    assert f"torch 2.6.0 before, {torch.__version__} now, device cuda before, cpu now" in said
    assert "processor" not in said and "\n" not in said
    write_json(tmp_path / "environment.json", {"torch": 2})
    assert "not known on which machine" in other_machine(tmp_path, recipe)


def test_a_script_says_in_one_line_what_the_system_refuses(recipe, dataset, tmp_path, monkeypatch, capsys):
    """A fault of its own is a traceback, for whoever wrote the submission."""
    words = ["train_gpt.py", "--data", str(dataset.folder), "--out", str(tmp_path / "r")]
    monkeypatch.setattr(sys, "argv", [str(tmp_path / words[0]), *words[1:]])
    assert main(recipe) == 2
    monkeypatch.setattr("bitgolf.run.stages.preflight", lambda *_: (tmp_path / "gone.bin").read_bytes())
    monkeypatch.setattr(sys, "argv", [__file__, *words[1:]])
    assert main(recipe) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 2
    assert all(line.startswith("error: ") and "No such file" in line for line in err.splitlines())
    assert "gone.bin" in err and words[0] in err
    monkeypatch.setattr("bitgolf.run.stages.preflight", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(recipe)
