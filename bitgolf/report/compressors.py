"""What general compressors make of the same text: the score a language model has to beat.

Alone is the validation text by itself. Primed is fair to a trained model: the size of training and
validation text together minus the size of the training text.
"""

import concurrent.futures
import hashlib
import lzma
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import read_json, write_json
from bitgolf.public.optional import is_installed, needed

WINDOW_BYTES = {"xz -9e": 1 << 26, "zstd -22 --long": 1 << 27, "brotli -11 --lgwin=24": (1 << 24) - 16}
# The Python binding of brotli stops at a window of 16 MB; the format has a larger one, out of its reach.
PACKAGES = {"zstd -22 --long": "zstandard", "brotli -11 --lgwin=24": "brotli"}


def rivals_here() -> list[str]:
    """Those whose package is installed."""
    return [name for name in WINDOW_BYTES if name not in PACKAGES or is_installed(PACKAGES[name])]


def version_of(rival: str) -> str:
    """What measures a rival."""
    if rival not in PACKAGES:
        return "python lzma, .xz container"
    library = needed(PACKAGES[rival], rival)
    inner = f", zstd {'.'.join(map(str, library.ZSTD_VERSION))}" if PACKAGES[rival] == "zstandard" else ""
    return f"{PACKAGES[rival]} {library.__version__}{inner}"


def compressed_size(rival: str, text: bytes) -> int:
    """Bytes that the named compressor needs for the text."""
    if rival == "xz -9e":
        return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    library = needed(PACKAGES[rival], rival)
    if rival == "zstd -22 --long":
        settings = library.ZstdCompressionParameters.from_level(
            22, source_size=len(text), window_log=27, enable_ldm=True
        )
        return len(library.ZstdCompressor(compression_params=settings).compress(text))
    return len(library.compress(text, quality=11, lgwin=24))


def measure_compressors(
    train_text: bytes, val_text: bytes, cache: Path | None = None
) -> Generator[tuple[int, int], None, list[dict[str, Any]]]:
    """Measure compressors, two at a time; yields (bytes compressed, bytes in all) and returns a row for each.

    One whose package is not installed is left out. With `cache`, a JSON file, rows measured before on the
    same texts with the same versions are read from it.
    """
    if not val_text:
        raise BitgolfError("there is no validation text to compress", way_out="use a larger corpus")
    key = _key(train_text, val_text)
    rows = _cached(cache, key)
    if rows is None:
        rows = yield from _measure(train_text, val_text)
        if cache is not None:
            write_json(cache, {"key": key, "rows": rows})
    return rows


def _measure(train_text: bytes, val_text: bytes) -> Generator[tuple[int, int], None, list[dict[str, Any]]]:
    texts, names = {"both": train_text + val_text, "train": train_text, "val": val_text}, rivals_here()
    # The slowest compressor first, so that the second core is not left with it at the end.
    jobs = [(rival, part) for part in texts for rival in reversed(names)]
    total, done = len(names) * sum(map(len, texts.values())), 0
    measured: dict[tuple[str, str], tuple[int, float]] = {}
    # Threads are enough: all three libraries let go of the interpreter while they compress.
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=2)
    try:
        futures = {pool.submit(_timed_size, rival, texts[part]): (rival, part) for rival, part in jobs}
        for future in concurrent.futures.as_completed(futures):
            measured[futures[future]] = future.result()
            done += len(texts[futures[future][1]])
            yield done, total
    finally:
        pool.shutdown(cancel_futures=True)
    return [
        _row(rival, {part: measured[rival, part] for part in texts}, len(texts["both"]), len(val_text))
        for rival in names
    ]


def _timed_size(rival: str, text: bytes) -> tuple[int, float]:
    started = time.perf_counter()
    return compressed_size(rival, text), time.perf_counter() - started


def _row(
    rival: str, measured: dict[str, tuple[int, float]], both_bytes: int, val_bytes: int
) -> dict[str, Any]:
    alone = measured["val"][0]
    primed = measured["both"][0] - measured["train"][0]
    row: dict[str, Any] = {
        "name": rival,
        "alone_bytes": alone,
        "primed_bytes": primed,
        "alone_bits_per_byte": 8 * alone / val_bytes,
        "primed_bits_per_byte": 8 * primed / val_bytes,
        "seconds": round(sum(seconds for _, seconds in measured.values()), 2),
        "version": version_of(rival),
    }
    if both_bytes > WINDOW_BYTES[rival]:
        row["note"] = f"sees only {WINDOW_BYTES[rival]:,} bytes back, less than the training text"
    return row


def _key(train_text: bytes, val_text: bytes) -> dict[str, Any]:
    return {
        "train_sha256": hashlib.sha256(train_text).hexdigest(),
        "val_sha256": hashlib.sha256(val_text).hexdigest(),
        "train_bytes": len(train_text),
        "val_bytes": len(val_text),
        "versions": {name: version_of(name) for name in rivals_here()},
    }


def _cached(cache: Path | None, key: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Rows measured before; a cache of other texts or versions, or a damaged one, is measured anew."""
    if cache is None or not cache.exists():
        return None
    try:
        stored = read_json(cache)
    except BitgolfError:
        return None
    return stored.get("rows") if isinstance(stored, dict) and stored.get("key") == key else None
