"""The command line: its contract, its refusals (one line, exit code 2, nothing lost), its help."""

import errno
import gc
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import zstandard

from bitgolf.base.files import read_json, write_json
from bitgolf.base.plan import to_json
from bitgolf.base.tensors import read_tensors
from bitgolf.cli import main as cli
from bitgolf.net.embed import SmearVector
from bitgolf.net.model import ModelPlan, parameter_shapes
from bitgolf.net.values import ValueEmbedding
from bitgolf.public.checkpoints import pack_public_int8
from bitgolf.squeeze import codec

RESULT_KEYS = {
    "bits_per_byte", "nats_per_token", "tokens", "text_bytes", "artifact_bytes", "code_bytes", "total_bytes",
    "budget_bytes", "parameters", "train_seconds", "steps", "tokens_per_second", "seed", "status",
}  # fmt: skip


@pytest.fixture
def bitgolf(monkeypatch, capsys, tmp_path, own_cache):
    """Type a command; get exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def typed(*words):
        monkeypatch.setattr(sys, "argv", ["bitgolf", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        gc.enable()  # verbs that only look leave it off
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return typed


@pytest.fixture
def recipe_file(recipe, tmp_path):
    write_json(tmp_path / "tiny.json", to_json(recipe))
    return tmp_path / "tiny.json"


@pytest.fixture
def finished(bitgolf, recipe_file, dataset, tmp_path, kept):
    """A folder of the tiny recipe's run, trained once and copied, and what `bitgolf run` said of it."""
    if not (kept / "said.json").exists():
        code, out, _ = bitgolf("run", recipe_file, "--data", dataset.folder, "--out", kept / "run", "--json")
        assert code == 0
        (kept / "said.json").write_text(out)
    shutil.copytree(kept / "run", tmp_path / "run")
    return tmp_path / "run", json.loads((kept / "said.json").read_text())


def refused(answer, *words):
    """Exit code 2, one clear error with these words, on stdout no more than that in JSON, no traceback."""
    code, out, err = answer
    assert code == 2, err
    if out:  # with --json
        said = json.loads(out)
        assert (said["status"], said["exit_code"]) == ("error", 2)
        assert all(word in said["error"] for word in words)
    assert "Traceback" not in err
    for word in words:
        assert word in err
    return err


def test_run_prints_one_json_object_with_the_agreed_keys(finished):
    folder, result = finished
    assert set(result) >= RESULT_KEYS
    assert (folder / "report.html").is_file()
    assert result["code_bytes"] == (folder / "train_gpt.py").stat().st_size


@pytest.mark.usefixtures("any_script_here")
def test_run_for_people_ends_with_name_value_lines(bitgolf, recipe_file, dataset):
    code, out, err = bitgolf("run", recipe_file, "--data", dataset.folder, "--out", "r")
    assert code == 0
    lines = dict(line.split(":", 1) for line in out.splitlines() if ":" in line)
    assert set(lines) >= RESULT_KEYS
    assert lines["status"].strip() == "ok"
    assert "train" in err


def test_score_repeats_the_result_from_the_artifact_alone(bitgolf, finished, tmp_path):
    folder, result = finished
    code, out, _ = bitgolf("score", folder, "--json")
    assert code == 0
    assert json.loads(out)["bits_per_byte"] == result["bits_per_byte"]
    (tmp_path / "alone.bin").write_bytes((folder / "model.bin").read_bytes())
    (tmp_path / "text.txt").write_bytes(
        "the people of this nation \udcff ▁".encode("utf-8", "surrogateescape") * 9
    )
    code, out, _ = bitgolf("score", "alone.bin", "--text", "text.txt", "--json")
    assert code == 0
    assert json.loads(out)["text_bytes"] == (tmp_path / "text.txt").stat().st_size


def test_data_is_a_text_wherever_it_is_given(bitgolf, finished, tmp_path):
    """Text is tokenized as the model does, once, and its validation part is scored and proven."""
    folder, _ = finished
    chapters = (f"{i} " + "the people of this nation shall keep peace with all. " * 90 for i in range(12))
    (tmp_path / "book.txt").write_text("\n\n".join(chapters))
    for verb in ("score", "prove"):
        code, out, err = bitgolf(verb, folder, "--data", "book.txt", "--json")
        assert code == 0, err
        assert 0 < json.loads(out)["text_bytes"] < (tmp_path / "book.txt").stat().st_size
    kept = [path.name for path in (tmp_path / "cache").glob("book-txt-320-*")]
    assert len(kept) == 1
    refused(bitgolf("score", folder, "--data", "nowhere"), "no such text source or path")


def test_score_settings_bite(bitgolf, finished):
    folder, result = finished
    _, out, _ = bitgolf("score", folder, "--set", "score.windows=Chunked(length=16)", "--json")
    assert json.loads(out)["bits_per_byte"] > result["bits_per_byte"]


def test_a_packed_model_is_scored_with_other_windows_and_positions(bitgolf, finished):
    folder, result = finished
    for change in (
        "model.scope=(AttentionWindow(tokens=4),)",
        "model.position.reference_length=8",
        "model.recurrence=Huginn(first=0, last=1, loops=1, evaluation_loops=2)",
    ):
        code, out, err = bitgolf("score", folder, "--set", change, "--set", "model.route=Plain()", "--json")
        assert code == 2 and "other weights" in err  # the route has skip weights
        code, out, _ = bitgolf("score", folder, "--set", change, "--json")
        if "Huginn" in change:  # two more stops are a further skip
            assert code == 2
            continue
        assert code == 0 and json.loads(out)["bits_per_byte"] != result["bits_per_byte"]
    refused(bitgolf("score", folder, "--set", "model.layers=3"), "need other weights", "model.layers=3")


def test_a_public_checkpoint_is_scored_with_the_tokenizer_of_the_dataset(
    bitgolf, finished, dataset, tmp_path
):
    folder, _ = finished
    weights = read_tensors(folder / "weights.safetensors")[0]
    live = {name.removeprefix("live/"): w for name, w in weights.items() if name.startswith("live/")}
    torch.save(live, tmp_path / "final_model.pt")
    (tmp_path / "final_model.int8.ptz").write_bytes(pack_public_int8(live))
    bits = {}
    for name in ("final_model.pt", "final_model.int8.ptz"):
        refused(bitgolf("score", name), "carries no tokenizer", "--data")
        code, out, _ = bitgolf(
            "score", name, "--data", dataset.folder, "--set", "score.windows=Chunked(length=32)", "--json"
        )
        assert code == 0
        bits[name] = json.loads(out)["bits_per_byte"]
    assert 0 < abs(bits["final_model.pt"] - bits["final_model.int8.ptz"]) < 0.01


def mixed_per_row(state):
    """A file in #543's form, by an own writer: int8 by row, blocks in steps of four, the table float16."""
    table = {"__quant_format__": "int8_mixed_per_row_v1"}
    table |= {key: {} for key in ("quantized", "scales", "dtypes", "passthrough", "passthrough_orig_dtypes")}
    for name, tensor in state.items():
        if tensor.ndim != 2 or tensor.numel() < 500 or name == "tok_emb.weight":
            small = tensor.numel() < 100
            table["passthrough"][name] = tensor if small else tensor.half()
            table["passthrough_orig_dtypes"] |= {} if small else {name: "float32"}
            continue
        scales = (tensor.abs().amax(1) / 127).half()
        codes = (tensor / scales.float()[:, None]).round()
        codes = (codes / 4).round() * 4 if name.startswith("blocks.") else codes
        table["quantized"][name] = codes.clamp(-127, 127).to(torch.int8)
        table["scales"][name], table["dtypes"][name] = scales, "float32"
    back = {
        name: codes * table["scales"][name].float()[:, None] for name, codes in table["quantized"].items()
    }
    buffer = io.BytesIO()
    torch.save(table, buffer)
    packed = zstandard.ZstdCompressor(level=22).compress(buffer.getvalue())
    return packed, back | {name: tensor.float() for name, tensor in table["passthrough"].items()}


def test_an_artifact_in_the_form_of_543_is_scored(bitgolf, dataset, tmp_path):
    plan = ModelPlan(
        vocabulary_size=dataset.tokenizer.vocabulary_size,
        layers=3,
        width=32,
        heads=4,
        kv_heads=2,
        embed=(SmearVector(),),
        values=(ValueEmbedding(dimension=8, layers=(1, 2), shared_scale=False),),
    )
    draw = torch.Generator().manual_seed(5)
    state = {name: torch.randn(shape, generator=draw) * 0.3 for name, shape in parameter_shapes(plan).items()}
    theirs = {"ve_shared.": "ve.", "smear.gate": "smear_gate.gate_weight"}

    def public(name):
        return next((other + name.removeprefix(own) for own, other in theirs.items() if own in name), name)

    packed, back = mixed_per_row({public(name): tensor for name, tensor in state.items()})
    (tmp_path / "final_model.int8.ptz").write_bytes(packed)
    ours = {name: back[public(name)] for name in state}
    torch.save(ours, tmp_path / "final_model.pt")
    windows = ("--data", dataset.folder, "--set", "score.windows=Chunked(length=32)", "--json")
    named = (
        "model.heads_out=(Xsa(last=2),)",
        "model.position.dims=4",
        "model.input_scale=LnScale()",
        "model.activation=ReluSquared()",
    )
    bits = []
    for count in range(len(named) + 1):
        given = [word for change in named[:count] for word in ("--set", change)]
        found = []
        for name in ("final_model.int8.ptz", "final_model.pt"):
            code, out, err = bitgolf("score", name, *windows, *given)
            assert code == 0
            found.append(json.loads(out)["bits_per_byte"])
            notes = [line for line in err.splitlines() if "weights do not show" in line]
            assert len(notes) == (count < len(named))
            for change in named[count:]:  # what nobody named is in the line, with how to name it
                assert change.partition("=")[0] in notes[0]
            assert not any(change.partition("=")[0] in note for change in named[:count] for note in notes)
        assert found[0] == found[1]
        bits.append(found[0])
    assert len({*bits[:4]}) == 4 and bits[4] == bits[3]  # each of them counts; the last is the baseline's own


def test_sample_is_repeatable(bitgolf, finished):
    folder, _ = finished
    words = ("sample", folder, "--prompt", "the people", "--tokens", 12, "--json")
    first, second = (json.loads(bitgolf(*words)[1])["text"] for _ in range(2))
    assert first == second
    assert json.loads(bitgolf(*words, "--seed", 5)[1])["text"] != first
    shown = bitgolf(*words[:-1])[1]
    assert shown.startswith(f"the people{first}\n\nartifact:")
    stopped = json.loads(bitgolf(*words, "--stop", first[3:5])[1])["text"]
    assert stopped == first[: first.find(first[3:5])]
    refused(bitgolf(*words, "--top-p", 2), "cannot sample like this")
    refused(bitgolf(*words, "--window", 10**17), "--window")
    refused(bitgolf(*words, "-i"), "two forms at once")


def test_what_is_typed_is_continued_line_by_line(bitgolf, finished, monkeypatch):
    folder, _ = finished
    monkeypatch.setattr(sys, "stdin", io.StringIO("the people\n\n of\n"))
    code, out, _ = bitgolf("sample", folder, "-i", "--tokens", 3, "--temperature", 0)
    assert code == 0
    first = json.loads(
        bitgolf("sample", folder, "--prompt", "the people", "--tokens", 3, "--temperature", 0, "--json")[1]
    )["text"]
    lines = out.split("\n")
    assert lines[0] == first and len([line for line in lines if line]) >= 1


@pytest.mark.usefixtures("any_script_here")
def test_show_compare_and_forecast(bitgolf):
    _, out, _ = bitgolf("show", "demo", "--json")
    assert json.loads(out)["settings"]["budget"]["budget_bytes"] == 1_000_000
    _, out, _ = bitgolf("compare", "demo", "demo", "--json")
    assert json.loads(out)["differences"] == 0
    _, out, _ = bitgolf("compare", "demo", "baseline", "--json")
    assert "budget.budget_bytes" in {change["path"] for change in json.loads(out)["changes"]}
    code, out, _ = bitgolf("forecast", "demo", "--json")
    facts = json.loads(out)
    assert code == 0
    assert sum(row["elements"] for row in facts["tensors"]) == facts["parameters"]
    assert facts["widest"] >= 160 and facts["deepest"] >= 4 and facts["filling_bits"] > 3
    assert [row["setting"] for row in facts["filling"]] == ["model.width", "model.layers", "bits a weight"]


@pytest.mark.usefixtures("any_script_here")
def test_a_forecast_says_what_would_fill_the_budget(bitgolf):
    changes = ("--set", "budget.budget_bytes=400_000", "--set", "pack.codec=Deflate()")
    code, out, _ = bitgolf("forecast", "pr543-laptop", *changes)
    assert code == 1
    assert "What would fill the budget of 400,000 bytes" in out
    assert "none of layers 0 to 4" in " ".join(out.split())
    assert re.search(r"widest: +\d+\n", out) and re.search(r"deepest: +-\n", out)


def test_data_prints_a_verified_passport(bitgolf, dataset):
    code, out, _ = bitgolf("data", dataset.folder, "--json")
    assert code == 0
    assert json.loads(out)["verified"] is True


def test_every_verb_teaches_by_example(bitgolf):
    for verb in ("demo", "run", "show", "data", "score", "sample", "compare", "forecast", "techniques"):
        code, out, _ = bitgolf(verb, "--help")
        assert code == 0
        assert f"bitgolf {verb}" in out


@pytest.mark.usefixtures("any_script_here")
def test_an_over_budget_run_exits_with_1(bitgolf, recipe, dataset, recipe_file, monkeypatch):
    monkeypatch.setattr("bitgolf.pipeline.work.refuse_over_budget", lambda facts: None)
    code, out, _ = bitgolf(
        "run", recipe_file, "--data", dataset.folder, "--set", "budget.budget_bytes=9000", "--json"
    )
    assert code == 1
    assert json.loads(out)["status"] == "over budget"


def test_settings_are_refused_with_the_nearest_name(bitgolf, recipe_file):
    refused(bitgolf("run", recipe_file, "--set", "train.stepz=3"), "train.stepz", "did you mean 'steps'?")
    refused(bitgolf("run", recipe_file, "--set", "train.steps=many"), "expected int")
    refused(bitgolf("run", recipe_file, "--set", "train.steps=0"), "must be at least 1, found 0")
    refused(bitgolf("show", "demoo"), "demoo", "did you mean 'demo'?")
    refused(bitgolf("show", "demo", "--stepz"), "stepz")
    refused(bitgolf("shou"), "shou")


def test_a_folder_does_not_hide_a_recipe_of_its_name(bitgolf, tmp_path):
    (tmp_path / "demo").mkdir()
    code, out, _ = bitgolf("show", "demo", "--json")
    assert code == 0
    assert json.loads(out)["recipe"] == "demo"


def test_a_recipe_file_can_fail_in_any_way(bitgolf, tmp_path):
    (tmp_path / "mine.py").write_text("def good():\n    return 3\n\ndef bad():\n    return 1 / 0\n")
    refused(bitgolf("show", "mine.py:good"), "does not return a Recipe", "'int'")
    refused(bitgolf("show", "mine.py:bad"), "ZeroDivisionError", "mine.py:bad")
    refused(bitgolf("show", "absent.py:good"), "no such recipe file")
    (tmp_path / "broken.json").write_text('{"class": "Recipe", "trian": {}}')
    refused(bitgolf("show", "broken.json"), "trian: unknown setting", "did you mean 'train'?")


def test_a_budget_that_cannot_hold_the_model_is_refused_at_once(bitgolf, recipe_file, dataset, tmp_path):
    answer = bitgolf(
        "run", recipe_file, "--data", dataset.folder, "--set", "budget.budget_bytes=1000", "--out", "r"
    )
    refused(answer, "budget.budget_bytes", "1000", "make the model smaller")
    assert not (tmp_path / "r").exists()


def test_damaged_artifacts_are_refused(bitgolf, finished, tmp_path):
    folder, _ = finished
    data = (folder / "model.bin").read_bytes()
    for name, damaged in (
        ("cut", data[:-1]),
        ("flip", data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]),
        ("long", data + b"x"),
        ("text", b"hello"),
    ):
        (tmp_path / name).write_bytes(damaged)
        refused(bitgolf("score", name, "--text", __file__), "error:")
    refused(bitgolf("score", "absent.bin"), "absent.bin")


def test_damaged_data_is_refused(bitgolf, dataset, recipe_file, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in dataset.folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = copy / "train_000000.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    refused(bitgolf("run", recipe_file, "--data", copy), "train_000000.bin")
    shard.write_bytes(whole[:-2] + b"\x00\x00")
    refused(bitgolf("data", copy), "train_000000.bin", "hash")
    shard.write_bytes(whole)
    passport = read_json(copy / "passport.json")
    write_json(copy / "passport.json", {**passport, "tokenizer_identity": "0" * 64})
    refused(bitgolf("run", recipe_file, "--data", copy), "tokenizer")


def test_a_damaged_checkpoint_is_refused(bitgolf, finished, recipe_file, dataset):
    folder, _ = finished
    state = folder / "checkpoint" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-9])
    before = (folder / "result.json").read_bytes()
    answer = bitgolf("run", recipe_file, "--data", dataset.folder, "--out", folder, "--resume")
    refused(answer, "state.safetensors", "damaged")
    assert (folder / "result.json").read_bytes() == before


def test_too_little_text_is_refused(bitgolf, recipe_file, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(bitgolf("data", "empty"), "empty")
    (tmp_path / "small.txt").write_text("a few words only")
    refused(bitgolf("data", "small.txt"), "small.txt")
    refused(bitgolf("data", "no-such-thing"), "no-such-thing")


def test_a_full_disk_is_one_clear_error(bitgolf, recipe_file, dataset, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(bitgolf("run", recipe_file, "--data", dataset.folder), "no space left on the disk")


def test_a_missing_compressor_is_named_and_nothing_else_is_used(bitgolf, recipe_file, dataset, monkeypatch):
    monkeypatch.setattr(codec, "zstandard", None)
    answer = bitgolf("run", recipe_file, "--data", dataset.folder, "--set", "pack.codec=Zstd")
    refused(answer, "zstandard")


def test_a_tokenizer_of_another_model_is_refused(bitgolf, finished, dataset, tmp_path):
    folder, _ = finished
    (tmp_path / "texts").mkdir()
    for number in range(30):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"zebras quarrel loudly {number} " * 60)
    code, out, err = bitgolf("data", "texts", "--vocabulary-size", 300, "--json")
    assert code == 0, err
    refused(bitgolf("score", folder, "--data", json.loads(out)["folder"]), "another tokenizer")


@pytest.mark.usefixtures("any_script_here")
def test_a_run_records_its_public_variables(bitgolf, recipe_file, dataset):
    words = ("run", recipe_file, "--data", dataset.folder, "--out", "r")
    variables = ("--env", "ROPE_DIMS=8", "--env", "EMA_DECAY=0.9", "--env", "SEED=7")
    code, out, err = bitgolf(*words, *variables, "--set", "average.decay=0.8")
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("ROPE_DIMS"))
    assert line.split() == ["ROPE_DIMS", "8", "model.position:", "Rope.dims", "0", "8"]
    recipe, result = read_json(Path("r/recipe.json")), read_json(Path("r/result.json"))
    assert recipe["model"]["position"]["dims"] == 8
    assert recipe["average"]["decay"] == 0.8  # --set comes after the variables
    assert result["seed"] == 7
    assert result["public_variables"] == {"ROPE_DIMS": "8", "EMA_DECAY": "0.9", "SEED": "7"}


def test_public_variables_that_do_not_fit_are_refused(bitgolf, recipe_file):
    refused(bitgolf("run", recipe_file, "--env", "ROPE_DIM=8"), "ROPE_DIM", "did you mean 'ROPE_DIMS'?")
    refused(bitgolf("show", recipe_file, "--env", "ROPE_DIMS"), "expected NAME=VALUE")
    refused(bitgolf("forecast", recipe_file, "--env", "TTT_LR=1"), "TTT_LR", "give TTT_ENABLED too")
    refused(bitgolf("run", recipe_file, "--env", "SEED=7", "--seed", 8), "two seeds", "SEED=7")


@pytest.mark.usefixtures("any_script_here")
def test_public_variables_are_shown_compared_and_forecast(bitgolf):
    variables = ("--env", "MLP_MULT=3.0", "--env", "MATRIX_LR=0.02")
    _, out, _ = bitgolf("show", "baseline", *variables)
    assert "optim.rows, matrices: lr" in out
    _, out, _ = bitgolf("show", "baseline", *variables, "--json")
    assert json.loads(out)["public_variables"] == {"MLP_MULT": "3.0", "MATRIX_LR": "0.02"}
    code, script, _ = bitgolf("show", "baseline", *variables, "--script")
    assert code == 0
    compile(script, "script", "exec")
    assert 'mlp_multiplier=env("MLP_MULT", 3.0)' in script  # the variable's default
    _, out, _ = bitgolf("compare", "baseline", "baseline", *variables, "--json")
    changes = {change["path"] for change in json.loads(out)["changes"]}
    assert changes == {"model.mlp_multiplier", "optim.rows.1.rule.lr"}
    _, out, _ = bitgolf("forecast", "baseline", *variables, "--json")
    assert json.loads(out)["parameters"] == 21_778_504


def test_techniques_are_listed_and_explained(bitgolf):
    code, out, _ = bitgolf("techniques", "Xsa")
    assert code == 0
    assert "Exclusive self-attention" in out
    assert "XSA_LAST_N" in out
    _, out, _ = bitgolf("techniques", "Xsa", "--json")
    assert json.loads(out)["settings"][0]["limits"] == "at least 0"
    _, out, _ = bitgolf("techniques", "--json")
    assert {"Xsa", "Ema", "CaseOps"} <= {one["name"] for one in json.loads(out)["techniques"]}
    code, out, _ = bitgolf("techniques")
    assert code == 0
    assert "HeadsPart (model.heads_out)" in out
    refused(bitgolf("techniques", "Xssa"), "Xssa", "did you mean 'Xsa'?")


def test_a_batch_that_cannot_be_shared_out_is_refused_before_the_data_is_made(
    bitgolf, recipe_file, monkeypatch
):
    monkeypatch.setattr("bitgolf.pipeline.work.find_dataset", lambda *_: 1 / 0)
    uneven = ("--set", "train.batch_tokens=96", "--set", "train.accumulation=2")
    refused(bitgolf("run", recipe_file, *uneven), "train.batch_tokens", "multiple of 64")


@pytest.mark.parametrize(
    "words", ["pack r --out|", "prove r --out=", "score|", "audit|", "board . --out|", "score r --data|"]
)
def test_an_empty_path_is_an_unset_variable_and_not_this_folder(bitgolf, tmp_path, words):
    typed = [word for part in words.split("|") for word in part.split()] + [""] * words.endswith("|")
    option = "--data" if "--data" in words else "--out" if "--out" in words else typed[0]
    refused(bitgolf(*typed), f"{option}: an empty path", "current folder")
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_an_empty_prompt_is_a_prompt(bitgolf):
    assert bitgolf("sample", "demo", "--prompt", "", "--tokens", "1", "--json")[0] == 0
