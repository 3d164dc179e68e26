"""Artifacts to attack: good ones of every form, taken apart, changed, put together with right checksums."""

import dataclasses
import io
import json
import lzma
import math
import random
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import sentencepiece
import torch
from torch import Tensor

from bitgolf.base.errors import ArtifactError, CodecError
from bitgolf.base.plan import Plan, field_types, from_json, members
from bitgolf.net.model import ModelPlan, parameter_shapes
from bitgolf.net.route import Plain
from bitgolf.squeeze.artifact import (
    Artifact,
    PackPlan,
    code_shapes,
    json_bytes,
    pack,
    read_table,
    sparse_json,
    streams_of,
    unpack,
)
from bitgolf.squeeze.between import Between
from bitgolf.squeeze.clip import Ternary
from bitgolf.squeeze.codec import (
    CODEC_NAMES,
    Brotli,
    Codec,
    Deflate,
    Histogram,
    Lzma,
    RowColumn,
    Zstd,
    decompress,
)
from bitgolf.squeeze.form import Form, QuantizedTensor
from bitgolf.squeeze.grid import ColumnGroups, Grid, RowGroups
from bitgolf.squeeze.lowrank import LowRank
from bitgolf.squeeze.quantize import AbsMax, Curvature, Keep
from bitgolf.squeeze.rate import RateAware
from bitgolf.squeeze.rotate import TurnedForm, rotate_columns
from bitgolf.squeeze.sections import ARTIFACT_PREFIX, SECTION_ROW
from bitgolf.squeeze.symbol_model import Shapes, grids_of, subtract_templates
from bitgolf.text.encoder import train_tokenizer
from bitgolf.text.tokenizer import (
    BODY_FILTERS,
    MODEL_FILE_KIND,
    TOKENIZER_HEADER,
    TOKENIZER_MAGIC,
    Tokenizer,
)

TEXT = b"It was the best of times, it was the worst of times. " * 30
TOKENIZER = train_tokenizer([TEXT], 262)
SMALL = ModelPlan(layers=1, width=8, heads=2, kv_heads=1, route=Plain())


def weights_of(model: ModelPlan) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(shape, generator=draw) for name, shape in parameter_shapes(model).items()}


# A good artifact of each form.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Walking(RowColumn):
    """Every stream as walks on a trellis with templates, though that is longer."""

    abstract: ClassVar[bool] = True

    def encode(self, data: bytes, shapes: Shapes = ()) -> tuple[str, bytes]:
        codes, shapes = np.frombuffer(data, np.int8), shapes or ((1, len(data)),)
        below = np.float32(0.5) * grids_of(codes, shapes)
        return self.name, self.stream(*subtract_templates(codes, shapes), shapes, True, below)


def rate_aware(weight: Tensor, trellis: bool) -> QuantizedTensor:
    """Steps by row and column, from moments that differ."""
    moments = [torch.diag(torch.logspace(-2, 1, size, dtype=torch.float64)) for size in weight.shape]
    curvature = Curvature(inputs=moments[1], outputs=moments[0], tokens=9)
    return RateAware(step=0.02, across_rows=False, trellis=trellis).quantize(weight, curvature)


def turned(weight: Tensor) -> QuantizedTensor:
    """Turned even where that does not help."""
    codes, grid = AbsMax(grid=Grid(bits=6)).quantize(rotate_columns(weight, 3)), Grid(bits=6)
    return QuantizedTensor(TurnedForm(grid=grid, seed=3), codes.pieces, codes.shape)


MATRIX_FORMS: dict[str, Callable[[Tensor], QuantizedTensor]] = {
    "grid": AbsMax(grid=Grid(bits=6)).quantize,
    "row groups": AbsMax(grid=Grid(bits=5, symmetric=False, granularity=RowGroups(rows=3))).quantize,
    "ternary": Ternary(grid=Grid(bits=2, granularity=ColumnGroups(columns=5))).quantize,
    "stepped": lambda weight: rate_aware(weight, trellis=False),
    "trellis": lambda weight: rate_aware(weight, trellis=True),
    "between": Between(bits=5).quantize,
    "low rank": LowRank(quantizer=AbsMax(grid=Grid(bits=3)), rank=2).quantize,
    "turned": turned,
}


def model_file(rules: str = "") -> bytes:
    """A SentencePiece model with all bytes; rules: lines of what is put in place of what, as hex numbers."""
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rules.tsv"
        table.write_text(rules)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([TEXT.decode()]),
            model_writer=model,
            model_type="bpe",
            vocab_size=300,
            hard_vocab_limit=False,
            byte_fallback=True,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            minloglevel=3,
            **({"normalization_rule_tsv": str(table)} if rules else {"normalization_rule_name": "identity"}),
        )
    return model.getvalue()


def artifact_of(forms: Iterable[str], codec: Codec, tokenizer: Tokenizer = TOKENIZER) -> Artifact:
    """Matrices in these forms by turns, all else float16."""
    turns, model = cycle(forms), SMALL.replace(vocabulary_size=tokenizer.vocabulary_size)
    tensors = {
        name: MATRIX_FORMS[next(turns)](weight) if name.endswith("weight") else Keep().quantize(weight)
        for name, weight in weights_of(model).items()
    }
    return pack(model, tensors, tokenizer.to_bytes(), PackPlan(codec=codec))


@cache
def artifacts_of_all_forms() -> dict[str, Artifact]:
    """A good artifact of each form, of each kind of tokenizer, and one of all forms; codecs by turns."""
    codecs = cycle((RowColumn(), Histogram(), Deflate(), Zstd(level=3), Lzma(), Brotli(quality=5)))
    each = {form: artifact_of([form], codec) for form, codec in zip(MATRIX_FORMS, codecs)}
    each |= {f"{form}, coded": artifact_of([form], RowColumn()) for form in ("stepped", "trellis", "ternary")}
    each["trellis, walking"] = artifact_of(["trellis"], Walking())
    tokenizers = {
        "model file": Tokenizer(MODEL_FILE_KIND, model_file()),
        "model file with rules": Tokenizer(MODEL_FILE_KIND, model_file("41\t61\n42\t62 62\n")),
        "case operators": train_tokenizer([TEXT], 240, case_ops=True),
    }
    each |= {name: artifact_of(["grid"], Deflate(), tokenizer) for name, tokenizer in tokenizers.items()}
    return each | {"all": artifact_of(MATRIX_FORMS, RowColumn())}


# Taking apart and putting together.


class Taken:
    """The sections of an artifact as [codec byte, decoded size, stored bytes], free to change."""

    def __init__(self, data: bytes) -> None:
        start = ARTIFACT_PREFIX.size
        place = start + ARTIFACT_PREFIX.unpack_from(data)[2] * SECTION_ROW.size
        self.rows: list[list[Any]] = []
        for codec, stored, decoded, _ in SECTION_ROW.iter_unpack(data[start:place]):
            self.rows.append([codec, decoded, data[place : place + stored]])
            place += stored

    def body(self, section: int) -> bytes:
        """A section that is no stream of codes, decoded."""
        codec, decoded, stored = self.rows[section]
        return decompress(CODEC_NAMES[codec], stored, min(decoded, 2**16))

    def text(self, section: int) -> dict[str, Any]:
        return json.loads(self.body(section))

    def replace(self, section: int, body: bytes) -> None:
        self.rows[section] = [0, len(body), body]

    def edit(self, section: int, **changes: object) -> None:
        self.replace(section, json.dumps({**self.text(section), **changes}).encode())

    def bytes(self) -> bytes:
        rows = b"".join(SECTION_ROW.pack(c, len(s), d, zlib.crc32(s)) for c, d, s in self.rows)
        start = ARTIFACT_PREFIX.pack(b"BGLF", 1, len(self.rows), 0)[:-4]
        header = start + struct.pack("<I", zlib.crc32(start + rows)) + rows
        return header + b"".join(stored for *_, stored in self.rows)


def tokenizer_of(kind: int, body: bytes) -> bytes:
    """A tokenizer section whatever its body is."""
    packed = lzma.compress(body, format=lzma.FORMAT_RAW, filters=BODY_FILTERS)
    return resealed(TOKENIZER_HEADER.pack(TOKENIZER_MAGIC, kind, len(body), 0) + packed)


def resealed(tokenizer: bytes) -> bytes:
    """The same under a right checksum."""
    head, packed = tokenizer[: TOKENIZER_HEADER.size - 4], tokenizer[TOKENIZER_HEADER.size :]
    return head + struct.pack("<I", zlib.crc32(head + packed)) + packed


def tokenizer_parts(data: bytes) -> tuple[int, bytes]:
    """The inverse."""
    kind = TOKENIZER_HEADER.unpack_from(data)[1]
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=BODY_FILTERS)
    return kind, decoder.decompress(data[TOKENIZER_HEADER.size :], 2**16)


def refit(taken: Taken) -> None:
    """Streams and a table as long as the plan now asks for, if it is read and asks for little."""
    table = taken.text(1)
    try:
        model = from_json(ModelPlan, taken.text(0))
        shapes = parameter_shapes(model) if model.layers < 20 else {}
        table |= {key: list(islice(cycle(table[key]), len(shapes))) for key in ("use", "stream")}
        streams = streams_of(*read_table(table, shapes), shapes)
        sizes = [sum(piece.num_bytes for piece in pieces) for pieces in streams]
    except Exception:  # whatever it is: the reader has to refuse it
        return
    if sum(sizes) < 2**15 and sizes != [size for _, size, _ in taken.rows[3:]]:
        taken.replace(1, json.dumps(table).encode())
        taken.rows[3:] = [[0, size, size * b"\1"] for size in sizes]


def hollow(model: ModelPlan, form: Any, codec: Codec) -> Taken:
    """A right artifact of which all numbers are alike: as few bytes as there can be."""
    shapes = parameter_shapes(model)
    table = {"forms": [form], "use": [0] * len(shapes), "stream": [0] * len(shapes)}
    taken = Taken(artifacts_of_all_forms()["all"].data)
    taken.replace(0, json_bytes(sparse_json(model)))
    taken.replace(1, json_bytes(table))
    taken.rows[3:] = []
    for pieces in streams_of(*read_table(table, shapes), shapes):
        size = sum(piece.num_bytes for piece in pieces)
        name, stored = codec.encode(size * b"\1", code_shapes(pieces, columns_first=False))
        taken.rows.append([CODEC_NAMES.index(name), size, stored])
    return taken


# What any input must do.


def refused_or_whole(data: bytes) -> bool:
    """Whether unpacking refuses; what it takes must be a model with finite weights. Anything else raises."""
    try:
        opened = unpack(data)
        ledger = Artifact.of(data).ledger
    except (ArtifactError, CodecError):
        return True
    shapes = parameter_shapes(opened.model)
    assert all(tuple(weight.shape) == tuple(shapes[name]) for name, weight in opened.weights.items())
    assert all(bool(part.isfinite().all()) for part in opened.weights.values())
    assert sum(size for _, size in ledger) == len(data)
    return False


# Random changes.


def words_of(kind: Any, above: frozenset[Any] = frozenset()) -> set[str]:
    """The classes and settings that JSON for this type can name; `above` holds what it stands inside."""
    if kind in above:
        return set()
    inner = above | {kind}
    if not (isinstance(kind, type) and issubclass(kind, Plan)):
        return set().union(*(words_of(each, inner) for each in get_args(kind)))
    words = set()
    for member in members(kind).values():
        kinds = field_types(member)
        words |= {member.__name__, *kinds}.union(*(words_of(each, inner) for each in kinds.values()))
    return words


WORDS = sorted(words_of(ModelPlan) | words_of(Grid) | words_of(Form))
NUMBERS = (0, 1, -1, 2, 3, 8, 64, 127, 128, 255, 2**16, 2**31, 2**63, 10**30, 0.5, -1.5, 1e308, math.nan)


def some_value(draw: random.Random) -> Any:
    """JSON data that settings could be, or could not."""
    word, number = draw.choice(WORDS), draw.choice(NUMBERS)
    return draw.choice((number, number, number, True, None, word, [], {}, {"class": word}, [number, word]))


def changed_json(value: Any, draw: random.Random) -> Any:
    """JSON data with one place changed, put in or left out."""
    if isinstance(value, dict) and draw.random() < 0.8:
        key = draw.choice([*value, draw.choice(WORDS)])
        rest = {name: item for name, item in value.items() if name != key}
        return rest if draw.random() < 0.1 else {**rest, key: changed_json(value.get(key), draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], changed_json(value[place], draw), *value[place + 1 :]]
    if isinstance(value, list) and value and draw.random() < 0.5:
        return draw.choice((value[1:], value + value[-1:], 2 * value))
    if isinstance(value, (int, float)) and draw.random() < 0.5:
        return draw.choice((value - 1, value + 1, 2 * value, -value))
    return some_value(draw)


def mutated(data: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, cut out, put in or doubled."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(changed) + 1)
        length = min(draw.choice((1, 1, 1, 2, 4, 30)), len(changed) - place)
        piece = changed[place : place + length]
        other = bytes(draw.choice((0, 1, 127, 128, 255, draw.randrange(256))) for _ in piece)
        changed[place : place + length] = draw.choice((other, other, other, b"", piece + piece))
    return bytes(changed)


def mutated_artifact(data: bytes, draw: random.Random, change: Callable[[bytes], bytes]) -> bytes:
    """One section changed under right checksums, decoded or as it is stored; now and then the whole as bytes.

    change: changes bytes.
    """
    if draw.random() < 0.05:
        return change(data)
    try:
        taken = Taken(data)
        section = draw.randrange(min(draw.choice((3, 1000)), len(taken.rows)))  # the first three are richest
        change_section(taken, section, draw, change)
    except (struct.error, ValueError, IndexError, CodecError, lzma.LZMAError):
        return change(data)  # an earlier change left nothing to read
    return taken.bytes()


def change_section(taken: Taken, section: int, draw: random.Random, change: Callable[[bytes], bytes]) -> None:
    """Settings, tokenizers and numbers as they are before they are coded; anything as it is stored."""
    codec, size, stored = taken.rows[section]
    how = draw.random()
    if how < 0.1:
        known, unknown = draw.randrange(len(CODEC_NAMES)), draw.randrange(256)
        taken.rows[section][0] = draw.choice((known, known, codec ^ 0x80, unknown))
    elif how < 0.2:
        taken.rows[section][1] = draw.choice((0, 1, size - 1, size + 1, 2 * size, 2**25, 2**32)) % 2**32
    elif how < 0.25:
        other = draw.randrange(len(taken.rows))
        taken.rows[section : section + 1] = draw.choice(([], [taken.rows[section]] * 2, [taken.rows[other]]))
    elif how < 0.5 or section > 2 and how < 0.8:
        taken.rows[section][2] = change(stored)
    elif section > 2:
        fill = draw.choice((b"\0", b"\x7f", b"\x80", b"\xff", b"\x7c", draw.randbytes(1), draw.randbytes(97)))
        taken.replace(section, (fill * size)[:size] if size < 2**14 else fill)
    elif section == 2 and how < 0.6:
        taken.replace(2, resealed(change(taken.body(2))))
    elif section == 2 and how < 0.95:
        kind, body = tokenizer_parts(taken.body(2))
        kind = draw.choice((kind, kind, kind, 1, 2, 3))
        taken.replace(2, tokenizer_of(kind, change(body)))
    elif section < 2 and how < 0.9:
        taken.replace(section, json.dumps(changed_json(taken.text(section), draw)).encode())
        if draw.random() < 0.7:
            refit(taken)
    else:
        taken.replace(section, change(taken.body(section)))
