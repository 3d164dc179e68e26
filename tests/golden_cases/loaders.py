"""The loaders of records from 2026-03-29 on, which bitgolf has only in another form or not at all."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitgolf.text.batches import Batch, make_batch
from bitgolf.text.shards import TokenStream


class ShuffledSequences:
    """The sequences of one process: those of every world-th shard, cut after a phase, in random order.

    numpy's generator is named after the rank; a shard is drawn by how many of its sequences are left.
    """

    def __init__(self, paths: Sequence[Path], length: int, rank: int, world: int) -> None:
        self.shards = [TokenStream([path]) for path in paths[rank::world]]
        self.length, self.draw = length, np.random.Generator(np.random.PCG64(rank))
        self.starts = [self.order(shard) for shard in self.shards]

    def order(self, shard: TokenStream) -> list[int]:
        """Where the sequences of a new pass start, the next one last."""
        most = min(self.length - 1, max(0, shard.tokens - self.length - 1))
        phase = int(self.draw.integers(most + 1)) if most > 0 else 0
        count = (shard.tokens - 1 - phase) // self.length
        return (phase + self.draw.permutation(count) * self.length).tolist()

    def take(self, rows: int) -> Batch:
        tokens = [self.sequence() for _ in range(rows)]
        both = np.stack(tokens)
        return make_batch(both[:, :-1], both[:, 1:], -1)

    def sequence(self) -> np.ndarray:
        left = np.array([len(starts) for starts in self.starts], dtype=np.float64)
        if left.sum() <= 0:
            self.starts = [self.order(shard) for shard in self.shards]
            left = np.array([len(starts) for starts in self.starts], dtype=np.float64)
        which = int(self.draw.choice(len(self.shards), p=left / left.sum()))
        return self.shards[which].read(self.starts[which].pop(), self.length + 1)


def path_seed(names: Sequence[str]) -> int:
    """The seed that records from 2026-03-29 to 04-01 make of where their shards are."""
    seed = 0
    for byte in "".join(names).encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    return seed


class Strides:
    """Windows of one shard: after a phase, in strides that have no divisor in common with their number."""

    def __init__(self, tokens: int, length: int, draw: np.random.Generator) -> None:
        self.tokens, self.length, self.draw = tokens, length, draw
        self.count = self.taken = self.phase = self.start = 0
        self.stride = 1

    def left(self) -> int:
        """How many windows of the pass are left, at least one; all where there was no pass yet."""
        return max(self.count - self.taken, 1) if self.count else (self.tokens - 1) // self.length

    def take(self, count: int) -> list[int]:
        """Where the next windows start."""
        found = []
        for _ in range(count):
            if self.taken >= self.count:
                self.begin()
            found.append(self.phase + (self.start + self.taken * self.stride) % self.count * self.length)
            self.taken += 1
        return found

    def begin(self) -> None:
        most = min(self.length - 1, max(0, self.tokens - self.length - 1))
        self.phase = int(self.draw.integers(most + 1)) if most else 0
        self.count, self.taken = (self.tokens - 1 - self.phase) // self.length, 0
        self.start = int(self.draw.integers(self.count)) if self.count > 1 else 0
        self.stride = 1
        while self.count > 1:
            self.stride = int(self.draw.integers(1, self.count))
            if math.gcd(self.stride, self.count) == 1:
                break


class MixedShards:
    """Batches for all processes from a growing number of shards, of which one takes every world-th window."""

    def __init__(self, paths: Sequence[Path], length: int, rank: int, world: int, seed: int) -> None:
        self.draw = np.random.Generator(np.random.PCG64(seed))
        streams = [TokenStream([path]) for path in paths]
        self.streams = [stream for stream in streams if (stream.tokens - 1) // length > 0]
        self.strides = [Strides(stream.tokens, length, self.draw) for stream in self.streams]
        self.length, self.rank, self.world, self.batches = length, rank, world, 0

    def take(self, rows: int) -> Batch:
        both = np.stack([self.streams[s].read(at, self.length + 1) for s, at in self.windows(rows)])
        return make_batch(both[:, :-1], both[:, 1:], -1)

    def windows(self, rows: int) -> list[tuple[int, int]]:
        shards, count, grown = len(self.streams), rows * self.world, min(self.batches / 1800, 1.0)
        self.batches += 1
        shares = np.array([float(one.left()) for one in self.strides]) ** (0.9 - 0.4 * grown)
        shares = shares / float(shares.sum())
        low, high = (min(max(n, m), shards, count) for n, m in ((8, self.world), (32, 8 * self.world)))
        mixed = max(1, min(round(low + grown * (high - low)), shards, count))
        chosen = self.draw.choice(shards, size=mixed, replace=False, p=shares)
        counts = np.ones(mixed, dtype=np.int64)
        if count > mixed:
            own = shares[chosen].copy()
            counts += self.draw.multinomial(count - mixed, own / own.sum())
        piles = []
        for place in self.draw.permutation(mixed):
            pile = [(int(chosen[place]), at) for at in self.strides[chosen[place]].take(int(counts[place]))]
            order = self.draw.permutation(len(pile)) if len(pile) > 1 else [0]
            piles.append([pile[i] for i in order])
        found = []
        while piles:
            order = self.draw.permutation(len(piles))
            found += [piles[i].pop() for i in order]
            piles = [piles[i] for i in order if piles[i]]
        return found[self.rank :: self.world]


class PackedDocuments:
    """One row a batch, from the first document of a shard on; what does not fit its end is left out."""

    def __init__(self, paths: Sequence[Path], rank: int, world: int, bos: int) -> None:
        self.shards = [TokenStream([path]).read(0, TokenStream([path]).tokens) for path in paths]
        self.rank, self.world, self.bos = rank, world, bos
        self.shard, self.place = 0, self.first(0)

    def first(self, shard: int) -> int:
        opens = np.flatnonzero(self.shards[shard] == self.bos)
        return int(opens[0]) if len(opens) else 0

    def take(self, tokens: int) -> Batch:
        span = tokens + 1
        while self.place + span * self.world > len(self.shards[self.shard]):
            self.shard = (self.shard + 1) % len(self.shards)
            self.place = self.first(self.shard)
        row = self.shards[self.shard][self.place + self.rank * span :][None, :span]
        self.place += span * self.world
        return make_batch(row[:, :-1], row[:, 1:], self.bos)


def document_bounds(inputs: np.ndarray, bos: int, longest: int, multiple: int = 64) -> list[int]:
    """Where attention is cut in a row: at documents, at so many tokens of one, the end again and again."""
    starts = sorted({0, *np.flatnonzero(inputs == bos).tolist(), len(inputs)})
    cut = [at for begin, end in zip(starts, starts[1:]) for at in range(begin, end, longest or end - begin)]
    bounds = [*cut, len(inputs)]
    return bounds + [len(inputs)] * (-len(bounds) % multiple)
