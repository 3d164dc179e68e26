"""Every codec gives back what it was given, refuses what is damaged; entropy coders are near their ideal."""

import hashlib
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.base.errors import CodecError, PlanError
from bitgolf.base.plan import members
from bitgolf.recipes.baseline import baseline
from bitgolf.script.flatten import flatten
from bitgolf.squeeze import codec as codec_module
from bitgolf.squeeze.codec import (
    CODEC_NAMES,
    TEMPLATES,
    TRELLIS,
    Brotli,
    Codec,
    DamagedStreamError,
    Deflate,
    Histogram,
    Lzma,
    MissingCodecError,
    Raw,
    RowColumn,
    Smallest,
    Zstd,
    codec_named,
    decompress,
)
from bitgolf.squeeze.symbol_model import (
    LARGEST_LOG2_STD,
    SMALLEST_LOG2_STD,
    grids_of,
    measure_log2_stds,
    prior_counts,
    subtract_templates,
)
from bitgolf.squeeze.trellis_states import following_states
from tests.test_shape import ships

COMPRESSORS = CODEC_NAMES[:5]
CODERS = {"histogram": Histogram(), "row_column": RowColumn()}
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
        if not ships(member):
            continue
        name, stream = member().encode(TEXT)
        assert decompress(name, stream, len(TEXT)) == TEXT


def test_numbers_of_codecs_never_change():
    assert CODEC_NAMES[:7] == ("raw", "deflate", "zstd", "lzma", "brotli", "histogram", "row_column")


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
from bitgolf.squeeze.codec import DamagedStreamError, decompress

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
    assert done.stdout.split("\n")[:-1] == [f"{name} True True" for name in COMPRESSORS[1:]], done.stderr


def test_a_frame_that_asks_for_a_huge_window_is_refused():
    parameters = zstandard.ZstdCompressionParameters(
        window_log=27, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stream = compressor.compress(b"x" * 1000) + compressor.flush()
    with pytest.raises(DamagedStreamError, match="zstd"):
        decompress("zstd", stream, 1000)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("zstd", "zstandard"),
        ("brotli", "brotli"),
        ("histogram", "constriction"),
        ("row_column", "constriction"),
    ],
)
def test_a_missing_package_is_named_and_never_replaced(monkeypatch, name, package):
    stream = compress(name, TEXT)
    monkeypatch.setattr(codec_module, package, None)
    for act in (
        lambda: compress(name, TEXT),
        lambda: decompress(name, stream, len(TEXT)),
        lambda: Smallest(among=(Raw(), codec_named(name)())).encode(TEXT),
    ):
        with pytest.raises(MissingCodecError, match=f"pip install {package}"):
            act()


def test_smallest_takes_the_smallest_and_the_first_of_equals():
    sizes = {name: len(compress(name, TEXT)) for name in COMPRESSORS}
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


# Entropy coders of matrices.


def matrix(
    rows: int, columns: int, *, spread: float = 0.4, deviation: float = 2.4, seed: int = 0
) -> np.ndarray:
    """Codes as a rounded Gaussian whose deviation varies by row and column, int8."""
    draw = np.random.default_rng(seed)
    sizes = np.exp(spread * draw.standard_normal((rows, 1))) * np.exp(
        spread / 2 * draw.standard_normal(columns)
    )
    codes = np.round(deviation * sizes * draw.standard_normal((rows, columns)))
    return codes.clip(-127, 127).astype(np.int8)


def ideal_bytes(codes: np.ndarray, below: np.ndarray | float = 0.0) -> float:
    """The code length under bells that do not count, and the entropy of the sizes they need.

    below: how much less than its code each value is.
    """
    base, [(rows, columns)] = measure_log2_stds((codes - below).reshape(-1), [codes.shape], True)
    sizes = (base + rows[:, None] + columns).clip(SMALLEST_LOG2_STD, LARGEST_LOG2_STD)
    below = np.broadcast_to(below, codes.shape)
    bits = 0.0
    for size, off in itertools.product(np.unique(sizes), np.unique(below)):
        table = prior_counts(int(size), off)[int(codes.min()) + 128 : int(codes.max()) + 129]
        places = codes[(sizes == size) & (below == off)].astype(np.int64) - int(codes.min())
        bits -= np.log2(table / table.sum())[places].sum()
    for side in (rows, columns):
        _, counts = np.unique(side, return_counts=True)
        bits -= (counts * np.log2(counts / counts.sum())).sum()
    return bits / 8


def walks(rows: int, columns: int, deviation: float = 1.2, seed: int = 0, count: int = 8) -> np.ndarray:
    """Codes on the grids that each row walks through: to the nearest of one on its grid, state by state."""
    draw = np.random.default_rng(seed)
    wanted = deviation * np.exp(0.3 * draw.standard_normal((rows, 1))) * draw.standard_normal((rows, columns))
    codes, states = np.zeros((rows, columns), np.int8), np.zeros(rows, int)
    for j in range(columns):
        codes[:, j] = np.round(wanted[:, j] + 0.5 * (states & 1)).clip(-127, 127)
        states = following_states(count)[states, codes[:, j] & 1]
    return codes


def flags_of(stream: bytes) -> int:
    return stream[3]


SHAPES = [
    [(1, 1)],
    [(0, 5)],
    [(3, 0), (2, 2)],
    [(1, 300)],
    [(300, 1)],
    [(16, 24), (24, 16), (5, 5)],
    [(70, 90)],
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("codec", CODERS.values(), ids=CODERS)
@pytest.mark.parametrize("deviation", [0.0, 0.3, 3.0, 90.0])
def test_coders_give_matrices_back(codec, shapes, deviation):
    data = b"".join(matrix(*shape, deviation=deviation, seed=i).tobytes() for i, shape in enumerate(shapes))
    name, stream = codec.encode(data, shapes)
    assert decompress(name, stream, len(data), shapes) == data
    assert codec.encode(data, shapes)[1] == stream


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 9), data=st.binary(max_size=200))
def test_coders_take_any_bytes_in_any_shape(rows, data):
    shapes = [(rows, len(data) // rows), (1, len(data) % rows)]
    for codec in CODERS.values():
        name, stream = codec.encode(data, shapes)
        assert decompress(name, stream, len(data), shapes) == data


def test_more_codes_than_are_sorted_at_a_time(monkeypatch):
    codes = matrix(60, 70)
    monkeypatch.setattr(codec_module, "SORTED_CODES", 1000)
    for codec in CODERS.values():
        name, stream = codec.encode(codes.tobytes(), [codes.shape])
        assert decompress(name, stream, codes.size, [codes.shape]) == codes.tobytes()


def test_coded_within_a_fifth_of_a_percent_of_the_ideal_and_under_every_compressor():
    for shape in ((384, 256), (128, 512)):
        codes = matrix(*shape)
        size = len(RowColumn().encode(codes.tobytes(), [shape])[1])
        assert size <= 1.002 * ideal_bytes(codes)
        alone = [len(compress(name, codes.tobytes())) for name in COMPRESSORS]
        turned = [len(compress(name, codes.T.tobytes())) for name in COMPRESSORS]
        assert size < 0.98 * min(alone + turned)


def test_codes_that_walk_are_known_by_their_grids():
    codes = walks(256, 192)
    below, shapes = grids_of(codes.ravel(), [codes.shape]).reshape(codes.shape) / 2, [codes.shape]
    stream = RowColumn().encode(codes.tobytes(), shapes)[1]
    assert flags_of(stream) == TRELLIS
    assert len(stream) <= 1.002 * ideal_bytes(codes, below)
    unaware = RowColumn().stream(codes.ravel(), [()], shapes, by_column=False)
    assert flags_of(unaware) == 0 and len(stream) < 0.99 * len(unaware)
    assert decompress("row_column", unaware, codes.size, shapes) == codes.tobytes()
    plain = matrix(256, 192)
    assert flags_of(RowColumn().encode(plain.tobytes(), shapes)[1]) == 0


@pytest.mark.parametrize("states", [16, 64])
def test_walks_through_more_states_say_how_many(states):
    codes = walks(256, 192, count=states)
    shapes = [codes.shape]
    below = grids_of(codes.ravel(), shapes, states).reshape(codes.shape) / 2
    stream = RowColumn(states=states).encode(codes.tobytes(), shapes)[1]
    assert flags_of(stream) == {16: 2, 64: 3}[states] * TRELLIS
    assert len(stream) <= 1.002 * ideal_bytes(codes, below)
    assert decompress("row_column", stream, codes.size, shapes) == codes.tobytes()
    of_eight = RowColumn().encode(codes.tobytes(), shapes)[1]  # knows nothing of the path
    assert len(stream) < 0.99 * len(of_eight)
    assert decompress("row_column", of_eight, codes.size, shapes) == codes.tobytes()
    with pytest.raises(DamagedStreamError):
        decompress("row_column", stream[:3] + bytes([8]) + stream[4:], codes.size, shapes)


@pytest.mark.parametrize("shapes", [*SHAPES, [(200, 30), (30, 200)]], ids=str)
@pytest.mark.parametrize("deviation", [0.0, 0.3, 1.2, 90.0])
def test_walks_are_given_back_with_templates_and_without(shapes, deviation):
    codes = np.concatenate([walks(*shape, deviation, i).ravel() for i, shape in enumerate(shapes)])
    below = np.float32(0.5) * grids_of(codes, shapes)
    same = np.concatenate([np.tile(np.arange(shape[1]) % 5 - 2, (shape[0], 1)).ravel() for shape in shapes])
    for whole in (codes, (codes + same).astype(np.int8)):
        for taken in ((whole, [() for _ in shapes]), subtract_templates(whole, shapes)):
            for by_column in (False, True):
                stream = RowColumn().stream(*taken, shapes, by_column, below)
                assert flags_of(stream) & TRELLIS
                assert decompress("row_column", stream, codes.size, shapes) == whole.tobytes()


def test_walks_whose_rows_resemble_one_another():
    draw, codes = np.random.default_rng(0), walks(300, 64, 0.8)
    codes[draw.random(300) < 0.6] += np.round(6 * np.sin(np.arange(64))).astype(np.int8)
    stream = RowColumn().encode(codes.tobytes(), [codes.shape])[1]
    assert flags_of(stream) & TEMPLATES
    assert decompress("row_column", stream, codes.size, [codes.shape]) == codes.tobytes()


def test_a_histogram_is_near_the_entropy():
    codes = matrix(512, 256, spread=0.0)
    _, counts = np.unique(codes, return_counts=True)
    entropy = -(counts * np.log2(counts / codes.size)).sum() / 8
    assert entropy < len(Histogram().encode(codes.tobytes(), [codes.shape])[1]) < 1.003 * entropy


def test_rows_that_resemble_one_another_are_found():
    codes = matrix(400, 96, spread=0.0, deviation=8.0)
    codes[100:250] = np.round(8 * np.sin(np.arange(96)) ** 3 * 4) + matrix(150, 96, spread=0.0, deviation=1.0)
    data = codes.tobytes()
    apart = np.concatenate([codes[:100], codes[250:]])
    with_them, without = (len(RowColumn().encode(each.tobytes(), [each.shape])[1]) for each in (codes, apart))
    assert with_them - without < 150 * 96 * 2.4 / 8 + 150  # 2.1 bits each where 5.1 were needed
    assert with_them < min(len(compress(name, data)) for name in COMPRESSORS)


def test_bells_are_nearly_normal_and_never_change():
    for size in (-4, 0, 5, 12):
        deviation, table = 2 ** (size / 4), prior_counts(size) / prior_counts(size).sum()
        for code in range(-4, 5):
            share = [
                (math.erf((code + 0.5) / d) - math.erf((code - 0.5) / d)) / 2
                for d in (deviation * math.sqrt(2), 4 * deviation * math.sqrt(2))
            ]
            assert abs(table[code + 128] - (0.97 * share[0] + 0.03 * share[1])) < 0.01
    tables = np.stack([prior_counts(size) for size in range(-8, 29)])
    assert tables.min() >= 1 and hashlib.sha256(tables.astype("<i8").tobytes()).hexdigest() == BELLS


# Streams of these codes on any machine, with any version of constriction that may be installed.
BELLS = "06e5eadafa1cf268d97789aebe210ac9a69040f6a9837c79691846879b654078"
FROZEN = {
    "histogram": "36a2e94c989fc11b18e28c3d0d2e79b4a7ccc528e831d3d7e58a7f90991d87d7",
    "row_column": "eeeb5a72c4886179a93eda4fb13a1f66bacb061656bbf94621e942342acb71f9",
    "walks": "4455b8bfd7f7db1ad3d4e562ee63e84f259418cad3b764264240397f84b03ec7",
}


def steady_codes() -> np.ndarray:
    """2,400 codes from -6 to 6 that are the same everywhere."""
    state, codes = 1, []
    for _ in range(40 * 60):
        state = (state * 1103515245 + 12345) % 2**31
        codes.append((state >> 16) % 7 + (state >> 20) % 7 - 6)
    return np.array(codes, np.int8)


@pytest.mark.parametrize("name", CODERS)
def test_the_bytes_of_a_coder_never_change(name):
    data = (steady_codes().reshape(40, 60) * (1 + np.arange(40)[:, None] // 13)).astype(np.int8)
    stream = CODERS[name].encode(data.tobytes(), [data.shape])[1]
    assert hashlib.sha256(stream).hexdigest() == FROZEN[name]


def test_the_bytes_of_walks_never_change():
    codes, shapes = steady_codes(), [(40, 60)]
    stream = RowColumn().stream(codes, [()], shapes, True, np.float32(0.5) * grids_of(codes, shapes))
    assert hashlib.sha256(stream).hexdigest() == FROZEN["walks"]


@pytest.mark.parametrize("name", [*CODERS, "walks"])
def test_a_coders_stream_that_is_cut_or_padded_or_changed(name):
    codes = walks(16, 20) if name == "walks" else matrix(24, 20)
    data, shapes = codes.tobytes(), [codes.shape]
    if name == "walks":
        name, below = "row_column", np.float32(0.5) * grids_of(codes.ravel(), shapes)
        stream = RowColumn().stream(codes.ravel(), [()], shapes, False, below)
    else:
        stream = CODERS[name].encode(data, shapes)[1]
    for damaged in [stream[:cut] for cut in range(len(stream))] + [stream + b"\0" * n for n in range(1, 9)]:
        with pytest.raises(DamagedStreamError):
            decompress(name, damaged, len(data), shapes)
    refused = 0
    for bit in range(8 * len(stream)):
        changed = bytearray(stream)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            assert decompress(name, bytes(changed), len(data), shapes) != data  # a stream of other codes
        except DamagedStreamError:
            refused += 1
    assert refused
    rows, columns = codes.shape
    for wrong in ([(rows, columns - 1)], [(columns, rows), (rows, 5)], [(rows * columns, 2)]):
        size = sum(rows * columns for rows, columns in wrong)
        with pytest.raises(DamagedStreamError):
            decompress(name, stream, size, wrong)
    with pytest.raises(DamagedStreamError):
        decompress("row_column", stream, len(data), [(2, 3)])


@pytest.mark.parametrize("name", CODERS)
def test_an_alphabet_that_no_encoder_writes_is_refused(name):
    for first, last in ((0, 0), (1, 0), (5, 9), (-9, -5), (127, -128)):
        stream = np.array([first, last, 0, 0], np.int8).tobytes()[: 2 if name == "histogram" else 4] + bytes(
            8
        )
        with pytest.raises(DamagedStreamError, match="alphabet"):
            decompress(name, stream, 6, [(2, 3)])


CLAIM = """
import resource, sys, time
from bitgolf.squeeze.codec import DamagedStreamError, decompress

unit = 2**20 if sys.platform == "darwin" else 2**10
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
decompress("histogram", bytes([0, 1]), 0)
streams = {"histogram": bytes([0, 1, 9, 9, 9, 9]), "row_column": bytes([0, 1, 0, 0, 9, 9, 9, 9])}
for name, stream in streams.items():
    before, started = peak(), time.perf_counter()
    try:
        decompress(name, stream, 2**23)
    except DamagedStreamError:
        print(name, peak() - before < 120, time.perf_counter() - started < 20)
"""


def test_a_few_bytes_that_claim_eight_million_codes_take_little():
    done = subprocess.run([sys.executable, "-c", CLAIM], capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[:-1] == [f"{name} True True" for name in CODERS], done.stderr


@pytest.mark.slow
def test_scripts_that_name_no_coder_have_none():
    for codec in (Deflate(), Zstd(), Brotli()):
        script = flatten(baseline().replace({"pack.codec": codec}))
        assert not any(word in script for word in ("constriction", "RangeCoder", "prior_counts"))
    assert "prior_counts" not in flatten(baseline().replace({"pack.codec": Histogram()}))
    assert "prior_counts" in flatten(baseline().replace({"pack.codec": RowColumn()}))
