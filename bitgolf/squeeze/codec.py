"""Codecs: bytes to fewer bytes and back. Decoding never produces more than the promised size.

A missing compressor is an error that names the package; another codec never replaces it silently.
Compressors see bytes. Entropy coders (Histogram, RowColumn) also see which matrices of codes the bytes are,
and accept only streams that they would write themselves.
"""

import dataclasses
import io
import lzma
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from bitgolf.base.errors import CodecError, nearest
from bitgolf.base.plan import Plan, members, setting
from bitgolf.squeeze.symbol_model import (
    LARGEST_LOG2_STD,
    LOG2_STDS_OF_SIDE,
    SMALLEST_LOG2_STD,
    Shapes,
    SideInformation,
    add_templates,
    grids_of,
    measure_log2_stds,
    prior_counts,
    side_information_in,
    subtract_templates,
)
from bitgolf.squeeze.trellis_states import CHECKS

try:
    import brotli
except ImportError:
    brotli = None
try:
    import zstandard
except ImportError:
    zstandard = None  # type: ignore[assignment]
try:
    import constriction
except ImportError:
    constriction = None

# A codec's index in this list is its number in every artifact: only append.
CODEC_NAMES = ("raw", "deflate", "zstd", "lzma", "brotli", "histogram", "row_column")


class MissingCodecError(CodecError):
    """The package of a compressor is not installed."""


class DamagedStreamError(CodecError):
    """Compressed bytes do not decode to exactly the promised size."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codec(Plan):
    """The slot of compression of a stream of bytes."""

    abstract: ClassVar[bool] = True
    name: ClassVar[str] = ""  # in artifacts; empty for a codec that chooses among others

    def encode(self, data: bytes, shapes: Shapes = ()) -> tuple[str, bytes]:
        """The name of the codec that was used, and the bytes that `decompress` reads back.

        shapes: of the matrices of codes in the data; empty for other data.
        """
        raise NotImplementedError

    @staticmethod
    def decode(data: bytes, num_bytes: int, shapes: Shapes) -> tuple[bytes, bool]:
        """At most num_bytes + 1 bytes, and whether the stream ended exactly with the data."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Raw(Codec):
    """Bytes as they are.

    What: no compression; the size that other codecs must beat
    Source: none
    Cost: nothing
    Not for: anything with structure
    Neutral: always
    """

    name: ClassVar[str] = "raw"

    def encode(self, data: bytes, shapes: Shapes = ()) -> tuple[str, bytes]:
        return self.name, data

    @staticmethod
    def decode(data: bytes, num_bytes: int, shapes: Shapes) -> tuple[bytes, bool]:
        return data[: num_bytes + 1], True


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

    def encode(self, data: bytes, shapes: Shapes = ()) -> tuple[str, bytes]:
        compressor = zlib.compressobj(self.level, zlib.DEFLATED, -15, 9)
        return self.name, compressor.compress(data) + compressor.flush()

    @staticmethod
    def decode(data: bytes, num_bytes: int, shapes: Shapes) -> tuple[bytes, bool]:
        decoder = zlib.decompressobj(-15)
        try:
            result = decoder.decompress(data, num_bytes + 1)
        except zlib.error as error:
            raise DamagedStreamError(f"not a deflate stream: {error}") from None
        return result, decoder.eof and not decoder.unused_data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zstd(Codec):
    """Zstandard frames without magic, size or checksum.

    What: level 22 is the public method for int6 codes stored one per byte
    Source: public records from 2026-03-20 on
    Cost: 0.5 to 1.2% above the entropy of codes; 0.6 to 4 M symbols/s in, 500 M/s out
    Not for: embeddings, where brotli finds repeated rows
    Neutral: use Raw
    """

    name: ClassVar[str] = "zstd"
    level: int = setting(22, at_least=1, at_most=22)

    def encode(self, data: bytes, shapes: Shapes = ()) -> tuple[str, bytes]:
        library = _installed(zstandard, "zstd", "zstandard")
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
    def decode(data: bytes, num_bytes: int, shapes: Shapes) -> tuple[bytes, bool]:
        library = _installed(zstandard, "zstd", "zstandard")
        # A frame may ask for a window of gigabytes; the promised size is enough.
        decoder = library.ZstdDecompressor(
            format=library.FORMAT_ZSTD1_MAGICLESS, max_window_size=max(1024, 1 << num_bytes.bit_length())
        )
        try:
            result = decoder.stream_reader(io.BytesIO(data)).read(num_bytes + 1)
            if len(result) != num_bytes:
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

    def encode(self, data: bytes, shapes: Shapes = ()) -> tuple[str, bytes]:
        settings = {
            "preset": 9 | lzma.PRESET_EXTREME,
            "lc": self.literal_context_bits,
            "lp": self.literal_position_bits,
            "pb": self.position_bits,
        }
        filters = [{**_lzma_filter(len(data)), **settings}]
        return self.name, lzma.compress(data, lzma.FORMAT_RAW, filters=filters)

    @staticmethod
    def decode(data: bytes, num_bytes: int, shapes: Shapes) -> tuple[bytes, bool]:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_lzma_filter(num_bytes)])
        try:
            result = decoder.decompress(data, num_bytes + 1)
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

    def encode(self, data: bytes, shapes: Shapes = ()) -> tuple[str, bytes]:
        library = _installed(brotli, "brotli", "brotli")
        return self.name, library.compress(data, quality=self.quality, lgwin=self.window)

    @staticmethod
    def decode(data: bytes, num_bytes: int, shapes: Shapes) -> tuple[bytes, bool]:
        library = _installed(brotli, "brotli", "brotli")
        decoder, result = library.Decompressor(), bytearray()
        try:
            while chunk := decoder.process(data, output_buffer_limit=num_bytes + 1):
                result, data = result + chunk, b""
                if decoder.is_finished() or len(result) > num_bytes:
                    break
        except library.error as error:
            raise DamagedStreamError(f"not a brotli stream: {error}") from None
        return bytes(result[: num_bytes + 1]), decoder.is_finished()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histogram(Codec):
    """A range coder that knows only how often each code occurred so far.

    What: one adaptive table for the stream, which starts flat and counts codes, so none is stored
    Source: the range coder is constriction's; adaptive tables are measured here
    Cost: 0.1 to 0.4% above the entropy of the codes of a matrix; 50 M symbols/s in, 30 M/s out
    Not for: rows or columns of different size; embeddings, where brotli finds repeated rows
    Neutral: use Raw
    """

    name: ClassVar[str] = "histogram"

    def encode(self, data: bytes, shapes: Shapes = ()) -> tuple[str, bytes]:
        codes = np.frombuffer(data, np.int8)
        header, coder = _alphabet(codes), _RangeCoder()
        coder.code(codes.view(np.uint8) - header[0], np.zeros(len(codes), np.int8), _flat_prior(header))
        return self.name, header.tobytes() + coder.written()

    @staticmethod
    def decode(data: bytes, num_bytes: int, shapes: Shapes) -> tuple[bytes, bool]:
        header, coder = np.frombuffer(data[:2], np.uint8), _RangeCoder(data[2:])
        values = np.zeros(num_bytes, np.uint8)
        coder.code(values, np.zeros(num_bytes, np.int8), _flat_prior(header))
        return (values + header[0]).tobytes(), coder.written() == data[2:]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowColumn(Codec):
    """A range coder that knows the scale of each row and column, and which rows are alike.

    What: a code's standard deviation is that of its row times that of its column, each stored to a quarter
        octave; codes of equal deviation share an adaptive table, which starts as a bell curve (3% of it four
        times as wide); a template is subtracted from rows that resemble it, as rows of rare tokens do; for
        codes on a trellis (of `states` states) first their parity is coded, then the rest by their grid
    Source: row by column Gaussians in reference measurements; adaptive tables and template measured here
    Cost: 2 to 4% under zstd-22 and 1 to 2% under brotli on trained weights, side information of some 2 bits a
        row and column included; 16 M symbols/s in, 30 M/s out, trellises half as fast
    Not for: bytes that are not matrices of codes
    Neutral: rows and columns of equal size: use Histogram
    """

    name: ClassVar[str] = "row_column"

    states: int = setting(8, one_of=(8, 16, 64))

    def encode(self, data: bytes, shapes: Shapes = ()) -> tuple[str, bytes]:
        codes, shapes = np.frombuffer(data, np.int8), shapes or ((1, len(data)),)
        below = np.float32(0.5) * grids_of(codes, shapes, self.states)
        bare: tuple[np.ndarray, SideInformation] = codes, [() for _ in shapes]
        taken = subtract_templates(codes, shapes)
        streams = {
            (alike, by_column): self.stream(*(taken if alike else bare), shapes, by_column)
            for alike in (False, True)
            for by_column in (False, True)
        }
        alike, by_column = best = min(streams, key=lambda way: len(streams[way]))
        on_trellis = self.stream(*(taken if alike else bare), shapes, by_column, below)
        return self.name, min(streams[best], on_trellis, key=len)

    def stream(
        self,
        codes: np.ndarray,
        templates: SideInformation,
        shapes: Shapes,
        by_column: bool,
        below: np.ndarray | None = None,
    ) -> bytes:
        """The codes minus their templates as one stream; below: offsets of codes on two grids."""
        base, log2_stds = measure_log2_stds(codes if below is None else codes - below, shapes, by_column)
        number = list(CHECKS).index(1 if below is None else self.states)
        flags = TEMPLATES * bool(templates[0]) + TRELLIS * number
        header = np.append(_alphabet(codes), np.array([base, flags], np.int8).view(np.uint8))
        parts = [part for pair in zip(log2_stds, templates) for each in pair for part in each]
        side = (np.concatenate(parts).clip(-128, 127) + 128).astype(np.uint8)
        coder = _RangeCoder()
        _code_matrices(coder, header, shapes, side, codes.view(np.uint8) - header[0])
        return header.tobytes() + coder.written()

    @staticmethod
    def decode(data: bytes, num_bytes: int, shapes: Shapes) -> tuple[bytes, bool]:
        shapes = shapes or ((1, num_bytes),)
        header, coder = np.frombuffer(data[:4], np.uint8), _RangeCoder(data[4:])
        known = len(header) == 4 and header[3] < TRELLIS * len(CHECKS)
        if not known or sum(map(math.prod, shapes)) != num_bytes:
            raise DamagedStreamError("not the stream of these matrices", value=header.tolist())
        alike = bool(header[3] & TEMPLATES)
        side = np.zeros((1 + alike) * sum(map(sum, shapes)), np.uint8)
        values = np.zeros(num_bytes, np.uint8)
        _code_matrices(coder, header, shapes, side, values)
        values += header[0]
        if alike:
            add_templates(values, shapes, side)
        return values.tobytes(), coder.written() == data[4:]


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

    def encode(self, data: bytes, shapes: Shapes = ()) -> tuple[str, bytes]:
        return min((codec.encode(data, shapes) for codec in self.among), key=lambda result: len(result[1]))

    def validate(self) -> Iterator[str]:
        if not self.among:
            yield "among: needs at least one codec"


def decompress(codec: str, data: bytes, num_bytes: int, shapes: Shapes = ()) -> bytes:
    """The `num_bytes` bytes of a stream. Raises DamagedStreamError after at most one byte too many."""
    result, complete = codec_named(codec).decode(data, num_bytes, shapes)
    if len(result) != num_bytes or not complete:
        decoded = f"more than {num_bytes:,}" if len(result) > num_bytes else f"{len(result):,}"
        raise DamagedStreamError(
            f"a {codec} stream promised {num_bytes:,} bytes and nothing after them",
            value=f"{decoded} bytes" if len(result) != num_bytes else "an unfinished or longer stream",
        )
    return result


def codec_named(name: str) -> type[Codec]:
    """The codec with this name in artifacts."""
    codecs = {member.name: member for member in members(Codec).values() if member.name}
    if name not in codecs:
        raise CodecError(f"unknown codec {name!r}", way_out=nearest(name, codecs))
    return codecs[name]


def _installed(library: object, codec: str, package: str) -> Any:
    """The optional package of a codec. Raises MissingCodecError, which says how to install it."""
    if library is None:
        raise MissingCodecError(
            f"the compressor {codec} is not installed",
            way_out=f"pip install {package}, or name another codec",
        )
    return library


def _lzma_filter(num_bytes: int) -> dict[str, int]:
    return {"id": lzma.FILTER_LZMA2, "dict_size": max(4096, 1 << min(num_bytes, 2**26 - 1).bit_length())}


# Range coding.
TEMPLATES, TRELLIS = 1, 2  # flags of a RowColumn stream; two and three times TRELLIS: of more states
COUNT = 2**11  # added to the count of a code that was seen
SORTED_CODES = 2**20  # sorted by their tables at a time, to bound memory


class _RangeCoder:
    """Writes symbols. Made from a stream, it reads them and writes them again, to show that all was read."""

    def __init__(self, stream: bytes | None = None) -> None:
        library = _installed(constriction, "of ranges", "constriction").stream
        self.table_model, self.encoder = library.model.Categorical, library.queue.RangeEncoder()
        self.decoder = None
        if stream is not None:
            words = np.frombuffer(stream[: len(stream) // 4 * 4], "<u4").astype(np.uint32)
            self.decoder = library.queue.RangeDecoder(words)

    def written(self) -> bytes:
        """The stream so far."""
        return self.encoder.get_compressed().astype("<u4").tobytes()

    def code(self, values: np.ndarray, classes: np.ndarray, start: Callable[[int], np.ndarray]) -> None:
        """Code values (uint8, in place when reading), each by the counts of its class (int8 or int16).

        start: the first counts of a class. Its symbol model is renewed when its count has doubled, so few
        calls code most of the codes.
        """
        counts_by_class: dict[int, np.ndarray] = {}
        for begin in range(0, len(values), SORTED_CODES):
            part, kinds = values[begin : begin + SORTED_CODES], classes[begin : begin + SORTED_CODES]
            order = np.argsort(kinds, kind="stable")
            for places in np.split(order, np.flatnonzero(np.diff(kinds[order])) + 1):
                kind = int(kinds[places[0]])
                if kind not in counts_by_class:
                    counts_by_class[kind] = start(kind).copy()
                counts = counts_by_class[kind]
                while len(places):
                    count = max(1, int(counts.sum()) // COUNT)
                    here, places = places[:count], places[count:]
                    part[here] = self.step(part[here], counts)
                    counts += COUNT * np.bincount(part[here], minlength=len(counts))

    def step(self, symbols: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Write these symbols, or read as many, with the model of these counts."""
        if len(counts) == 1:
            return symbols  # no information
        model = self.table_model(counts.astype(np.float64), perfect=False)
        symbols = symbols.astype(np.int32)
        if self.decoder is not None:
            try:
                symbols = self.decoder.decode(model, len(symbols))
            except AssertionError as error:
                raise DamagedStreamError(f"not a stream of a range coder: {error}") from None
        self.encoder.encode(symbols, model)
        return symbols


def _alphabet(codes: np.ndarray) -> np.ndarray:
    """The smallest and the largest code, as bytes; the range has zero and at least two codes."""
    first = int(codes.min(initial=0))
    last = max(int(codes.max(initial=0)), first + 1)
    return np.array([first, last], np.int8).view(np.uint8)


def _within(header: np.ndarray) -> slice:
    """The slice of the codes -128 to 127 that is the alphabet of a stream."""
    first, last = header[:2].view(np.int8) if len(header) > 1 else (0, 0)
    if not first <= 0 <= last or first == last:
        raise DamagedStreamError("a range coder's stream without an alphabet", value=header.tolist())
    return slice(int(first) + 128, int(last) + 129)


def _flat_prior(header: np.ndarray) -> Callable[[int], np.ndarray]:
    """Tables without information: half a count for each code."""
    within = _within(header)
    return lambda _: np.full(within.stop - within.start, COUNT // 2)


def _code_matrices(
    coder: _RangeCoder, header: np.ndarray, shapes: Shapes, side: np.ndarray, values: np.ndarray
) -> None:
    """Write or read the side information (uint8, 128 for none), then the values that it describes."""
    within, base = _within(header), int(header[2:].view(np.int8)[0])
    parts = 4 if header[3] & TEMPLATES else 2
    kinds = [
        np.full(len(part), i, np.int8)
        for each in side_information_in(side, shapes, parts)
        for i, part in enumerate(each)
    ]
    coder.code(side, np.concatenate(kinds), lambda kind: prior_counts(LOG2_STDS_OF_SIDE[kind]) // 64 + 1)
    side_information = list(side_information_in(side.astype(np.int16) - 128, shapes, parts))
    log2_stds = np.concatenate(
        [
            (base + row[:, None] + column).clip(SMALLEST_LOG2_STD, LARGEST_LOG2_STD).astype(np.int8).ravel()
            for row, column, *_ in side_information
        ]
    )
    if number := header[3] // TRELLIS:
        taken = [
            np.outer(marks == 1, template).ravel() for *_, marks, template in side_information if parts == 4
        ]
        states = list(CHECKS)[number]
        _code_trellis(coder, shapes, states, within, log2_stds, np.concatenate(taken) if taken else 0, values)
    else:
        coder.code(values, log2_stds, lambda log2_std: prior_counts(log2_std)[within])


def _code_trellis(
    coder: _RangeCoder,
    shapes: Shapes,
    states: int,
    within: slice,
    log2_stds: np.ndarray,
    taken: np.ndarray | int,
    values: np.ndarray,
) -> None:
    """Write or read codes on a trellis: first their parities, which determine their grids, then the rest.

    taken: templates that were subtracted from the codes.
    """
    first = np.uint8(within.start & 1)  # whether the code of value 0 is odd
    odd = values & 1 ^ first
    coder.code(odd, log2_stds, _odd_counts)
    grids = grids_of(odd ^ (np.uint8(1) & taken), shapes, states)
    rest, kinds = values >> 1, 4 * log2_stds.astype(np.int16) + 2 * grids + odd

    def start(kind: int) -> np.ndarray:
        log2_std, on_second, is_odd = kind >> 2, kind >> 1 & 1, kind & 1
        return prior_counts(log2_std, on_second / 2)[within][(is_odd ^ first) :: 2]

    coder.code(rest, kinds, start)
    values[:] = 2 * rest + (odd ^ first)


def _odd_counts(log2_std: int) -> np.ndarray:
    """Counts of even and odd codes of a spread, over both grids."""
    both = prior_counts(log2_std) + prior_counts(log2_std, 0.5)
    return np.array([both[::2].sum(), both[1::2].sum()])
