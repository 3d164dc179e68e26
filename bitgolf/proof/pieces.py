"""Large texts in pieces, each its own compressed file, so that memory does not grow with the text.

magic (4) · IN_PIECES (1) · size and bytes of each piece · 0 · bytes and CRC-32 of the text. A text of one
piece is only that piece. Numbers are LEB128, the checksum little-endian.
"""

import math
import struct
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from bitgolf.base.errors import ArtifactError
from bitgolf.base.events import mapped
from bitgolf.proof.crew import Coder, Crew
from bitgolf.proof.file import (
    IN_PIECES,
    MAGIC,
    Header,
    compress,
    decompress,
    number_as_bytes,
    read_exactly,
    read_header,
    read_number,
)

PIECE_BYTES = 2**24  # of a text
UNKNOWN = math.inf  # number of bytes
MOST_PIECE_BYTES = 2**26  # to be read
START = MAGIC + bytes([IN_PIECES])
Write = Callable[[bytes], object]


class Piece(NamedTuple):
    """A compressed piece. where: its name in messages. offset: of its first byte in the file."""

    data: bytes
    where: str
    offset: int


class Part(NamedTuple):
    """The header of a piece, and its size in bytes."""

    header: Header
    file_bytes: int


def compress_stream(
    coder: Coder, text: BinaryIO, text_bytes: float, write: Write, crew: Crew
) -> Generator[tuple[float, float], None, list[Part]]:
    """Any bytes as a compressed file, written piece by piece; yields (done, to do) in bytes of the text.

    text_bytes: how many there are; infinite is unknown.
    """
    parts, crc, done = list[Part](), 0, 0
    piece, first = text.read(PIECE_BYTES), text.read(1)
    if not first:
        packed = yield from compress(coder, piece, crew=crew)
        write(packed.data)
        return [Part(read_header(packed.data), len(packed.data))]
    write(START)
    while piece:
        steps = compress(coder, piece, crew=crew)
        packed = yield from mapped(steps, _within(done, len(piece), text_bytes))
        write(number_as_bytes(len(packed.data)) + packed.data)
        parts.append(Part(read_header(packed.data), len(packed.data)))
        crc, done = zlib.crc32(piece, crc), done + len(piece)
        piece, first = first + text.read(PIECE_BYTES - 1) if first else b"", text.read(1)
    write(number_as_bytes(0) + number_as_bytes(done) + struct.pack("<I", crc))
    return parts


def decompress_stream(
    coder_for: Callable[[int, bool], Coder],
    stream: BinaryIO,
    file_bytes: float,
    where: str,
    write: Write,
    crew: Crew,
    kept: Callable[[int], bytes] = lambda num_bytes: b"",
) -> Generator[tuple[float, float], None, list[Part]]:
    """The text of a compressed file, written piece by piece; yields (done, to do).

    coder_for: the coder of a window, portable or not. file_bytes: of the compressed file; infinite is
    unknown. kept: reads bytes already at the place of the next write; a piece that is there is not
    decoded again. Raises ArtifactError for any other bytes.
    """
    parts, crc, pieces = list[Part](), 0, pieces_of(stream, where)
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            if end.value is not None and end.value != (sum(part.header.text_bytes for part in parts), crc):
                raise ArtifactError("the text is not the one that was compressed", where=where) from None
            return parts
        header = read_header(piece.data, piece.where)
        text = kept(header.text_bytes)
        if len(text) != header.text_bytes or zlib.crc32(text) != header.text_crc:
            coder = coder_for(header.layout.window, header.portable) if header.layout else None
            steps = decompress(coder, piece.data, piece.where, crew)
            whole = file_bytes if piece.offset else len(piece.data)
            text = yield from mapped(steps, _within(piece.offset, len(piece.data), whole))
        write(text)
        crew.disband()  # its frames are text now
        crc = zlib.crc32(text, crc)
        parts.append(Part(header, len(piece.data)))
        if piece.offset:
            yield piece.offset + len(piece.data), file_bytes


def pieces_of(stream: BinaryIO, where: str) -> Generator[Piece, None, tuple[int, int] | None]:
    """The pieces of a compressed file; returns bytes and CRC-32 of the text, None if it is one piece.

    Raises ArtifactError for other files.
    """
    start = stream.read(len(START))
    if start != START:
        yield Piece(start + stream.read(), where, 0)
        return None
    offset, number = len(START), 0
    while num_bytes := read_number(stream, where):
        offset, number = offset + len(number_as_bytes(num_bytes)), number + 1
        name = f"{where}, piece {number} at byte {offset:,}"
        data = read_exactly(stream, num_bytes, name)
        if read_header(data, name).text_bytes > MOST_PIECE_BYTES:
            raise ArtifactError("a piece of so much text makes no sense", where=name)
        yield Piece(data, name, offset)
        offset += num_bytes
    total = read_number(stream, where)
    (crc,) = struct.unpack("<I", read_exactly(stream, 4, where))
    if stream.read(1):
        raise ArtifactError("bytes follow the last piece", where=where)
    return total, crc


def parts_of(stream: BinaryIO, where: str) -> Iterator[Part]:
    """The headers of a compressed file, read without a model."""
    for piece in pieces_of(stream, where):
        yield Part(read_header(piece.data, piece.where), len(piece.data))


def file_bytes_of(parts: Sequence[Part]) -> int:
    """The size of a file with these pieces."""
    sizes = [part.file_bytes for part in parts]
    if len(sizes) == 1:
        return sizes[0]
    end = number_as_bytes(0) + number_as_bytes(sum(part.header.text_bytes for part in parts))
    return len(START) + sum(len(number_as_bytes(size)) + size for size in sizes) + len(end) + 4


def _within(start: int, num_bytes: int, total: float) -> Callable[[tuple[float, float]], tuple[float, float]]:
    """Steps of one piece as steps of the whole."""
    return lambda step: (start + num_bytes * (step[0] / step[1] if step[1] else 0), max(total, 1))
