"""Learning-rate schedules, as functions of the progress of training."""

import dataclasses
import math
from typing import ClassVar

from bitgolf.base.plan import Plan, setting


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of training, by steps and by the clock; train_seconds 0 means no clock."""

    step: int
    steps: int
    seconds: float = 0.0
    train_seconds: float = 0.0

    @property
    def fraction(self) -> float:
        """0 at the start, 1 at the end; the larger of the shares of steps and of time."""
        by_clock = self.seconds / self.train_seconds if self.train_seconds > 0 else 0.0
        return max(self.step / self.steps if self.steps else 1.0, by_clock)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule(Plan):
    """The slot of the factor of all learning rates."""

    abstract: ClassVar[bool] = True

    def lr_scale(self, progress: Progress) -> float:
        """The factor for the next step."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """Constant rates.

    What: every learning rate stays as it is set.
    Source: the plainest case.
    Cost: no bytes, no seconds.
    Not for: final scores; a warm-down gains several hundredths of a bit.
    Neutral: always.
    """

    def lr_scale(self, progress: Progress) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmdownSteps(Schedule):
    """Linear warm-down over the last steps.

    What: 1 until `warmdown_steps` before the end, then linear towards 0; the public formula, which is 1
        again at and after the last step.
    Source: the public baseline with no clock set.
    Cost: no bytes, no seconds.
    Not for: runs that the clock ends: it never sees the clock.
    Neutral: warmdown_steps=0
    """

    warmdown_steps: int = setting(1200, at_least=0)

    def lr_scale(self, progress: Progress) -> float:
        start = max(progress.steps - self.warmdown_steps, 0)
        if self.warmdown_steps == 0 or not start <= progress.step < progress.steps:
            return 1.0
        return (progress.steps - progress.step) / self.warmdown_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmdownClock(Schedule):
    """Warm-down against the clock, as the public baseline has it, with its bug.

    What: linear in the seconds left, once they are fewer than `warmdown_steps` mean steps so far; by
        steps when no clock is set. The bug: that mean includes the slow first steps, so one of them
        starts the warm-down at once. After a first step of 30 s in 600 s, 1200 steps seem to need 36,000 s:
        the scale is 0.016, and 1 again only 70 steps of 0.05 s later. Where steps are so slow that
        `warmdown_steps` of them take longer than the clock allows, no step but the first has scale 1. To
        see it: `scale` in the metrics is below 1 from step 2 on.
    Source: the public baseline; the bug found in PR #488. Kept for comparison with the public scripts.
    Cost: no bytes, no seconds.
    Not for: new recipes: WarmdownFraction does not depend on step times. Swa needs a guard with it.
    Neutral: warmdown_steps=0
    """

    warmdown_steps: int = setting(1200, at_least=0)

    def lr_scale(self, progress: Progress) -> float:
        if self.warmdown_steps == 0:
            return 1.0
        if progress.train_seconds <= 0:
            return WarmdownSteps(warmdown_steps=self.warmdown_steps).lr_scale(progress)
        warmdown_seconds = self.warmdown_steps * progress.seconds / max(progress.step, 1)
        left = max(progress.train_seconds - progress.seconds, 0.0)
        return left / warmdown_seconds if left <= warmdown_seconds and warmdown_seconds > 0 else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmdownFraction(Schedule):
    """Linear warm-down over the last fraction of the training.

    What: 1 until 1 - `fraction` of the progress, then linear to 0 at the end, never below `minimum`.
    Source: public records from 2026-04-01 on; PR #488, floor from PR #1787.
    Cost: no bytes, no seconds.
    Not for: parity with the early records.
    Neutral: fraction=0
    """

    fraction: float = setting(0.5, at_least=0.0, at_most=1.0)
    minimum: float = setting(0.0, at_least=0.0, at_most=1.0)

    def lr_scale(self, progress: Progress) -> float:
        done = progress.fraction
        if self.fraction == 0.0 or done < 1.0 - self.fraction:
            return 1.0
        return max((1.0 - done) / self.fraction, self.minimum)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine over the whole training.

    What: from 1 at the start to `minimum` at the end of the progress.
    Source: Loshchilov and Hutter 2016; common practice outside the public challenge.
    Cost: no bytes, no seconds.
    Not for: trainings whose length is not known; only the end of a warm-down depends on it.
    Neutral: minimum=1
    """

    minimum: float = setting(0.0, at_least=0.0, at_most=1.0)

    def lr_scale(self, progress: Progress) -> float:
        remaining = 0.5 + 0.5 * math.cos(math.pi * min(progress.fraction, 1.0))
        return self.minimum + (1.0 - self.minimum) * remaining


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupThen(Schedule):
    """Linear warm-up in front of another schedule.

    What: `then`, multiplied by a line from 0 at the start to 1 at `fraction` of the progress.
    Source: common practice; the public scripts have no warm-up of the rates.
    Cost: no bytes, no seconds; the first step changes nothing but the moments of the optimizers.
    Not for: Swa without a guard, which takes the warm-up for a warm-down.
    Neutral: fraction=0
    """

    fraction: float = setting(0.02, at_least=0.0, at_most=1.0)
    then: Schedule = Constant()

    def lr_scale(self, progress: Progress) -> float:
        warm = min(progress.fraction / self.fraction, 1.0) if self.fraction > 0.0 else 1.0
        return warm * self.then.lr_scale(progress)


def momentum_at(step: int, start: float, final: float, warmup_steps: int) -> float:
    """Momentum that rises linearly from start to final over the first warmup_steps steps."""
    fraction = min(step / warmup_steps, 1.0) if warmup_steps > 0 else 1.0
    return (1.0 - fraction) * start + fraction * final
