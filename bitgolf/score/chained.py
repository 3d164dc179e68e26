"""Chained scoring: consecutive spans of a stream, with the keys and values of earlier tokens cached."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bitgolf.base.plan import setting
from bitgolf.net.kernels import AttentionMask, PlainKernels, rotate
from bitgolf.net.model import Model
from bitgolf.net.position import Tables, far_tables
from bitgolf.score.windows import States, Window, Windows, score_batches

SPARE_SPANS = 8  # spans written before the cache is moved to the front


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chained(Windows):
    """Chained KV cache: spans that see the cached keys and values of the tokens before them.

    What: a token passes the model once; its keys and values are cached until there are `history` newer ones.
        The stream is cut into `lanes` that advance together; the first `history` tokens of each are passed
        but not scored.
    Source: PR #1718 (a prototype, never scored; catalogue E7)
    Cost: no bytes; about one forward pass over the stream, and memory for keys and values
    Not for: the score of Sliding: cached keys have seen further back than a window, so this is another
        predictor. With an attention window of up to `history` and one lane it is exactly a pass over the
        whole stream.
    Neutral: no history, which is chunked scoring by `stride`
    """

    alone: ClassVar[bool] = False

    history: int = setting(192, at_least=0)
    stride: int = setting(64, at_least=1)
    lanes: int = setting(16, at_least=1, at_most=2**16)

    @property
    def warmup_tokens(self) -> int:
        return self.longest() + self.lanes * self.stride

    def label(self) -> str:
        lanes = f", {self.lanes} lanes" if self.lanes > 1 else ""
        return f"chained {self.history}+{self.stride}{lanes}"

    def longest(self) -> int:
        return self.history + self.stride

    def windows(self, tokens: int, documents: Sequence[int] | None = None) -> Iterator[Window]:
        targets = tokens - 1
        first = min(self.longest(), targets)
        if first > 0:
            yield Window(0, first, 0)
        for start in range(first, targets, self.stride):
            yield Window(start - self.history, min(start + self.stride, targets), start)

    def batches(
        self, windows: Sequence[Window], part: Sequence[int], batch_tokens: int, in_order: bool = False
    ) -> Iterator[list[int]]:
        steps = -(-len(part) // self.lanes) if self.history else 1
        for step in range(steps):
            tokens_together = self.lanes * self.longest() if step else batch_tokens
            yield from score_batches(windows, part[step::steps], tokens_together, in_order)

    def states(self, plain: States, model: Model, windows: Sequence[Window]) -> States:
        return ChainedReader(model, self, windows).hidden if self.history else plain


class Chain:
    """Cached keys and values of lanes, for every attention; a token's slot is its rotary position.

    Once all slots are used, the cache is moved, and rotated back, to the front.
    """

    def __init__(self, history: int, tables: Tables, kernels: PlainKernels) -> None:
        self.history, self.tables, self.kernels = history, tables, kernels
        self.cache: list[tuple[Tensor, Tensor]] = []  # (key heads, lanes, slots, dimension) each
        self.end = self.seen = self.call = 0

    def advance(self, new: int, seen: int) -> Tables:
        """Add `new` tokens that see `seen` tokens, themselves included; returns their rotation tables."""
        cos, sin = self.tables
        if self.end + new > len(cos):
            shift, front = self.end - self.history, slice(self.history)
            last_kept = slice(shift, self.end)
            for keys, values in self.cache:
                rotation = cos[shift].to(keys.dtype), -sin[shift].to(keys.dtype)
                keys[:, :, front], values[:, :, front] = (
                    rotate(keys[:, :, last_kept], *rotation),
                    values[:, :, last_kept].clone(),
                )
            self.end = self.history
        self.end, self.seen, self.call = self.end + new, seen, 0
        slots = slice(self.end - new, self.end)
        return cos[slots], sin[slots]

    def attend(self, heads: Tensor, queries: int, mask: AttentionMask) -> Tensor:
        """Causal attention of new tokens over the cache and themselves; see `attend` of the kernels."""
        count, new = (len(heads) - queries) // 2, heads.shape[2]
        q, *new_keys_values = heads.split((queries, count, count))
        if self.call == len(self.cache):
            shape = count, heads.shape[1], len(self.tables[0]), heads.shape[3]
            self.cache.append((heads.new_zeros(shape), heads.new_zeros(shape)))
        for kept, new_tokens in zip(self.cache[self.call], new_keys_values):
            kept[:, :, self.end - new : self.end] = new_tokens
        seen = slice(self.end - self.seen, self.end)
        k, v = (kept.flatten(0, 1)[:, seen].to(heads.dtype) for kept in self.cache[self.call])
        self.call += 1
        return self.kernels.attend_last(q.unflatten(0, (count, -1)), k, v, mask)


class ChainedReader:
    """Passes spans through a model with cached keys and values for each lane."""

    def __init__(self, model: Model, plan: Chained, windows: Sequence[Window]) -> None:
        self.model, self.history, self.windows = model, plan.history, windows
        head_width, device = model.plan.dimensions.head_width, model.backend.device
        tables = model.plan.position.tables(plan.longest(), plan.longest(), head_width, device)
        self.tables = far_tables(tables, plan.longest() + SPARE_SPANS * plan.stride)
        self.ends: dict[int, tuple[Chain, int]] = {}  # chain and lane, by the position where it continues

    def hidden(self, indices: Sequence[int], inputs: Tensor, scored: int) -> Tensor:
        """Final states (windows, scored, width); where all go on where others ended, they alone pass."""
        model, windows, seen = self.model, [self.windows[index] for index in indices], inputs.shape[1]
        chain = self._chain_to([window.first_scored for window in windows])
        new = scored if chain.end else seen
        lookback = min(seen - new, len(model.plan.embed))  # each embedding part may read one token back
        start = model.embedded(inputs[:, seen - new - lookback :])[:, lookback:]
        cos, sin = chain.advance(new, seen)
        context = model.context(inputs, start, chain.attend)
        hidden = model.through(start, context._replace(cos=cos, sin=sin))
        self.ends |= {window.end: (chain, row) for row, window in enumerate(windows)}
        return hidden[:, -scored:]

    def _chain_to(self, positions: Sequence[int]) -> Chain:
        """The chain whose lanes end at these positions; an empty one if there is no such chain."""
        lanes = [self.ends.pop(position) for position in positions if position in self.ends]
        chain, joined = lanes[0][0] if lanes else None, Chain(self.history, self.tables, self.model.kernels)
        if chain is None or len(lanes) < len(positions) or {other.end for other, _ in lanes} != {chain.end}:
            return joined
        if lanes == [(chain, row) for row in range(chain.cache[0][0].shape[1])]:
            return chain
        joined.end = chain.end
        for call in range(len(chain.cache)):
            keys, values = (
                torch.stack([other.cache[call][side][:, row] for other, row in lanes], 1) for side in (0, 1)
            )
            joined.cache.append((keys, values))
        return joined
