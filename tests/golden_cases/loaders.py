"""The shuffled loader of the records from 2026-04-05 on, which bitgolf has only in another form."""

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
