"""The format of a compressed file: header and frames.

A short text that no method makes smaller: SHORT (1) · CRC-16 of size and text, big-endian (2) · text.
Any other: magic (4) · method (1) · by a model: the first 8 bytes of the artifact's SHA-256 · bytes and
CRC-32 of the text · by a model: layout · CRC-32 of all before · body. The body by a model has size, checksum
of bits, checksum of tokens and bits of each frame. Numbers are LEB128, checksums little-endian. With method
`adapted` the layout is followed by size and deflated JSON of adapter and mixers; only mixers may have lanes.
The method also names the arithmetic of the model; files in plain torch are only read, no longer written.
"""

import binascii
import io
import json
import lzma
import math
import struct
import zlib
from collections.abc import Generator
from typing import BinaryIO, NamedTuple

import numpy as np

from bitgolf import import_core
from bitgolf.base.errors import ArtifactError, BitgolfError
from bitgolf.base.events import mapped
from bitgolf.base.plan import from_json, to_json
from bitgolf.proof.adapted import AdaptedPlan, decode_adapted, encode_adapted
from bitgolf.proof.arithmetic import NATIVE, PLAIN, PORTABLE, Arithmetic
from bitgolf.proof.crew import ALONE, Coder, Crew, Decoding, Encoding, decoded, encoded
from bitgolf.proof.frames import Frame, Layout
from bitgolf.proof.mixed_frames import decode_mixed, encode_mixed, mixed_layout
from bitgolf.proof.plan_words import deflated_plan, inflated_plan
from bitgolf.score.adapter import NoAdapter
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Sliding
from bitgolf.text.encoder import Encoder

MAGIC = b"BGc1"
STORED, LZMA, PLAINLY, PORTABLY, ADAPTED_PLAINLY, NATIVELY, ADAPTED = range(7)
IN_PIECES = 7  # no method of a piece; see pieces.py
SHORT, SHORT_BYTES = b"\xb6", 2048  # of longer texts a whole header is below 1%
LZMA_SUFFICES = 128  # times smaller: no small model comes near
ARITHMETIC: dict[int, Arithmetic] = {
    PLAINLY: PLAIN,
    PORTABLY: PORTABLE,
    ADAPTED_PLAINLY: PLAIN,
    NATIVELY: NATIVE,
    ADAPTED: NATIVE,
}
METHODS = (
    "stored",
    "lzma",
    "model, plain",
    "model, portable",
    "model, adapted, plain",
    "model",
    "model, adapted",
)
MOST_PLAN_BYTES = 2**20
LZMA_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
LZMA_PIECE_BYTES = 2**20
BEFORE_TOKENS = (0, 1)  # progress while the number of tokens is unknown
MOST_BYTES = 2**40
ADAPTED_TOKENS = 2**14  # of a frame with adapters; its end is a restart point


class Header(NamedTuple):
    """The header of a compressed file. body: offset of its body. adapted: adapter and mixers, if any."""

    method: int
    identity: bytes
    text_bytes: int
    text_crc: int
    layout: Layout | None
    body: int
    adapted: AdaptedPlan | None = None

    @property
    def portable(self) -> bool:
        """Whether the arithmetic is the portable one."""
        return self.method == PORTABLY


class Compressed(NamedTuple):
    """A compressed file, the nats of its tokens, and their layout; None if no model was used."""

    data: bytes
    nats: float
    layout: Layout | None


def compress(
    coder: Coder, text: bytes, lanes: int = 0, crew: Crew = ALONE
) -> Generator[tuple[int, int], None, Compressed]:
    """Any bytes as a compressed file; yields (done, to do) in tokens.

    If the model's tokenizer does not give the text back, or LZMA or the plain text is smaller, that is
    stored.
    """
    packed = yield from _lzma(text)
    best = Compressed(min(_stored(text), _head(LZMA, text) + packed, key=len), math.nan, None)
    if len(text) > LZMA_SUFFICES * len(best.data):
        return best
    pieces = []
    for piece, _ in Encoder(coder.tokenizer).encode_pieces(text):
        pieces.append(piece)
        yield BEFORE_TOKENS
    tokens = np.concatenate([np.zeros(0, np.uint16), *pieces])
    if not len(tokens) or coder.tokenizer.decode(tokens) != text:
        return best
    by_model = yield from compress_tokens(coder, tokens, text, lanes, crew, most_bytes=len(best.data))
    return min(best, by_model or best, key=lambda each: len(each.data))


def compress_tokens(
    coder: Coder,
    tokens: np.ndarray,
    text: bytes,
    lanes: int = 0,
    crew: Crew = ALONE,
    most_bytes: float = math.inf,
) -> Generator[tuple[int, int], None, Compressed | None]:
    """Tokens and their text, coded by the model; None as soon as the file exceeds most_bytes."""
    layout = Layout.of(len(tokens), coder.window, coder.first, lanes)
    jobs = [Encoding(tokens[start:end], layout, coder.arithmetic) for start, end in layout.frames()]
    frames = yield from encoded(coder, jobs, crew, most_bytes)
    if len(frames) < len(jobs):
        return None
    head = _head(PORTABLY if coder.portable else NATIVELY, text, coder.identity, layout)
    data = head + b"".join(map(_framed, frames))
    return Compressed(data, sum(frame.nats for frame in frames), layout)


def compress_adapted(
    coder: Coder,
    adapted: AdaptedPlan,
    tokens: np.ndarray,
    text: bytes,
    crew: Crew = ALONE,
    most_lanes: int = 0,
) -> Generator[tuple[int, int], None, Compressed]:
    """Tokens and their text, coded by a model that adapts on the method.

    With only mixers there are lanes, if all mixers support them; otherwise one lane. most_lanes: of a frame;
    0 is MIXED_LANES.
    """
    layout = mixed_layout(coder, adapted, len(tokens), most_lanes)
    if layout is not None:
        steps = encode_mixed(coder, adapted, tokens, layout, crew)
    else:
        frame_tokens = min(ADAPTED_TOKENS, len(tokens))
        layout = Layout(len(tokens), 1, frame_tokens, adapted.length, adapted.stride, coder.first)
        steps = encode_adapted(coder, adapted, tokens, frame_tokens, crew)
    frames = yield from mapped(steps, lambda done: (done, len(tokens)))
    head = _head(ADAPTED, text, coder.identity, layout, adapted)
    nats = sum(frame.nats for frame in frames)
    return Compressed(head + b"".join(map(_framed, frames)), nats, layout)


def _framed(frame: Frame) -> bytes:
    sums = struct.pack("<II", zlib.crc32(frame.data), frame.tokens_crc)
    return number_as_bytes(len(frame.data)) + sums + frame.data


def decompress(
    coder: Coder | None, data: bytes, where: str = "", crew: Crew = ALONE
) -> Generator[tuple[int, int], None, bytes]:
    """The text of a compressed file; yields (done, to do). Raises ArtifactError for any other bytes."""
    header = read_header(data, where)
    if header.layout is None:
        body = data[header.body :]
        text = body if header.method == STORED else _unlzma(body, header.text_bytes, where)
    else:
        if coder is None or coder.identity != header.identity:
            raise BitgolfError(
                "it was compressed with another model",
                where=where,
                value=f"needs the artifact whose SHA-256 begins {header.identity.hex()}",
                way_out="give that model with -m",
            )
        text = coder.tokenizer.decode((yield from decoded_tokens(coder, data, header, where, crew)))
    if len(text) != header.text_bytes or zlib.crc32(text) != header.text_crc:
        raise ArtifactError("the text is not the one that was compressed", where=where)
    return text


def decoded_tokens(
    coder: Coder, data: bytes, header: Header, where: str, crew: Crew = ALONE
) -> Generator[tuple[int, int], None, np.ndarray]:
    """The tokens of a file by a model; yields (done, to do). coder: portable if the file is."""
    jobs = frames_of(data, header, where)
    if header.adapted is not None:
        assert header.layout is not None
        total, decode = header.layout.tokens, decode_mixed if header.layout.lanes > 1 else decode_adapted
        steps = decode(coder, header.adapted, jobs, crew)
        return (yield from mapped(steps, lambda done: (done, total)))
    return np.concatenate((yield from decoded(coder, jobs, crew)))


def frames_of(data: bytes, header: Header, where: str) -> list[Decoding]:
    """The frames of a file by a model. Raises ArtifactError for damaged ones."""
    assert header.layout is not None
    stream, jobs, arithmetic = io.BytesIO(data), [], ARITHMETIC[header.method]
    stream.seek(header.body)
    spans = header.layout.frames()
    for number, (start, end) in enumerate(spans, 1):
        offset = stream.tell()
        name = f"{where}, frame {number} of {len(spans)} at byte {offset:,}"
        num_bytes = read_number(stream, name)
        crc, tokens_crc = struct.unpack("<II", read_exactly(stream, 8, name))
        bits = read_exactly(stream, num_bytes, name)
        if zlib.crc32(bits) != crc:
            raise ArtifactError("its bits are damaged", where=name)
        frame = Frame(bits, tokens_crc)
        jobs.append(Decoding(frame, end - start, header.layout, name, arithmetic))
    if stream.read(1):
        raise ArtifactError("bytes follow the last frame", where=where, value=len(data) - stream.tell() + 1)
    return jobs


def read_header(data: bytes, where: str = "") -> Header:
    """The header of a compressed file. Raises ArtifactError for other files."""
    if data[:1] == SHORT:
        text = data[3:]
        if data[1:3] != _short_sum(text):
            raise ArtifactError("the file is damaged", where=where)
        return Header(STORED, b"", len(text), zlib.crc32(text), None, 3)
    stream = io.BytesIO(data)
    if stream.read(len(MAGIC)) != MAGIC:
        raise ArtifactError("not a file that bitgolf compressed", where=where)
    (method,) = read_exactly(stream, 1, where)
    if method >= len(METHODS):
        raise ArtifactError("compressed by a method that is not known here", where=where, value=method)
    by_model = method in ARITHMETIC
    identity = read_exactly(stream, 8, where) if by_model else b""
    text_bytes = read_number(stream, where)
    (text_crc,) = struct.unpack("<I", read_exactly(stream, 4, where))
    layout = Layout(*(read_number(stream, where) for _ in Layout._fields)) if by_model else None
    plan_bytes = read_number(stream, where) if method in (ADAPTED_PLAINLY, ADAPTED) else 0
    plan = read_exactly(stream, min(plan_bytes, MOST_PLAN_BYTES), where)
    end = stream.tell()
    (crc,) = struct.unpack("<I", read_exactly(stream, 4, where))
    if zlib.crc32(data[:end]) != crc:
        raise ArtifactError("the head of the file is damaged", where=where)
    if text_bytes > MOST_BYTES or (layout and not _is_sound(layout)):
        raise ArtifactError("the head of the file makes no sense", where=where, value=layout or text_bytes)
    adapted = _read_ways(plan, layout, where) if layout and plan else None
    return Header(method, identity, text_bytes, text_crc, layout, end + 4, adapted)


def _read_ways(plan: bytes, layout: Layout, where: str) -> AdaptedPlan:
    import_core()  # the classes that it may name
    sliding = to_json(Sliding(length=layout.window, stride=layout.stride))
    words = inflated_plan(plan, MOST_PLAN_BYTES, where)
    try:
        adapts = json.loads(words)
        adapted = AdaptedPlan.of(from_json(ScorePlan, {"class": "ScorePlan", "windows": sliding, **adapts}))
    except (ValueError, TypeError, RecursionError, BitgolfError) as error:
        raise ArtifactError(f"how its model adapted makes no sense: {error}", where=where) from None
    if layout.lanes > 1 and (adapted.plan.adapter != NoAdapter() or not adapted.plan.mixers):
        raise ArtifactError("what learns has one lane", where=where, value=layout)
    return adapted


def _is_sound(layout: Layout) -> bool:
    return (
        0 < layout.tokens <= MOST_BYTES
        and 0 < layout.lanes <= 2**16
        and 0 < layout.lane_tokens <= 2**24
        and 0 < layout.stride <= layout.window <= 2**20
    )


def _head(
    method: int,
    text: bytes,
    identity: bytes = b"",
    layout: Layout | None = None,
    adapted: AdaptedPlan | None = None,
) -> bytes:
    head = MAGIC + bytes([method]) + identity + number_as_bytes(len(text))
    head += struct.pack("<I", zlib.crc32(text))
    head += b"".join(number_as_bytes(value) for value in layout or ())
    if adapted is not None:
        adapts = {"adapter": to_json(adapted.plan.adapter), "mixers": to_json(adapted.plan.mixers)}
        plan = deflated_plan(json.dumps(adapts, separators=(",", ":")).encode())
        head += number_as_bytes(len(plan)) + plan
    return head + struct.pack("<I", zlib.crc32(head))


def _stored(text: bytes) -> bytes:
    if len(text) <= SHORT_BYTES:
        return SHORT + _short_sum(text) + text
    return _head(STORED, text) + text


def _short_sum(text: bytes) -> bytes:
    return binascii.crc_hqx(len(text).to_bytes(8, "big") + text, 0).to_bytes(2, "big")


def number_as_bytes(value: int) -> bytes:
    """A number in LEB128: seven bits per byte, the lowest first."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def read_number(stream: BinaryIO, where: str) -> int:
    """The number written by `number_as_bytes`. Raises ArtifactError."""
    value = 0
    for index in range(9):
        (byte,) = read_exactly(stream, 1, where)
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value
    raise ArtifactError("a number without end", where=where)


def read_exactly(stream: BinaryIO, count: int, where: str) -> bytes:
    """Exactly `count` bytes. Raises ArtifactError if there are fewer."""
    data = stream.read(count)
    if len(data) != count:
        raise ArtifactError(
            "the file ends too early", where=where, value=f"{count - len(data):,} bytes missing"
        )
    return data


def _lzma(text: bytes) -> Generator[tuple[int, int], None, bytes]:
    tool, parts = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=LZMA_FILTERS), []
    for start in range(0, len(text), LZMA_PIECE_BYTES):
        parts.append(tool.compress(text[start : start + LZMA_PIECE_BYTES]))
        yield BEFORE_TOKENS
    return b"".join([*parts, tool.flush()])


def _unlzma(body: bytes, num_bytes: int, where: str) -> bytes:
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=LZMA_FILTERS).decompress(body, num_bytes)
    except lzma.LZMAError as error:
        raise ArtifactError(f"its body is damaged: {error}", where=where) from None
