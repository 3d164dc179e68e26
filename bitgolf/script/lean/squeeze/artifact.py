"""Quantized tensors, model plan and tokenizer to one string of bytes, and its weights back.

magic (4) · version (1) · number of sections (2) · CRC-32 of this and the table (4)
table, for each section: codec and order (1) · stored size (4) · decoded size (4) · CRC-32 as stored (4)
sections without gaps: plan · tensors · tokenizer · codes, a stream for each group · scales · values
"""

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitgolf.net.model import ModelPlan, parameter_shapes
from bitgolf.script.lean.base.plan import from_json
from bitgolf.squeeze.artifact import (
    PackPlan,
    Piece,
    code_shapes,
    encode_stream,
    json_bytes,
    sparse_json,
    split_planes,
    streams_of,
    tensor_table,
)
from bitgolf.squeeze.codec import CODEC_NAMES, decompress
from bitgolf.squeeze.form import FloatForm, Form, QuantizedTensor
from bitgolf.squeeze.sections import (
    ARTIFACT_MAGIC,
    ARTIFACT_PREFIX,
    ARTIFACT_VERSION,
    COLUMNS_FIRST,
    FIRST_STREAM,
    SECTION_ROW,
    TENSORS_SECTION,
    TOKENIZER_SECTION,
)


class Artifact(NamedTuple):
    """The bytes of a packed model, and how many of them are its tokenizer's."""

    data: bytes
    tokenizer_bytes: int


def pack(
    model: ModelPlan, tensors: Mapping[str, QuantizedTensor], tokenizer: bytes, plan: PackPlan
) -> Artifact:
    """Everything that scoring needs, as bytes; equal input gives equal bytes in every process."""
    shapes = parameter_shapes(model)
    entries = tensor_table(shapes, tensors, plan.layout)
    texts = [json_bytes(sparse_json(model)), json_bytes(entries), tokenizer]
    encoded = [(False, len(text), *plan.codec.encode(text)) for text in texts]
    encoded += [
        encode_stream(pieces, tensors, plan) for pieces in streams_of(*read_table(entries, shapes), shapes)
    ]
    rows = b"".join(
        SECTION_ROW.pack(
            CODEC_NAMES.index(codec) | (COLUMNS_FIRST if columns else 0), len(data), decoded, zlib.crc32(data)
        )
        for columns, decoded, codec, data in encoded
    )
    start = ARTIFACT_PREFIX.pack(ARTIFACT_MAGIC, ARTIFACT_VERSION, len(encoded), 0)[:-4]
    header = start + struct.pack("<I", zlib.crc32(start + rows)) + rows
    stored = [data for *_, data in encoded]
    return Artifact(header + b"".join(stored), len(stored[TOKENIZER_SECTION]))


def unpack(data: bytes, model: ModelPlan) -> dict[str, Tensor]:
    """The float32 weights of a model, from bytes alone."""
    shapes, parts, streams = parameter_shapes(model), dict[tuple[str, str], Tensor](), list[list[Piece]]()
    start = ARTIFACT_PREFIX.size + ARTIFACT_PREFIX.unpack_from(data)[2] * SECTION_ROW.size
    for index, row in enumerate(SECTION_ROW.iter_unpack(data[ARTIFACT_PREFIX.size : start])):
        codec, stored, decoded, checksum = row
        body, start = data[start : start + stored], start + stored
        if zlib.crc32(body) != checksum:
            raise ValueError(f"section {index} of the model has changed since it was written")
        columns = bool(codec & COLUMNS_FIRST)
        pieces = streams[index - FIRST_STREAM] if index >= FIRST_STREAM else []
        body = decompress(CODEC_NAMES[codec & ~COLUMNS_FIRST], body, decoded, code_shapes(pieces, columns))
        if index == TENSORS_SECTION:
            forms, groups = read_table(json.loads(body), shapes)
            streams = streams_of(forms, groups, shapes)
        for piece, part in zip(pieces, split_planes(body, pieces, columns)):
            parts[piece.tensor, piece.kind] = part
    weights = {}
    for name, form in forms.items():
        tensor_pieces = {
            kind: parts[name, kind] if (name, kind) in parts else torch.zeros(shape, dtype=dtype)
            for kind, (dtype, shape) in form.pieces(shapes[name]).items()  # nothing is stored of no bytes
        }
        weights[name] = QuantizedTensor(form, tensor_pieces, shapes[name]).dequantize()
    return weights


def read_table(
    entries: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Form], dict[str, int]]:
    """The form of every tensor, and the stream of every quantized one."""
    named = entries["forms"]
    forms = [FloatForm(dtype=form) if isinstance(form, str) else from_json(form) for form in named]
    chosen = {name: forms[use] for name, use in zip(shapes, entries["use"])}
    return chosen, dict(zip(shapes, entries["stream"]))
