import lzma
import random

import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import finish
from bitgolf.public.optional import is_installed
from bitgolf.rivals.compressors import (
    COMPRESSORS,
    better_ones,
    measure_compressors,
    missing_ones,
    quick_ones,
)

WORDS = [bytes(random.Random(i).choices(range(97, 123), k=6)) for i in range(400)]
XZ = COMPRESSORS["xz -9e"]
BUDGET = 8_000
# Compressors as fast and as plain as texts of a test need them.
DEFLATE = XZ._replace(name="deflate", compress=lambda _, text: lzma.compress(text, preset=0))


def text(seed: int, words: int) -> bytes:
    return b" ".join(random.Random(seed).choices(WORDS, k=words))


def drain(steps):
    progress = []
    return progress, finish(steps, progress.append)


SLOW = ("zpaq -m5", "zstd -22 --long", "brotli -11 --lgwin=24")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in COMPRESSORS]
)
def test_rows_are_what_the_compressor_makes_of_the_texts(name):
    one = COMPRESSORS[name]
    if not one.is_here:
        pytest.skip(f"{one.package} is not installed")
    train, val = text(1, 6000), text(2, 600)
    progress, [row] = drain(measure_compressors(train, val, BUDGET, [one]))
    assert progress[-1][0] == progress[-1][1]
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert row["alone_bytes"] == one.compressed_bytes(val)
    assert row["primed_bytes"] == one.compressed_bytes(train + val) - one.compressed_bytes(train)
    known = train[: row["budget_text_bytes"]]
    assert row["budget_used_bytes"] == one.compressed_bytes(known) <= BUDGET
    assert row["budget_used_bytes"] > 0.9 * BUDGET  # no idle bytes
    assert row["budget_bytes"] == one.compressed_bytes(known + val) - one.compressed_bytes(known)
    # The vocabulary must be spelt out when alone; the more text went before, the less of it is left.
    assert max(row["primed_bytes"], row["budget_bytes"]) < row["alone_bytes"]
    for part in ("alone", "primed", "budget"):
        assert row[f"{part}_bits_per_byte"] == 8 * row[f"{part}_bytes"] / len(val)
    assert "note" not in row


def test_training_text_that_fits_whole_is_all_used():
    train, val = text(1, 500), text(2, 100)
    _, [row] = drain(measure_compressors(train, val, 1_000_000, [DEFLATE]))
    assert row["budget_text_bytes"] == len(train)
    assert row["budget_bytes"] == row["primed_bytes"]


def test_a_budget_for_nothing_leaves_the_text_alone():
    train, val = text(1, 500), text(2, 100)
    _, [row] = drain(measure_compressors(train, val, 1, [DEFLATE]))
    assert row["budget_text_bytes"] == 0
    assert row["budget_bytes"] == DEFLATE.compressed_bytes(val) - DEFLATE.compressed_bytes(b"") or row[
        "budget_bytes"
    ] == DEFLATE.compressed_bytes(val)


def test_a_rival_that_cannot_see_all_of_the_training_text_says_so():
    short = DEFLATE._replace(window_bytes=1000)
    _, rows = drain(measure_compressors(text(1, 500), text(2, 100), BUDGET, [DEFLATE, short]))
    assert "note" not in rows[0]
    assert "1,000 bytes back" in rows[1]["note"]


def test_cache_serves_the_same_texts_and_budget_only(tmp_path):
    cache = tmp_path / "rivals.json"
    train, val = text(1, 500), text(2, 100)
    _, rows = drain(measure_compressors(train, val, BUDGET, [DEFLATE], cache))
    progress, again = drain(measure_compressors(train, val, BUDGET, [DEFLATE], cache))
    assert (progress, again) == ([], rows)
    for other in ((train, val + b"!", BUDGET), (train, val, BUDGET + 1)):
        progress, _ = drain(measure_compressors(*other, [DEFLATE], cache))
        assert progress
    cache.write_text("{")
    assert drain(measure_compressors(train, val, BUDGET, [DEFLATE], cache))[0]


def test_where_no_strong_one_is_installed_that_of_python_stands(monkeypatch):
    monkeypatch.setattr("bitgolf.rivals.compressors.is_installed", lambda package: False)
    assert quick_ones() == [XZ]
    assert [one.name for one in missing_ones()] == ["bzip3 -b 64", "PPMd order 16"]


def test_those_that_win_are_named():
    rows = [
        {"name": "one", "primed_bits_per_byte": 1.3, "budget_bits_per_byte": 1.5, "alone_bits_per_byte": 1.0},
        {"name": "two", "primed_bits_per_byte": 1.5, "budget_bits_per_byte": None},
    ]
    assert better_ones(rows, 1.4) == ["one with the training text (1.3000)"]
    assert better_ones(rows, 1.2) == []
    assert len(better_ones(rows, 1.5)) == 3
    alike = [{"name": "two", "primed_bits_per_byte": 1.1, "budget_bits_per_byte": 1.1}]
    assert better_ones(alike, 1.2) == ["two with the training text and within the budget (1.1000)"]


def test_no_text():
    with pytest.raises(BitgolfError, match="no validation text"):
        drain(measure_compressors(b"abc", b"", BUDGET, [XZ]))


def test_the_strong_ones_are_there_where_the_tests_run():
    assert is_installed("bz3") and is_installed("pyppmd")
