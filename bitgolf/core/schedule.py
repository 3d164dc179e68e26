"""Rates as functions of how far the training is."""

import dataclasses
from typing import ClassVar

from bitgolf.core.plan import Plan, setting


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far the training is, by steps and by the clock; train_seconds 0 means that no clock is set."""

    step: int
    steps: int
    seconds: float = 0.0
    train_seconds: float = 0.0

    @property
    def fraction(self) -> float:
        """0 at the start; the training is over at 1, by whichever of steps and clock is further."""
        by_clock = self.seconds / self.train_seconds if self.train_seconds > 0 else 0.0
        return max(self.step / self.steps, by_clock)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule(Plan):
    """The slot of what multiplies every learning rate."""

    abstract: ClassVar[bool] = True

    def scale(self, progress: Progress) -> float:
        """The multiplier for the step about to be taken."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """Constant rates.

    What: every learning rate stays as it is set.
    Source: the plainest case.
    Cost: no bytes, no seconds.
    Not for: final scores; a warm-down is worth several hundredths of a bit.
    Neutral: always.
    """

    def scale(self, progress: Progress) -> float:
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

    def scale(self, progress: Progress) -> float:
        start = max(progress.steps - self.warmdown_steps, 0)
        if self.warmdown_steps == 0 or not start <= progress.step < progress.steps:
            return 1.0
        return (progress.steps - progress.step) / self.warmdown_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmdownClock(Schedule):
    """Warm-down against the clock, as the public baseline has it.

    What: linear in the seconds left, once they are fewer than `warmdown_steps` mean steps so far; by
        steps when no clock is set.
    Source: the public baseline. The mean includes slow first steps, so that one late compilation starts the
        warm-down at once; kept for parity.
    Cost: no bytes, no seconds.
    Not for: new recipes; WarmdownFraction does not depend on step times.
    Neutral: warmdown_steps=0
    """

    warmdown_steps: int = setting(1200, at_least=0)

    def scale(self, progress: Progress) -> float:
        if self.warmdown_steps == 0:
            return 1.0
        if progress.train_seconds <= 0:
            return WarmdownSteps(warmdown_steps=self.warmdown_steps).scale(progress)
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

    def scale(self, progress: Progress) -> float:
        done = progress.fraction
        if self.fraction == 0.0 or done < 1.0 - self.fraction:
            return 1.0
        return max((1.0 - done) / self.fraction, self.minimum)


def momentum_at(step: int, start: float, final: float, warmup_steps: int) -> float:
    """Momentum rising linearly from start to final over the first warmup_steps steps."""
    fraction = min(step / warmup_steps, 1.0) if warmup_steps > 0 else 1.0
    return (1.0 - fraction) * start + fraction * final
