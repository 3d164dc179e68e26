"""What other programs load gives the logits of the packed model, and the ids of its tokenizer."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.catalog.probes import perturbed
from bitgolf.export.exported import TOLERANCE, greatest_difference, read_exported
from bitgolf.export.write import export_to
from bitgolf.net.embed import BigramHash, SmearGate
from bitgolf.net.heads import Xsa
from bitgolf.net.layers import LnScale
from bitgolf.net.mlp import LeakyReluSquared
from bitgolf.net.model import ModelPlan
from bitgolf.net.position import AttentionWindow, Rope
from bitgolf.net.values import ValueEmbedding
from bitgolf.public.optional import needs
from bitgolf.squeeze.artifact import pack
from bitgolf.squeeze.quantize import QuantizePlan, quantize_weights
from bitgolf.text.encoder import Encoder

PLAN = ModelPlan(vocabulary_size=320, layers=2, width=32, heads=2, kv_heads=1)
RICH = PLAN.replace(
    layers=3,
    embed=(BigramHash(buckets=64, dimension=8), SmearGate()),
    values=(ValueEmbedding(dimension=8, layers=(1, 2)),),
    heads_out=(Xsa(last=2),),
    position=Rope(dims=8),
    input_scale=LnScale(),
    activation=LeakyReluSquared(),
    tied=False,
)
WINDOWED = PLAN.replace(scope=(AttentionWindow(tokens=16),))


def packed(plan, dataset, folder):
    weights = {name: tensor.detach() for name, tensor in perturbed(plan).named_parameters()}
    tensors, _ = quantize_weights(QuantizePlan(), weights)
    path = folder / "model.bin"
    path.write_bytes(pack(plan, tensors, dataset.tokenizer.to_bytes()).data)
    return path


def test_the_folder_is_loaded_by_transformers(dataset, tmp_path):
    transformers = pytest.importorskip("transformers")
    path = packed(PLAN, dataset, tmp_path)
    said = export_to(str(path), "hf", None)
    assert said["largest_logit_difference"] <= 1e-6 and said["out"] == str(tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    text = "Once na\u00efve <s> said\n\n  hello\t\u6f22 "
    ids = [dataset.tokenizer.bos, *Encoder(dataset.tokenizer).encode(text.encode()).tolist()]
    assert tokenizer(text).input_ids == ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) == PLAN.vocabulary_size
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    prompt = torch.tensor([ids[:9]])
    written = model.generate(prompt, max_new_tokens=4, do_sample=False)[0].tolist()
    own, expected = read_exported(str(path)).model(), ids[:9]
    for _ in range(4):
        expected.append(int(own.logits(torch.tensor([expected]))[0, -1].argmax()))
    assert written == expected
    assert model.config.keeps_cache and model(prompt).to_tuple()[1].get_seq_length() == 9
    passed = []
    watched = model.register_forward_pre_hook(
        lambda _, __, given: passed.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    model.generate(prompt, max_new_tokens=4, do_sample=False)
    watched.remove()
    assert passed == [9, 1, 1, 1]
    for ways in ({"do_sample": False}, {"do_sample": False, "num_beams": 3, "early_stopping": True}):
        many = torch.tensor([ids[:9], ids[1:10]])
        kept, whole = (
            model.generate(many, max_new_tokens=40, use_cache=use, **ways) for use in (True, False)
        )
        assert kept.tolist() == whole.tolist()  # past the window of 32 as well
    with pytest.raises(ValueError, match="different lengths"):
        model(torch.zeros(2, 4, dtype=torch.long), attention_mask=torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]]))
    code = (tmp_path / "hf" / "modeling_bitgolf.py").read_text()
    assert "import bitgolf" not in code and "from bitgolf" not in code and "class FusedKernels" not in code


@pytest.mark.slow
@pytest.mark.parametrize("form", ["hf", "onnx"])
@pytest.mark.parametrize("plan", [RICH, WINDOWED], ids=["rich", "windowed"])
def test_whatever_parts_it_has(plan, form, dataset, tmp_path):
    pytest.importorskip("transformers" if form == "hf" else "onnxruntime")
    path = packed(plan, dataset, tmp_path)
    assert export_to(str(path), form, None)["largest_logit_difference"] <= TOLERANCE


@pytest.mark.slow
def test_onnx_takes_any_batch_and_length(dataset, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = packed(PLAN, dataset, tmp_path)
    assert export_to(str(path), "onnx", tmp_path / "m.onnx")["largest_logit_difference"] <= TOLERANCE
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(0, 320, (3, 21))
    (logits,) = session.run(None, {"input_ids": ids})
    own = read_exported(str(path)).model().logits(torch.from_numpy(ids)).detach()
    assert greatest_difference(torch.from_numpy(logits), own, path) <= TOLERANCE


def test_safetensors_hold_what_the_bytes_give_back(dataset, tmp_path):
    path = packed(PLAN, dataset, tmp_path)
    said = export_to(str(path), "safetensors", None)
    assert said["largest_logit_difference"] == 0
    tensors = importlib.import_module("safetensors.torch").load_file(said["out"])
    own = read_exported(str(path)).weights
    assert tensors.keys() == own.keys() and all(torch.equal(tensors[name], own[name]) for name in own)


def test_other_logits_are_refused(tmp_path):
    with pytest.raises(BitgolfError, match="other logits"):
        greatest_difference(torch.full((2,), float("nan")), torch.zeros(2), tmp_path)
    with pytest.raises(BitgolfError, match="other logits"):
        greatest_difference(torch.full((2,), 2 * TOLERANCE), torch.zeros(2), tmp_path)


def test_what_cannot_be_written_is_said_before_work(dataset, tmp_path):
    path = str(packed(PLAN, dataset, tmp_path))
    (tmp_path / "model.safetensors").mkdir()
    for words, said in (
        ((path, "gguf", None), "no such form"),
        ((path, "safetensors", None), "a file is to be written, and a folder is there"),
        ((path, "safetensors", Path(path)), "own file would be replaced"),
        ((str(tmp_path / "none.bin"), "safetensors", None), "no packed model"),
    ):
        with pytest.raises(BitgolfError, match=said):
            export_to(*words)
    with pytest.raises(BitgolfError, match="needs nowhere, which is not installed") as raised:
        needs("hf", "nowhere")
    assert raised.value.way_out == "pip install 'bitgolf[hf]'"
