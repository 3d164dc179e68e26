"""Sections of bytes in one file, each with a checksum; every size is checked before use."""

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from bitgolf.base.errors import ArtifactError
from bitgolf.squeeze.codec import CODEC_NAMES, DamagedStreamError, decompress
from bitgolf.squeeze.symbol_model import Shapes

ARTIFACT_MAGIC = b"BGLF"
ARTIFACT_VERSION = 1
ARTIFACT_PREFIX = struct.Struct("<4sBHI")
SECTION_ROW = struct.Struct("<BIII")
COLUMNS_FIRST = 0x80  # in the codec byte
MAX_SECTIONS = 4096
PLAN_SECTION, TENSORS_SECTION, TOKENIZER_SECTION, FIRST_STREAM = 0, 1, 2, 3
MAX_TEXT_BYTES = {PLAN_SECTION: 2**13, TENSORS_SECTION: 2**16}  # decoded
MAX_DECODED_BYTES = 2**28  # decoded size of all sections together
# A small file may not demand much: a number of bytes plus a multiple of its size, up to the maximum.
SMALL_DECODED_BYTES, MAX_EXPANSION = 2**25, 256


class NotAnArtifactError(ArtifactError):
    """The file does not start as a packed model does."""


class ArtifactVersionError(ArtifactError):
    """Written by another version of the format."""


class TruncatedError(ArtifactError):
    """The file ends before its last section does."""


class HeaderSizeError(ArtifactError):
    """The header claims more than a packed model needs."""


class SizeLimitError(ArtifactError):
    """Decoding would need more memory than a packed model may ask for."""


class ChecksumError(ArtifactError):
    """Bytes changed since they were written."""


class TrailingBytesError(ArtifactError):
    """There are bytes after the last section."""


class UnknownFormError(ArtifactError):
    """A codec, class, setting or number type that this version does not know."""


class StreamError(ArtifactError):
    """A section does not decode to its size."""


class Section(NamedTuple):
    """One row of the table, and where its bytes are."""

    codec: str
    columns_first: bool
    start: int
    stored: int
    decoded: int
    checksum: int


def read_sections(data: bytes) -> list[Section]:
    """The table of sections, checked against the length of the file before anything is decoded."""
    if not data or data[: len(ARTIFACT_MAGIC)] != ARTIFACT_MAGIC[: len(data)]:
        raise NotAnArtifactError(
            "not a packed model", value=data[:4], way_out="expected a model.bin of a run"
        )
    if len(data) > len(ARTIFACT_MAGIC) and data[4] != ARTIFACT_VERSION:
        raise ArtifactVersionError(
            f"this bitgolf reads version {ARTIFACT_VERSION}", where="byte 4", value=data[4]
        )
    if len(data) < ARTIFACT_PREFIX.size:
        raise truncated(len(data), ARTIFACT_PREFIX.size, "header")
    _, _, count, checksum = ARTIFACT_PREFIX.unpack_from(data)
    if not FIRST_STREAM <= count <= MAX_SECTIONS:
        raise HeaderSizeError(f"a packed model has 3 to {MAX_SECTIONS} sections", where="byte 5", value=count)
    end = ARTIFACT_PREFIX.size + count * SECTION_ROW.size
    if len(data) < end:
        raise truncated(len(data), end, "header")
    rows = data[ARTIFACT_PREFIX.size : end]
    if zlib.crc32(data[: ARTIFACT_PREFIX.size - 4] + rows) != checksum:
        raise ChecksumError("the header has changed since it was written", where=f"bytes 0 to {end}")
    sections = []
    for i, (codec, stored, decoded, crc) in enumerate(SECTION_ROW.iter_unpack(rows)):
        if codec & ~COLUMNS_FIRST >= len(CODEC_NAMES):
            raise UnknownFormError("unknown codec", where=f"section {i}", value=codec & ~COLUMNS_FIRST)
        name = CODEC_NAMES[codec & ~COLUMNS_FIRST]
        sections.append(Section(name, bool(codec & COLUMNS_FIRST), end, stored, decoded, crc))
        end += stored
    check_sizes(sections, end, len(data))
    return sections


def check_sizes(sections: Sequence[Section], end: int, length: int) -> None:
    """Raises for files that are too short or too long, and sections that would not fit in memory."""
    for i, section in enumerate(sections):
        if section.start + section.stored > length:
            raise truncated(length, end, f"section {i}")
    if length > end:
        raise TrailingBytesError("bytes after the last section", where=f"byte {end}", value=length - end)
    for i, most in MAX_TEXT_BYTES.items():
        if sections[i].decoded > most:
            raise HeaderSizeError(
                f"more than {most:,} bytes of settings", where=f"section {i}", value=sections[i].decoded
            )
    total = sum(section.decoded for section in sections)
    most = min(MAX_DECODED_BYTES, SMALL_DECODED_BYTES + MAX_EXPANSION * length)
    if total > most:
        raise SizeLimitError(f"decodes to more than {most:,} bytes", where="header", value=total)


def truncated(length: int, end: int, where: str) -> TruncatedError:
    """The error for a file that was cut."""
    return TruncatedError(
        f"the file ends at byte {length:,} of {end:,}",
        where=where,
        way_out="copy it again, or pack the run again",
    )


def read_section(data: bytes, section: Section, name: str, shapes: Shapes = ()) -> bytes:
    """The decoded bytes of one section, after a check of its checksum."""
    stored = data[section.start : section.start + section.stored]
    if zlib.crc32(stored) != section.checksum:
        where = f"{name}, bytes {section.start} to {section.start + section.stored}"
        raise ChecksumError("the section has changed since it was written", where=where)
    try:
        return decompress(section.codec, stored, section.decoded, shapes)
    except DamagedStreamError as error:
        raise StreamError(error.what, where=name, value=error.value) from None


def read_json_section(data: bytes, section: Section, name: str) -> dict[str, Any]:
    """A section that holds one JSON object."""
    try:
        value = json.loads(read_section(data, section, name))
    except (ValueError, RecursionError):
        raise UnknownFormError("not readable as JSON", where=name) from None
    if not isinstance(value, dict):
        raise UnknownFormError("expected a JSON object", where=name, value=type(value).__name__)
    return value
