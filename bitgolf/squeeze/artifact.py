"""Quantized tensors, model plan and tokenizer packed into one string of bytes, and unpacked.

    magic (4) · version (1) · number of sections (2) · CRC-32 of this and the table (4)
    table, for each section: codec and order (1) · stored size (4) · decoded size (4) · CRC-32 as stored (4)
    sections without gaps: plan · tensors · tokenizer · codes, a stream for each group · scales · values

All numbers are little-endian. `plan` is the model plan as JSON without settings at their defaults, so the
defaults of ModelPlan are part of the format. `tensors` is JSON too: the forms in use, the form of each
tensor, and which tensors share a stream. Names and shapes follow from the plan and are not stored. A form is
the settings of a `Form`, or the number type of tensors that stay floats. Pieces of equal name form a stream;
codes (int8 matrices) form one per group; tensors are in the order of their names. Codes are one byte each,
by rows or by columns (the high bit of the codec byte), and entropy coders know the shapes of their matrices.
Other numbers are split into planes of bytes. Nothing in an artifact is executed, every size is checked before
use, a small file cannot demand much memory or time, and every byte is under a checksum.
"""

import dataclasses
import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from bitgolf.base.errors import ArtifactError, BitgolfError, PlanError
from bitgolf.base.plan import Plan, from_json, members, setting, to_json
from bitgolf.base.threads import in_threads
from bitgolf.net.backend import Backend
from bitgolf.net.model import Model, ModelPlan, model_with, parameter_shapes
from bitgolf.squeeze.codec import CODEC_NAMES, Codec, Deflate
from bitgolf.squeeze.form import FLOAT_TYPES, FloatForm, Form, QuantizedTensor
from bitgolf.squeeze.sections import (
    ARTIFACT_MAGIC,
    ARTIFACT_PREFIX,
    ARTIFACT_VERSION,
    COLUMNS_FIRST,
    FIRST_STREAM,
    MAX_DECODED_BYTES,
    MAX_SECTIONS,
    PLAN_SECTION,
    SECTION_ROW,
    TENSORS_SECTION,
    TOKENIZER_SECTION,
    Section,
    SizeLimitError,
    UnknownFormError,
    read_json_section,
    read_section,
    read_sections,
)
from bitgolf.squeeze.symbol_model import Shapes
from bitgolf.text.tokenizer import Tokenizer

MAX_TENSORS = 4096
TENSORS_OF_A_LAYER = 10  # at least: six matrices, two scales, a mix and a gain


class ShapeMismatchError(ArtifactError):
    """The tensors are not those of the model plan."""


class ValueRangeError(ArtifactError):
    """A code is outside its grid, or a float is not finite."""


class VocabularyError(ArtifactError):
    """The tokenizer is not the one that the model was trained with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout(Plan):
    """The slot of which tensors' codes share a compressed stream."""

    abstract: ClassVar[bool] = True

    def group(self, name: str) -> str:
        """The group of a tensor; a group is coded as one stream."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByName(Layout):
    """A stream for each tensor.

    What: every matrix has its own statistics and an exact line in the ledger
    Source: none
    Cost: 13 bytes and a table of symbols each: 0.1 to 0.4% more than by role on small models
    Not for: the last hundred bytes
    Neutral: a model of one layer
    """

    def group(self, name: str) -> str:
        return name


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByRole(Layout):
    """A stream for the same matrix of all layers.

    What: c_q of all layers, then c_k of all layers, and so on; the ledger divides a stream by decoded size
    Source: public records with per-group compression (PR #1855)
    Cost: none
    Not for: layers of different bits: their statistics mix
    Neutral: a model of one layer
    """

    def group(self, name: str) -> str:
        return ".".join(part for part in name.split(".") if not part.isdigit())


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackPlan(Plan):
    """Settings of how tensors become bytes."""

    codec: Codec = Deflate()
    layout: Layout = ByRole()
    order: str = setting("smallest", one_of=("rows", "columns", "smallest"))


class Piece(NamedTuple):
    """The part of one tensor in a stream."""

    tensor: str
    kind: str  # its name in the form: codes, scales, values ...
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def is_codes(self) -> bool:
        """Whether codecs may treat it as a matrix of codes."""
        return self.dtype is torch.int8 and len(self.shape) == 2

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * self.numbers


Encoded = tuple[bool, int, str, bytes]  # whether by columns, decoded size, codec, bytes


class Contents(NamedTuple):
    """The contents of the first two sections: model plan, form of each tensor, streams."""

    model: ModelPlan
    shapes: dict[str, tuple[int, ...]]
    forms: dict[str, Form]
    streams: list[list[Piece]]


class Unpacked(NamedTuple):
    """An unpacked model: plan, weights, tokenizer."""

    model: ModelPlan
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    tensors: dict[str, QuantizedTensor]


@dataclasses.dataclass(frozen=True)
class Artifact:
    """The bytes, and a ledger of named lines that add up to their number."""

    data: bytes
    ledger: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        total = sum(num_bytes for _, num_bytes in self.ledger)
        if total != len(self.data):
            raise ArtifactError(f"the ledger adds up to {total:,} bytes of {len(self.data):,}")

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The artifact of bytes packed earlier. Raises as `unpack` does, but decodes no weights."""
        sections = read_sections(data)
        contents = read_contents(data, sections)
        checksums = 4 * (1 + len(sections))
        header = ARTIFACT_PREFIX.size + SECTION_ROW.size * len(sections) - checksums
        ledger = [("header", header), ("checksums", checksums)]
        named = ((PLAN_SECTION, "plan"), (TENSORS_SECTION, "tensors"), (TOKENIZER_SECTION, "tokenizer"))
        ledger += [(name, sections[i].stored) for i, name in named]
        for section, pieces in zip(sections[FIRST_STREAM:], contents.streams, strict=True):
            shares = apportion(section.stored, [piece.num_bytes for piece in pieces])
            ledger += [(f"{piece.tensor} {piece.kind}", share) for piece, share in zip(pieces, shares)]
        return cls(data, tuple(ledger))


def pack(
    model: ModelPlan,
    tensors: Mapping[str, QuantizedTensor],
    tokenizer: bytes,
    plan: PackPlan | None = None,
    encoded_before: dict[str, Encoded] | None = None,
) -> Artifact:
    """Everything that scoring needs, as bytes; equal input gives equal bytes in every process.

    encoded_before: the streams of the last call with this plan, by a hash of their contents; updated in
    place. Unchanged streams are not encoded again.
    """
    plan, before = plan or PackPlan(), {} if encoded_before is None else encoded_before
    shapes = parameter_shapes(model)
    check_shapes(shapes, {name: tensor.shape for name, tensor in tensors.items()})
    entries = tensor_table(shapes, tensors, plan.layout)
    streams = streams_of(*read_table(entries, shapes), shapes)
    texts = [json_bytes(sparse_json(model)), json_bytes(entries), tokenizer]
    encoded = [(False, len(text), *plan.codec.encode(text)) for text in texts]
    contents = [_contents(pieces, tensors) for pieces in streams]
    new = {name: pieces for name, pieces in zip(contents, streams) if name not in before}
    longest_first = sorted(new, key=lambda name: -sum(piece.num_bytes for piece in new[name]))
    made = in_threads(lambda name: encode_stream(new[name], tensors, plan), longest_first)
    now = {**before, **dict(zip(longest_first, made))}
    before.clear()
    before |= {name: now[name] for name in contents}
    encoded += [before[name] for name in contents]
    rows = b"".join(
        SECTION_ROW.pack(
            CODEC_NAMES.index(codec) | (COLUMNS_FIRST if columns else 0), len(data), decoded, zlib.crc32(data)
        )
        for columns, decoded, codec, data in encoded
    )
    start = ARTIFACT_PREFIX.pack(ARTIFACT_MAGIC, ARTIFACT_VERSION, len(encoded), 0)[:-4]
    header = start + struct.pack("<I", zlib.crc32(start + rows)) + rows
    return Artifact.of(header + b"".join(data for *_, data in encoded))


def _contents(pieces: Sequence[Piece], tensors: Mapping[str, QuantizedTensor]) -> str:
    """A hash of the numbers of a stream and their layout."""
    shapes = [(piece.kind, piece.dtype, piece.shape) for piece in pieces]
    numbers = join_planes([tensors[piece.tensor].pieces[piece.kind] for piece in pieces])
    return f"{hashlib.sha256(numbers).hexdigest()} {shapes}"


def unpack(data: bytes) -> Unpacked:
    """The model, float32 weights and tokenizer in an artifact.

    The classes of its forms must be imported before: `bitgolf.import_core()`.
    Raises a subclass of ArtifactError for each fault, and CodecError when a compressor is not installed.
    """
    sections = read_sections(data)
    contents = read_contents(data, sections)
    try:
        tokenizer = Tokenizer.from_bytes(read_section(data, sections[TOKENIZER_SECTION], "tokenizer"))
    except (ArtifactError, MemoryError):
        raise
    except BitgolfError as error:
        raise VocabularyError(f"not a tokenizer: {error}", where="tokenizer") from None
    if tokenizer.vocabulary_size != contents.model.vocabulary_size:
        raise VocabularyError(
            f"the model has {contents.model.vocabulary_size} tokens, the tokenizer another number",
            where="tokenizer",
            value=tokenizer.vocabulary_size,
        )
    parts: dict[tuple[str, str], Tensor] = {}
    for section, pieces in zip(sections[FIRST_STREAM:], contents.streams, strict=True):
        body = read_section(data, section, stream_name(pieces), code_shapes(pieces, section.columns_first))
        for piece, part in zip(pieces, split_planes(body, pieces, section.columns_first)):
            parts[piece.tensor, piece.kind] = part
    tensors = {name: assemble(name, contents, parts) for name in contents.shapes}
    weights = {name: tensor.dequantize() for name, tensor in tensors.items()}
    odd = [name for name, weight in weights.items() if not bool(weight.isfinite().all())]
    if odd:
        raise ValueRangeError("numbers that are not finite", where=odd[0])
    return Unpacked(contents.model, weights, tokenizer, tensors)


def read_contents(data: bytes, sections: Sequence[Section]) -> Contents:
    """Read model plan and table of tensors, and check that the sections fit them."""
    model_json = read_json_section(data, sections[PLAN_SECTION], "plan")
    entries = read_json_section(data, sections[TENSORS_SECTION], "tensors")
    try:
        model = from_json(ModelPlan, model_json)
    except PlanError as error:
        raise UnknownFormError(f"unknown settings: {'; '.join(error.problems)}", where="plan") from None
    except OverflowError:
        raise SizeLimitError("numbers beyond any model", where="plan", value=model_json) from None
    # The size of the table bounds what the plan may ask for.
    uses, least = entries.get("use"), TENSORS_OF_A_LAYER * model.layers
    if not isinstance(uses, list) or not least <= len(uses) <= MAX_TENSORS:
        raise ShapeMismatchError(
            f"expected a table of {least:,} to {MAX_TENSORS:,} tensors",
            where="tensors",
            value=len(uses) if isinstance(uses, list) else uses,
        )
    try:
        shapes = {name: tuple(shape) for name, shape in parameter_shapes(model).items()}
        if sum(math.prod(shape) for shape in shapes.values()) > MAX_DECODED_BYTES:
            raise SizeLimitError(f"more than {MAX_DECODED_BYTES:,} weights", where="plan", value=model_json)
        forms, groups = read_table(entries, shapes)
        streams = streams_of(forms, groups, shapes)
    except (RuntimeError, TypeError, OverflowError):
        raise SizeLimitError(
            "no machine holds tensors of this size", where="plan", value=model_json
        ) from None
    if len(streams) != len(sections) - FIRST_STREAM:
        raise ShapeMismatchError(
            f"the model needs {len(streams)} streams", where="header", value=len(sections) - FIRST_STREAM
        )
    for section, pieces in zip(sections[FIRST_STREAM:], streams):
        expected = sum(piece.num_bytes for piece in pieces)
        in_order = pieces[0].is_codes or not section.columns_first
        if section.decoded != expected or not in_order:
            needs = f"the model needs {expected:,} bytes, columns first only of codes"
            raise ShapeMismatchError(needs, where=stream_name(pieces), value=section.decoded)
    return Contents(model, shapes, forms, streams)


def read_table(
    entries: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Form], dict[str, int]]:
    """The form of every tensor, and the stream of every quantized one."""
    forms, uses, streams = (entries.get(key) for key in ("forms", "use", "stream"))
    if not (isinstance(forms, list) and isinstance(uses, list) and isinstance(streams, list)):
        raise UnknownFormError(
            "expected the lists forms, use and stream", where="tensors", value=sorted(entries)
        )
    if len(uses) != len(shapes) or len(streams) != len(shapes):
        raise ShapeMismatchError(f"the model has {len(shapes)} tensors", where="tensors", value=len(uses))
    if len(forms) > len(uses):
        raise UnknownFormError("more forms than tensors", where="tensors", value=len(forms))
    parsed = [read_form(form) for form in forms]
    for key, values, limit in (("use", uses, len(parsed)), ("stream", streams, MAX_SECTIONS)):
        wrong = [value for value in values if type(value) is not int or not 0 <= value < limit]
        if wrong:
            raise UnknownFormError(f"{key}: expected numbers below {limit}", where="tensors", value=wrong[0])
    chosen = {name: parsed[use] for name, use in zip(shapes, uses)}
    return chosen, dict(zip(shapes, streams))


def read_form(form: object) -> Form:
    """The form of a table entry: by the name of its class, or by the number type of floats."""
    if isinstance(form, str) and form in FLOAT_TYPES:
        return FloatForm(dtype=form)
    kind = members(Form).get(str(form.get("class"))) if isinstance(form, dict) else None
    if kind in (None, Form, FloatForm):
        raise UnknownFormError("unknown form", where="tensors", value=form)
    try:
        return from_json(kind, form)
    except PlanError as error:
        raise UnknownFormError(f"unknown form: {'; '.join(error.problems)}", where="tensors") from None


def tensor_table(
    shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, QuantizedTensor], layout: Layout
) -> dict[str, Any]:
    """The tensors section: forms in order of first use, and the form and stream of each tensor."""
    forms: list[Form] = []
    groups: list[str] = []
    uses, streams = [], []
    for name in shapes:
        tensor, stream = tensors[name], 0
        if "codes" in tensor.pieces:
            group = layout.group(name)
            groups += [group] if group not in groups else []
            stream = groups.index(group)
        forms += [tensor.form] if tensor.form not in forms else []
        uses.append(forms.index(tensor.form))
        streams.append(stream)
    return {"forms": [form.in_short() or sparse_json(form) for form in forms], "use": uses, "stream": streams}


def streams_of(
    forms: Mapping[str, Form], groups: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]
) -> list[list[Piece]]:
    """The streams in order: codes by group, then all scales, all values. Empty streams are omitted."""
    streams: dict[tuple[bool, str, int], list[Piece]] = {}
    for name, form in forms.items():
        for kind, stored in form.pieces(shapes[name]).items():
            piece = Piece(name, kind, *stored)
            group = groups[name] if piece.is_codes else 0
            streams.setdefault((not piece.is_codes, piece.kind, group), []).append(piece)
    ordered = [streams[key] for key in sorted(streams)]
    return [pieces for pieces in ordered if sum(piece.num_bytes for piece in pieces)]


def code_shapes(pieces: Sequence[Piece], columns_first: bool) -> Shapes:
    """The shapes of the matrices in a stream of codes, in their order there; empty for other streams."""
    return [piece.shape[:: -1 if columns_first else 1] for piece in pieces if piece.is_codes]


def stream_name(pieces: Sequence[Piece]) -> str:
    """The name of a stream in an error message."""
    more = f" and {len(pieces) - 1} more" if len(pieces) > 1 else ""
    return f"{pieces[0].tensor} {pieces[0].kind}{more}"


def encode_stream(pieces: Sequence[Piece], tensors: Mapping[str, QuantizedTensor], plan: PackPlan) -> Encoded:
    """Encode a stream by rows and by columns, if it may, and keep the shorter; ties go to rows."""
    parts = [tensors[piece.tensor].pieces[piece.kind] for piece in pieces]
    order = plan.order if pieces[0].is_codes else "rows"
    orders = {"rows": (False,), "columns": (True,), "smallest": (False, True)}[order]
    results = []
    for columns in orders:
        body = join_planes([part.T if columns else part for part in parts])
        results.append((columns, len(body), *plan.codec.encode(body, code_shapes(pieces, columns))))
    return min(results, key=lambda result: len(result[3]))


def join_planes(parts: Sequence[Tensor]) -> bytes:
    """All first bytes of all numbers, then all second bytes: each plane has its own statistics."""
    rows = [
        part.cpu().contiguous().reshape(-1).view(torch.uint8).reshape(-1, part.element_size())
        for part in parts
    ]
    widest = max(row.shape[1] for row in rows)
    planes = [row[:, byte] for byte in range(widest) for row in rows if row.shape[1] > byte]
    return torch.cat(planes).numpy().tobytes()


def split_planes(body: bytes, pieces: Sequence[Piece], columns_first: bool) -> Iterator[Tensor]:
    """The inverse of `join_planes`, one tensor for each piece."""
    flat = torch.frombuffer(bytearray(body), dtype=torch.uint8)
    counts = [piece.numbers for piece in pieces]
    rows = [
        torch.empty(count, piece.dtype.itemsize, dtype=torch.uint8) for count, piece in zip(counts, pieces)
    ]
    offset = 0
    for byte in range(max(row.shape[1] for row in rows)):
        for row, count in zip(rows, counts):
            if row.shape[1] > byte:
                row[:, byte] = flat[offset : offset + count]
                offset += count
    for row, piece in zip(rows, pieces):
        values = row.reshape(-1).view(piece.dtype)
        yield (
            values.reshape(piece.shape[::-1]).T.contiguous() if columns_first else values.reshape(piece.shape)
        )


def assemble(name: str, contents: Contents, parts: Mapping[tuple[str, str], Tensor]) -> QuantizedTensor:
    """One tensor from its parts. Raises ArtifactError for numbers that its form cannot have."""
    form, shape, pieces = contents.forms[name], contents.shapes[name], {}
    for kind, (dtype, piece_shape) in form.pieces(shape).items():
        pieces[kind] = parts[name, kind] if (name, kind) in parts else torch.zeros(piece_shape, dtype=dtype)
    try:
        form.check_pieces(pieces)
    except ArtifactError as error:
        raise ValueRangeError(error.what, where=name, value=error.value) from None
    return QuantizedTensor(form, pieces, shape)


def check_shapes(expected: Mapping[str, tuple[int, ...]], actual: Mapping[str, tuple[int, ...]]) -> None:
    """Raises for tensors that are missing, surplus (a tied head, optimizer state) or of another shape."""
    for name in [*expected, *actual]:
        wanted, given = expected.get(name), actual.get(name)
        if wanted is None or given is None or tuple(wanted) != tuple(given):
            wanted_text = "no such tensor" if wanted is None else f"shape {tuple(wanted)}"
            raise ShapeMismatchError(
                f"the model plan asks for {wanted_text}", where=name, value=given or "nothing"
            )


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Whole parts of `total` in proportion to `weights`; they add up exactly."""
    whole, seen, given, shares = sum(weights), 0, 0, []
    for weight in weights:
        seen += weight
        shares.append(total * seen // whole - given)
        given += shares[-1]
    return shares


def sparse_json(plan: Plan) -> dict[str, Any]:
    """A plan as JSON without settings at their defaults."""
    data: dict[str, Any] = {"class": type(plan).__name__}
    for field in dataclasses.fields(plan):
        value = getattr(plan, field.name)
        if value != field.default:
            data[field.name] = sparse_json(value) if isinstance(value, Plan) else to_json(value)
    return data


def json_bytes(value: object) -> bytes:
    """The shortest JSON, the same in every process."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def load_model(unpacked: Unpacked, backend: Backend) -> Model:
    """The model that a packed artifact describes, with exactly its weights."""
    return model_with(unpacked.model, unpacked.weights, backend)
