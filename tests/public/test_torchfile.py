"""Public checkpoints get the care of artifacts: wrappers are taken off, what is odd is refused by name."""

import io
import random
import re
import time
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.cli.score import layers_by_number, script_settings
from bitgolf.inputs.resolve import find_artifact
from bitgolf.net.model import ModelPlan
from bitgolf.net.route import Looped, Once
from bitgolf.public.checkpoints import as_weights, infer_model_plan, pack_public_int8, read_public
from bitgolf.public.torchfile import PublicFileError, load_tensors
from tests.public.test_public import saved, state_of

PLAN = ModelPlan(vocabulary_size=300, layers=2, width=32, heads=4, kv_heads=2)
STATE = {name: tensor.float() for name, tensor in state_of(PLAN).items()}


def read(tmp_path, value, name="m.pt"):
    """The weights and plan of what torch.save makes of a value, or of bytes."""
    path = tmp_path / name
    path.write_bytes(value if isinstance(value, bytes) else saved(value))
    said: list[str] = []
    weights = as_weights(read_public(path, said))
    return weights, infer_model_plan(weights), said


def under(*prefixes):
    return {".".join([*prefixes, name]): tensor for name, tensor in STATE.items()}


def each_block_compiled():
    return {name.replace("blocks.0.", "blocks.0._orig_mod."): tensor for name, tensor in STATE.items()}


WRAPPED = {
    "compiled": under("_orig_mod"), "ddp": under("module"), "both": under("_orig_mod", "module"),
    "both ways": under("module", "_orig_mod"), "lightning": under("model"), "block": each_block_compiled(),
    "holder": {"model": STATE, "step": 3}, "state_dict": {"state_dict": under("module"), "epoch": 1},
    "model_state_dict": {"model_state_dict": STATE, "optimizer": {"state": {}, "lr": 0.1}},
    "deepspeed": {"module": STATE, "step": 3}, "any key": {"ema_weights": STATE, "optimizer": {"state": {}}},
    "nested": {"model": {"state_dict": under("_orig_mod")}}, "ordered": OrderedDict(under("module")),
}  # fmt: skip


@pytest.mark.parametrize("value", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_are_taken_off_and_said(tmp_path, value):
    weights, plan, said = read(tmp_path, value)
    assert weights.keys() == STATE.keys() and all(torch.equal(weights[n], STATE[n]) for n in STATE)
    assert plan.layers == 2 and said and all("taken off" in each or "was read" in each for each in said)


def test_other_state_dicts_beside_the_read_one_are_named(tmp_path):
    assert "not those under 'ema'" in read(tmp_path, {"ema": STATE, "model": STATE, "step": 3})[2][0]


def test_a_plain_checkpoint_says_nothing(tmp_path):
    assert read(tmp_path, STATE)[2] == []


def test_names_that_fall_together_are_refused(tmp_path):
    with pytest.raises(PublicFileError, match="two tensors have this name"):
        read(tmp_path, STATE | {"module.tok_emb.weight": STATE["tok_emb.weight"]})


@pytest.mark.parametrize("ending", ["pt", "PT", "pth", "ckpt", "bin"])
def test_endings_and_number_types(tmp_path, ending):
    half = {name: tensor.bfloat16() for name, tensor in STATE.items()}
    assert read(tmp_path, half, f"m.{ending}")[1].width == 32
    assert read(tmp_path, safetensors.torch.save(half), "m.safetensors")[1].width == 32


def odd(name, tensor):
    return STATE | {name: tensor}


def sparse():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return STATE["tok_emb.weight"].to_sparse(), STATE["tok_emb.weight"].to_sparse_csr()


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.zeros(300, 32), 0.1, 0, torch.qint8)


def nested():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.zeros(3, 32), torch.zeros(2, 32)])


GATE, TABLE = "blocks.0.attn.q_gain", "tok_emb.weight"
ITSELF: dict[str, object] = dict(STATE)
ITSELF["model"] = ITSELF
ODD = {
    "itself": (ITSELF, "model", "within state dicts"),
    "coo": (odd(TABLE, sparse()[0]), TABLE, "not dense"),
    "csr": (odd(TABLE, sparse()[1]), TABLE, "not dense"),
    "meta": (odd(TABLE, torch.zeros(300, 32, device="meta")), TABLE, "no values"),
    "0 axes": (odd(GATE, torch.tensor(1.0)), GATE, "1 axes"),
    "1 axis": (odd(TABLE, torch.zeros(300)), TABLE, "2 axes"),
    "3 axes": (odd("blocks.0.mlp.fc.weight", torch.zeros(64, 32, 1)), "mlp.fc.weight", "2 axes"),
    "complex": (odd(GATE, torch.ones(4, dtype=torch.complex64)), GATE, "complex"),
    "quantized": (odd(TABLE, quantized()), TABLE, "quantized"),
    "nested": (odd(TABLE, nested()), TABLE, "nested"),
    "several": ({"net": STATE, "ema": STATE, "step": 1}, "['net', 'ema']", "several state dicts"),
    "beside": (STATE | {"more": {"a": torch.zeros(2)}}, "more", "tensors only"),
    "integers": (odd(TABLE, torch.zeros(300, 32, dtype=torch.int8)), TABLE, "whole numbers"),
    "booleans": (odd(TABLE, torch.zeros(300, 32, dtype=torch.bool)), TABLE, "whole numbers"),
    "nan": (odd(TABLE, torch.full((300, 32), torch.nan)), TABLE, "not finite"),
    "too large": (odd(TABLE, torch.full((300, 32), 1e300, dtype=torch.float64)), TABLE, "not finite"),
    "expanded": (odd(TABLE, torch.zeros(1).expand(2**18, 2**17)), TABLE, "claims more values"),
    "stride 0": (odd(TABLE, torch.zeros(32).expand(10**9, 32)), TABLE, "claims more values"),
    "far block": (odd("blocks.100000.attn.q_gain", torch.zeros(4)), "", "block 2 is missing"),
    "farther": (odd("blocks.99999999999999.attn.q_gain", torch.zeros(4)), "", "do not fit|missing"),
    "heads": (odd(GATE, torch.zeros(5)), "", "multiple of the heads"),
    "bank": (STATE | {"mlp_up_bank": torch.tensor(1.0)}, "mlp_up_bank", "bank"),
    "banks": (STATE | {"qo_bank": torch.zeros(3, 2, 2)}, "qo_bank", "0 matrices"),
    "list": ([STATE], "", "expected a dictionary"),
    "text": (STATE | {"note": "hello"}, "note", "tensors only"),
    "number": (STATE | {3: torch.zeros(2)}, "3", "tensors only"),
    "empty": ({}, "", "tensors only"),
    "numpy": (STATE | {"best": np.float64(1.2)}, "", "numpy scalar"),
    "class": (STATE | {"plan": PLAN}, "", "it holds bitgolf.net.layers"),
}  # fmt: skip
if hasattr(torch, "float4_e2m1fn_x2"):  # torch 2.8 or newer
    four_bits = torch.zeros(300, 32, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    ODD["four bits"] = (odd(TABLE, four_bits), TABLE, "several numbers in a byte")


@pytest.mark.parametrize(("value", "name", "said"), ODD.values(), ids=ODD)
def test_odd_tensors_are_refused_by_name(tmp_path, value, name, said):
    data = saved(value)
    started = time.process_time()
    with pytest.raises(BitgolfError, match=said) as raised, warnings.catch_warnings(action="error"):
        read(tmp_path, data)
    assert name in str(raised.value) and time.process_time() - started < 5
    text = str(raised.value)
    assert "\x1b" not in text and "weights_only" not in text and "\n" not in text


def test_the_old_format_gets_its_true_reason():
    buffer = io.BytesIO()
    torch.save(STATE, buffer, _use_new_zipfile_serialization=False)
    with pytest.raises(PublicFileError, match=r"torch before 1\.6"):
        load_tensors(buffer.getvalue())


def test_other_files_are_refused(tmp_path):
    for data in (b"", b"PK", b"PK\3\4" + b"\0" * 100, b"\x80\x02.", b"{}" * 50, bytes(range(256)) * 9):
        with pytest.raises(PublicFileError, match=r"m\.pt"):
            read(tmp_path, data)
    cut = safetensors.torch.save(STATE)
    with pytest.raises(PublicFileError):
        read(tmp_path, cut[:-1])


def test_a_packed_zip_is_refused():
    source, target = zipfile.ZipFile(io.BytesIO(saved(STATE))), io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for member in source.infolist():
            packed.writestr(member.filename, source.read(member))
    with pytest.raises(PublicFileError, match="claims more bytes|packed in a way"):
        load_tensors(target.getvalue())


def test_a_flipped_byte_of_the_contents_is_refused():
    data = saved(STATE)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        draw = random.Random(0)
        for member in members:
            content = archive.read(member)
            start = data.index(content, member.header_offset)
            for place in draw.sample(range(len(content)), min(3, len(content))):
                changed = bytearray(data)
                changed[start + place] ^= 1 << draw.randrange(8)
                with pytest.raises(PublicFileError, match="CRC|zip"):
                    load_tensors(bytes(changed))


def test_a_vocabulary_other_than_the_datas_is_refused(tmp_path, dataset):
    path = tmp_path / "m.pth"
    path.write_bytes(saved(under("module")))
    with pytest.raises(BitgolfError, match=r"m\.pth: its vocabulary has 300"):
        find_artifact(str(path), dataset.folder)
    path.write_bytes(saved(state_of(PLAN.replace(vocabulary_size=dataset.tokenizer.vocabulary_size))))
    assert find_artifact(str(path), dataset.folder)[1].model.layers == 2
    with pytest.raises(BitgolfError, match="--data"):
        find_artifact(str(path))


def test_layers_passed_again_are_named_or_said(tmp_path, dataset):
    loop = Looped(first=0, last=1, loops=1, untied=True)
    plan = PLAN.replace({"vocabulary_size": dataset.tokenizer.vocabulary_size, "recurrence": loop})
    state = {
        re.sub(r"blocks\.(\d)\.mlp\.again\.0", r"repeat_mlp.\1", name): tensor
        for name, tensor in state_of(plan).items()
    }
    path = tmp_path / "m.pth"
    path.write_bytes(saved(state))
    assert find_artifact(str(path), dataset.folder, again=(0, 1))[1].model.recurrence == loop
    with pytest.raises(BitgolfError):  # 4 and 5 are not in this one
        find_artifact(str(path), dataset.folder)
    path.write_bytes(saved(state_of(plan.replace(recurrence=Once()))))
    with pytest.raises(BitgolfError, match=r"no weights of its own for layers passed again.*--set"):
        find_artifact(str(path), dataset.folder, again=(0, 1))
    assert script_settings(["RECUR_LAYERS=0,1", "DISABLE_LAYER0_ATTN=1"]) == ("0,1", False)
    assert script_settings([]) == ("", True)
    for word in ("DISABLE_LAYER0_ATTN=yes", "DISABLE_LAYER0_ATTN", "XSA_LAST_N=4", ""):
        with pytest.raises(BitgolfError, match="--env"):
            script_settings([word])
    assert layers_by_number("4, 5") == [4, 5] and layers_by_number("") == []
    for text in ("4;5", "-1", "4,", "9" * 20, "\u0664", " "):
        with pytest.raises(BitgolfError, match="--recur-layers"):
            layers_by_number(text)


def test_changes_anywhere_end_in_an_error_of_ours_or_in_tensors(tmp_path):
    draw = random.Random(1)
    goods = [saved(STATE), pack_public_int8(STATE), safetensors.torch.save(STATE)]
    for good in goods * 60:
        data = bytearray(good)
        for _ in range(draw.choice((1, 1, 3))):
            place = draw.choice((draw.randrange(min(len(data), 2000)), draw.randrange(len(data))))
            data[place] = draw.randrange(256)
        data = data[: draw.choice((len(data), len(data), draw.randrange(len(data))))]
        started = time.process_time()
        try:
            read(tmp_path, bytes(data))
        except BitgolfError as error:
            assert "\x1b" not in str(error)
        assert time.process_time() - started < 5
