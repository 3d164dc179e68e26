"""Damaged and forged artifacts: every fault refused with its own error, at little cost."""

import math
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from bitgolf.base.errors import ArtifactError
from bitgolf.squeeze import codec as codec_module
from bitgolf.squeeze.artifact import (
    Artifact,
    PackPlan,
    ShapeMismatchError,
    ValueRangeError,
    VocabularyError,
    pack,
    unpack,
)
from bitgolf.squeeze.codec import (
    CODEC_NAMES,
    Brotli,
    Deflate,
    Histogram,
    Lzma,
    MissingCodecError,
    RowColumn,
    Zstd,
)
from bitgolf.squeeze.sections import (
    ARTIFACT_PREFIX,
    MAX_DECODED_BYTES,
    SECTION_ROW,
    SMALL_DECODED_BYTES,
    ArtifactVersionError,
    ChecksumError,
    HeaderSizeError,
    NotAnArtifactError,
    SizeLimitError,
    StreamError,
    TrailingBytesError,
    TruncatedError,
    UnknownFormError,
    read_sections,
)
from bitgolf.text.encoder import train_tokenizer
from tests.forgery import (
    SMALL,
    TEXT,
    Taken,
    artifacts_of_all_forms,
    hollow,
    model_file,
    refused_or_whole,
    tokenizer_of,
)
from tests.squeeze.packing import ALL_FORMS, ALL_RANGE, BROTLI, GOOD, RANGE, ROOT

# Attacks: each takes a good artifact apart, changes one thing, and puts it together with right checksums.


def forged(change: Callable[[Taken], None], good: Artifact = GOOD) -> bytes:
    taken = Taken(good.data)
    change(taken)
    return taken.bytes()


def cut_table(taken: Taken, key: str) -> None:
    taken.edit(1, **{key: taken.text(1)[key][:-1]})


def bad_number(taken: Taken, key: str, value: object) -> None:
    taken.edit(1, **{key: [value, *taken.text(1)[key][1:]]})


def scale_section(taken: Taken) -> int:
    return len(taken.rows) - 2


def with_form(**form: object) -> bytes:
    """All tensors in another form than they were written in."""
    return forged(lambda taken: taken.edit(1, forms=[form for _ in taken.text(1)["forms"]]))


def with_numbers(form: str, **changes: object) -> bytes:
    """An artifact of a form, one matrix with other numbers, as a coder writes them."""
    good = unpack(artifacts_of_all_forms()[form].data)
    name = "blocks.0.mlp.fc.weight"
    old = good.tensors[name]
    numbers = {key: torch.full_like(old.pieces[key], value) for key, value in changes.items()}
    tensors = {**good.tensors, name: old.with_pieces(**numbers)}
    return pack(good.model, tensors, good.tokenizer.to_bytes(), PackPlan(codec=Histogram())).data


def with_tokenizer(kind: int, body: bytes) -> bytes:
    return forged(lambda taken: taken.replace(2, tokenizer_of(kind, body)))


def with_table(change: Callable[[list[list[int]]], None]) -> bytes:
    """The table of sections changed, all else left as it is, under a right checksum of the header."""
    place = ARTIFACT_PREFIX.size + SECTION_ROW.size * len(read_sections(GOOD.data))
    rows = [list(row) for row in SECTION_ROW.iter_unpack(GOOD.data[ARTIFACT_PREFIX.size : place])]
    change(rows)
    table = b"".join(SECTION_ROW.pack(*row) for row in rows)
    checksum = zlib.crc32(GOOD.data[: ARTIFACT_PREFIX.size - 4] + table)
    return GOOD.data[: ARTIFACT_PREFIX.size - 4] + struct.pack("<I", checksum) + table + GOOD.data[place:]


def overlap(rows: list[list[int]]) -> None:
    """A section reaches into the next."""
    rows[3][1] += 9


def moved_border(rows: list[list[int]]) -> None:
    """A byte of a section counted to the one before."""
    rows[2][1] += 1
    rows[3][1] -= 1


def claim(section: int, size: int) -> Callable[[Taken], None]:
    def change(taken: Taken) -> None:
        taken.rows[section][1] = size

    return change


def set_codec(section: int, codec: int) -> Callable[[Taken], None]:
    def change(taken: Taken) -> None:
        taken.rows[section][0] = codec

    return change


def zeros_bomb(taken: Taken) -> None:
    taken.rows[3] = [4, 10 * 10**9 % 2**32, Brotli(quality=1).encode(bytes(10**6))[1]]


def cut_stream(taken: Taken) -> None:
    taken.rows[3][2] = taken.rows[3][2][:-4]


def empty_stream(taken: Taken) -> None:
    taken.rows[3][2] = b""


def longer_stream(taken: Taken) -> None:
    taken.rows[3][2] += bytes(4)


def turned_stream(taken: Taken) -> None:
    taken.rows[3][0] ^= 0x80


def loud_codes(taken: Taken) -> None:
    """The codes of a tensor as large as one byte holds, by the coder itself."""
    size = taken.rows[4][1]
    taken.rows[4] = [CODEC_NAMES.index("histogram"), size, Histogram().encode(b"\x7f" * size)[1]]


def coder_bomb(taken: Taken) -> None:
    """A few bytes that promise as much as a small artifact may hold."""
    taken.rows[3] = [CODEC_NAMES.index("row_column"), SMALL_DECODED_BYTES, b"\0\1\0\0" + bytes(8)]


def other_tokenizer(taken: Taken) -> None:
    taken.replace(2, train_tokenizer([TEXT], 280).to_bytes())


def many_merges() -> bytes:
    """65,000 pieces, each twice as long as one of 500 before it until they have 500 bytes or more."""
    pieces, halves = [1] * 256, []
    for piece in range(256, 65_000):
        left = piece - 500 if piece > 800 and pieces[piece - 500] < 500 else piece % 256
        halves.append((left, (piece * 7) % 256 if left < 256 else left))
        pieces.append(pieces[halves[-1][0]] + pieces[halves[-1][1]])
    return np.array(halves, "<u2").T.tobytes()


WIDE_GROUPS = {"class": "Grid", "granularity": {"class": "RowGroups", "rows": 10**12}}
LOOPS = {"class": "Looped", "first": 0, "last": 1, "loops": 10**9}
NOT_UTF8 = b"\x0a\x09\x0a\x02\xff\xfe\x15" + bytes(4)  # one more piece of a model file

ATTACKS: dict[str, tuple[bytes, type[ArtifactError]]] = {
    "empty file": (b"", NotAnArtifactError),
    "another file": (b"PK\3\4" + GOOD.data[4:], NotAnArtifactError),
    "text": (b"hello world, this is not a model", NotAnArtifactError),
    "a later version": (GOOD.data[:4] + b"\2" + GOOD.data[5:], ArtifactVersionError),
    "no sections": (GOOD.data[:5] + b"\0\0" + GOOD.data[7:], HeaderSizeError),
    "65,535 sections": (GOOD.data[:5] + b"\xff\xff" + GOOD.data[7:], HeaderSizeError),
    "one byte before": (b"\0" + GOOD.data, NotAnArtifactError),
    "sections that overlap": (with_table(overlap), TruncatedError),
    "a border between sections that moved": (with_table(moved_border), ChecksumError),
    "sections in another order": (with_table(lambda rows: rows.reverse()), ChecksumError),
    "one byte more": (GOOD.data + b"\0", TrailingBytesError),
    "two artifacts": (GOOD.data + GOOD.data, TrailingBytesError),
    "a plan of 4 GB": (forged(claim(0, 2**32 - 1)), HeaderSizeError),
    "a table of 2 MB": (forged(claim(1, 2**21)), HeaderSizeError),
    "a tokenizer of 4 GB": (forged(claim(2, 2**32 - 1)), SizeLimitError),
    "a stream of 10 GB": (forged(zeros_bomb), SizeLimitError),
    "sections that are too much together": (forged(claim(3, MAX_DECODED_BYTES)), SizeLimitError),
    "a small file that asks for much": (forged(claim(3, 2**26)), SizeLimitError),
    "a stream of one byte more": (forged(lambda t: claim(3, t.rows[3][1] + 1)(t)), ShapeMismatchError),
    "a stream left out": (forged(lambda t: t.rows.pop()), ShapeMismatchError),
    "a stream twice": (forged(lambda t: t.rows.append(t.rows[-1])), ShapeMismatchError),
    "an unknown codec": (forged(set_codec(3, 99)), UnknownFormError),
    "the wrong codec": (forged(set_codec(3, 3)), StreamError),
    "a cut stream": (forged(cut_stream), StreamError),
    "a tokenizer's size": (forged(claim(2, 5)), StreamError),
    "a plan that is not JSON": (forged(lambda t: t.replace(0, b"{")), UnknownFormError),
    "a plan of brackets": (forged(lambda t: t.replace(0, b"[" * 8_000)), UnknownFormError),
    "a plan of many settings": (
        forged(lambda t: t.edit(0, **{f"width{i}": i for i in range(10_000)})),
        HeaderSizeError,
    ),
    "a plan with what is no number": (forged(lambda t: t.edit(0, logit_softcap=math.nan)), UnknownFormError),
    "a thousand million passes": (forged(lambda t: t.edit(0, recurrence=LOOPS)), UnknownFormError),
    "a million further heads": (
        forged(lambda t: t.edit(0, objective={"class": "MultiToken", "heads": 10**6})),
        UnknownFormError,
    ),
    "a plan that is a list": (forged(lambda t: t.replace(0, b"[]")), UnknownFormError),
    "an unknown setting": (forged(lambda t: t.edit(0, widht=3)), UnknownFormError),
    "an unknown route": (forged(lambda t: t.edit(0, route={"class": "Teleport"})), UnknownFormError),
    "a setting out of range": (forged(lambda t: t.edit(0, kv_heads=0)), UnknownFormError),
    "a class that is a list": (forged(lambda t: t.edit(0, route={"class": []})), UnknownFormError),
    "another model class": (forged(lambda t: t.edit(0, **{"class": "Grid"})), UnknownFormError),
    "a billion layers": (forged(lambda t: t.edit(0, layers=10**9)), UnknownFormError),
    "a layer for each tensor": (forged(lambda t: t.edit(0, layers=22)), ShapeMismatchError),
    "one more layer": (forged(lambda t: t.edit(0, layers=3)), ShapeMismatchError),
    "another width": (forged(lambda t: t.edit(0, width=32)), ShapeMismatchError),
    "a huge table of pairs": (
        forged(lambda t: t.edit(0, embed=[{"class": "BigramHash", "buckets": 2**24}])),
        SizeLimitError,
    ),
    "a huge width": (forged(lambda t: t.edit(0, width=2**20)), UnknownFormError),
    "a width beyond any machine": (forged(lambda t: t.edit(0, width=2 * 10**30)), UnknownFormError),
    "a multiplier beyond numbers": (forged(lambda t: t.edit(0, mlp_multiplier=1e308)), UnknownFormError),
    "a table without its lists": (forged(lambda t: t.edit(1, forms=None)), UnknownFormError),
    "a table without uses": (forged(lambda t: t.replace(1, b"{}")), ShapeMismatchError),
    "a table that is too short": (forged(lambda t: cut_table(t, "use")), ShapeMismatchError),
    "a table without a stream": (forged(lambda t: cut_table(t, "stream")), ShapeMismatchError),
    "an unknown form": (forged(lambda t: bad_number(t, "use", 9)), UnknownFormError),
    "a negative form": (forged(lambda t: bad_number(t, "use", -1)), UnknownFormError),
    "a form that is no number": (forged(lambda t: bad_number(t, "use", "x")), UnknownFormError),
    "a form that is true": (forged(lambda t: bad_number(t, "use", True)), UnknownFormError),
    "a stream beyond the last": (forged(lambda t: bad_number(t, "stream", 10**6)), UnknownFormError),
    "an unknown number type": (forged(lambda t: bad_number(t, "forms", "float13")), UnknownFormError),
    "a form that is a list": (forged(lambda t: bad_number(t, "forms", [])), UnknownFormError),
    "an unknown grid": (forged(lambda t: bad_number(t, "forms", {"class": "Hexagonal"})), UnknownFormError),
    "a grid of 40 bits": (
        forged(lambda t: t.edit(1, forms=["float16", {"class": "Grid"}, {"class": "Grid", "bits": 40}])),
        UnknownFormError,
    ),
    "groups of a million million rows": (
        forged(lambda t: t.edit(1, forms=["float16", *[WIDE_GROUPS] * 2])),
        ShapeMismatchError,
    ),
    "more forms than tensors": (forged(lambda t: t.edit(1, forms=["float16"] * 23)), UnknownFormError),
    "codes beyond their grid": (
        forged(lambda t: t.replace(4, b"\x7f" * t.rows[4][1])),
        ValueRangeError,
    ),
    "scales that are infinite": (
        forged(
            lambda t: t.replace(
                scale_section(t), b"\0" * (t.rows[-2][1] // 2) + b"\x7c" * (t.rows[-2][1] // 2)
            )
        ),
        ValueRangeError,
    ),
    "values that are not numbers": (
        forged(lambda t: t.replace(len(t.rows) - 1, b"\xff" * t.rows[-1][1])),
        ValueRangeError,
    ),
    "a coder for a stream of another": (forged(set_codec(3, 5)), StreamError),
    "a matrix coder for a stream of another": (forged(set_codec(3, 6)), StreamError),
    "scales, columns first": (forged(lambda t: set_codec(-2, t.rows[-2][0] | 0x80)(t)), ShapeMismatchError),
    "a coder for the plan": (forged(set_codec(0, 6)), StreamError),
    "a coder's stream cut": (forged(cut_stream, ALL_RANGE), StreamError),
    "a coder's stream of nothing": (forged(empty_stream, ALL_RANGE), StreamError),
    "a coder's stream with a word more": (forged(longer_stream, ALL_RANGE), StreamError),
    "a coder's stream, columns first": (forged(turned_stream, ALL_RANGE), StreamError),
    "a coder's codes beyond their grid": (forged(loud_codes), ValueRangeError),
    "a coder that promises all there may be": (forged(coder_bomb), ShapeMismatchError),
    "ternary codes beyond their grid": (with_numbers("ternary", codes=2), ValueRangeError),
    "turned codes beyond their grid": (with_numbers("turned", codes=32), ValueRangeError),
    "a correction beyond its grid": (with_numbers("low rank", left_codes=9), ValueRangeError),
    "a correction that is infinite": (with_numbers("low rank", left_scales=math.inf), ValueRangeError),
    "a correction of rank 0": (with_form(**{"class": "CorrectedForm", "rank": 0}), UnknownFormError),
    "a correction of endless rank": (
        with_form(**{"class": "CorrectedForm", "rank": 10**30}),
        UnknownFormError,
    ),
    "a correction of huge rank": (with_form(**{"class": "CorrectedForm", "rank": 10**18}), SizeLimitError),
    "a seed beyond numbers": (with_form(**{"class": "TurnedForm", "seed": 2**64}), UnknownFormError),
    "thirds of octaves": (with_form(**{"class": "Stepped", "octave_parts": 3}), UnknownFormError),
    "a trellis that is a number": (with_form(**{"class": "Stepped", "trellis": 1}), UnknownFormError),
    "codes of three bytes": (with_numbers("trellis", carries=-128), ValueRangeError),
    "a step of zero": (with_numbers("stepped", base=0.0), ValueRangeError),
    "a step below zero": (with_numbers("trellis", base=-1.0), ValueRangeError),
    "a step that is infinite": (with_numbers("trellis", base=math.inf), ValueRangeError),
    "a step that is no number": (with_numbers("stepped", base=math.nan), ValueRangeError),
    "steps beyond numbers": (with_numbers("trellis", base=1e38, rows=127, columns=127), ValueRangeError),
    "another tokenizer": (forged(other_tokenizer), VocabularyError),
    "a tokenizer of more than two million bytes": (with_tokenizer(2, bytes(2**21 + 1)), VocabularyError),
    "a tokenizer of a million pieces": (with_tokenizer(2, b"\x0a\0" * 2**20), VocabularyError),
    "a tokenizer of long pieces": (with_tokenizer(1, many_merges()), VocabularyError),
    "a tokenizer with texts to try": (with_tokenizer(2, model_file() + b"\x22\0"), VocabularyError),
    "a tokenizer that writes a text for a letter": (
        with_tokenizer(2, model_file("41\t" + 100 * "61 ")),
        VocabularyError,
    ),
    "a tokenizer of broken letters": (with_tokenizer(2, model_file() + NOT_UTF8), VocabularyError),
    "a tokenizer of nothing": (with_tokenizer(2, b""), VocabularyError),
    "a tokenizer of endless numbers": (with_tokenizer(2, b"\xff" * 2**20), VocabularyError),
    "no tokenizer": (forged(lambda t: t.replace(2, b"")), VocabularyError),
    "a changed tokenizer": (
        forged(lambda t: t.replace(2, t.rows[2][2][:-1] + bytes([t.rows[2][2][-1] ^ 1]))),
        VocabularyError,
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_is_refused_with_its_own_error(attack):
    data, error = ATTACKS[attack]
    with pytest.raises(ArtifactError) as caught:
        unpack(data)
    assert type(caught.value) is error, caught.value


def test_taking_apart_and_putting_together_changes_nothing():
    assert forged(lambda taken: None) == GOOD.data


@pytest.mark.parametrize(
    "good", [GOOD, RANGE, ALL_RANGE, ALL_FORMS], ids=["deflate", "coders", "all by a coder", "all forms"]
)
def test_every_truncation_is_refused(good):
    for cut in range(1, len(good.data)):
        with pytest.raises(TruncatedError, match=f"ends at byte {cut:,} of"):
            unpack(good.data[:cut])
    for more in (b"\0", b"\xff" * 4, good.data[-9:]):
        with pytest.raises(TrailingBytesError):
            unpack(good.data + more)


@pytest.mark.parametrize("good", [GOOD, RANGE, ALL_FORMS], ids=["deflate", "coders", "all forms"])
def test_every_changed_byte_is_refused(good):
    table = range(read_sections(good.data)[2].start)
    for place in [*table, *range(len(table), len(good.data), 23)]:
        changed = bytearray(good.data)
        changed[place] ^= 0x55
        with pytest.raises(ArtifactError):
            unpack(bytes(changed))


@pytest.mark.slow
@pytest.mark.parametrize("good", [RANGE, ALL_FORMS], ids=["coders", "all forms"])
def test_every_flipped_bit_is_refused(good):
    for bit in range(8 * len(good.data)):
        changed = bytearray(good.data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ArtifactError):
            unpack(bytes(changed))


@pytest.mark.parametrize("good", [ALL_RANGE, ALL_FORMS], ids=["coder", "all forms"])
def test_a_bit_under_a_right_checksum_is_refused_or_gives_a_whole_model(good):
    refused = 0
    for section in range(3, len(Taken(good.data).rows)):
        taken = Taken(good.data)
        stored = taken.rows[section][2]
        for bit in range(0, 8 * len(stored), max(1, 8 * len(stored) // 10)):
            changed = bytearray(stored)
            changed[bit // 8] ^= 1 << bit % 8
            taken.rows[section][2] = bytes(changed)
            refused += refused_or_whole(taken.bytes())
    assert refused


def test_a_changed_byte_names_its_section():
    for name, place in {
        "header": ARTIFACT_PREFIX.size + 2,
        "plan": read_sections(GOOD.data)[0].start,
        "tensors": read_sections(GOOD.data)[1].start,
        "tokenizer": read_sections(GOOD.data)[2].start + 30,
        "tok_emb.weight codes": read_sections(GOOD.data)[3].start,
        "scales": read_sections(GOOD.data)[-2].start,
        "values": len(GOOD.data) - 1,
    }.items():
        changed = bytearray(GOOD.data)
        changed[place] ^= 1
        with pytest.raises(ChecksumError, match=name):
            unpack(bytes(changed))


def test_a_missing_codec_is_named_when_loading(monkeypatch):
    monkeypatch.setattr(codec_module, "brotli", None)
    with pytest.raises(MissingCodecError, match="brotli is not installed.*pip install brotli"):
        unpack(BROTLI.data)
    unpack(GOOD.data)


BOMB = """
from tests.peak_memory import peak_so_far
from tests.squeeze.test_attacks import ATTACKS
from bitgolf.squeeze.artifact import unpack
from bitgolf.base.errors import ArtifactError

before = peak_so_far()
for data, _ in ATTACKS.values():
    try:
        unpack(data)
    except ArtifactError:
        pass
print("grown by MiB:", (peak_so_far() - before) // 2**20)
"""


def test_attacks_take_no_memory():
    done = subprocess.run([sys.executable, "-c", BOMB], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.startswith("grown by MiB:"), done.stderr
    assert int(done.stdout.split()[-1]) < 32


# Small files that are right, and of which everything must be decoded; the widest rows are the longest walks.
HOLLOW_FORMS = {
    "grid": {"class": "Grid"},
    "wide groups": WIDE_GROUPS,
    "wide columns": {"class": "Grid", "granularity": {"class": "ColumnGroups", "columns": 10**12}},
    "floats": "float16",
    "trellis": {"class": "Stepped", "trellis": True},
    "turned": {"class": "TurnedForm"},
    "low rank": {"class": "CorrectedForm", "rank": 8},
}
HOLLOW_CODECS = (Deflate(), Zstd(level=1), Lzma(), Brotli(quality=1), Histogram(), RowColumn())
HOLLOW = """
import sys, time
from pathlib import Path
import bitgolf
from bitgolf.squeeze.artifact import unpack
from tests.peak_memory import peak_so_far

bitgolf.import_core()
before = peak_so_far()
for path in sorted(Path(sys.argv[1]).iterdir()):
    data, started = path.read_bytes(), time.process_time()
    unpack(data)
    seconds, mib = time.process_time() - started, (peak_so_far() - before) / 2**20
    print(f"{path.name:12} {len(data):6} bytes {seconds:5.2f} s, peak {mib:4.0f} MiB")
    assert seconds < 5 and mib < 512
"""


def hollow_cases(size: int) -> Iterator[tuple[str, bytes]]:
    """All forms, and all codecs of one, at nearly so many decoded bytes."""
    model = SMALL.replace(vocabulary_size=262, mlp_hidden=size // 40)
    for name, form in HOLLOW_FORMS.items():
        wide = model.replace(mlp_hidden=size // 32) if name == "turned" else model  # a power of two
        yield name, hollow(wide, form, Deflate()).bytes()
    for codec in HOLLOW_CODECS:
        yield codec.name, hollow(model, HOLLOW_FORMS["trellis"], codec).bytes()


@pytest.mark.parametrize("size", [2**20, pytest.param(2**25, marks=pytest.mark.slow)])
def test_small_files_take_no_long_time_and_little_memory(size, tmp_path):
    for name, data in hollow_cases(size):
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", HOLLOW, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
