"""Forms of public files that single records write: another compressor, table, or correction of codes.

Each is written here by an own small writer, and read by the product.
"""

import io
import lzma
import zlib

import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.net.model import ModelPlan, build_model, parameter_shapes
from bitgolf.net.values import ValueEmbedding
from bitgolf.public.checkpoints import (
    as_weights,
    infer_model_plan,
    pack_public_int6,
    pack_public_int8,
    read_public,
    unpack_public,
)
from bitgolf.public.streams import PublicFileError, byte_shuffle, byte_unshuffle, expand, pack_stream
from bitgolf.public.tables import int6_state

ROWS, COLUMNS = 12, 32
NAME = "blocks.0.attn.c_q.weight"
FORMATS = ("int8_clean_per_row_v1", "int8_mixed_per_row_v1", "mixed_int8_int6_v1")


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def drawn(*shape, seed=0, low=-31, high=32):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).to(torch.int8)


def scales(count, seed=1):
    return (torch.rand(count, generator=torch.Generator().manual_seed(seed)) / 31 + 0.01).half()


def coded(kind, **parts):
    """A mixed table of one matrix: its codes, scales and what stands beside them."""
    own = {"q": drawn(ROWS, COLUMNS), "scale": scales(ROWS)} | parts
    return {"w": {f"{NAME}.{part}": value for part, value in own.items()}, "m": {NAME: kind}}


def plain(q, scale):
    """Codes times the scale of their row, one number after the other."""
    return torch.tensor([[float(code) * float(scale[i]) for code in row] for i, row in enumerate(q)])


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


# Streams


@pytest.mark.parametrize("header_bytes", [0, 1, 2])
@pytest.mark.parametrize("compressor", ["zlib", "zstd", "lzma", "brotli"])
def test_every_container_there_and_back(compressor, header_bytes):
    state = {NAME: torch.randn(ROWS, COLUMNS), "tok_emb.weight": torch.randn(300, 300)}
    data = pack_public_int8(state, compressor, header_bytes)
    found = unpack_public(data)
    expected = unpack_public(pack_public_int8(state))
    assert all(torch.equal(found[name], expected[name]) for name in state)


def test_no_other_compressor():
    with pytest.raises(PublicFileError, match="no script packs"):
        pack_stream(b"", "lrzip")


@pytest.mark.parametrize("preset", [0, 6, 9, 9 | lzma.PRESET_EXTREME])
def test_lzma_of_every_preset(preset):
    data = saved({"w": {}, "m": {}})
    packed = lzma.compress(data, preset=preset)
    assert expand(packed) == data
    for cut in range(6, len(packed)):
        with pytest.raises(PublicFileError):
            expand(packed[:cut])
    with pytest.raises(PublicFileError, match="bytes after the LZMA stream"):
        expand(packed + b"x")
    with pytest.raises(PublicFileError, match="not an LZMA stream"):
        expand(packed[:40] + b"\xff" * 40)


def test_lzma_is_bounded():
    bomb = lzma.compress(bytes(10_000_000))
    with pytest.raises(PublicFileError, match="more than 1,000 bytes"):
        expand(bomb, 1000)
    assert len(expand(bomb, 10_000_000)) == 10_000_000
    greedy = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}]
    with pytest.raises(PublicFileError, match="not an LZMA stream"):
        expand(lzma.compress(b"a", filters=greedy))


def test_a_compressor_named_before_the_stream():
    data = saved({"w": {}, "m": {}})
    assert expand(b"ZSTD" + zstandard.compress(data)) == expand(b"ZLIB" + zlib.compress(data)) == data


def test_the_wide_header():
    assert byte_shuffle(b"aAbBc", header_bytes=2) == b"BSHF\2\0abcAB"
    assert byte_unshuffle(b"BSHF\2\0abcAB", header_bytes=2) == b"aAbBc"
    assert byte_shuffle(b"a", header_bytes=2) == b"BSHF\2\0a"
    for damaged in (b"BSHF\2", b"BSHF\0\0ab"):
        with pytest.raises(PublicFileError, match="without a stride"):
            byte_unshuffle(damaged, header_bytes=2)


@given(data=st.binary(max_size=99), stride=st.integers(2, 9), header_bytes=st.sampled_from([1, 2]))
def test_either_header_is_told_by_the_file_behind_it(data, stride, header_bytes):
    data = b"PK\3\4" + bytes(9) + data
    assert expand(zlib.compress(byte_shuffle(data, stride, header_bytes))) == data


# Tables


@pytest.mark.parametrize("name", FORMATS)
def test_tables_of_the_baselines_form_by_all_their_names(name):
    codes = drawn(ROWS, COLUMNS, low=-32, high=32) // 4 * 4  # int6 in int8: multiples of four
    table = {
        "__quant_format__": name,
        "quantized": {NAME: codes},
        "scales": {NAME: scales(ROWS)},
        "dtypes": {NAME: "float32"},
        "passthrough": {"tok_emb.weight": torch.ones(3, 4).half(), "q_gain": torch.ones(3)},
        "passthrough_orig_dtypes": {"tok_emb.weight": "bfloat16"},
    }
    found = unpack_public(zstandard.compress(saved(table)))
    close(found[NAME], plain(codes, scales(ROWS)))
    assert found["tok_emb.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["int8_clean_per_row_v2", "", None, 3, []])
def test_tables_of_other_forms_are_refused(name):
    with pytest.raises(PublicFileError, match="expected the format int8_clean_per_row_v1 or"):
        unpack_public(zlib.compress(saved({"__quant_format__": name})))


@pytest.mark.parametrize("group_rows", [1, 5, 8, 12, 40])
def test_a_scale_for_several_rows(group_rows):
    few = scales(-(-ROWS // group_rows))
    found = int6_state(coded({"type": "int6", "group_rows": group_rows}, scale=few))[NAME]
    close(found, plain(drawn(ROWS, COLUMNS), [few[i // group_rows] for i in range(ROWS)]))


def test_rescued_rows():
    index, delta = torch.tensor([3, 0]), torch.randn(2, COLUMNS).half()
    kind = {"type": "int6", "group_rows": 1, "rescue_kind": "row"}
    expected = plain(drawn(ROWS, COLUMNS), scales(ROWS))
    expected[3] += delta[0]
    expected[0] += delta[1]
    close(int6_state(coded(kind, rescue_idx=index, rescue_delta=delta))[NAME], expected)


def test_a_gate_in_eight_bits():
    table = {"w": {f"{NAME}.gq": drawn(4, 6), f"{NAME}.gs": scales(4)}, "m": {NAME: "gate_int8_row"}}
    close(int6_state(table)[NAME], plain(drawn(4, 6), scales(4)))


def test_a_low_rank_correction_with_a_scale_a_row():
    left, right = drawn(ROWS, 4, seed=2, low=-7, high=8), drawn(4, COLUMNS, seed=3, low=-7, high=8)
    sides = {"lqA": left, "lqAs": scales(ROWS, 4), "lqB": right, "lqBs": scales(4, 5)}
    found = int6_state(coded("gptq (int6)+lqer", **sides))[NAME]
    product = plain(left, sides["lqAs"]) @ plain(right, sides["lqBs"])
    close(found, plain(drawn(ROWS, COLUMNS), scales(ROWS)) + product)


@pytest.mark.parametrize("group", [64, 16, 128])
def test_a_low_rank_correction_with_a_scale_a_group(group):
    left, right = drawn(ROWS, 4, seed=2, low=-2, high=2), drawn(4, COLUMNS, seed=3, low=-8, high=8)
    sides = {"lqA_a": left, "lqAs_a": torch.tensor(0.25).half(), "lqB_a": right}
    sides["lqBs_a"] = scales(4 * COLUMNS // group, 5)
    found = int6_state(coded("gptq (int6)+lqer_asym", **sides))[NAME]
    flat = [float(code) * float(sides["lqBs_a"][i // group]) for i, code in enumerate(right.flatten())]
    product = (left.float() * 0.25) @ torch.tensor(flat).reshape(4, COLUMNS)
    close(found, plain(drawn(ROWS, COLUMNS), scales(ROWS)) + product)


LQER = {"lqA": drawn(ROWS, 4), "lqAs": scales(ROWS), "lqB": drawn(4, COLUMNS), "lqBs": scales(4)}
ASYMMETRIC = {
    "lqA_a": drawn(ROWS, 4), "lqAs_a": scales(1), "lqB_a": drawn(4, COLUMNS), "lqBs_a": scales(2),
}  # fmt: skip
ROW = {"type": "int6", "rescue_kind": "row"}
BROKEN = [
    ("gptq (int6)", LQER, "no known kind"),  # a correction that the kind does not name
    ("gptq (int6)+lqer", {}, "is missing"),
    ("gptq (int6)+lqer", LQER | {"lqA": drawn(3, 4)}, "does not fit"),
    ("gptq (int6)+lqer", LQER | {"lqA": drawn(ROWS, 0), "lqB": drawn(0, COLUMNS)}, "does not fit"),
    ("gptq (int6)+lqer", LQER | {"lqB": drawn(4, 3)}, "does not fit"),
    ("gptq (int6)+lqer", LQER | {"lqB": drawn(4)}, "does not fit"),
    ("gptq (int6)+lqer", LQER | {"lqAs": scales(3)}, "not of the shape"),
    ("gptq (int6)+lqer_asym", LQER, "is missing"),
    ("gptq (int6)+lqer_asym", ASYMMETRIC | {"lqAs_a": scales(2)}, "groups"),
    ("gptq (int6)+lqer_asym", ASYMMETRIC | {"lqBs_a": scales(3)}, "groups"),
    ("gptq (int6)+lqer_asym", ASYMMETRIC | {"lqBs_a": scales(0)}, "groups"),
    ("gptq (int6)+lqer_asym", ASYMMETRIC | {"lqA_a": None}, "is missing"),
    ("gptq (int6)+lqer_wide", ASYMMETRIC, "unknown correction"),
    ({"type": "int6", "group_rows": 8}, {}, "one scale a row"),
    ({"type": "int6", "group_rows": 0}, {}, "one scale a row"),
    ({"type": "int6", "group_rows": True}, {}, "one scale a row"),
    ({"type": "int6", "group_rows": "8"}, {}, "one scale a row"),
    (ROW, {}, "is missing"),
    (ROW, {"rescue_idx": torch.tensor([12]), "rescue_delta": torch.zeros(1, COLUMNS)}, "does not have"),
    (ROW, {"rescue_idx": torch.tensor([-1]), "rescue_delta": torch.zeros(1, COLUMNS)}, "does not have"),
    (ROW, {"rescue_idx": torch.tensor([1]), "rescue_delta": torch.zeros(2, COLUMNS)}, "not of the shape"),
    ("gate_int8_row", {}, "is missing"),
    ("gptq (int6)", {"zero": torch.zeros(3)}, "no known kind"),
]


@pytest.mark.parametrize(("kind", "parts", "message"), BROKEN, ids=range(len(BROKEN)))
def test_parts_that_do_not_fit_are_refused(kind, parts, message):
    with pytest.raises(PublicFileError, match=message):
        int6_state(coded(kind, **parts))


# The writer of the mixed form


def mixed_state():
    draw = torch.Generator().manual_seed(11)
    shapes = {
        "tok_emb.weight": (300, 220),
        "blocks.0.mlp.fc.weight": (330, 200),
        "blocks.0.attn.c_q.weight": (32, 32),
        "blocks.0.attn.bank": (2, 200, 200),
        "blocks.0.attn.q_gain": (70_000,),
        "bigram.proj.weight": (270, 250),
        "canon": (3, 30_000, 1),
        "bigram.scale": (),
    }
    state = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    state["blocks.0.mlp.fc.weight"][:, 0] *= 30  # what clipping has to weigh
    state["blocks.0.mlp.fc.weight"][5] = 0
    return state | {"tok_emb.weight": state["tok_emb.weight"].bfloat16(), "steps": torch.arange(3)}


def clipped(rows, largest, share):
    """Codes, scales and error of rows clipped at a share of their sizes, row by row."""
    codes, scales = torch.zeros(rows.shape, dtype=torch.int8), torch.zeros(len(rows)).half()
    for i, row in enumerate(rows):
        scales[i] = max(float(row.abs().quantile(share)) / largest, 1 / largest)
        codes[i] = (row / float(scales[i])).round().clamp(-largest, largest)
    back = codes.float() * scales.float()[:, None]
    return float((back - rows).square().mean()), codes, scales


def test_the_mixed_form_is_written_as_an_own_reader_reads_it():
    state = mixed_state()
    data = pack_public_int6(state)
    table = torch.load(io.BytesIO(zstandard.decompress(data)), weights_only=True)
    tensors, kinds = table["w"], table["m"]
    six, eight = {"type": "int6"}, {"type": "int8"}
    assert kinds == {
        "tok_emb.weight": eight,
        "blocks.0.mlp.fc.weight": six,
        "blocks.0.attn.c_q.weight": "passthrough",
        "blocks.0.attn.bank": six,
        "blocks.0.attn.q_gain": "passthrough_ctrl",
        "bigram.proj.weight": six,
        "canon": eight,
        "bigram.scale": "passthrough",
        "steps": "passthrough",
    }
    assert {name: t.dtype for name, t in tensors.items() if name in state} == {
        "blocks.0.attn.c_q.weight": torch.float16,
        "blocks.0.attn.q_gain": torch.float32,
        "bigram.scale": torch.float16,
        "steps": torch.int64,
    }
    for name in ("blocks.0.mlp.fc.weight", "bigram.proj.weight"):
        found = [clipped(state[name], 31, share) for share in (0.999, 0.9995, 0.9999, 0.99999, 1.0)]
        _, codes, scales = min(found, key=lambda one: one[0])
        assert tensors[f"{name}.scale"].dtype == torch.float16
        assert torch.equal(tensors[f"{name}.scale"], scales) and torch.equal(tensors[f"{name}.q"], codes)
    bank = state["blocks.0.attn.bank"]
    step = (bank.abs().max() / 31).half()
    assert tensors["blocks.0.attn.bank.scale"].shape == () and tensors["blocks.0.attn.bank.scale"] == step
    assert torch.equal(tensors["blocks.0.attn.bank.q"], (bank / step.float()).round().to(torch.int8))
    restored = unpack_public(data)
    assert restored.keys() == state.keys()
    for name, tensor in restored.items():
        expected = tensors.get(name)
        if expected is None:
            scale, codes = tensors[f"{name}.scale"].float(), tensors[f"{name}.q"].float()
            expected = codes * (scale[:, None] if scale.ndim else scale)
        assert tensor.dtype == state[name].dtype and torch.equal(tensor, expected.to(tensor.dtype))


@pytest.mark.parametrize("header_bytes", [0, 2])
@pytest.mark.parametrize("compressor", ["zlib", "brotli"])
def test_the_mixed_form_in_other_containers(compressor, header_bytes):
    state = {name: tensor for name, tensor in mixed_state().items() if tensor.numel() < 70_000}
    found, expected = (
        unpack_public(pack_public_int6(state, *how)) for how in ((compressor, header_bytes), ())
    )
    assert all(torch.equal(found[name], expected[name]) for name in state)


# Names of other scripts


def test_the_names_of_543_are_ours(tmp_path):
    plan = ModelPlan(
        vocabulary_size=270,
        layers=3,
        width=32,
        heads=4,
        kv_heads=2,
        values=(ValueEmbedding(dimension=8, layers=(1, 2), shared_scale=False),),
    )
    draw = torch.Generator().manual_seed(3)
    ours = {name: torch.randn(shape, generator=draw) for name, shape in parameter_shapes(plan).items()}
    theirs = {name.replace("ve_shared.", "ve."): tensor for name, tensor in ours.items()}
    theirs["smear_gate.gate_weight"] = torch.randn(1, 1, 32, generator=draw)
    path = tmp_path / "final_model.int8.ptz"
    path.write_bytes(saved(theirs))
    weights = as_weights(read_public(path))
    assert weights.keys() == {*ours, "smear.gate"}
    found = infer_model_plan(weights)
    assert found.values == (ValueEmbedding(dimension=8, layers=(1, 2), shared_scale=False),)
    build_model(found).load_state_dict(weights)
    with pytest.raises(PublicFileError, match="two tensors of one meaning"):
        as_weights({**theirs, "smear.gate": torch.zeros(32)})
