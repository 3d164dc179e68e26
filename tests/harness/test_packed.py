"""A packed model as lm-evaluation-harness asks it: its sums are those of our scorer and of single tokens."""

import importlib
import json
import math
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.catalog.probes import perturbed
from bitgolf.harness.packed import WINDOW, PackedModel, settings_of
from bitgolf.net.model import ModelPlan
from bitgolf.report.sample import sample
from bitgolf.score.metric import bits_per_byte
from bitgolf.score.score import ScorePlan, score
from bitgolf.score.windows import Chunked
from bitgolf.squeeze.artifact import pack
from bitgolf.squeeze.quantize import QuantizePlan, quantize_weights
from bitgolf.text.encoder import Encoder
from tests.conftest import generated_text

TEXT = generated_text(77, 60) + "caf\u00e9 \U0001f600\n"
PLAN = ModelPlan(vocabulary_size=320, layers=2, width=32, heads=2, kv_heads=1)


@pytest.fixture(scope="module")
def artifact(dataset, tmp_path_factory):
    """A packed model whose context matters."""
    weights = {name: tensor.detach() for name, tensor in perturbed(PLAN).named_parameters()}
    tensors, _ = quantize_weights(QuantizePlan(), weights)
    path = tmp_path_factory.mktemp("packed") / "model.bin"
    path.write_bytes(pack(PLAN, tensors, dataset.tokenizer.to_bytes()).data)
    return path


@pytest.fixture(scope="module")
def packed(artifact) -> PackedModel:
    return PackedModel(str(artifact), 32)


def one_by_one(packed: PackedModel, text: str) -> np.ndarray:
    """Log-probabilities (tokens of the text, vocabulary), each from at most 32 tokens before it."""
    ids = [packed.tokenizer.bos, *Encoder(packed.tokenizer).encode(text.encode()).tolist()]
    rows = []
    for place in range(1, len(ids)):
        inputs = torch.tensor([ids[max(0, place - 32) : place]])
        packed.model.window = 32
        with torch.inference_mode():
            rows.append(packed.model.logits(inputs)[0, -1].double().log_softmax(0).numpy())
    return np.array(rows)


def test_a_whole_text_scores_as_chunked(packed):
    found = packed.rolling([TEXT, "", TEXT[:40]])
    tokens = next(Encoder(packed.tokenizer).encode_documents([TEXT.encode()]))
    scores = score(packed.model, tokens, packed.tokenizer, ScorePlan(windows=Chunked(length=32)))
    bits = -found[0].loglikelihood / math.log(2) / len(TEXT.encode())
    assert bits == pytest.approx(bits_per_byte(scores), abs=1e-6)
    assert found[1] == (0.0, True)
    assert found[2].loglikelihood == pytest.approx(packed.rolling([TEXT[:40]])[0].loglikelihood, abs=1e-3)


def test_a_continuation_is_the_sum_of_its_tokens(packed):
    asked = [("The people of", " this nation"), ("", "The people"), ("The people of ", "this nation")]
    found = packed.loglikelihood(asked)
    for (context, continuation), (nats, _) in zip(asked, found, strict=True):
        ids = Encoder(packed.tokenizer).encode((context + continuation).encode())
        first = len(Encoder(packed.tokenizer).encode(context.rstrip().encode()))
        each = one_by_one(packed, context + continuation)
        assert nats == pytest.approx(float(each[np.arange(first, len(ids)), ids[first:]].sum()), abs=1e-3)
    assert found[0] == found[2]  # the space is the continuation's
    assert found[0].loglikelihood == pytest.approx(packed.loglikelihood(asked[:1])[0].loglikelihood, abs=1e-4)


def test_a_continuation_longer_than_the_window(packed):
    context, continuation = TEXT[:20], TEXT[20:400]
    ids = Encoder(packed.tokenizer).encode((context + continuation).encode())
    first = len(Encoder(packed.tokenizer).encode(context.encode()))
    windows = list(packed._windows(len(ids), first))
    assert [place for each in windows for place in range(each.first_scored, each.end)] == [
        *range(first, len(ids))
    ]
    assert all(each.end - each.start <= 32 for each in windows)
    assert packed.loglikelihood([(context, continuation)])[0].loglikelihood < 0


def test_likeliest_is_greedy(packed):
    context = "The people"
    best = packed.continued(context, [], 3, 0.0)
    assert packed.loglikelihood([(context, best)])[0].greedy or "\ufffd" in best
    assert not packed.loglikelihood([(context, best + "Z")])[0].greedy


def test_what_is_written_is_the_sample_up_to_its_end(packed):
    whole = "".join(sample(packed.model, packed.tokenizer, b"The", tokens=60, temperature=0, window=32))
    assert packed.continued("The", [], 60, 0.0) == whole
    end = whole[3:5]
    assert packed.continued("The", ["never there", end, ""], 60, 0.0) == whole[: whole.index(end)]


def test_settings_of_a_task():
    assert settings_of({}) == ([], 256, 0.0)
    assert settings_of({"until": "\n", "max_gen_toks": 5, "temperature": 0.7}) == (["\n"], 5, 0.0)
    assert settings_of({"until": ["a", "b"], "do_sample": True, "temperature": 0.7}) == (["a", "b"], 256, 0.7)


def test_without_a_document_start_the_first_token_is_one_of_all(packed, monkeypatch):
    with_start = packed.rolling([TEXT])[0].loglikelihood
    monkeypatch.setattr(packed.tokenizer, "bos", -1)
    ids = Encoder(packed.tokenizer).encode(TEXT.encode())
    scores = score(packed.model, ids, packed.tokenizer, ScorePlan(windows=Chunked(length=32)))
    expected = -float(scores.nats.sum(dtype=np.float64)) - math.log(320)
    found = packed.rolling([TEXT])[0]
    assert found.loglikelihood == pytest.approx(expected, rel=1e-6)
    assert found.loglikelihood != with_start
    assert not found.greedy
    alone = packed.loglikelihood([("", "The")])[0].loglikelihood
    assert alone == pytest.approx(packed.rolling(["The"])[0].loglikelihood, abs=1e-4)


def test_the_window_is_that_of_the_recipe(artifact):
    assert PackedModel(str(artifact)).window == WINDOW
    with pytest.raises(BitgolfError, match="window"):
        PackedModel(str(artifact), -1)
    with pytest.raises(BitgolfError, match="no packed model"):
        PackedModel("nowhere")


# ---- the class of the harness, on a stand-in for its base ----


@pytest.fixture
def stand_in(monkeypatch):
    """The few names of lm_eval that our class uses, as they are in lm_eval 0.4.13."""

    class Hook:
        def __init__(self):
            self.kept = []

        def add_partial(self, *words):
            self.kept.append(words)

    class LM:
        def __init__(self):
            self.cache_hook = Hook()

    modules = {name: types.ModuleType(name) for name in ("lm_eval", "lm_eval.api")}
    for name, attribute, value in (
        ("instance", "Instance", object),
        ("model", "LM", LM),
        ("registry", "register_model", lambda *names: lambda kind: kind),
    ):
        modules[f"lm_eval.api.{name}"] = types.ModuleType(name)
        setattr(modules[f"lm_eval.api.{name}"], attribute, value)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "bitgolf.harness.lm", raising=False)
    yield importlib.import_module("bitgolf.harness.lm").BitgolfLM
    sys.modules.pop("bitgolf.harness.lm", None)


def test_the_class_answers_in_order_and_remembers(stand_in, artifact, packed):
    lm = stand_in(run=str(artifact), window=32, batch_size="auto", device="cpu")
    requests = [types.SimpleNamespace(args=args) for args in (("The", " people"), ("We", " keep"))]
    assert lm.loglikelihood(requests) == [
        tuple(each) for each in packed.loglikelihood([r.args for r in requests])
    ]
    texts = [types.SimpleNamespace(args=(text,)) for text in (TEXT, "a")]
    assert lm.loglikelihood_rolling(texts) == [each.loglikelihood for each in packed.rolling([TEXT, "a"])]
    written = lm.generate_until([types.SimpleNamespace(args=("The", {"until": ["."], "max_gen_toks": 9}))])
    assert written == [packed.continued("The", ["."], 9, 0.0)]
    kinds = [kind for kind, *_ in lm.cache_hook.kept]
    assert kinds == ["loglikelihood"] * 2 + ["loglikelihood_rolling"] * 2 + ["generate_until"]
    assert lm.tokenizer_name == packed.tokenizer.identity
    for odd in ({}, {"run": ""}, {"run": 3}, {"run": str(artifact), "window": "x"}):
        with pytest.raises(BitgolfError, match="which model"):
            stand_in(**odd)


def test_without_the_harness_the_way_to_it_is_said(tmp_path):
    program = "import sys, runpy; sys.modules['lm_eval'] = None; "
    program += "runpy.run_module('bitgolf.harness', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'bitgolf[harness]'" in done.stderr and "Traceback" not in done.stderr


def test_what_the_harness_refuses_is_one_line(tmp_path):
    """In a stand-in for the whole of lm_eval, whose command line knows no task."""
    files = {
        "__init__": "",
        "__main__": "def cli_evaluate():\n    raise ValueError('Tasks not found: x')",
        "api/__init__": "",
        "api/instance": "Instance = object",
        "api/model": "class LM: ...",
        "api/registry": "register_model = lambda *names: lambda kind: kind",
    }
    for name, text in files.items():
        path = tmp_path / "lm_eval" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    words = [sys.executable, "-m", "bitgolf.harness", "run", "--tasks", "x"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: lm-evaluation-harness says ValueError: Tasks not found: x\n"


# ---- the harness itself ----

TASKS = {
    "tiny_text": """
task: tiny_text
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/text.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{page}}"
metric_list:
  - metric: bits_per_byte
""",
    "tiny_choice": """
task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choice.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{start}}"
doc_to_choice: "{{ends}}"
doc_to_target: "{{right}}"
metric_list:
  - metric: acc
""",
    "tiny_write": """
task: tiny_write
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choice.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{start}}"
doc_to_target: "{{ends[0]}}"
generation_kwargs: {until: ["."], max_gen_toks: 8}
metric_list:
  - metric: exact_match
""",
}


def write_tasks(folder):
    (folder / "text.jsonl").write_text(json.dumps({"page": TEXT}) + "\n")
    rows = [{"start": "The people of this", "ends": [" nation", " zzq"], "right": 0}] * 3
    (folder / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))


@pytest.mark.slow
def test_the_true_harness_gives_our_bits_per_byte(artifact, packed, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_tasks(tmp_path)
    words = [
        "run",
        "--model",
        "bitgolf",
        "--model_args",
        f"run={artifact},window=32",
        "--include_path",
        tmp_path,
    ]
    words += ["--tasks", ",".join(TASKS), "--output_path", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "bitgolf.harness", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(next((tmp_path / "out").rglob("results*.json")).read_text())["results"]
    tokens = next(Encoder(packed.tokenizer).encode_documents([TEXT.encode()]))
    scores = score(packed.model, tokens, packed.tokenizer, ScorePlan(windows=Chunked(length=32)))
    assert found["tiny_text"]["bits_per_byte,none"] == pytest.approx(bits_per_byte(scores), abs=1e-4)
    assert 0 <= found["tiny_choice"]["acc,none"] <= 1
    assert "exact_match,none" in found["tiny_write"]
