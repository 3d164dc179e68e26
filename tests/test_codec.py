import subprocess
import sys

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.core import codec as codec_module
from bitgolf.core.codec import (
    CODEC_NAMES,
    Brotli,
    Codec,
    DamagedStreamError,
    Deflate,
    Lzma,
    MissingCodecError,
    Raw,
    Smallest,
    Zstd,
    codec_named,
    decompress,
)
from bitgolf.core.errors import CodecError, PlanError
from bitgolf.core.plan import members

TEXT = b"We the people of the United States, in order to form a more perfect union. " * 40


def compress(name: str, data: bytes) -> bytes:
    return codec_named(name)().encode(data)[1]


@settings(max_examples=40, deadline=None)
@given(data=st.one_of(st.binary(max_size=400), st.binary(min_size=1, max_size=9).map(lambda b: b * 999)))
def test_every_codec_gives_back_what_it_was_given(data):
    for name in CODEC_NAMES:
        assert decompress(name, compress(name, data), len(data)) == data


def test_every_member_names_the_codec_that_reads_it_back():
    for member in members(Codec).values():
        name, stream = member().encode(TEXT)
        assert decompress(name, stream, len(TEXT)) == TEXT


def test_numbers_of_codecs_never_change():
    assert CODEC_NAMES[:5] == ("raw", "deflate", "zstd", "lzma", "brotli")


@pytest.mark.parametrize("name", CODEC_NAMES)
@pytest.mark.parametrize("size", [0, len(TEXT) - 1, len(TEXT) + 1, 2 * len(TEXT)])
def test_a_wrong_size_is_refused(name, size):
    with pytest.raises(DamagedStreamError):
        decompress(name, compress(name, TEXT), size)


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_streams_that_are_cut_or_longer_or_changed_are_refused(name):
    stream = compress(name, TEXT)
    for damaged in [stream[:cut] for cut in range(0, len(stream), 3)] + [stream + b"\0", stream + stream]:
        with pytest.raises(DamagedStreamError):
            decompress(name, damaged, len(TEXT))
    if name != "raw":
        with pytest.raises(DamagedStreamError):
            decompress(name, b"\xff" * 40, len(TEXT))


BOMB = """
import lzma, resource, sys, zlib
import brotli, zstandard
from bitgolf.core.codec import DamagedStreamError, decompress

block, blocks = bytes(2**20), 256
filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 4096}]
compressors = {
    "deflate": zlib.compressobj(1, zlib.DEFLATED, -15),
    "zstd": zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            window_log=10, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False
        )
    ).compressobj(),
    "lzma": lzma.LZMACompressor(lzma.FORMAT_RAW, filters=filters),
    "brotli": brotli.Compressor(quality=1),
}
unit = 2**20 if sys.platform == "darwin" else 2**10
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
for name, compressor in compressors.items():
    write = getattr(compressor, "compress", None) or compressor.process
    finish = getattr(compressor, "flush", None) if name != "brotli" else compressor.finish
    bomb = b"".join([write(block) for _ in range(blocks)]) + finish()
    before = peak()
    try:
        decompress(name, bomb, 1000)
    except DamagedStreamError as error:
        print(name, "more than" in str(error), peak() - before < 32)
"""


def test_a_bomb_is_refused_before_it_takes_memory():
    done = subprocess.run([sys.executable, "-c", BOMB], capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[:-1] == [f"{name} True True" for name in CODEC_NAMES[1:]], done.stderr


def test_a_frame_that_asks_for_a_huge_window_is_refused():
    parameters = zstandard.ZstdCompressionParameters(
        window_log=27, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stream = compressor.compress(b"x" * 1000) + compressor.flush()
    with pytest.raises(DamagedStreamError, match="zstd"):
        decompress("zstd", stream, 1000)


@pytest.mark.parametrize(("name", "package"), [("zstd", "zstandard"), ("brotli", "brotli")])
def test_a_missing_package_is_named_and_never_replaced(monkeypatch, name, package):
    stream = compress(name, TEXT)
    monkeypatch.setattr(codec_module, package, None)
    for act in (
        lambda: compress(name, TEXT),
        lambda: decompress(name, stream, len(TEXT)),
        lambda: Smallest().encode(TEXT),
    ):
        with pytest.raises(MissingCodecError, match=f"pip install {package}"):
            act()


def test_smallest_takes_the_smallest_and_the_first_of_equals():
    sizes = {name: len(compress(name, TEXT)) for name in CODEC_NAMES}
    name, stream = Smallest().encode(TEXT)
    assert len(stream) == min(sizes.values()) == sizes[name]
    assert Smallest(among=(Deflate(), Deflate(level=8), Raw())).encode(b"")[0] == "raw"
    assert Smallest(among=(Raw(), Raw())).encode(b"ab") == ("raw", b"ab")
    with pytest.raises(PlanError, match="at least one codec"):
        Smallest(among=())


def test_settings_bite():
    data = bytes(range(256)) * 3 + TEXT + bytes(i * i % 251 for i in range(20_000))
    pairs = [
        (Deflate(level=1), Deflate(level=9)),
        (Zstd(level=1), Zstd(level=22)),
        (Brotli(quality=0), Brotli()),
        (Brotli(window=10), Brotli()),
        (Lzma(literal_context_bits=4), Lzma()),
        (Lzma(literal_position_bits=4), Lzma()),
        (Lzma(position_bits=4), Lzma()),
    ]
    for worse, better in pairs:
        assert worse.encode(data)[1] != better.encode(data)[1], worse


def test_unknown_names_and_settings_are_refused():
    for act in (lambda: compress("brotly", b""), lambda: decompress("brotly", b"", 0)):
        with pytest.raises(CodecError, match="did you mean 'brotli'"):
            act()
    with pytest.raises(PlanError, match="level"):
        Deflate(level=10)
