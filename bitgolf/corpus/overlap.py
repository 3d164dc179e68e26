"""Overlap of validation and training text: documents by digest, 13-word runs by 64-bit hashes."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from bitgolf.corpus.blocks import Block, Digests

GRAM_WORDS = 13
MOST_KEPT = 1 << 22  # hashes of validation that are held; with more of them, a sample
# Odd multipliers of two polynomial hashes modulo 2^64, over the bytes of a word and over the words of a gram.
BYTE_FACTOR, WORD_FACTOR = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03
# Letters and digits, lower-cased, count as themselves, bytes above ASCII too; all else separates words.
WORD_BYTES = np.array(
    [ord(chr(b).lower()) if chr(b).isalnum() else 0 for b in range(128)] + list(range(128, 256)), np.uint8
)
BYTES_A_WORD = 5  # at most so many on average, so that there are at least so many words


def rate_for(expected: int, most: int) -> int:
    """1, 2, 4 ...: of so many hashes one is kept, so that no more than `most` are."""
    return 1 << max(0, -(-expected // most) - 1).bit_length()


def sampled(hashes: np.ndarray, one_of: int) -> np.ndarray:
    """One of so many, chosen by their value: what is kept of one text is kept of every other."""
    return hashes if one_of == 1 else hashes[hashes < np.uint64((1 << 64) // one_of)]


def share_in_words(one_of: int, what: str) -> str:
    """What a check says of its sample; nothing where it looked at all."""
    return f"; 1 of {one_of} {what} looked at, chosen by hash" if one_of > 1 else ""


class Wanted:
    """64-bit numbers of validation, and which of them training has: `add` all, then `look`."""

    def __init__(self, one_of: int = 1) -> None:
        self.one_of = one_of
        self._parts, self._numbers = list[np.ndarray](), np.zeros(0, np.uint64)
        self._counts, self._seen = np.zeros(0, np.int64), np.zeros(0, bool)
        self._closed = False

    def add(self, numbers: np.ndarray) -> None:
        """Numbers of validation. Raises RuntimeError once training was looked at or anything was asked."""
        if self._closed:
            raise RuntimeError("numbers of validation are added before training is looked at")
        self._parts.append(sampled(numbers, self.one_of))

    def look(self, numbers: np.ndarray) -> None:
        """Numbers of training."""
        self._close()
        # Sorted, they are searched for in the order of memory, many times faster.
        there = np.sort(sampled(numbers, self.one_of))
        if len(self._numbers) and len(there):
            places = np.minimum(np.searchsorted(self._numbers, there), len(self._numbers) - 1)
            self._seen[places[self._numbers[places] == there]] = True

    @property
    def different(self) -> int:
        """How many different ones validation has."""
        self._close()
        return len(self._numbers)

    @property
    def seen(self) -> int:
        """How many of these training has."""
        self._close()
        return int(self._seen.sum())

    @property
    def seen_with_copies(self) -> int:
        """How often those that training has stand in validation."""
        self._close()
        return int(self._counts[self._seen].sum())

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            together, self._parts = np.concatenate([*self._parts, self._numbers]), []
            self._numbers, self._counts = np.unique(together, return_counts=True)
            self._seen = np.zeros(len(self._numbers), bool)


class Scanned(NamedTuple):
    """How many bytes of both splits were read, and what was found so far."""

    read_bytes: int
    counts: dict[str, int]


def scan_overlap(train: Iterable[Block], val: Iterable[Block], one_of: int = 1) -> Iterator[Scanned]:
    """Look for validation text in the training text.

    exact_documents: validation documents that are training documents. shared_13grams: how many of the
    checked_13grams (different runs of 13 words in validation) occur in a training document, within a block.
    one_of: of so many runs one is looked at; where it is not 1 it stands in `looked_at_1_of` too.
    """
    documents, grams, read_bytes = Wanted(), Wanted(one_of), 0

    def scanned() -> Scanned:
        counts = {
            "exact_documents": documents.seen_with_copies,
            "shared_13grams": grams.seen,
            "checked_13grams": grams.different,
        }
        return Scanned(read_bytes, counts | ({"looked_at_1_of": one_of} if one_of > 1 else {}))

    for blocks, of_documents, of_grams in (
        (val, documents.add, grams.add),
        (train, documents.look, grams.look),
    ):
        digests = Digests()
        for block in blocks:
            of_documents(digests.update(block))
            of_grams(word_grams(block))
            read_bytes += len(block.values)
            yield Scanned(read_bytes, {})
        of_documents(digests.last())
    yield scanned()


def word_grams(block: Block) -> np.ndarray:
    """A 64-bit hash of every run of 13 words inside a document; case and punctuation do not count."""
    letters = WORD_BYTES[block.values]
    inside = np.concatenate([[False], letters > 0, [False]])
    edge = np.zeros(len(letters) + 1, bool)
    edge[block.starts] = True
    starts = np.flatnonzero(inside[1:-1] & (~inside[:-2] | edge[:-1]))
    ends = np.flatnonzero(inside[1:-1] & (~inside[2:] | edge[1:])) + 1
    if len(starts) < GRAM_WORDS:
        return np.zeros(0, np.uint64)
    word_hashes = _window_hashes(letters, starts, ends, BYTE_FACTOR)
    first = np.arange(len(word_hashes) - GRAM_WORDS + 1)
    grams = _window_hashes(word_hashes, first, first + GRAM_WORDS, WORD_FACTOR)
    document = np.searchsorted(block.starts, starts, side="right")
    return grams[document[first] == document[first + GRAM_WORDS - 1]]


def _window_hashes(values: np.ndarray, starts: np.ndarray, ends: np.ndarray, factor: int) -> np.ndarray:
    """Hashes of values[start:end], equal where the values are: value x factor^place, moved to place 0."""
    inverse = pow(factor, -1, 1 << 64)
    weighted = np.cumsum(values.astype(np.uint64) * _powers(factor, len(values)), dtype=np.uint64)
    sums = np.concatenate([np.zeros(1, np.uint64), weighted])
    hashes = (sums[ends] - sums[starts]) * _powers(inverse, len(values))[starts]
    return (hashes ^ (hashes >> np.uint64(29))) * np.uint64(BYTE_FACTOR)


def _powers(factor: int, count: int) -> np.ndarray:
    factors = np.full(count, factor, np.uint64)
    factors[:1] = 1
    return np.multiply.accumulate(factors)
