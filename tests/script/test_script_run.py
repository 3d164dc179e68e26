"""Scripts as they are submitted: bare shards, public variables, several processes; equal to the package."""

import ast
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import sentencepiece

from bitgolf.adapt.documents import PhasedLora
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.base.plan import to_json
from bitgolf.inputs.resolve import find_recipe
from bitgolf.net.values import ValueEmbedding
from bitgolf.run.training import VALIDATED
from bitgolf.score.windows import Growing, PerDocument
from bitgolf.script.flatten import flatten, pack_script, read_by_name
from bitgolf.script.proofs import ScriptError, compare_runs, prove_scripts, run_alone, run_packaged
from bitgolf.script.shrink import minify
from bitgolf.script.source import PACKAGE_FOLDER
from bitgolf.squeeze.artifact import unpack
from bitgolf.squeeze.tune import TuneByTensor
from bitgolf.text.shards import write_shard
from bitgolf.train.optim import SgdRule
from tests.script.test_flatten import TINY, data  # noqa: F401

VOCABULARY = 320  # of the SentencePiece model: every byte, and some pieces
SHRUNK = {
    "baseline": {},
    "pr543": {"model.layers": 11, "model.heads": 2, "model.kv_heads": 1},
    "demo": {},
}


def shrunk(name):
    return find_recipe(name).replace({**TINY, **SHRUNK[name]})


@pytest.mark.slow
def test_a_script_fine_tunes_as_the_package(data):  # noqa: F811
    tuning = TuneByTensor(steps=2, small_steps=2, step_tokens=64)
    recipe = shrunk("demo").replace({"quantize.tuning": tuning})
    script = flatten(recipe)
    prove_scripts(recipe, data, {"readable": script, "packed": pack_script(script)})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pr543", "demo"])  # baseline: tests/script/test_flatten.py
def test_shrunk_recipes_train_pack_and_score_as_the_package(data, name):  # noqa: F811
    recipe = shrunk(name)
    script = flatten(recipe)
    prove_scripts(recipe, data, {"readable": script, "packed": pack_script(script)})


@pytest.mark.slow
def test_in_bfloat16_a_script_trains_and_packs_as_the_package(data):  # noqa: F811
    """With what is compiled for it, on a CPU."""
    recipe = shrunk("demo").replace({"backend.dtype": "bfloat16", "train.steps": 3})
    script = flatten(recipe)
    assert "class MachineNats" in script
    prove_scripts(recipe, data, {"readable": script})
    wrong = script.replace(" + HALF_BIT", "")
    assert wrong != script
    with pytest.raises(ScriptError, match="wrong: its weights.safetensors is not the package's"):
        prove_scripts(recipe, data, {"wrong": wrong})


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A record folder's surroundings: shards and a SentencePiece model, no passport."""
    folder = tmp_path_factory.mktemp("bare")
    lines = [f"document {i} says that {i * 7919} is a number of {i % 7} words." for i in range(300)]
    (folder / "text.txt").write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tiny"),
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tiny.model"))
    tokens = [token for line in lines for token in (model.bos_id(), *model.encode(line))]
    cut = len(tokens) * 4 // 5
    shards = folder / "shards"
    shards.mkdir()
    for name, part in (("tiny_train_000000.bin", tokens[:cut]), ("tiny_val_000000.bin", tokens[cut:])):
        write_shard(shards / name, np.array(part, np.uint16))
    return folder


def submitted(script, folder, bare, processes=0, **variables):  # noqa: F811
    """Start a script in an empty record folder, as a reviewer does."""
    folder.mkdir()
    (folder / "train_gpt.py").write_bytes(script if isinstance(script, bytes) else script.encode())
    command = [sys.executable]
    if processes:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "DATA_PATH": str(bare / "shards"),
        "TOKENIZER_PATH": str(bare / "tiny.model"),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    return subprocess.run(
        [*command, "train_gpt.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def script():
    return flatten(shrunk("baseline").replace({"model.vocabulary_size": VOCABULARY}))


def test_a_script_reads_bare_shards_by_public_variables_and_says_what_reviewers_look_for(
    script, bare, tmp_path
):
    variables = {
        "RUN_ID": "mine",
        "SEED": "7",
        "ITERATIONS": "14",
        "VAL_LOSS_EVERY": "6",
        "TRAIN_LOG_EVERY": "12",
    }
    run = submitted(script, tmp_path / "record", bare, **variables)
    assert run.returncode == 0, run.stderr
    log = (tmp_path / "record" / "logs" / "mine.txt").read_text()
    assert log.startswith(script) and log.endswith(run.stdout)
    said = run.stdout
    assert "seed:7" in said and re.search(r"^model_params:\d+ ", said, re.M)
    trained = re.findall(
        r"^step:(\d+)/14 train_loss:\d+\.\d{4} train_time:\d+ms step_avg:\d+\.\d\dms$", said, re.M
    )
    assert trained == [*map(str, range(1, 11)), "12", "14"]
    validated = re.findall(
        r"^step:(\d+)/14 val_loss:\d+\.\d{4} val_bpb:\d+\.\d{4} train_time:\d+ms step_avg:\d+\.\d\dms$",
        said,
        re.M,
    )
    assert validated == ["0", "6", "12", "14"]
    assert re.search(r"^step:0/14 val_loss:\S+ val_bpb:\S+ train_time:0ms step_avg:0.00ms$", said, re.M)
    memory = re.search(r"^peak memory allocated: (\d+) MiB reserved: \d+ MiB$", said, re.M)
    assert memory and 50 < int(memory[1]) < 5000  # of the process, where there is no GPU
    sizes = [
        int(size) for size in re.findall(r"^(?:Code size|Serialized model \w+): (\d+) bytes$", said, re.M)
    ]
    assert sizes == [(tmp_path / "record" / name).stat().st_size for name in ("train_gpt.py", "model.bin")]
    assert re.search(r"^Total submission size \w+: \d+ bytes$", said, re.M)
    assert re.search(
        r"^final_\w+_roundtrip val_loss:\d+\.\d{4} val_bpb:\d+\.\d{4} eval_time:\d+ms", said, re.M
    )
    assert re.search(r"^final_\w+_roundtrip_exact val_loss:\d+\.\d{8} val_bpb:\d+\.\d{8}$", said, re.M)
    assert "stopping_early" not in said
    unpacked = unpack((tmp_path / "record" / "model.bin").read_bytes())
    assert unpacked.model.vocabulary_size == VOCABULARY


def test_validation_in_a_script_says_what_the_package_says(data, tmp_path):  # noqa: F811
    recipe = shrunk("baseline").replace({"train.validate_steps": 5, "train.steps": 12})
    options = ["--data", str(data.resolve()), "--out"]
    run_packaged(recipe, [*options, str(tmp_path / "package")])
    script = run_alone(flatten(recipe), [*options, str(tmp_path / "script")])
    compare_runs(tmp_path / "script", tmp_path / "package")
    rows = [json.loads(line) for line in (tmp_path / "package" / "metrics.jsonl").read_text().splitlines()]
    said = re.findall(r"step:(\d+)/12 val_loss:\S+ val_bpb:(\S+)", script.stdout)
    assert said[1:] == [(str(row["step"]), f"{row[VALIDATED]:.4f}") for row in rows if VALIDATED in row]
    assert [step for step, _ in said] == ["0", "5", "10", "12"]  # before the first step, as public scripts do


def test_the_clock_ends_the_training_and_says_so(script, bare, tmp_path):
    run = submitted(script, tmp_path / "record", bare, ITERATIONS="100000", MAX_WALLCLOCK_SECONDS="0.5")
    assert run.returncode == 0, run.stderr
    assert re.search(r"^stopping_early: wallclock_cap train_time:\d+ms step:\d+/100000$", run.stdout, re.M)


def test_no_iterations_score_the_model_as_it_starts(script, bare, tmp_path):
    run = submitted(script, tmp_path / "record", bare, ITERATIONS="0")
    assert run.returncode == 0, run.stderr
    nats = re.search(r"^final_\w+_roundtrip_exact val_loss:(\S+) ", run.stdout, re.M)
    assert nats and float(nats[1]) == pytest.approx(math.log(VOCABULARY), abs=0.3)


def test_an_evaluation_that_takes_too_long_is_no_score(script, bare, tmp_path):
    run = submitted(script, tmp_path / "record", bare, ITERATIONS="2", MAX_EVAL_SECONDS="0.000001")
    assert run.returncode == 1
    assert "stopping_early: evaluation_cap" in run.stdout and "final_" not in run.stdout
    assert not (tmp_path / "record" / "scores.npz").exists()


@pytest.mark.slow
def test_processes_share_an_evaluation_that_learns(bare, tmp_path):
    """Low-rank factors of documents, two phases of the weights, several pieces to a step: to the bit."""
    globally = ScoreFirst(chunk_tokens=256, epochs=1, rule=SgdRule(lr=0.5))
    adapter = PhasedLora(
        batch_documents=4, warm=True, lanes=2, prefix_documents=40, phases=2, globally=globally
    )
    changes = {"model.vocabulary_size": VOCABULARY, "score.adapter": adapter}
    changes["score.windows"] = PerDocument(within=Growing(length=16, stride=4))
    script = flatten(shrunk("baseline").replace(changes))
    assert "CPU_FORWARD_TOKENS = 8192" in script
    script = script.replace("CPU_FORWARD_TOKENS = 8192", "CPU_FORWARD_TOKENS = 64")
    runs = {n: submitted(script, tmp_path / str(n), bare, processes=n, ITERATIONS="0") for n in (0, 2)}
    for run in runs.values():
        assert run.returncode == 0, run.stderr
    before, after = re.findall(r"val_bpb:(\S+)$", runs[2].stdout, re.M)[-2:]
    assert before != after
    one, two = (np.load(tmp_path / str(n) / "scores.npz")["nats"] for n in runs)
    assert one.tobytes() == two.tobytes()
    late = submitted(script, tmp_path / "late", bare, processes=2, ITERATIONS="0", MAX_EVAL_SECONDS="0.1")
    assert late.returncode != 0 and late.stdout.count("stopping_early: evaluation_cap") == 1


@pytest.mark.slow
def test_processes_share_training_and_evaluation(script, bare, tmp_path):
    variables = {"ITERATIONS": "6", "VAL_LOSS_EVERY": "3", "RUN_ID": "two"}
    runs = {n: submitted(script, tmp_path / str(n), bare, processes=n, **variables) for n in (0, 2)}
    for run in runs.values():
        assert run.returncode == 0, run.stderr
    assert "world_size:2" in runs[2].stdout and runs[2].stdout.count("final_quantized_roundtrip_exact") == 1
    scores = {n: np.load(tmp_path / str(n) / "scores.npz") for n in runs}
    for name in ("target", "bytes", "document", "position", "context"):
        assert np.array_equal(scores[0][name], scores[2][name])
    assert np.allclose(scores[0]["nats"], scores[2]["nats"], atol=1e-2) and (scores[2]["nats"] > 0).all()


@pytest.mark.slow
def test_two_processes_do_what_two_processes_of_the_package_do(data, tmp_path):  # noqa: F811
    recipe = shrunk("baseline")
    (tmp_path / "recipe.json").write_text(json.dumps(to_json(recipe)))
    (tmp_path / "train_gpt.py").write_text(flatten(recipe))
    (tmp_path / "package.py").write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "import bitgolf, bitgolf.recipe, bitgolf.run.command\n"
        "from bitgolf.base.plan import from_json\n"
        "bitgolf.import_core()\n"
        f"text = Path({str(tmp_path / 'recipe.json')!r}).read_text()\n"
        "sys.exit(bitgolf.run.command.main(from_json(bitgolf.recipe.Recipe, json.loads(text))))\n"
    )
    for name, program in {"package": "package.py", "script": "train_gpt.py"}.items():
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command.append(str(tmp_path / program))
        options = ["--data", str(data.resolve()), "--seed", "7", "--out", str(tmp_path / name)]
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE_FOLDER.parent), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [*command, *options], env=environment, capture_output=True, text=True, timeout=300
        )
        assert (tmp_path / name / "scores.npz").is_file(), run.stderr
    compare_runs(tmp_path / "script", tmp_path / "package")


def test_the_packed_form_is_started_the_same_way(script, bare, tmp_path):
    run = submitted(pack_script(script), tmp_path / "record", bare, ITERATIONS="2", SEED="3")
    assert run.returncode == 0, run.stderr
    log, minified = (tmp_path / "record" / "logs" / "baseline-3.txt").read_text(), minify(script)
    assert log.startswith(ast.unparse(ast.parse(minified)))  # the program, a statement a line
    assert texts_with_values(minified) == texts_with_values(script)  # names are short, what is printed is not
    assert texts_with_values(minified.replace("val_bpb:", "b:")) != texts_with_values(script)
    assert re.search(r"^step:2/2 train_loss:\S+ train_time:\S+ step_avg:\S+$", run.stdout, re.M)


def texts_with_values(script):
    """The texts around the values that a script writes; no value is the name of a class or a field."""
    written = [node for node in ast.walk(ast.parse(script)) if isinstance(node, ast.JoinedStr)]
    assert not any("__name__" in ast.unparse(node) or "!r" in ast.unparse(node) for node in written)
    parts = (part for node in written for part in node.values)
    return Counter(part.value for part in parts if isinstance(part, ast.Constant))


def test_settings_stand_first_and_are_read_from_the_environment(script, bare, tmp_path):
    tree = ast.parse(script)
    first = next(item for item in tree.body if isinstance(item, ast.FunctionDef))
    assert first.name == "settings"
    names = {
        "NUM_LAYERS",
        "MODEL_DIM",
        "MATRIX_LR",
        "TIED_EMBED_LR",
        "BETA1",
        "WARMDOWN_ITERS",
        "TRAIN_SEQ_LEN",
    }
    assert names <= {item.value for item in ast.walk(first) if isinstance(item, ast.Constant)}
    changed = script.replace('env("NUM_LAYERS", 2)', 'env("NUM_LAYERS", 3)')
    assert changed != script
    run = submitted(changed, tmp_path / "changed", bare, ITERATIONS="2", MODEL_DIM="48", MATRIX_LR="0.01")
    assert run.returncode == 0, run.stderr
    model = unpack((tmp_path / "changed" / "model.bin").read_bytes()).model
    assert (model.width, model.layers) == (48, 3)


def test_a_list_is_read_from_the_environment(bare, tmp_path):
    assert read_by_name(find_recipe("pr543"))["model.values.0.layers"] == "VE_LAYERS"
    values = (ValueEmbedding(dimension=16, layers=(1,)),)
    recipe = shrunk("baseline").replace({"model.vocabulary_size": VOCABULARY, "model.values": values})
    run = submitted(flatten(recipe), tmp_path / "record", bare, ITERATIONS="1", VE_LAYERS="0, 1")
    assert run.returncode == 0, run.stderr
    model = unpack((tmp_path / "record" / "model.bin").read_bytes()).model
    assert model.values[0].layers == (0, 1)


def test_only_variables_that_a_script_follows_are_in_it():
    named = read_by_name(find_recipe("baseline"))
    assert named["optim.rows.1.rule.lr"] == "MATRIX_LR" and named["train.validate_steps"] == "VAL_LOSS_EVERY"
    assert named["data.sequence_length"] == named["score.windows.length"] == "TRAIN_SEQ_LEN"
    assert not {"GRAD_CLIP_NORM", "MUON_WD", "WD_TAPER_FINAL_MULT", "TIE_EMBEDDINGS"} & set(named.values())
    endless = read_by_name(find_recipe("baseline").replace({"train.train_seconds": 0.0}))
    assert endless["train.train_seconds"] == "MAX_WALLCLOCK_SECONDS"  # a clock can be set where there is none
    clipped = read_by_name(find_recipe("baseline").replace({"train.grad_clip_norm": 1.0}))
    assert clipped["train.grad_clip_norm"] == "GRAD_CLIP_NORM"
