"""The public challenge's files: read as the scripts read them, refused when they are anything else."""

import io
import zipfile
import zlib

import brotli
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.net.model import ModelPlan, build_model, parameter_shapes
from bitgolf.net.position import Rope
from bitgolf.net.route import Plain
from bitgolf.public.checkpoints import (
    as_weights,
    infer_model_plan,
    pack_public_int8,
    read_public,
    unpack_public_int6,
    unpack_public_int8,
)
from bitgolf.public.streams import PublicFileError, byte_shuffle, byte_unshuffle, expand, inflate
from bitgolf.public.tables import public_int8_table
from bitgolf.squeeze.artifact import pack, unpack
from bitgolf.squeeze.quantize import int6_rows, quantize_weights
from bitgolf.text.encoder import train_tokenizer

SHAPES = [
    ModelPlan(vocabulary_size=300, layers=2, width=32, heads=4, kv_heads=2),
    ModelPlan(vocabulary_size=270, layers=3, width=48, heads=3, kv_heads=1, tied=False, mlp_hidden=40),
    ModelPlan(
        vocabulary_size=260, layers=1, width=32, heads=2, kv_heads=2, mlp_multiplier=3.0, route=Plain()
    ),
]


def state_of(plan, seed=0):
    draw = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=draw) for name, shape in parameter_shapes(plan).items()}
    state["tok_emb.weight"] = state["tok_emb.weight"].bfloat16()  # as the public run keeps it
    return state


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("plan", SHAPES)
def test_a_checkpoint_is_read_and_its_plan_inferred(tmp_path, plan):
    state = state_of(plan)
    path = tmp_path / "final_model.pt"
    path.write_bytes(saved(state))
    found = read_public(path)
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert found["tok_emb.weight"].dtype == torch.bfloat16
    assert infer_model_plan(found) == plan.replace(position=Rope(frequencies="bfloat16"))
    assert infer_model_plan(found, logit_softcap=12.0).logit_softcap == 12.0
    model = build_model(plan)
    model.load_state_dict(as_weights(found))


def test_int8_artifact_there_and_back(tmp_path):
    plan = SHAPES[0].replace(vocabulary_size=2100)
    state = state_of(plan)
    path = tmp_path / "final_model.int8.ptz"
    path.write_bytes(pack_public_int8(state))
    found = read_public(path)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        name: tensor.dtype for name, tensor in state.items()
    }
    controls = [name for name in state if "weight" not in name or "skip" in name]
    assert all(torch.equal(found[name], state[name]) for name in controls)
    error = (found["tok_emb.weight"].float() - state["tok_emb.weight"].float()).abs().max()
    assert 0 < float(error) < 0.03
    assert pack_public_int8(state) == path.read_bytes()


def test_a_public_checkpoint_is_packed_again_in_our_format():
    plan = SHAPES[0]
    weights = as_weights(state_of(plan))
    tokenizer = train_tokenizer([b"to be or not to be, that is the question " * 20], plan.vocabulary_size)
    tensors, _ = quantize_weights(int6_rows(), weights)
    opened = unpack(pack(infer_model_plan(weights), tensors, tokenizer.to_bytes()).data)
    assert (
        opened.model == plan.replace(position=Rope(frequencies="bfloat16"))
        and opened.weights.keys() == weights.keys()
    )


def test_integers_and_empty_tensors_pass():
    state = {"steps": torch.arange(3), "skip_weights": torch.zeros(0, 8), "a": torch.randn(3).half()}
    found = unpack_public_int8(pack_public_int8(state))
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert "skip_weights" not in as_weights(found)


def int6_table(state):
    """As the records from 2026-03-20 on write it: blocks int6, the embedding int8, the rest float16."""
    tensors, kinds = {}, {}
    for name, tensor in state.items():
        if tensor.ndim == 2 and "weight" in name and "skip" not in name:
            largest, kind = (127, "int8") if "emb" in name else (31, "int6")
            scale = (tensor.float().abs().amax(1) / largest).clamp_min(1 / largest).half()
            codes = (tensor.float() / scale.float()[:, None]).round().clamp(-largest - 1, largest)
            tensors |= {f"{name}.q": codes.to(torch.int8), f"{name}.scale": scale}
            kinds[name] = {"type": kind}
        else:
            control = "scale" in name
            tensors[name] = tensor.float() if control else tensor.half()
            kinds[name] = "passthrough_ctrl" if control else "passthrough"
    return {"w": tensors, "m": kinds}


CONTAINERS = {
    "zstd": lambda data: zstandard.ZstdCompressor(level=22).compress(data),
    "zlib": lambda data: zlib.compress(data, 9),
    "brotli": brotli.compress,
    "shuffled brotli": lambda data: brotli.compress(byte_shuffle(data)),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_mixed_int6_artifacts_are_read(tmp_path, container):
    state = state_of(SHAPES[0])
    table = int6_table(state)
    path = tmp_path / "final_model.int6.ptz"
    path.write_bytes(CONTAINERS[container](saved(table)))
    found = read_public(path)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        name: tensor.dtype for name, tensor in state.items()
    }
    for name, tensor in found.items():
        if f"{name}.q" in table["w"]:
            codes, scale = table["w"][f"{name}.q"], table["w"][f"{name}.scale"]
            expected = (codes.float() * scale.float()[:, None]).to(tensor.dtype)
        else:
            expected = table["w"][name].to(tensor.dtype)
        assert torch.equal(tensor, expected), name
    again = unpack_public_int6(path.read_bytes())
    assert all(torch.equal(again[name], found[name]) for name in found)
    assert infer_model_plan(as_weights(found)) == SHAPES[0].replace(position=Rope(frequencies="bfloat16"))


@given(data=st.binary(max_size=99).filter(lambda data: data[:4] != b"BSHF"), stride=st.integers(2, 9))
def test_the_byte_shuffle_goes_there_and_back(data, stride):
    shuffled = byte_shuffle(data, stride)
    assert byte_unshuffle(shuffled) == data
    if len(data) >= stride:
        assert shuffled[:5] == b"BSHF" + bytes([stride]) and sorted(shuffled[5:]) == sorted(data)
        assert shuffled[5] == data[0] and (len(data) <= stride or shuffled[6] == data[stride])
    else:
        assert shuffled == data


def test_the_byte_shuffle_of_floats():
    assert byte_shuffle(b"aAbBc") == b"BSHF\2abcAB"
    assert byte_unshuffle(b"BSHF\2abcAB") == b"aAbBc"
    assert byte_unshuffle(b"aAbBc") == byte_shuffle(b"aAbBc", 1) == b"aAbBc"
    assert byte_unshuffle(b"BSHF\xffab") == b"ab"
    for damaged in (b"BSHF", b"BSHF\0ab"):
        with pytest.raises(PublicFileError, match="without a stride"):
            byte_unshuffle(damaged)
    with pytest.raises(PublicFileError, match="one byte"):
        byte_shuffle(b"ab", 256)


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


def cases():
    good = pack_public_int8(state_of(SHAPES[0]))
    table = public_int8_table(state_of(SHAPES[0].replace(vocabulary_size=2100)))
    name = "tok_emb.weight"

    def broken(**changes):
        return zlib.compress(saved({**table, **changes}))

    mixed = int6_table(state_of(SHAPES[0]))
    frame = zstandard.compress(saved(mixed))
    fc = "blocks.0.mlp.fc.weight"

    def mixed_without(part):
        return zstandard.compress(saved({**mixed, "w": {k: v for k, v in mixed["w"].items() if k != part}}))

    zeros = io.BytesIO()
    with zipfile.ZipFile(zeros, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    return {
        "not a safe torch file": saved({"a": Hostile()}),
        "not a safe torch file ": zlib.compress(saved({"a": Hostile()})),
        "not a safe torch file  ": zstandard.compress(saved({"w": {}, "m": Hostile()})),
        "not a safe torch file   ": brotli.compress(byte_shuffle(saved({"w": Hostile(), "m": {}}))),
        "the zstd frame is cut short": frame[:-9],
        "bytes after the zstd frame": frame + b"x",
        "not a zstd frame": frame[:5] + b"\xff" * 40,
        "tables are missing ": zstandard.compress(saved({"w": [], "m": {}})),
        "codes, scale or number type is missing": mixed_without(f"{fc}.q"),
        "codes, scale or number type is missing ": mixed_without(f"{fc}.scale"),
        "not one scale a row ": zstandard.compress(
            saved({**mixed, "w": {**mixed["w"], f"{fc}.scale": torch.ones(3).half()}})
        ),
        "tensors only  ": zstandard.compress(saved({"w": {}, "m": {}})),
        "neither a torch file nor a zlib stream": b"hello",
        "the zlib stream is cut short": good[:-9],
        "bytes after the zlib stream": good + b"x",
        "not a safe torch file: File is not a zip": zlib.compress(b"hello"),
        "claims more bytes than it has": zeros.getvalue(),
        "expected a dictionary": saved([1, 2]),
        "tensors only": saved({"a": torch.ones(2), "b": 3}),
        "tensors only ": saved({}),
        "expected the format": broken(__quant_format__="int6"),
        "tables are missing": broken(scales=None),
        "scale or number type is missing": broken(scales={}),
        "scale or number type is missing ": broken(dtypes={name: "object"}),
        "not one scale a row": broken(scales={name: torch.ones(7).half()}),
    }


CASES = cases()


@pytest.mark.parametrize("message", CASES)
def test_other_files_are_refused_and_not_executed(tmp_path, capsys, message):
    path = tmp_path / "final_model.bin"
    path.write_bytes(CASES[message])
    with pytest.raises(PublicFileError, match=message.strip()) as caught:
        read_public(path)
    assert str(path) in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(PublicFileError, match="No such file"):
        read_public(tmp_path / "final_model.pt")


def test_inflating_is_bounded():
    bomb = zlib.compress(bytes(10_000_000))
    with pytest.raises(PublicFileError, match="more than 1,000 bytes"):
        inflate(bomb, 1000)
    assert len(inflate(bomb, 10_000_000)) == 10_000_000
    for compress in CONTAINERS.values():
        bomb = compress(bytes(10_000_000))
        with pytest.raises(PublicFileError, match="more than 1,000 bytes"):
            expand(bomb, 1000)
        assert expand(bomb, 10_000_010) == bytes(10_000_000)


def test_every_cut_of_a_small_file_is_refused():
    for container, compress in CONTAINERS.items():
        data = compress(saved({"w": {}, "m": {}}))
        for cut in range(len(data)):
            with pytest.raises(PublicFileError):
                expand(data[:cut])
        assert expand(data), container


def test_states_that_are_not_the_baseline_are_refused():
    state = state_of(SHAPES[0])
    with pytest.raises(PublicFileError, match="hyper_scale: 1 tensors do not fit"):
        infer_model_plan({**state, "hyper_scale": torch.ones(1)})
    with pytest.raises(PublicFileError, match="tensors are missing"):
        infer_model_plan({"tok_emb.weight": state["tok_emb.weight"]})
    with pytest.raises(PublicFileError, match="blocks.1.attn.q_gain: 1 tensors"):
        infer_model_plan({**state, "blocks.1.attn.q_gain": torch.ones(5)})
