"""The tokens to score, handed out by the rules: causally, once, and for learning only after their score."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.score.windows import Window
from bitgolf.train.world import World


class RuleError(BitgolfError):
    """A scorer or adapter breaks a rule of scoring."""


class Exam:
    """A token stream and the windows that score it; there is no other access to its tokens.

    `ask` gives a scorer some windows and `answer` records their nats. Only then `released` gives those tokens
    to an adapter. So conditions C1 (nothing after the window), C3 (score before update) and C4 (once) of the
    challenge hold whatever the adapter does. Source: parameter-golf issue #1017.
    shared: for each window, whether all processes have its answer. met: parts that were done when the
    processes last had all answers.
    """

    def __init__(self, tokens: np.ndarray, windows: Sequence[Window], again: bool = False) -> None:
        """again: a target may be scored by several windows, as in the first public sliding rule."""
        self.windows = windows
        self.places = np.cumsum([0, *(window.end - window.first_scored for window in windows)])
        self.nats = np.full(int(self.places[-1]), np.nan, np.float32)
        self._tokens, self._again = tokens, again
        self._scored = np.zeros(max(len(tokens) - 1, 0), bool)  # by the input position
        self._answered = np.zeros(len(windows), bool)
        self.shared, self.met = np.zeros(len(windows), bool), 0
        self._open: list[int] = []

    def ask(self, indices: Sequence[int]) -> np.ndarray:
        """The tokens of windows of equal shape, int64 (windows, length + 1). Raises RuleError if scored."""
        if self._open:
            raise RuleError("the windows given out before have no answer yet", value=self._open[0])
        for window in (self.windows[index] for index in indices):
            if self._scored[window.first_scored : window.end].any() and not self._again:
                raise RuleError("scored already", where=f"targets of positions {window.first_scored:,} on")
        if self._answered[indices].any():
            raise RuleError("this window was scored already", value=list(indices))
        self._open = list(indices)
        rows = [self._tokens[window.start : window.end + 1] for window in self._opened()]
        return np.stack(rows).astype(np.int64)

    def answer(self, nats: np.ndarray) -> None:
        """Record the nats (windows, scored) of the last `ask`. Raises RuleError for another shape."""
        opened = self._opened()
        shape = len(opened), opened[0].end - opened[0].first_scored if opened else 0
        if not opened or nats.shape != shape:
            raise RuleError("this answers another question", value=nats.shape, way_out=f"expected {shape}")
        self.nats[self.places[self._open][:, None] + np.arange(shape[1])] = nats
        for window in opened:
            self._scored[window.first_scored : window.end] = True
        self._answered[self._open] = True
        self._open = []

    def resume(self, nats: np.ndarray) -> None:
        """Set the nats of all windows (NaN if unknown) that were scored before or by another process."""
        scored = np.isfinite(nats)
        for index, (first, end) in enumerate(itertools.pairwise(self.places)):
            if scored[first:end].all() and not self._answered[index]:
                self.ask([index])
                self.answer(nats[None, first:end])

    def targets_of(self, indices: Sequence[int]) -> int:
        """The number of targets that these windows score."""
        return int((self.places[np.array(indices) + 1] - self.places[indices]).sum())

    def share(self, indices: Sequence[int], world: World, device: torch.device) -> None:
        """Send these windows' nats to all processes, exact to the bit; each is answered on one process.

        Raises RuleError on all processes if a window is answered on none or on several.
        """
        if world.size == 1 or not indices:
            return

        def summed(numbers: np.ndarray) -> np.ndarray:
            return world.sum(torch.from_numpy(numbers).to(device)).cpu().numpy()

        answered = self._answered[indices]
        odd = np.flatnonzero(summed(answered.astype(np.int32)) != 1)
        if len(odd):
            raise RuleError(
                "processes that share windows left one out, or scored one twice", value=indices[odd[0]]
            )
        spans = [np.arange(*self.places[index : index + 2]) for index in indices]
        places, given = np.concatenate(spans), np.repeat(answered, [len(span) for span in spans])
        bits = np.where(given, self.nats[places].view(np.int32), 0)  # a sum with zeros is exact
        self.nats[places] = summed(bits).view(np.float32)
        for window in (self.windows[index] for index in indices):
            self._scored[window.first_scored : window.end] = True
        self._answered[indices] = self.shared[indices] = True

    def answered(self, indices: Sequence[int]) -> bool:
        """Whether all of these windows are answered."""
        return bool(self._answered[list(indices)].all())

    def released(self, start: int, end: int) -> np.ndarray:
        """tokens[start : end + 1], int64: the inputs from `start` to `end` and their targets, for learning.

        Raises RuleError if one of the targets is not scored.
        """
        if start < 0 or end >= len(self._tokens) or not self._scored[start:end].all():
            raise RuleError("not scored yet, and so not released", where=f"tokens {start:,} to {end:,}")
        return self._tokens[start : end + 1].astype(np.int64)

    def _opened(self) -> list[Window]:
        return [self.windows[index] for index in self._open]
