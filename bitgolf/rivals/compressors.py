"""General compressors on the same text: the scores that a language model has to beat.

Alone is the validation text by itself. With the training text is what it adds to a file that the training
text is in already. Within the budget is the fair one: that file holds as much of the training text as the
same compressor gets into the bytes that a model may have.
"""

import concurrent.futures
import hashlib
import lzma
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import read_json, write_json
from bitgolf.public.optional import is_installed, needed

PPMD_BYTES = 1 << 28  # of memory; 12 MB of English at order 16 fit
LEAST_BLOCK_BYTES, MOST_BLOCK_BYTES = 65 << 10, 1 << 26  # of bzip3, whose memory is several blocks
SEARCH_PASSES = 4  # over as much training text as fits into the budget, as a rule
MOST_GUESSES = 12  # of how much that is

PARTS = ("train", "both", "alone")  # of the work on one compressor


class Compressor(NamedTuple):
    """A general compressor: its package, how many bytes back it sees, whether the demo waits for it."""

    name: str
    package: str  # empty: Python's own
    window_bytes: int
    is_quick: bool
    compress: Callable[[ModuleType, bytes], bytes]

    @property
    def is_here(self) -> bool:
        """Whether its package is installed."""
        return not self.package or is_installed(self.package)

    def compressed_bytes(self, text: bytes) -> int:
        """Bytes that it needs for the text. Raises MissingCodecError without its package."""
        return len(self.compress(needed(self.package or "lzma", self.name), text))

    def version(self) -> str:
        """What measures it."""
        library = needed(self.package or "lzma", self.name)
        if self.package == "zstandard":
            return f"{self.package} {library.__version__}, zstd {'.'.join(map(str, library.ZSTD_VERSION))}"
        return f"{self.package} {library.__version__}" if self.package else "python lzma, .xz container"


def _bzip3(library: ModuleType, text: bytes) -> bytes:
    return bytes(library.compress(text, min(max(len(text), LEAST_BLOCK_BYTES), MOST_BLOCK_BYTES)))


def _zstd(library: ModuleType, text: bytes) -> bytes:
    settings = library.ZstdCompressionParameters.from_level(
        22, source_size=len(text), window_log=27, enable_ldm=True
    )
    return bytes(library.ZstdCompressor(compression_params=settings).compress(text))


COMPRESSORS = {
    one.name: one
    for one in (
        Compressor("bzip3 -b 64", "bz3", MOST_BLOCK_BYTES, True, _bzip3),
        Compressor(
            "PPMd order 16",
            "pyppmd",
            PPMD_BYTES,
            True,
            lambda ppmd, text: ppmd.compress(text, max_order=16, mem_size=PPMD_BYTES, variant="H"),
        ),
        Compressor(
            "zpaq -m5", "zpaq", 1 << 31, False, lambda zpaq, text: zpaq.compress(text, level=5, threads=1)
        ),
        Compressor(
            "xz -9e", "", 1 << 26, False, lambda _, text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
        ),
        Compressor("zstd -22 --long", "zstandard", 1 << 27, False, _zstd),
        # The Python binding of brotli stops at a window of 16 MB; the format has a larger one.
        Compressor(
            "brotli -11 --lgwin=24",
            "brotli",
            (1 << 24) - 16,
            False,
            lambda brotli, text: brotli.compress(text, quality=11, lgwin=24),
        ),
    )
}


def quick_ones() -> list[Compressor]:
    """The strong and fast ones that are installed; where none is, that of Python itself."""
    return [one for one in COMPRESSORS.values() if one.is_quick and one.is_here] or [COMPRESSORS["xz -9e"]]


def missing_ones() -> list[Compressor]:
    """The strong and fast ones that are not installed."""
    return [one for one in COMPRESSORS.values() if one.is_quick and not one.is_here]


def better_ones(rows: Iterable[dict[str, Any]], bits_per_byte: float) -> list[str]:
    """The compressors with a better score in one of the fair columns, in words."""
    columns = {
        "with the training text": "primed_bits_per_byte",
        "within the budget": "budget_bits_per_byte",
    }
    better = []
    for row in rows:
        scores = {name: row[key] for name, key in columns.items() if row.get(key) is not None}
        better += [
            f"{row['name']} {' and '.join(names)} ({score:.4f})"
            for score in sorted({*scores.values()})
            if score <= bits_per_byte and (names := [name for name in scores if scores[name] == score])
        ]
    return better


def measure_compressors(
    train_text: bytes,
    val_text: bytes,
    budget_bytes: int,
    chosen: Sequence[Compressor],
    cache: Path | None = None,
) -> Generator[tuple[int, int], None, list[dict[str, Any]]]:
    """Measure compressors, two at a time; yields (bytes compressed, bytes in all) and returns a row for each.

    With `cache`, a JSON file, rows measured before on the same texts with the same versions are read from it.
    """
    if not val_text:
        raise BitgolfError("there is no validation text to compress", way_out="use a larger corpus")
    key = {
        "train_sha256": hashlib.sha256(train_text).hexdigest(),
        "val_sha256": hashlib.sha256(val_text).hexdigest(),
        "train_bytes": len(train_text),
        "val_bytes": len(val_text),
        "budget_bytes": budget_bytes,
        "versions": {one.name: one.version() for one in chosen},
    }
    rows = _cached(cache, key)
    if rows is None:
        rows = yield from _measure(train_text, val_text, budget_bytes, chosen)
        if cache is not None:
            write_json(cache, {"key": key, "rows": rows})
    return rows


class Timed(NamedTuple):
    """Sizes of some texts in bytes, and the seconds that they took."""

    sizes: tuple[int, ...]
    seconds: float


def _measure(
    train_text: bytes, val_text: bytes, budget_bytes: int, chosen: Sequence[Compressor]
) -> Generator[tuple[int, int], None, list[dict[str, Any]]]:
    both = train_text + val_text
    searched = SEARCH_PASSES * min(len(train_text), 5 * budget_bytes)
    # The slowest last in the list, and first here, so that the second core is not left with it at the end.
    jobs: list[tuple[Compressor, str, int, Callable[[Compressor], tuple[int, ...]]]] = []
    for one in reversed(chosen):
        jobs += [
            (
                one,
                "train",
                len(train_text) + searched,
                lambda c: _within(c, train_text, val_text, budget_bytes),
            ),
            (one, "both", len(both), lambda c: (c.compressed_bytes(both),)),
            (one, "alone", len(val_text), lambda c: (c.compressed_bytes(val_text),)),
        ]
    total, done = sum(job[2] for job in jobs), 0
    measured: dict[tuple[str, str], Timed] = {}
    # Threads are enough: the libraries let go of the interpreter while they compress.
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=2)
    try:
        futures = {pool.submit(_timed, job[3], job[0]): job for job in jobs}
        for future in concurrent.futures.as_completed(futures):
            one, part, num_bytes, _ = futures[future]
            measured[one.name, part] = future.result()
            done += num_bytes
            yield done, total
    finally:
        pool.shutdown(cancel_futures=True)
    return [
        _row(one, {part: measured[one.name, part] for part in PARTS}, len(both), len(val_text))
        for one in chosen
    ]


def _within(
    one: Compressor, train_text: bytes, val_text: bytes, budget_bytes: int
) -> tuple[int, int, int, int]:
    """Sizes: of the training text, what length of it fits, its own, and that with the other text after it."""
    whole = one.compressed_bytes(train_text)
    fits, fitting = (len(train_text), whole) if whole <= budget_bytes else (0, one.compressed_bytes(b""))
    above, above_size, overshot = len(train_text), whole, False
    for _ in range(MOST_GUESSES):
        if above - fits <= len(train_text) // 1000 or 0.99 * budget_bytes <= fitting:
            break
        # Sizes grow almost evenly, a little more at the start, where interpolation overshoots.
        share = (0.995 * budget_bytes - fitting) / max(1, above_size - fitting)
        guess = fits + max(1, int(min(max(share, 0.0), 1.0) * (above - fits) * (0.8 if overshot else 1.0)))
        compressed = one.compressed_bytes(train_text[:guess])
        overshot = compressed > budget_bytes
        if overshot:
            above, above_size = guess, compressed
        else:
            fits, fitting = guess, compressed
    return whole, fits, fitting, one.compressed_bytes(train_text[:fits] + val_text)


def _timed(job: Callable[[Compressor], tuple[int, ...]], one: Compressor) -> Timed:
    started = time.perf_counter()
    return Timed(job(one), time.perf_counter() - started)


def _row(one: Compressor, measured: dict[str, Timed], both_bytes: int, val_bytes: int) -> dict[str, Any]:
    whole, fits, fitting, with_text = measured["train"].sizes
    primed = measured["both"].sizes[0] - whole
    sizes = {"alone": measured["alone"].sizes[0], "primed": primed, "budget": with_text - fitting}
    row: dict[str, Any] = {
        "name": one.name,
        **{f"{part}_bytes": num_bytes for part, num_bytes in sizes.items()},
        **{f"{part}_bits_per_byte": 8 * num_bytes / val_bytes for part, num_bytes in sizes.items()},
        "budget_text_bytes": fits,
        "budget_used_bytes": fitting,
        "seconds": round(sum(part.seconds for part in measured.values()), 2),
        "version": one.version(),
    }
    if both_bytes > one.window_bytes:
        row["note"] = f"sees only {one.window_bytes:,} bytes back, less than the training text"
    return row


def _cached(cache: Path | None, key: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Rows measured before; a cache of other texts or versions, or a damaged one, is measured anew."""
    if cache is None or not cache.exists():
        return None
    try:
        stored = read_json(cache)
    except BitgolfError:
        return None
    return stored.get("rows") if isinstance(stored, dict) and stored.get("key") == key else None
