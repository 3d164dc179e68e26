"""The public challenge's files: checkpoints and artifacts read, int8 ones written too, nothing executed.

`final_model.pt` is a state dict written by torch.save; `final_model.int8.ptz` is zlib around a pickled table
of int8 codes, scales and small tensors; `final_model.int6.ptz` is zstd, zlib, or brotli after a byte shuffle,
around another such table. All are loaded with weights_only, their size bounded first.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import zstandard
from torch import Tensor

from bitgolf.core.codec import Brotli, DamagedStreamError
from bitgolf.core.embed import BigramHash, EmbedPart, SmearGate, SmearVector
from bitgolf.core.errors import BitgolfError
from bitgolf.core.heads import AttentionOutputGate, GatedAttention, HeadsPart, SparseGate
from bitgolf.core.model import ModelPlan, parameter_shapes
from bitgolf.core.objective import MultiToken, NextToken
from bitgolf.core.position import Rope
from bitgolf.core.quantize import KeptTensor, QuantTensor, public_int8, quantize_weights
from bitgolf.core.route import GatedSkips, Plain, USkips
from bitgolf.core.values import ValueEmbedding, ValuePart, ValueResidual

INT8_FORMAT = "int8_clean_per_row_v1"
INT8_TABLES = ("quantized", "scales", "dtypes", "passthrough")
MAX_FILE_BYTES = 2**30
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_WINDOW = 2**27  # the largest that level 22 asks for
SHUFFLE_MAGIC = b"BSHF"
BFLOAT16_SUFFIXES = ("tok_emb.weight", ".embed.weight")  # what the scripts leave in bfloat16: embeddings
BANKS = {  # the matrices of all layers, then the second one of all layers
    "qo_bank": ("attn.c_q", "attn.proj"),
    "kv_bank": ("attn.c_k", "attn.c_v"),
    "mlp_up_bank": ("mlp.fc", ""),
    "mlp_down_bank": ("mlp.proj", ""),
}
DTYPES = {
    str(kind).removeprefix("torch."): kind
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}


class PublicFileError(BitgolfError):
    """A file is not what the public scripts write."""


def read_public(path: Path) -> dict[str, Tensor]:
    """The state dict in a public checkpoint or artifact, in the number types it was trained with."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PublicFileError(f"cannot read: {error.strerror}", where=str(path)) from None
    try:
        state = load_tensors(data) if data[:2] == b"PK" else unpack_public(data)
    except PublicFileError as error:
        raise PublicFileError(error.what, where=str(path), value=error.value, way_out=error.way_out) from None
    wrong = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong or not state:
        raise PublicFileError("expected a state dict of tensors only", where=str(path), value=wrong[:3])
    return state


def as_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A public state dict as weights of our model: float32, out of its banks, without empty tensors."""
    return {name: tensor.float() for name, tensor in unbanked(state).items() if tensor.numel()}


def unbanked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices that records from 2026-03-23 on stack by shape, each under its own name."""
    layers = len(state.get("mlp_up_bank", ()))
    alone = {name: tensor for name, tensor in state.items() if name not in BANKS}
    for bank, (first, second) in BANKS.items():
        for i, matrix in enumerate(state.get(bank, ())):
            alone[f"blocks.{i % layers}.{first if i < layers else second}.weight"] = matrix
    return alone


def load_tensors(data: bytes) -> dict[str, Any]:
    """What torch.save wrote, tensors and plain containers only; anything that would run code is refused."""
    way_out = "expected a file that torch.save wrote, with tensors only"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
        if claimed > min(MAX_FILE_BYTES, 2 * len(data) + 2**16):
            raise PublicFileError("claims more bytes than it has", value=claimed, way_out=way_out)
        value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except PublicFileError:
        raise
    except Exception as error:  # torch and zipfile raise a dozen kinds for damaged or hostile files
        first_line = str(error).strip().partition("\n")[0][:200]
        raise PublicFileError(f"not a safe torch file: {first_line}", way_out=way_out) from None
    if not isinstance(value, dict):
        raise PublicFileError("expected a dictionary", value=type(value).__name__, way_out=way_out)
    return value


def inflate(data: bytes, limit: int) -> bytes:
    """A whole zlib stream of at most `limit` bytes."""
    decoder = zlib.decompressobj()
    try:
        result = decoder.decompress(data, limit)
    except zlib.error as error:
        raise PublicFileError(f"neither a torch file nor a zlib stream: {error}") from None
    if decoder.unconsumed_tail:
        raise PublicFileError(f"decodes to more than {limit:,} bytes")
    if not decoder.eof or decoder.unused_data:
        fault = "bytes after the zlib stream" if decoder.eof else "the zlib stream is cut short"
        raise PublicFileError(fault, value=f"{len(data):,} bytes")
    return result


def unzstd(data: bytes, limit: int) -> bytes:
    """A whole zstd frame of at most `limit` bytes."""
    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    try:
        result = decoder.stream_reader(io.BytesIO(data)).read(limit + 1)
        if len(result) > limit:
            raise PublicFileError(f"decodes to more than {limit:,} bytes")
        whole = decoder.decompressobj()  # the frame is known to be small now, so its end can be looked for
        whole.decompress(data)
    except zstandard.ZstdError as error:
        raise PublicFileError(f"not a zstd frame: {error}") from None
    if not whole.eof or whole.unused_data:
        fault = "bytes after the zstd frame" if whole.eof else "the zstd frame is cut short"
        raise PublicFileError(fault, value=f"{len(data):,} bytes")
    return result


def unbrotli(data: bytes, limit: int) -> bytes:
    """A whole brotli stream of at most `limit` bytes."""
    try:
        result, complete = Brotli.decode(data, limit, ())
    except DamagedStreamError:
        result, complete = b"", False
    if len(result) > limit:
        raise PublicFileError(f"decodes to more than {limit:,} bytes")
    if not complete:
        raise PublicFileError("neither a torch file nor a zlib stream, a zstd frame or whole brotli")
    return result


def expand(data: bytes, limit: int = MAX_FILE_BYTES) -> bytes:
    """What a packed file holds, its bytes in their own order. zstd and zlib can be told by their start."""
    if data[:4] == ZSTD_MAGIC:
        whole = unzstd(data, limit)
    elif len(data) > 1 and data[0] & 15 == 8 and int.from_bytes(data[:2]) % 31 == 0:
        whole = inflate(data, limit)
    else:
        whole = unbrotli(data, limit)
    return byte_unshuffle(whole) if whole[:4] == SHUFFLE_MAGIC else whole


def byte_shuffle(data: bytes, stride: int = 2) -> bytes:
    """All first bytes of so many, all second ones and so on, after a magic and the stride; 1 leaves them."""
    if not 0 <= stride < 256:
        raise PublicFileError("a stride of the byte shuffle is one byte", value=stride)
    if stride < 2 or len(data) < stride:
        return data
    return SHUFFLE_MAGIC + bytes([stride]) + b"".join(data[start::stride] for start in range(stride))


def byte_unshuffle(data: bytes) -> bytes:
    """The inverse of `byte_shuffle`, for any length; data without the magic stays as it is."""
    if data[:4] != SHUFFLE_MAGIC:
        return data
    if len(data) < 5 or data[4] < 1:
        raise PublicFileError("a byte shuffle without a stride", value=data[:5])
    stride, body = data[4], data[5:]
    result, place = bytearray(len(body)), 0
    for start in range(min(stride, len(body))):
        count = len(range(start, len(body), stride))
        result[start::stride] = body[place : place + count]
        place += count
    return bytes(result)


def unpack_public(data: bytes, limit: int = MAX_FILE_BYTES) -> dict[str, Tensor]:
    """The state dict in a packed file of any public kind."""
    table = load_tensors(expand(data, limit))
    return int6_state(table) if {"w", "m"} <= table.keys() else int8_state(table)


def unpack_public_int6(data: bytes, limit: int = MAX_FILE_BYTES) -> dict[str, Tensor]:
    """The state dict in a mixed int6 and int8 file of the records from 2026-03-20 on."""
    return int6_state(load_tensors(expand(data, limit)))


def unpack_public_int8(data: bytes, limit: int = MAX_FILE_BYTES) -> dict[str, Tensor]:
    """The state dict that the baseline loads from its packed file."""
    return int8_state(load_tensors(expand(data, limit)))


def int6_state(table: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by their kind in `m`: codes and scales in `w`, or as they are.

    The file does not say what float16 was before: the scripts train embeddings in bfloat16, all else in
    float32.
    """
    tensors, kinds = table.get("w"), table.get("m")
    if not isinstance(tensors, dict) or not isinstance(kinds, dict):
        raise PublicFileError("tables are missing", value=["w", "m"])
    state = {}
    for name in kinds:
        dtype = "bfloat16" if str(name).endswith(BFLOAT16_SUFFIXES) else "float32"
        kept = tensors.get(name)
        if isinstance(kept, Tensor):
            state[name] = kept.to(DTYPES[dtype]) if kept.dtype == torch.float16 else kept
            continue
        parts = {"quantized": f"{name}.q", "scales": f"{name}.scale"}
        one = {key: {name: tensors.get(part)} for key, part in parts.items()}
        state[name] = dequantize_public(name, {**one, "dtypes": {name: dtype}})
    return state


def int8_state(table: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of the baseline's table."""
    if table.get("__quant_format__") != INT8_FORMAT:
        raise PublicFileError(
            f"expected the format {INT8_FORMAT}",
            value=table.get("__quant_format__"),
            way_out="other formats: issues",
        )
    missing = [key for key in INT8_TABLES if not isinstance(table.get(key), dict)]
    if missing:
        raise PublicFileError("tables are missing", value=missing)
    state = {name: dequantize_public(name, table) for name in table["quantized"]}
    original = table.get("passthrough_orig_dtypes", {})
    for name, tensor in table["passthrough"].items():
        state[name] = tensor.to(DTYPES[original[name]]) if original.get(name) in DTYPES else tensor
    return state


def dequantize_public(name: str, table: Mapping[str, Any]) -> Tensor:
    """One tensor: codes times its scale or the scales of its rows."""
    codes, scales, dtype = table["quantized"][name], table["scales"].get(name), table["dtypes"].get(name)
    if not isinstance(codes, Tensor) or not isinstance(scales, Tensor) or dtype not in DTYPES:
        raise PublicFileError("codes, scale or number type is missing", value=name)
    if scales.ndim and scales.shape != codes.shape[:1]:
        raise PublicFileError("not one scale a row", value=[name, tuple(codes.shape), tuple(scales.shape)])
    shaped = scales.float().reshape(-1, *[1] * (codes.ndim - 1)) if scales.ndim else scales.float()
    return (codes.float() * shaped).to(DTYPES[dtype])


def public_int8_table(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The table that the baseline pickles: codes, scales, and what stays as it is."""
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    tensors, _ = quantize_weights(public_int8(), {name: tensor.float() for name, tensor in floats.items()})
    table: dict[str, Any] = {key: {} for key in (*INT8_TABLES, "qmeta", "passthrough_orig_dtypes")}
    for name, tensor in state.items():
        dtype, packed = str(tensor.dtype).removeprefix("torch."), tensors.get(name)
        if isinstance(packed, QuantTensor):
            rows = tensor.ndim == 2
            table["quantized"][name] = packed.codes.reshape(tensor.shape)
            table["scales"][name] = packed.scales if rows else packed.scales[0]
            table["dtypes"][name] = dtype
            table["qmeta"] |= {name: {"scheme": "per_row", "axis": 0}} if rows else {}
            continue
        kept = packed.values if isinstance(packed, KeptTensor) else tensor
        table["passthrough"][name] = kept.contiguous()
        if kept.dtype == torch.float16 and dtype in ("float32", "bfloat16"):
            table["passthrough_orig_dtypes"][name] = dtype
    optional = {key: table[key] for key in ("qmeta", "passthrough_orig_dtypes") if table[key]}
    return {"__quant_format__": INT8_FORMAT, **{key: table[key] for key in INT8_TABLES}, **optional}


def pack_public_int8(state: Mapping[str, Tensor]) -> bytes:
    """`final_model.int8.ptz` as the baseline writes it: zlib level 9 around torch.save."""
    buffer = io.BytesIO()
    torch.save(public_int8_table(state), buffer)
    return zlib.compress(buffer.getvalue(), level=9)


def infer_parts(shapes: Mapping[str, tuple[int, ...]], width: int) -> dict[str, Any]:
    """The seams of a model plan, as far as the shapes of the tensors show them."""
    embed: list[EmbedPart] = []
    values: list[ValuePart] = []
    heads_out: list[HeadsPart] = []
    layers = len({name for name in shapes if name.endswith(".attn.q_gain")})
    if table := shapes.get("bigram.embed.weight"):
        embed.append(BigramHash(buckets=table[0], dimension=table[1]))
    if "smear.gate" in shapes:
        embed.append(SmearVector())
    if gate := shapes.get("smear_gate.weight"):
        embed.append(SmearGate(channels=gate[1], boundary=False))
    if table := shapes.get("ve_shared.embed.weight"):
        count = sum(name.startswith("ve_layer_scales.") for name in shapes)
        values.append(ValueEmbedding(dimension=table[1], layers=tuple(range(layers - count, layers))))
    if any(name.endswith("vr_lambda") for name in shapes):
        values.append(ValueResidual())
    if gate := shapes.get("blocks.0.attn.attn_gate_proj.weight"):
        heads_out.append(AttentionOutputGate(channels=gate[1]))
    if gate := shapes.get("blocks.0.attn.attn_gate_w"):
        heads_out.append(GatedAttention() if gate[1] == width else SparseGate(channels=gate[1]))
    route = GatedSkips() if "skip_gates" in shapes else USkips() if "skip_weights" in shapes else Plain()
    further = sum(name.startswith("mtp_heads.") for name in shapes)
    return {
        "embed": tuple(embed),
        "values": tuple(values),
        "heads_out": tuple(heads_out),
        "route": route,
        "objective": MultiToken(heads=further) if further else NextToken(),
    }


def infer_model_plan(weights: Mapping[str, Tensor], **settings: Any) -> ModelPlan:
    """The model plan behind a public state dict; what shapes do not show is given by its setting.

    They do not show logit_softcap, position, values' layers, heads_out without tensors (XSA), input_scale,
    activation, recurrence, and where two lanes begin.

    Raises PublicFileError when a tensor is missing, or belongs to a technique that the plan cannot express.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items() if tensor.numel()}
    needed = (
        "tok_emb.weight",
        *(f"blocks.0.{part}" for part in ("attn.q_gain", "attn.c_k.weight", "mlp.fc.weight")),
    )
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise PublicFileError("not a model of the baseline's kind: tensors are missing", value=missing)
    vocabulary_size, embedding_width = shapes["tok_emb.weight"]
    width = shapes["blocks.0.attn.c_k.weight"][1]
    heads = shapes["blocks.0.attn.q_gain"][0]
    hidden = shapes["blocks.0.mlp.fc.weight"][0]
    layers = [int(found.group(1)) for found in map(re.compile(r"blocks\.(\d+)\.").match, shapes) if found]
    mlp = {"mlp_hidden": hidden} if hidden % width else {"mlp_multiplier": hidden / width}
    plan = ModelPlan(
        vocabulary_size=vocabulary_size,
        width=width,
        embedding_width=embedding_width if embedding_width != width else 0,
        layers=1 + max(layers),
        heads=heads,
        kv_heads=shapes["blocks.0.attn.c_k.weight"][0] * heads // width,
        tied="lm_head.weight" not in shapes,
        **infer_parts(shapes, width),
        position=Rope(frequencies="bfloat16"),  # what the public script's .bfloat16() leaves of them
    ).but(**{**mlp, **settings})
    expected = parameter_shapes(plan)
    wrong = [name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name)]
    if wrong:
        raise PublicFileError(
            f"{len(wrong)} tensors do not fit the plan that the others show",
            where=wrong[0],
            value=shapes.get(wrong[0], "nothing"),
            way_out="the checkpoint uses a technique that this model does not have, or name its setting",
        )
    return plan
