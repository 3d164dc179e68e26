"""Token streams to batches. The position in the data is a number that can be saved and gone back to."""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitgolf.core.errors import DataError
from bitgolf.core.plan import Plan, setting
from bitgolf.core.shards import TokenStream


class Batch(NamedTuple):
    """rows x length: `inputs` and `targets` int64, the input's document in its row and place in it int32."""

    inputs: Tensor
    targets: Tensor
    document: Tensor
    position: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order(Plan):
    """Which tokens come next."""

    abstract: ClassVar[bool] = True

    def take(
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

    def take(
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
class ShuffledBlocks(Order):
    """Blocks of one sequence length in a new random order every pass.

    What: after a random phase the stream is cut into blocks; each is an input block once per pass.
    Source: the idea of PR #726 and the 2026-04-05 loader (catalogue C12), keyed by seed and pass alone
    Cost: no bytes; scattered reads, under a millisecond per batch
    Not for: parity with the public scripts
    Neutral: none, choose PublicOrder
    """

    seed: int = setting(1337, at_least=0)

    def take(
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
        first = position // length + rank * rows
        blocks = [self.block_start(stream.tokens, length, first + row) for row in range(rows)]
        tokens = np.stack([stream.read(start, length + 1) for start in blocks])
        return make_batch(tokens[:, :-1], tokens[:, 1:], bos), position + world * rows * length

    def block_start(self, tokens: int, length: int, block: int) -> int:
        """Where the block of this running number starts. A pass has as many blocks whatever its phase."""
        per_pass = max(tokens // length - 1, 1)
        passes, place = divmod(block, per_pass)
        phase, order = _pass_order(self.seed, passes, per_pass, min(length, tokens - per_pass * length))
        return phase + int(order[place]) * length


@functools.lru_cache(maxsize=4)
def _pass_order(seed: int, passes: int, blocks: int, phases: int) -> tuple[int, np.ndarray]:
    """Phase below `phases` and block order of one pass, from raw bits that numpy promises to keep."""
    bits = np.random.PCG64(np.random.SeedSequence([seed, passes])).random_raw(blocks + 1)
    return int(bits[0]) % phases, np.argsort(bits[1:], kind="stable")


def make_batch(inputs: np.ndarray, targets: np.ndarray, bos: int) -> Batch:
    """Add to rows of tokens which document of its row each input is in, and how far into it."""
    place = np.broadcast_to(np.arange(inputs.shape[1], dtype=np.int32), inputs.shape)
    starts = inputs == bos
    starts[:, 0] = False  # a row opens its first document whether or not it opens with BOS
    columns = (
        inputs.astype(np.int64),
        targets.astype(np.int64),
        np.cumsum(starts, axis=1, dtype=np.int32),
        place - np.maximum.accumulate(np.where(starts, place, 0), axis=1, dtype=np.int32),
    )
    return Batch(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns))


def _check_length(stream: TokenStream, length: int) -> None:
    if length + 1 > stream.tokens:
        raise DataError(
            f"a sequence of {length} tokens needs {length + 1} tokens of text",
            value=f"{stream.tokens} tokens",
            way_out="shorten data.sequence_length or give more text",
        )
