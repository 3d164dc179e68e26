"""Quantized tensors, model plan and tokenizer to one string of bytes, and its weights back.

magic (4) · version (1) · number of sections (2) · CRC-32 of this and the table (4)
table, for each section: codec and order (1) · stored size (4) · decoded size (4) · CRC-32 as stored (4)
sections without gaps: plan · tensors · tokenizer · codes, a stream for each group · scales · values
"""

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from bitgolf.net.model import ModelPlan, parameter_shapes
from bitgolf.squeeze.artifact import (
    ARTIFACT_MAGIC,
    ARTIFACT_PREFIX,
    ARTIFACT_VERSION,
    COLUMNS_FIRST,
    FIRST_STREAM,
    SECTION_ROW,
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
from bitgolf.squeeze.form import QuantizedTensor


class Artifact(NamedTuple):
    """The bytes of a packed model, those of its tokenizer, and what lies in its streams."""

    data: bytes
    tokenizer_bytes: int
    streams: list[list[Piece]]


def pack(
    model: ModelPlan, tensors: Mapping[str, QuantizedTensor], tokenizer: bytes, plan: PackPlan
) -> Artifact:
    """Everything that scoring needs, as bytes; equal input gives equal bytes in every process."""
    shapes = parameter_shapes(model)
    table = tensor_table(shapes, tensors, plan.layout)
    forms = {name: tensors[name].form for name in shapes}
    streams = streams_of(forms, dict(zip(shapes, table["stream"])), shapes)
    texts = [json_bytes(sparse_json(model)), json_bytes(table), tokenizer]
    encoded = [(False, len(text), *plan.codec.encode(text)) for text in texts]
    encoded += [encode_stream(pieces, tensors, plan) for pieces in streams]
    rows = b"".join(
        SECTION_ROW.pack(
            CODEC_NAMES.index(codec) | (COLUMNS_FIRST if columns else 0), len(data), size, zlib.crc32(data)
        )
        for columns, size, codec, data in encoded
    )
    start = ARTIFACT_PREFIX.pack(ARTIFACT_MAGIC, ARTIFACT_VERSION, len(encoded), 0)[:-4]
    header = start + struct.pack("<I", zlib.crc32(start + rows)) + rows
    stored = [data for *_, data in encoded]
    return Artifact(header + b"".join(stored), len(stored[FIRST_STREAM - 1]), streams)


def unpack(artifact: Artifact, tensors: Mapping[str, QuantizedTensor]) -> dict[str, Tensor]:
    """The float32 weights, from the bytes alone; tensors: their forms and shapes, as packed."""
    data = artifact.data
    start = ARTIFACT_PREFIX.size + ARTIFACT_PREFIX.unpack_from(data)[2] * SECTION_ROW.size
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in tensors}
    for place, row in enumerate(SECTION_ROW.iter_unpack(data[ARTIFACT_PREFIX.size : start])):
        codec, stored, size, checksum = row
        body, start = data[start : start + stored], start + stored
        if zlib.crc32(body) != checksum:
            raise ValueError(f"section {place} of the model has changed since it was written")
        if place >= FIRST_STREAM:
            pieces, columns = artifact.streams[place - FIRST_STREAM], bool(codec & COLUMNS_FIRST)
            body = decompress(CODEC_NAMES[codec & ~COLUMNS_FIRST], body, size, code_shapes(pieces, columns))
            for piece, part in zip(pieces, split_planes(body, pieces, columns)):
                parts[piece.tensor][piece.kind] = part
    return {name: assemble(tensor, parts[name]) for name, tensor in tensors.items()}


def assemble(like: QuantizedTensor, parts: dict[str, Tensor]) -> Tensor:
    """A tensor of the form and shape of another, from its own parts."""
    for kind, (dtype, size) in like.form.pieces(like.shape).items():
        parts.setdefault(kind, torch.zeros(size, dtype=dtype))  # nothing is stored of no bytes
    return QuantizedTensor(like.form, parts, like.shape).dequantize()
