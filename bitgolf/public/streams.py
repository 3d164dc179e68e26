"""The public challenge's packed files as streams: compressors recognised by magic bytes, byte shuffle.

zlib, zstd and brotli stand around a file as torch.save writes it, LZMA too (records of March 2026, and
`COMPRESSOR=lzma` after them). Before brotli and LZMA the bytes may be shuffled, under one of two headers.
"""

import io
import lzma
import zlib

from bitgolf.base.errors import BitgolfError
from bitgolf.public.optional import needed
from bitgolf.squeeze.codec import Brotli, DamagedStreamError

MAX_FILE_BYTES = 2**30
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_WINDOW = 2**27  # the largest that level 22 asks for
LZMA_MAGIC = b"\xfd7zXZ\0"
LZMA_BYTES = 2**28  # of memory for its dictionary: preset 9 asks for 64 MiB
NAMED = (b"ZSTD", b"ZLIB")  # what one record writes before its stream
SHUFFLE_MAGIC = b"BSHF"
ZIP_START = b"PK"  # of what torch.save writes


class PublicFileError(BitgolfError):
    """A file is not what the public scripts write."""


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
    zstandard = needed("zstandard", "a zstd frame")
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


def unlzma(data: bytes, limit: int) -> bytes:
    """A whole .xz stream of at most `limit` bytes."""
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LZMA_BYTES)
    try:
        result = decoder.decompress(data, limit + 1)
    except lzma.LZMAError as error:
        raise PublicFileError(f"not an LZMA stream: {error}") from None
    if len(result) > limit:
        raise PublicFileError(f"decodes to more than {limit:,} bytes")
    if not decoder.eof or decoder.unused_data:
        fault = "bytes after the LZMA stream" if decoder.eof else "the LZMA stream is cut short"
        raise PublicFileError(fault, value=f"{len(data):,} bytes")
    return result


def expand(data: bytes, limit: int = MAX_FILE_BYTES) -> bytes:
    """What a packed file holds, its bytes in their own order. All but brotli can be told by their start."""
    if data[:4] in NAMED:
        data = data[4:]
    if data[:4] == ZSTD_MAGIC:
        whole = unzstd(data, limit)
    elif data[:6] == LZMA_MAGIC:
        whole = unlzma(data, limit)
    elif len(data) > 1 and data[0] & 15 == 8 and int.from_bytes(data[:2]) % 31 == 0:
        whole = inflate(data, limit)
    else:
        whole = unbrotli(data, limit)
    if whole[:4] != SHUFFLE_MAGIC:
        return whole
    wide = whole[5:6] == b"\0"  # where a narrow header has the first byte of a file, which is P
    return byte_unshuffle(whole, header_bytes=2 if wide and whole[6:7] == ZIP_START[:1] else 1)


def byte_shuffle(data: bytes, stride: int = 2, header_bytes: int = 1) -> bytes:
    """All first bytes of so many, all second ones and so on, after a magic and the stride; 1 leaves them.

    header_bytes: how many hold the stride, low ones first: 1, or the 2 of record 2026-03-31, which shuffles
    whatever it is given.
    """
    if not 0 <= stride < 256:
        raise PublicFileError("a stride of the byte shuffle is one byte", value=stride)
    if header_bytes == 1 and (stride < 2 or len(data) < stride):
        return data
    rows = b"".join(data[start::stride] for start in range(stride))
    return SHUFFLE_MAGIC + stride.to_bytes(header_bytes, "little") + rows


def byte_unshuffle(data: bytes, header_bytes: int = 1) -> bytes:
    """The inverse of `byte_shuffle`, for any length; data without the magic stays as it is."""
    if data[:4] != SHUFFLE_MAGIC:
        return data
    stride, body = int.from_bytes(data[4 : 4 + header_bytes], "little"), data[4 + header_bytes :]
    if len(data) < 4 + header_bytes or stride < 1:
        raise PublicFileError("a byte shuffle without a stride", value=data[:6])
    result, start_of = bytearray(len(body)), 0
    for start in range(min(stride, len(body))):
        count = len(range(start, len(body), stride))
        result[start::stride] = body[start_of : start_of + count]
        start_of += count
    return bytes(result)


def pack_stream(data: bytes, compressor: str = "zlib", shuffle_header_bytes: int = 0) -> bytes:
    """A packed file as the scripts write it; shuffled before where a size of the header is given.

    Raises PublicFileError for a compressor that no script has.
    """
    if shuffle_header_bytes:
        data = byte_shuffle(data, header_bytes=shuffle_header_bytes)
    match compressor:
        case "zlib":
            return zlib.compress(data, level=9)
        case "zstd":
            return needed("zstandard", "packing with zstd").ZstdCompressor(level=22).compress(data)
        case "lzma":
            return lzma.compress(data, preset=6)
        case "brotli":
            return Brotli(window=22).encode(data)[1]
    raise PublicFileError(
        "no script packs with this", value=compressor, way_out="give zlib, zstd, lzma or brotli"
    )
