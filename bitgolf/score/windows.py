"""Windows: which tokens are context and which are scored. Only integers, no text.

A stream of n tokens has n - 1 targets: the first token is never one. Input position i predicts token i + 1.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor

from bitgolf.base.plan import Plan, setting
from bitgolf.net.model import Model

# Indices of windows of equal shape, their inputs, scored -> final states (windows, scored, width).
States = Callable[[Sequence[int], Tensor, int], Tensor]


class Window(NamedTuple):
    """One window: inputs tokens[start:end], scored from input position first_scored on."""

    start: int
    end: int
    first_scored: int


def score_batches(
    windows: Sequence[Window], part: Sequence[int], batch_tokens: int, in_order: bool = False
) -> Iterator[list[int]]:
    """Batches of indices of windows of equal shape, so that nothing is ever padded.

    in_order: only consecutive windows, so that the batches keep the order of the stream.
    """
    shapes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    run, before = 0, (0, 0)
    for index in part:
        window = windows[index]
        shape = window.end - window.start, window.end - window.first_scored
        if in_order and shape != before:
            run, before = run + 1, shape
        shapes[*shape, run].append(index)
    for (length, *_), indices in shapes.items():
        rows = max(1, batch_tokens // length)
        yield from (indices[first : first + rows] for first in range(0, len(indices), rows))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows(Plan):
    """The slot of ways to cut a stream into windows; by default every target once, in order.

    alone: whether windows are passed independently, so that weights may change between them, batches may keep
    the order of the stream, and processes may share them.
    """

    abstract: ClassVar[bool] = True
    alone: ClassVar[bool] = True

    @property
    def counts_again(self) -> bool:
        """Whether a target may be scored more than once."""
        return False

    @property
    def warmup_tokens(self) -> int:
        """Scored tokens before the speed is even."""
        return 0

    def label(self) -> str:
        """The short label of every score, as 'sliding 512/64'."""
        raise NotImplementedError

    def longest(self) -> int:
        """Tokens of a whole window; 0 if windows have no common length."""
        return 0

    def windows(self, tokens: int, documents: Sequence[int] | None = None) -> Iterator[Window]:
        """The windows over `tokens` tokens; documents: positions where documents start."""
        raise NotImplementedError

    def batches(
        self, windows: Sequence[Window], part: Sequence[int], batch_tokens: int, in_order: bool = False
    ) -> Iterator[list[int]]:
        """Batches of the windows of a part, in the order of passing; see `score_batches`."""
        return score_batches(windows, part, batch_tokens, in_order)

    def states(self, plain: States, model: Model, windows: Sequence[Window]) -> States:
        """The function that passes them through the model. plain: each window alone."""
        return plain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunked(Windows):
    """Chunked scoring: windows without overlap.

    What: each target is seen once, with 1 to `length` tokens of context, half of `length` on average.
    Source: the public baseline (catalogue E3), which drops the rest that fills no window: `tail=False`.
    Cost: no bytes; one forward pass over the stream
    Not for: final scores, where sliding gives each target a long context
    Neutral: a length of the whole stream
    """

    length: int = setting(1024, at_least=1)
    tail: bool = setting(True)

    def label(self) -> str:
        return f"chunked {self.length}" + ("" if self.tail else ", tail dropped")

    def longest(self) -> int:
        return self.length

    def windows(self, tokens: int, documents: Sequence[int] | None = None) -> Iterator[Window]:
        targets = tokens - 1
        for start in range(0, targets, self.length):
            end = min(start + self.length, targets)
            if self.tail or end - start == self.length:
                yield Window(start, end, start)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sliding(Windows):
    """Sliding-window scoring: overlapping windows, only the last `stride` positions of each scored.

    What: after the first window each target has at least length - stride + 1 tokens of context.
    Source: catalogue E4; `public_tail=True` is the first public version, which scored the end repeatedly.
    Cost: no bytes; length / stride forward passes over the stream
    Not for: validation during training, where the time is better spent on steps
    Neutral: stride = length, which is chunked scoring
    """

    length: int = setting(1024, at_least=1)
    stride: int = setting(64, at_least=1)
    public_tail: bool = setting(False)

    @property
    def counts_again(self) -> bool:
        return self.public_tail

    def validate(self) -> Iterator[str]:
        if self.stride > self.length:
            yield f"stride: {self.stride} tokens would skip targets; at most the length, {self.length}"

    def label(self) -> str:
        return f"sliding {self.length}/{self.stride}" + (", tail counted again" if self.public_tail else "")

    def longest(self) -> int:
        return self.length

    def windows(self, tokens: int, documents: Sequence[int] | None = None) -> Iterator[Window]:
        targets = tokens - 1
        overlap = self.length - self.stride
        # The exact rule starts a window only if it has something new to score.
        last = targets if self.public_tail else max(targets - overlap, min(targets, 1))
        for start in range(0, last, self.stride):
            end = min(start + self.length, targets)
            if start == 0:
                yield Window(start, end, start)
            elif self.public_tail:
                yield Window(start, end, max(start, end - self.stride))
            else:
                yield Window(start, end, start + overlap)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growing(Windows):
    """Windows that each score `stride` targets, with a context that grows up to `length` tokens.

    What: window k scores targets k stride to (k + 1) stride and looks back to the start of the text, at most
        `length` tokens from its end. A text gets at least `least` windows, by a shorter stride where needed.
    Source: record 2026-03-17 (documents in chunks of 256 within 1,024); PR #1530 (48 within 2,048). #2135
        has chunks of 8 and 24 in short documents, for which `least` stands here.
    Cost: no bytes; somewhat less than Sliding of this length and stride, and more batches
    Not for: one long text by a fixed model, where Sliding scores the first `length` targets in one window
    Neutral: stride = length with the least of 1, which is chunked scoring
    """

    length: int = setting(1024, at_least=1)
    stride: int = setting(256, at_least=1)
    least: int = setting(1, at_least=1)

    def validate(self) -> Iterator[str]:
        if self.stride > self.length:
            yield f"stride: {self.stride} tokens would skip targets; at most the length, {self.length}"

    def label(self) -> str:
        return f"growing {self.length}/{self.stride}" + (f", {self.least} at least" * (self.least > 1))

    def longest(self) -> int:
        return self.length

    def windows(self, tokens: int, documents: Sequence[int] | None = None) -> Iterator[Window]:
        targets = tokens - 1
        stride = max(min(self.stride, targets // self.least), 1)
        for first in range(0, targets, stride):
            end = min(first + stride, targets)
            yield Window(max(end - self.length, 0), end, first)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerDocument(Windows):
    """Document-isolated scoring: no window reaches across the start of a document.

    What: each document is cut by `within`, from its own first token to the first token of the next.
    Source: catalogue E5
    Cost: no bytes; somewhat more than `within` alone, as windows end where documents do
    Not for: models trained on the unbroken stream, scored with a long overlap (measured: worse)
    Neutral: a stream of one document
    """

    within: Windows = setting(Chunked())

    def validate(self) -> Iterator[str]:
        if not self.within.alone:
            yield f"within: {type(self.within).__name__} does not end with a document; take Sliding"

    @property
    def counts_again(self) -> bool:
        return self.within.counts_again

    def label(self) -> str:
        return f"{self.within.label()}, each document alone"

    def longest(self) -> int:
        return self.within.longest()

    def windows(self, tokens: int, documents: Sequence[int] | None = None) -> Iterator[Window]:
        starts = [0, *(int(start) for start in (() if documents is None else documents) if start > 0)]
        for first, following in zip(starts, [*starts[1:], tokens - 1], strict=True):
            for start, end, first_scored in self.within.windows(following - first + 1):
                yield Window(first + start, first + end, first + first_scored)
