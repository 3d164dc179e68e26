"""Bytes to fewer bytes and back. Decoding never produces more than the size it was promised.

A missing compressor is an error that names the package: another codec never stands in for it silently.
"""

import dataclasses
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar

from bitgolf.core.errors import CodecError, nearest
from bitgolf.core.plan import Plan, members, setting

try:
    import brotli
except ImportError:
    brotli = None
try:
    import zstandard
except ImportError:
    zstandard = None  # type: ignore[assignment]

# A codec's place in this list is its number in every artifact: only ever add at the end.
CODEC_NAMES = ("raw", "deflate", "zstd", "lzma", "brotli")


class MissingCodecError(CodecError):
    """The package of a compressor is not installed."""


class DamagedStreamError(CodecError):
    """Compressed bytes do not decode to exactly the promised size."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codec(Plan):
    """How a stream of bytes becomes shorter."""

    abstract: ClassVar[bool] = True
    name: ClassVar[str] = ""  # in artifacts; empty for a codec that chooses among others

    def encode(self, data: bytes) -> tuple[str, bytes]:
        """The name of the codec that was used, and the bytes that `decompress` reads back."""
        raise NotImplementedError

    @staticmethod
    def decode(data: bytes, size: int) -> tuple[bytes, bool]:
        """At most size + 1 bytes, and whether the stream ended just where the data does."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Raw(Codec):
    """Bytes as they are.

    What: no compression; the place in the order of codecs that everything else must beat
    Source: none
    Cost: nothing
    Not for: anything with structure
    Neutral: always
    """

    name: ClassVar[str] = "raw"

    def encode(self, data: bytes) -> tuple[str, bytes]:
        return self.name, data

    @staticmethod
    def decode(data: bytes, size: int) -> tuple[bytes, bool]:
        return data[: size + 1], True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deflate(Codec):
    """DEFLATE without a container.

    What: zlib's compressor, raw stream: the artifact has its own sizes and checksums
    Source: the public baseline (zlib level 9)
    Cost: 3 to 15% above the entropy of int6 codes; standard library only
    Not for: a tight budget: brotli is smaller on every kind of stream measured
    Neutral: use Raw
    """

    name: ClassVar[str] = "deflate"
    level: int = setting(9, at_least=0, at_most=9)

    def encode(self, data: bytes) -> tuple[str, bytes]:
        compressor = zlib.compressobj(self.level, zlib.DEFLATED, -15, 9)
        return self.name, compressor.compress(data) + compressor.flush()

    @staticmethod
    def decode(data: bytes, size: int) -> tuple[bytes, bool]:
        decoder = zlib.decompressobj(-15)
        try:
            result = decoder.decompress(data, size + 1)
        except zlib.error as error:
            raise DamagedStreamError(f"not a deflate stream: {error}") from None
        return result, decoder.eof and not decoder.unused_data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zstd(Codec):
    """Zstandard frames without magic, size or checksum.

    What: level 22 is the public way for int6 codes kept one symbol a byte
    Source: public records from 2026-03-20 on
    Cost: 0.5 to 1.2% above the entropy of codes; 0.6 to 4 M symbols/s in, 500 M/s out
    Not for: embeddings, where brotli finds repeated rows
    Neutral: use Raw
    """

    name: ClassVar[str] = "zstd"
    level: int = setting(22, at_least=1, at_most=22)

    def encode(self, data: bytes) -> tuple[str, bytes]:
        library = _library("zstd")
        parameters = library.ZstdCompressionParameters.from_level(
            self.level,
            source_size=max(1, len(data)),
            format=library.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=False,
            write_checksum=False,
            write_dict_id=False,
        )
        return self.name, library.ZstdCompressor(compression_params=parameters).compress(data)

    @staticmethod
    def decode(data: bytes, size: int) -> tuple[bytes, bool]:
        library = _library("zstd")
        # A frame may ask for a window of gigabytes; one that fits the promised size is enough.
        decoder = library.ZstdDecompressor(
            format=library.FORMAT_ZSTD1_MAGICLESS, max_window_size=max(1024, 1 << size.bit_length())
        )
        try:
            result = decoder.stream_reader(io.BytesIO(data)).read(size + 1)
            if len(result) != size:
                return result, False
            # The whole frame is now known to be small, so decoding it once more to find its end is safe.
            whole = decoder.decompressobj()
            whole.decompress(data)
        except library.ZstdError as error:
            raise DamagedStreamError(f"not a zstd stream: {error}") from None
        return result, whole.eof and not whole.unused_data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lzma(Codec):
    """LZMA2 without a container.

    What: raw LZMA2 stream, context bits off by default because codes are single bytes
    Source: public records of March 2026 (int6), self-extracting scripts
    Cost: 0.5 to 6% above the entropy of codes; slow to decode (12 to 43 M symbols/s)
    Not for: codes; it wins on text-like streams only
    Neutral: use Raw
    """

    name: ClassVar[str] = "lzma"
    literal_context_bits: int = setting(0, at_least=0, at_most=4)
    literal_position_bits: int = setting(0, at_least=0, at_most=4)
    position_bits: int = setting(0, at_least=0, at_most=4)

    def encode(self, data: bytes) -> tuple[str, bytes]:
        settings = {
            "preset": 9 | lzma.PRESET_EXTREME,
            "lc": self.literal_context_bits,
            "lp": self.literal_position_bits,
            "pb": self.position_bits,
        }
        filters = [{**_lzma_filter(len(data)), **settings}]
        return self.name, lzma.compress(data, lzma.FORMAT_RAW, filters=filters)

    @staticmethod
    def decode(data: bytes, size: int) -> tuple[bytes, bool]:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_lzma_filter(size)])
        try:
            result = decoder.decompress(data, size + 1)
        except lzma.LZMAError as error:
            raise DamagedStreamError(f"not an lzma stream: {error}") from None
        return result, decoder.eof and not decoder.unused_data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Brotli(Codec):
    """Brotli.

    What: quality 11 with the largest standard window
    Source: public records from 2026-03-31 on
    Cost: within 0.7% of the entropy of codes, below it on embeddings; 0.3 to 0.9 M symbols/s in
    Not for: packing in a loop: use a lower quality there
    Neutral: use Raw
    """

    name: ClassVar[str] = "brotli"
    quality: int = setting(11, at_least=0, at_most=11)
    window: int = setting(24, at_least=10, at_most=24)

    def encode(self, data: bytes) -> tuple[str, bytes]:
        return self.name, _library("brotli").compress(data, quality=self.quality, lgwin=self.window)

    @staticmethod
    def decode(data: bytes, size: int) -> tuple[bytes, bool]:
        library = _library("brotli")
        decoder, result = library.Decompressor(), bytearray()
        try:
            while chunk := decoder.process(data, output_buffer_limit=size + 1):
                result, data = result + chunk, b""
                if decoder.is_finished() or len(result) > size:
                    break
        except library.error as error:
            raise DamagedStreamError(f"not a brotli stream: {error}") from None
        return bytes(result[: size + 1]), decoder.is_finished()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Smallest(Codec):
    """The smallest of several codecs, chosen for each stream.

    What: tries every codec of the list and records the winner; the first of equals wins
    Source: measured here: the best codec differs between codes, scales and text
    Cost: the time of all its members
    Not for: a run that packs often: name one codec
    Neutral: a list of one
    """

    among: tuple[Codec, ...] = setting((Raw(), Deflate(), Zstd(), Lzma(), Brotli()))

    def encode(self, data: bytes) -> tuple[str, bytes]:
        return min((codec.encode(data) for codec in self.among), key=lambda result: len(result[1]))

    def problems(self) -> Iterator[str]:
        if not self.among:
            yield "among: needs at least one codec"


def decompress(codec: str, data: bytes, size: int) -> bytes:
    """The `size` bytes behind `data`. Raises DamagedStreamError after at most one byte too many."""
    result, complete = codec_named(codec).decode(data, size)
    if len(result) != size or not complete:
        found = f"more than {size:,}" if len(result) > size else f"{len(result):,}"
        raise DamagedStreamError(
            f"a {codec} stream promised {size:,} bytes and nothing after them",
            value=f"{found} bytes" if len(result) != size else "an unfinished or longer stream",
        )
    return result


def codec_named(name: str) -> type[Codec]:
    """The codec that an artifact calls by this name."""
    known = {member.name: member for member in members(Codec).values() if member.name}
    if name not in known:
        raise CodecError(f"unknown codec {name!r}", way_out=nearest(name, known))
    return known[name]


def _library(codec: str) -> Any:
    """The optional package behind a codec. Raises MissingCodecError that says how to install it."""
    package = {"zstd": "zstandard", "brotli": "brotli"}[codec]
    library = {"zstd": zstandard, "brotli": brotli}[codec]
    if library is None:
        raise MissingCodecError(
            f"the compressor {codec} is not installed",
            way_out=f"pip install {package}, or name another codec",
        )
    return library


def _lzma_filter(size: int) -> dict[str, int]:
    return {"id": lzma.FILTER_LZMA2, "dict_size": max(4096, 1 << min(size, 2**26 - 1).bit_length())}
