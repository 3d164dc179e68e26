import lzma
import random

import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import finish
from bitgolf.report.compressors import WINDOW_BYTES, compressed_size, measure_compressors

WORDS = [bytes(random.Random(i).choices(range(97, 123), k=6)) for i in range(400)]


def text(seed: int, words: int) -> bytes:
    return b" ".join(random.Random(seed).choices(WORDS, k=words))


def drain(steps):
    progress = []
    return progress, finish(steps, progress.append)


def test_rows_and_progress():
    train, val = text(1, 20000), text(2, 2000)
    progress, rows = drain(measure_compressors(train, val))
    assert [row["name"] for row in rows] == list(WINDOW_BYTES)
    assert progress[-1] == (3 * 2 * (len(train) + len(val)),) * 2
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    for row in rows:
        # The vocabulary must be spelt out when alone; primed, it is known.
        assert row["primed_bits_per_byte"] < row["alone_bits_per_byte"] < 8
        assert row["primed_bytes"] == compressed_size(row["name"], train + val) - compressed_size(
            row["name"], train
        )
        assert row["alone_bits_per_byte"] == 8 * row["alone_bytes"] / len(val)
        assert "note" not in row
    assert rows[0]["alone_bytes"] == len(lzma.compress(val, preset=9 | lzma.PRESET_EXTREME))


def test_a_rival_that_cannot_see_all_of_the_training_text_says_so(monkeypatch):
    monkeypatch.setitem(WINDOW_BYTES, "brotli -11 --lgwin=24", 1000)
    _, rows = drain(measure_compressors(text(1, 500), text(2, 100)))
    assert "1,000 bytes back" in rows[2]["note"]
    assert "note" not in rows[0]


def test_cache_serves_the_same_texts_only(tmp_path):
    cache = tmp_path / "rivals.json"
    train, val = text(1, 500), text(2, 100)
    _, rows = drain(measure_compressors(train, val, cache))
    progress, again = drain(measure_compressors(train, val, cache))
    assert (progress, again) == ([], rows)
    progress, other = drain(measure_compressors(train, val + b"!", cache))
    assert progress
    assert other != rows
    cache.write_text("{")
    assert drain(measure_compressors(train, val, cache))[0]


def test_no_text():
    with pytest.raises(BitgolfError, match="no validation text"):
        drain(measure_compressors(b"abc", b""))
