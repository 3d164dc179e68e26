"""Token streams to batches. The position in the data is one number, which can be saved and restored."""

import dataclasses
import functools
import math
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.errors import DataError
from bitgolf.base.plan import Plan, setting
from bitgolf.text.shards import TokenStream

COUNT_TOKENS = 1 << 22  # counted at a time, to bound memory
NAT_PARTS = 1 << 16  # of a nat: sums of whole parts are the same on every machine


class Batch(NamedTuple):
    """Tensors (rows, length): token ids int64, the index of each input's document in its row and its position
    in that document int32.
    """

    inputs: Tensor
    targets: Tensor
    document: Tensor
    position: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order(Plan):
    """The slot of the order in which training reads the tokens."""

    abstract: ClassVar[bool] = True

    def next_batch(
        self,
        stream: TokenStream,
        position: int,
        rows: int,
        length: int,
        world: int = 1,
        rank: int = 0,
        bos: int = -1,
    ) -> tuple[Batch, int]:
        """The batch of one rank at `position` (in tokens), and the next position, the same for all ranks."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublicOrder(Order):
    """Tokens in file order, as the public loader takes them.

    What: each rank takes rows x length + 1 tokens in turn; sequences start mid-document, the stream wraps.
    Source: baseline train_gpt.py, DistributedTokenLoader (catalogue A16)
    Cost: no bytes; one token per rank and call is never an input, no time
    Not for: data whose documents are sorted, by date for example
    Neutral: none, it is the plain order
    """

    def next_batch(
        self,
        stream: TokenStream,
        position: int,
        rows: int,
        length: int,
        world: int = 1,
        rank: int = 0,
        bos: int = -1,
    ) -> tuple[Batch, int]:
        _check_length(stream, length)
        span = rows * length + 1
        tokens = stream.read(position + rank * span, span)
        return make_batch(
            tokens[:-1].reshape(rows, length), tokens[1:].reshape(rows, length), bos
        ), position + world * span


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardsByLength(Order):
    """Whole shards, those of short documents first.

    What: PublicOrder over the shards sorted by their mean document length: the first `sample_tokens` tokens
        of a shard by the number of BOS among them (none counts as one). Equal ones keep their order.
    Source: PR #212 (CURRICULUM=1, 80 shards): 1.1942 against 1.1929 bpb, though lower losses at first.
    Cost: no bytes; before the first batch a look at the start of each shard.
    Not for: a single shard, unless `piece_tokens` cuts it; trainings that do not see all of the text, which
        see nothing but short documents.
    Neutral: a single shard, PublicOrder

    piece_tokens: cut every shard into pieces of so many tokens and sort those; 0 sorts the files.
    descending: long documents first, as a control.
    """

    sample_tokens: int = setting(100_000, at_least=1)
    piece_tokens: int = setting(0, at_least=0)
    descending: bool = False

    def next_batch(
        self,
        stream: TokenStream,
        position: int,
        rows: int,
        length: int,
        world: int = 1,
        rank: int = 0,
        bos: int = -1,
    ) -> tuple[Batch, int]:
        ordered = _by_length(self, stream, bos)
        return PublicOrder().next_batch(ordered, position, rows, length, world, rank, bos)


@functools.lru_cache(maxsize=2)
def _by_length(plan: ShardsByLength, stream: TokenStream, bos: int) -> TokenStream:
    """The stream with its shards, or pieces of them, sorted as the plan says."""
    if bos < 0:
        raise _no_documents(bos)

    def mean_length(shard: np.ndarray) -> float:
        sample = shard[: plan.sample_tokens]
        length = len(sample) / max(int(np.count_nonzero(sample == bos)), 1)
        return -length if plan.descending else length

    pieces = [
        (path, shard[start : start + (plan.piece_tokens or len(shard))])
        for path, shard in zip(stream.paths, stream.shards)
        for start in range(0, len(shard), plan.piece_tokens or max(len(shard), 1))
    ]
    pieces.sort(key=lambda piece: mean_length(piece[1]))
    return TokenStream([path for path, _ in pieces], [piece for _, piece in pieces])


class BlockPass(NamedTuple):
    """One pass through a stream, cut into blocks of `length` tokens; the first starts at `phase`."""

    stream: TokenStream
    length: int
    bos: int
    number: int
    phase: int

    @property
    def blocks(self) -> int:
        """The number of blocks; the same for every phase."""
        return _blocks_of(self.stream, self.length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockOrder(Order):
    """Blocks of one sequence length; each pass draws a phase, and reads each block once as input.

    Blocks are numbered through all passes: block n has the positions from n * length on. A position inside a
    block, left by another sequence length, counts as the next block, so no number is used twice. After such a
    change the same text can come again within a pass, because every length has its own order.
    """

    abstract: ClassVar[bool] = True

    seed: int = setting(1337, at_least=0)

    def next_batch(
        self,
        stream: TokenStream,
        position: int,
        rows: int,
        length: int,
        world: int = 1,
        rank: int = 0,
        bos: int = -1,
    ) -> tuple[Batch, int]:
        _check_length(stream, length)
        begin = -(-position // length)
        first = begin + rank * rows
        starts = [self.block_start(stream, length, first + row, bos) for row in range(rows)]
        tokens = np.stack([stream.read(start, length + 1) for start in starts])
        return make_batch(tokens[:, :-1], tokens[:, 1:], bos), (begin + world * rows) * length

    def block_start(self, stream: TokenStream, length: int, block: int, bos: int = -1) -> int:
        """The token at which the block of this running number starts in the stream."""
        number, index = divmod(block, _blocks_of(stream, length))
        phases = min(length, stream.tokens - _blocks_of(stream, length) * length)
        phase = _phase(self.seed, number, phases)
        return phase + self.block_at(BlockPass(stream, length, bos, number, phase), index) * length

    def block_at(self, one: BlockPass, index: int) -> int:
        """The block that is read at this index of the pass; a permutation of all blocks."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShuffledBlocks(BlockOrder):
    """Blocks of one sequence length in a new random order every pass.

    What: after a random phase the stream is cut into blocks; each is an input block once per pass.
    Source: the idea of PR #726 and the 2026-04-05 loader (catalogue C12), keyed by seed and pass alone
    Cost: no bytes; scattered reads, under a millisecond per batch
    Not for: parity with the public scripts
    Neutral: none, choose PublicOrder
    """

    def block_at(self, one: BlockPass, index: int) -> int:
        return int(_shuffle(self.seed, one.number, one.blocks)[index])


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoprimeStride(BlockOrder):
    """Blocks of one sequence length in equal strides around the stream.

    What: number n of a pass is block (start + n * stride) mod blocks. Phase, start and stride are random for
        each pass; the stride is raised until it and the number of blocks have no divisor in common.
    Source: PR #726 (catalogue C12), keyed by seed and pass alone: the public one hashes the paths of its
        files, so its order depends on where the data lies. Its growing mix of shards in a batch is left out,
        because here all shards are one stream, which the strides go around from the first batch on
    Cost: no bytes; scattered reads, under a millisecond per batch, no permutation in memory
    Not for: parity with the public scripts; documents in a repeating order, which a stride can fall in with
    Neutral: none, choose PublicOrder
    """

    def block_at(self, one: BlockPass, index: int) -> int:
        start, stride = _stride(self.seed, one.number, one.blocks)
        return (start + index * stride) % one.blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curriculum(BlockOrder):
    """Blocks of easy documents first, then more and more of the others.

    What: the difficulty of a document is its mean unigram cross-entropy (nats per token, counts over the
        training stream plus one); that of a block is the mean over its tokens of their documents'. While
        q = easiest + (1 - easiest) * trained tokens / ramp_tokens is below 1, the next block is drawn from
        the easiest share q of the pass's blocks, evenly from those that are left (none left: the easiest of
        the others). From q = 1 on the pass goes on with what is left in the order of ShuffledBlocks, and
        later passes are its passes. So every pass has each block once.
    Source: a linear ramp over texts sorted by how rare their words are: Platanios et al. 2019,
        arXiv:1903.09848. That of PR #212 is another, ShardsByLength
    Cost: no bytes; before the first batch, on the clock, three readings of the stream (half a second per 100M
        tokens on one core), then under a millisecond per batch
    Not for: text without BOS, which is refused; streams of billions of tokens. A ramp about as long as a pass
        leaves the most difficult blocks for its end
    Neutral: easiest=1, ShuffledBlocks of the same seed

    ramp_tokens: trained tokens until all blocks are allowed; 0 makes it one pass.
    easiest: share of the blocks that the training starts with.
    descending: the most difficult first, as a control.
    """

    ramp_tokens: int = setting(0, at_least=0)
    easiest: float = setting(0.25, above=0.0, at_most=1.0)
    descending: bool = False

    def block_at(self, one: BlockPass, index: int) -> int:
        return int(_ramp(self, one)[index])


@functools.lru_cache(maxsize=2)
def _ramp(plan: Curriculum, one: BlockPass) -> np.ndarray:
    """The order of a pass (blocks,): drawn blocks while not all are allowed, then the shuffled rest."""
    shuffled = _shuffle(plan.seed, one.number, one.blocks)
    indices = np.arange(one.blocks)
    trained = (one.number * one.blocks + indices) * one.length
    ramp = plan.ramp_tokens or one.blocks * one.length
    share = plan.easiest + (1 - plan.easiest) * (trained / ramp)
    allowed = np.maximum(np.ceil(share * one.blocks).astype(np.int64), indices + 1)
    held = int(np.count_nonzero(allowed < one.blocks))
    if held == 0:
        return shuffled
    difficulty = block_difficulty(one)
    order = np.argsort(-difficulty if plan.descending else difficulty, kind="stable").tolist()
    choices = (allowed - indices)[:held].astype(np.uint64)
    draws = indices[:held] + (_pass_bits(held, plan.seed, one.number, 1) % choices).astype(np.int64)
    for index, other in enumerate(draws.tolist()):
        order[index], order[other] = order[other], order[index]
    early = np.array(order[:held])
    return np.concatenate([early, shuffled[np.isin(shuffled, early, invert=True)]])


def block_difficulty(one: BlockPass) -> np.ndarray:
    """For each block, float64: the mean over its tokens of their documents' nats per token."""
    bounds, nats = document_nats(one.stream, one.bos)
    # Nats are spread evenly over a document, so their running sum is linear within it.
    before = np.interp(one.phase + one.length * np.arange(one.blocks + 1), bounds, nats)
    return np.diff(before) / one.length


@functools.lru_cache(maxsize=1)
def document_nats(stream: TokenStream, bos: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of all documents, the end included, and the sum of unigram nats before each bound."""
    starts = stream.documents(bos)
    if not len(starts):
        raise _no_documents(bos)
    bounds = np.unique(np.concatenate([[0], starts, [stream.tokens]]))
    pieces = [(at, min(at + COUNT_TOKENS, stream.tokens)) for at in range(0, stream.tokens, COUNT_TOKENS)]
    counts = np.ones(1 << 16, np.int64)
    for begin, end in pieces:
        counts += np.bincount(stream.read(begin, end - begin), minlength=len(counts))
    costs = np.rint(NAT_PARTS * np.log(counts.sum() / counts)).astype(np.int64)
    before, total = np.zeros(len(bounds), np.int64), 0
    for begin, end in pieces:
        sums = total + np.cumsum(costs[stream.read(begin, end - begin)])
        first, last = np.searchsorted(bounds, (begin, end), side="right")
        before[first:last] = sums[bounds[first:last] - begin - 1]
        total = int(sums[-1])
    return bounds, before / NAT_PARTS


def _no_documents(bos: int) -> DataError:
    return DataError(
        "a curriculum by document needs documents that start with BOS",
        value=f"BOS {bos}",
        way_out="choose another data.order, or a tokenizer that has BOS",
    )


def _blocks_of(stream: TokenStream, length: int) -> int:
    """The number of whole blocks in the stream, whatever the phase."""
    return max(stream.tokens // length - 1, 1)


def _pass_bits(count: int, *key: int) -> np.ndarray:
    """Random uint64 for a seed, a pass and a purpose; raw bits, which numpy promises never to change."""
    return np.random.PCG64(np.random.SeedSequence(key)).random_raw(count)


@functools.lru_cache(maxsize=4)
def _phase(seed: int, number: int, phases: int) -> int:
    return int(_pass_bits(1, seed, number)[0]) % phases


@functools.lru_cache(maxsize=4)
def _shuffle(seed: int, number: int, blocks: int) -> np.ndarray:
    return np.argsort(_pass_bits(blocks + 1, seed, number)[1:], kind="stable")


@functools.lru_cache(maxsize=4)
def _stride(seed: int, number: int, blocks: int) -> tuple[int, int]:
    _, start, stride = (int(word) for word in _pass_bits(3, seed, number))
    while math.gcd(stride, blocks) > 1:
        stride += 1
    return start % blocks, stride % blocks


def make_batch(inputs: np.ndarray, targets: np.ndarray, bos: int) -> Batch:
    """A batch of rows of tokens; computes each input's document in its row and its position in it."""
    position = np.broadcast_to(np.arange(inputs.shape[1], dtype=np.int32), inputs.shape)
    starts = inputs == bos
    starts[:, 0] = False  # a row starts its first document, with BOS or without
    columns = (
        inputs.astype(np.int64),
        targets.astype(np.int64),
        np.cumsum(starts, axis=1, dtype=np.int32),
        position - np.maximum.accumulate(np.where(starts, position, 0), axis=1, dtype=np.int32),
    )
    return Batch(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns))


def _check_length(stream: TokenStream, length: int) -> None:
    if length + 1 > stream.tokens:
        raise DataError(
            f"a sequence of {length} tokens needs {length + 1} tokens of text",
            value=f"{stream.tokens} tokens",
            way_out="shorten data.sequence_length or give more text",
        )
