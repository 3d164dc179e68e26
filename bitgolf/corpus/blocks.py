"""Splits read in blocks of bounded size, as tokens or text, with the starts of documents."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from bitgolf.text.casing import operator_at_end, unfold_case
from bitgolf.text.shards import SHARD_HEADER_BYTES, TokenStream
from bitgolf.text.tokenizer import Tokenizer

BLOCK_TOKENS = 1 << 18  # a longer document comes in several blocks
BLOCK_BYTES = 1 << 20


class Block(NamedTuple):
    """A part of a split. values: tokens (uint16) or text (uint8). starts: of documents in it (int64)."""

    values: np.ndarray
    starts: np.ndarray

    def documents(self) -> Iterator[np.ndarray]:
        """What stands from each start to the next; the last may go on in the next block."""
        for start, end in itertools.pairwise([*self.starts.tolist(), len(self.values)]):
            yield self.values[start:end]


def parts_of(stream: TokenStream) -> Iterator[np.ndarray]:
    """All tokens in order (uint16), read and not mapped, so that those read before take no memory."""
    for path, shard in zip(stream.paths, stream.shards):
        for start in range(0, len(shard), BLOCK_TOKENS):
            count = min(BLOCK_TOKENS, len(shard) - start)
            yield np.fromfile(path, "<u2", count, offset=SHARD_HEADER_BYTES + 2 * start)


def token_blocks(stream: TokenStream, bos: int) -> Iterator[Block]:
    """Blocks that end before a BOS. What starts the stream is a document, with a BOS or without."""
    waiting, first = np.zeros(0, np.uint16), True
    for part in parts_of(stream):
        waiting = np.concatenate([waiting, part])
        starts = np.flatnonzero(waiting == bos)
        if first and starts[:1].tolist() != [0]:
            starts = np.concatenate([[0], starts])
        cut = int(starts[-1]) if len(starts) else 0
        cut = cut or len(waiting)  # a document longer than a block
        yield Block(waiting[:cut], starts[starts < cut])
        waiting, first = waiting[cut:], False
    if len(waiting):
        yield Block(waiting, np.zeros(1, np.int64))


def decoded(stream: TokenStream, tokenizer: Tokenizer) -> Iterator[Block]:
    """The text of a stream, as `Tokenizer.decode` gives it for each document."""
    flat = np.frombuffer(b"".join(tokenizer.pieces), np.uint8)
    sizes = np.zeros(len(tokenizer.boundary), np.int64)
    sizes[: tokenizer.vocabulary_size] = [len(piece) for piece in tokenizer.pieces]
    places = np.cumsum(sizes) - sizes
    after_boundary, operator = True, b""
    for ids, starts in token_blocks(stream, tokenizer.bos):
        previous = np.concatenate([[after_boundary], tokenizer.boundary[ids[:-1]]])
        dropped = tokenizer.leading_space[ids] & previous
        kept = sizes[ids] - dropped
        offsets = np.cumsum(kept) - kept
        source = np.repeat(places[ids] + dropped - offsets, kept)
        source += np.arange(len(source))
        text = flat[source]
        if tokenizer.case_ops:  # an operator acts on what follows it, in the next block too
            folded = operator + text.tobytes()
            text, operator = np.frombuffer(unfold_case(folded), np.uint8), operator_at_end(folded)
            offsets = np.cumsum(tokenizer.base_bytes[ids]) - tokenizer.base_bytes[ids]
        yield Block(text, offsets[starts])
        after_boundary = bool(tokenizer.boundary[ids[-1]])


def joined(documents: list[bytes]) -> Block:
    """A block of whole documents."""
    sizes = np.array([len(document) for document in documents], np.int64)
    return Block(np.frombuffer(b"".join(documents), np.uint8), np.cumsum(sizes) - sizes)


def blocks_of(documents: Iterable[bytes]) -> Iterator[Block]:
    """Documents in blocks of about BLOCK_BYTES."""
    group, num_bytes = list[bytes](), 0
    for document in documents:
        group.append(document)
        num_bytes += len(document)
        if num_bytes >= BLOCK_BYTES:
            yield joined(group)
            group, num_bytes = [], 0
    if group:
        yield joined(group)


class Digests:
    """64 bits of the BLAKE2b of each document, which may come in several blocks.

    least_bytes: shorter documents have none.
    """

    def __init__(self, least_bytes: int = 1) -> None:
        self._least, self._size = least_bytes, 0
        self._open = hashlib.blake2b(digest_size=8)

    def update(self, block: Block) -> np.ndarray:
        """Those of the documents that end before the last start of this block (uint64)."""
        head = block.values[: block.starts[0]] if len(block.starts) else block.values
        self._add(head)
        ended = []
        for document in block.documents():
            ended += self._end()
            self._add(document)
        return _as_numbers(ended)

    def last(self) -> np.ndarray:
        """That of the last document of all."""
        return _as_numbers(self._end())

    def _add(self, values: np.ndarray) -> None:
        self._open.update(values.data)
        self._size += values.nbytes

    def _end(self) -> list[bytes]:
        ended = [self._open.digest()] if self._size >= self._least else []
        self._open, self._size = hashlib.blake2b(digest_size=8), 0
        return ended


def _as_numbers(digests: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint64)
