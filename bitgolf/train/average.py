"""Averages of the weights over the steps; always kept in float32.

An empty state stands for the live weights: nothing has been averaged yet.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from bitgolf.base.plan import Plan, setting
from bitgolf.train.schedule import Progress

Tensors = dict[str, Tensor]  # weights, or the state of an average, by name
TAKEN = "taken."  # counts snapshots in a state; no parameter has this name, as torch refuses empty parts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Averager(Plan):
    """The slot of averages that are packed instead of the last weights."""

    abstract: ClassVar[bool] = True

    def start(self, weights: Tensors) -> Tensors:
        """The state before the first step; empty if the average begins later."""
        return {}

    def update(self, state: Tensors, weights: Tensors, progress: Progress, lr_scale: float) -> Tensors:
        """The state after a step with these resulting weights; may change the given state in place.

        progress: after that step. lr_scale: what the schedule multiplied its rates by.
        """
        raise NotImplementedError

    def weights(self, state: Tensors, live: Tensors) -> Tensors:
        """The averaged weights in float32; `live` itself if nothing was averaged."""
        raise NotImplementedError

    def training(self) -> "Averager":
        """This average without settings that matter only after the last step."""
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoAverage(Averager):
    """The last weights as they are.

    What: nothing is averaged.
    Source: the public baseline.
    Cost: no bytes, no seconds.
    Not for: noisy ends of training, where an average is free.
    Neutral: always.
    """

    def update(self, state: Tensors, weights: Tensors, progress: Progress, lr_scale: float) -> Tensors:
        return state

    def weights(self, state: Tensors, live: Tensors) -> Tensors:
        return live


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ema(Averager):
    """Exponential moving average of all weights.

    What: after every step, average = decay * average + (1 - decay) * weights, always in float32 (a
        bfloat16 sum loses small changes). It begins with the initial weights, or with those of the first step
        at or beyond the progress `start_fraction`. Packed are share * average + (1 - share) * weights.
    Source: public records from 2026-03-22 on (0.997); PR #682 uses 0.97 for 200 steps. A share of 0.6 over
        the last eighth: modded-nanogpt #325, without the embedding, where rates end near zero.
    Cost: one more copy of the weights in memory, one pass over them per step.
    Not for: runs shorter than a few times 1 / (1 - decay) steps, which would remember their start.
    Neutral: decay=0 or share=0
    """

    decay: float = setting(0.997, at_least=0.0, below=1.0)
    start_fraction: float = setting(0.0, at_least=0.0, at_most=1.0)
    share: float = setting(1.0, at_least=0.0, at_most=1.0)

    def start(self, weights: Tensors) -> Tensors:
        return copy_weights(weights) if self.start_fraction == 0.0 else {}

    def update(self, state: Tensors, weights: Tensors, progress: Progress, lr_scale: float) -> Tensors:
        if state:
            return move_towards(state, weights, 1.0 - self.decay)
        return copy_weights(weights) if progress.fraction >= self.start_fraction else state

    def weights(self, state: Tensors, live: Tensors) -> Tensors:
        if not state or self.share == 0.0:
            return live
        return dict(state) if self.share == 1.0 else move_towards(copy_weights(live), state, self.share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LateEma(Averager):
    """Exponential moving average that begins with the warm-down.

    What: as Ema, but begins with the weights of the first step whose rates were scaled below 1, and not
        before a progress of `start_fraction`. So neither a warm-up nor a slow first step begins it.
    Source: PR #488, where it lost; its embedding was averaged in bfloat16, which loses small changes.
    Cost: as Ema.
    Not for: warm-downs shorter than a few times 1 / (1 - decay) steps.
    Neutral: decay=0
    """

    decay: float = setting(0.997, at_least=0.0, below=1.0)
    start_fraction: float = setting(0.85, at_least=0.0, at_most=1.0)

    def update(self, state: Tensors, weights: Tensors, progress: Progress, lr_scale: float) -> Tensors:
        if state:
            return move_towards(state, weights, 1.0 - self.decay)
        begins = lr_scale < 1.0 and progress.fraction >= self.start_fraction
        return copy_weights(weights) if begins else state

    def weights(self, state: Tensors, live: Tensors) -> Tensors:
        return dict(state) or live


@dataclasses.dataclass(frozen=True, kw_only=True)
class Swa(Averager):
    """Stochastic weight averaging: the mean of snapshots from the end of the warm-down.

    What: a snapshot every `every` steps while the schedule's scale is below `start_scale` and the progress
        at least `guard`; their mean, in float32 (a bfloat16 sum loses additions).
    Source: public records from 2026-03-20 on; guard: PR #488, because WarmdownClock can be below 1 at step 1.
    Cost: one more copy of the weights, one pass over them per snapshot.
    Not for: constant rates, where it collects nothing; a warm-up or WarmdownClock without a guard.
    Neutral: start_scale=0
    """

    every: int = setting(50, at_least=1)
    start_scale: float = setting(0.5, at_least=0.0, at_most=1.0)
    guard: float = setting(0.0, at_least=0.0, at_most=1.0)

    def update(self, state: Tensors, weights: Tensors, progress: Progress, lr_scale: float) -> Tensors:
        collects = lr_scale < self.start_scale and progress.fraction >= self.guard
        return add_snapshot(state, weights) if collects and progress.step % self.every == 0 else state

    def weights(self, state: Tensors, live: Tensors) -> Tensors:
        return snapshot_mean(state) or live


@dataclasses.dataclass(frozen=True, kw_only=True)
class TightSwa(Averager):
    """Stochastic weight averaging of the very last steps.

    What: Swa with a scale below 0.2: about the last 600 of the public steps, twelve snapshots.
    Source: PR #374; PR #543.
    Cost: as Swa.
    Not for: schedules that end above 0.2, where it collects nothing.
    Neutral: `every` above the number of steps.
    """

    every: int = setting(50, at_least=1)
    guard: float = setting(0.0, at_least=0.0, at_most=1.0)

    def update(self, state: Tensors, weights: Tensors, progress: Progress, lr_scale: float) -> Tensors:
        loose = Swa(every=self.every, start_scale=0.2, guard=self.guard)
        return loose.update(state, weights, progress, lr_scale)

    def weights(self, state: Tensors, live: Tensors) -> Tensors:
        return snapshot_mean(state) or live


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwaCount(Averager):
    """Stochastic weight averaging of a fixed number of snapshots and the final weights.

    What: snapshot k of n at the first step whose scale is at most 1 - k / (n + 1), at most one per step,
        none up to a progress of `guard`; then the mean of all of them and the final weights, in float32.
    Source: PR #488.
    Cost: one more copy of the weights, n + 1 passes over them.
    Not for: schedules that stay above n / (n + 1) until the end, where it collects nothing.
    Neutral: checkpoints=0
    """

    checkpoints: int = setting(7, at_least=0)
    guard: float = setting(0.5, at_least=0.0, at_most=1.0)

    def update(self, state: Tensors, weights: Tensors, progress: Progress, lr_scale: float) -> Tensors:
        k = 1 + (int(state[TAKEN]) if state else 0)
        due = k <= self.checkpoints and lr_scale <= 1.0 - k / (self.checkpoints + 1)
        return add_snapshot(state, weights) if due and progress.fraction > self.guard else state

    def weights(self, state: Tensors, live: Tensors) -> Tensors:
        if not state:
            return live
        mean = copy_weights(snapshot_mean(state))
        return move_towards(mean, live, 1.0 / (int(state[TAKEN]) + 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latest(Averager):
    """Latest weight averaging (LAWA): the mean of the last few snapshots.

    What: a snapshot every `every` steps; the mean of the last `snapshots` of them, in float32, whatever the
        schedule does.
    Source: Kaddour 2022; record 2026-03-23, where it is off.
    Cost: `snapshots` more copies of the weights in memory.
    Not for: large models; Swa needs one copy for any number of snapshots.
    Neutral: snapshots=1, every=1
    """

    snapshots: int = setting(10, at_least=1)
    every: int = setting(100, at_least=1)

    def update(self, state: Tensors, weights: Tensors, progress: Progress, lr_scale: float) -> Tensors:
        if progress.step % self.every:
            return state
        index = progress.step // self.every % self.snapshots
        return state | {f"{index}/{name}": tensor for name, tensor in copy_weights(weights).items()}

    def weights(self, state: Tensors, live: Tensors) -> Tensors:
        mean: Tensors = {}
        for index in sorted({key.partition("/")[0] for key in state}):
            mean = add_snapshot(mean, {name: state[f"{index}/{name}"] for name in live})
        return snapshot_mean(mean) or live


@dataclasses.dataclass(frozen=True, kw_only=True)
class Several(Averager):
    """Several averages of one training, one of which is shipped.

    What: all `averages` are kept at once. The one at index `shipped` is packed, or the last weights if it is
        -1. Averages do not change the training, so recipes that differ only in `shipped` train to equal
        weights, and a study trains them once.
    Source: PR #682, whose log has live and averaged weights of one training side by side.
    Cost: the memory and passes of each average.
    Not for: anything but comparing averages.
    Neutral: shipped=-1
    """

    averages: tuple[Averager, ...] = (Ema(),)
    shipped: int = setting(-1, at_least=-1)

    def validate(self) -> Iterator[str]:
        if self.shipped >= len(self.averages):
            yield f"shipped: must be below {len(self.averages)}, the averages there are, found {self.shipped}"

    def start(self, weights: Tensors) -> Tensors:
        return self._joined([each.start(weights) for each in self.averages])

    def update(self, state: Tensors, weights: Tensors, progress: Progress, lr_scale: float) -> Tensors:
        parts = [
            each.update(self._part(state, i), weights, progress, lr_scale)
            for i, each in enumerate(self.averages)
        ]
        return self._joined(parts)

    def weights(self, state: Tensors, live: Tensors) -> Tensors:
        if self.shipped < 0:
            return live
        return self.averages[self.shipped].weights(self._part(state, self.shipped), live)

    def training(self) -> Averager:
        return self.replace(shipped=-1)

    def _part(self, state: Tensors, index: int) -> Tensors:
        head = f"{index}:"
        return {name.removeprefix(head): t for name, t in state.items() if name.startswith(head)}

    def _joined(self, parts: list[Tensors]) -> Tensors:
        return {f"{index}:{name}": t for index, part in enumerate(parts) for name, t in part.items()}


def copy_weights(weights: Tensors) -> Tensors:
    """A copy of the weights in float32."""
    return {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in weights.items()}


def move_towards(state: Tensors, weights: Tensors, share: float) -> Tensors:
    """Move the averages in place by this share of their distance to the weights; equal ones stay."""
    live = [tensor.detach().float() for tensor in weights.values()]
    torch._foreach_lerp_([state[name] for name in weights], live, share)
    return state


def add_snapshot(state: Tensors, weights: Tensors) -> Tensors:
    """Add a snapshot to a running mean; the mean of equal snapshots is exact to the bit."""
    if not state:
        return copy_weights(weights) | {TAKEN: torch.ones((), dtype=torch.int64)}
    state[TAKEN] += 1
    return move_towards(state, weights, 1.0 / int(state[TAKEN]))


def snapshot_mean(state: Tensors) -> Tensors:
    """The mean in a state made by `add_snapshot`; empty if there was no snapshot."""
    return {name: tensor for name, tensor in state.items() if name != TAKEN}


def live_and_averaged(live: Tensors, averaged: Tensors) -> Tensors:
    """Live and averaged weights by these names; only live ones if nothing was averaged."""
    kept = {f"live/{name}": tensor for name, tensor in live.items()}
    return kept if averaged is live else kept | {f"averaged/{name}": t for name, t in averaged.items()}
