"""A study as a value: a question, a baseline, arms that each change one thing, and rules fixed beforehand."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, ClassVar

import numpy as np

from bitgolf.base.errors import PlanError, displayed, nearest
from bitgolf.base.files import NAME_RULE, is_plain_name
from bitgolf.base.plan import Plan, diff, setting
from bitgolf.recipe import Recipe
from bitgolf.study.terms import BASELINE, IN_BITS, METRICS, TESTS

UNITS = ("metric", "nats per byte", "nats per token")
Changes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Margin(Plan):
    """A size of effect with its unit. `metric` is the metric's own; nats are turned into bits per byte.

    The public challenge's "0.005 nats" was read as bits per byte, as nats per byte and as nats per token.
    """

    value: float = setting(0.0, at_least=0.0)
    unit: str = setting("metric", one_of=UNITS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop(Plan):
    """The slot of the rule by which an arm may end before its last seed."""

    abstract: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllSeeds(Stop):
    """Every arm gets every seed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropLosers(Stop):
    """An arm ends once it is worse than its reference beyond doubt (Haybittle-Peto: p below 0.001, one side).

    Only losing ends an arm, so no winner is chosen by when it was looked at.
    """

    after_seeds: int = setting(3, at_least=3)
    p: float = setting(0.001, above=0.0, at_most=0.005)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm(Plan):
    """One change, and the arm that it is compared with; several changes at once must say why in `bundle`.

    levels: of a factorial study, where this arm stands in each factor; such cells are compared by effects.
    """

    name: str = "arm"
    recipe: Recipe = Recipe()
    against: str = BASELINE
    bundle: str = ""
    levels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factor(Plan):
    """A factor of a factorial study; the baseline has the first level of each."""

    name: str = "factor"
    levels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell(Plan):
    """One cell of the table of whoever did it first: which arm and metric it is here, and what was published.

    published: in the metric's unit; None where nothing was.
    """

    row: str = "row"
    column: str = "column"
    arm: str = BASELINE
    metric: str = setting("bits_per_byte", one_of=tuple(METRICS))
    published: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(Plan):
    """What is asked and how it will be decided, all of it said before the first run.

    seeds: of the initial weights, named in advance. margin: what an effect must exceed to be called better or
    worse. equivalent_within: what it must stay within to be called equivalent; 0 calls nothing so.
    paired tests compare seed by seed, where the measured correlation supports that; else Welch's is used.
    holm: no false claim in the whole table with probability 1 - alpha; benjamini-hochberg: a share alpha of
    false ones among the claims, for screens. threads, processes: of one run; results depend on the former.
    original: the table of those who did it first, shown with their figures and ours in each cell.
    """

    name: str = "study"
    question: str = ""
    baseline: Recipe = Recipe()
    arms: tuple[Arm, ...] = ()
    factors: tuple[Factor, ...] = ()
    seeds: tuple[int, ...] = (1, 2, 3)
    data: str = "sotu"
    metric: str = setting("bits_per_byte", one_of=tuple(METRICS))
    margin: Margin = Margin()
    equivalent_within: Margin = Margin()
    alpha: float = setting(0.05, above=0.0, at_most=0.5)
    test: str = setting("welch", one_of=TESTS)
    correction: str = setting("holm", one_of=("holm", "benjamini-hochberg"))
    stop: Stop = AllSeeds()
    threads: int = setting(1, at_least=0)
    processes: int = setting(1, at_least=1)
    original: tuple[Cell, ...] = ()
    reading: str = ""

    def validate(self) -> Iterator[str]:
        yield from self._name_problems()
        yield from self._arm_problems()
        yield from self._factor_problems()
        yield from self._power_problems()
        yield from (
            f"original: {cell.row!r}, {cell.column!r} is of arm {cell.arm!r}; {nearest(cell.arm, self.names)}"
            for cell in self.original
            if cell.arm not in self.names
        )
        for field in ("margin", "equivalent_within"):
            if getattr(self, field).unit != "metric" and self.metric not in IN_BITS:
                yield f"{field}: nats say nothing about {self.metric}; use unit='metric'"

    def _name_problems(self) -> Iterator[str]:
        if not is_plain_name(self.name):  # it becomes the name of a folder
            yield f"name: {NAME_RULE}, found {displayed(self.name)}"
        yield from (f"arms: two are called {name!r}" for name, n in Counter(self.names).items() if n > 1)
        yield from (f"seeds: {seed} is there twice" for seed, n in Counter(self.seeds).items() if n > 1)
        if not self.arms:
            yield "arms: nothing to compare; make some with add_one, leave_one_out, ladder or factorial"

    def _arm_problems(self) -> Iterator[str]:
        recipes = {BASELINE: self.baseline} | {arm.name: arm.recipe for arm in self.arms}
        for arm in self.arms:
            where = f"arms: {arm.name!r}"
            if arm.against not in recipes or arm.against == arm.name:
                others = [name for name in recipes if name != arm.name]
                yield f"{where} is against {arm.against!r}; {nearest(arm.against, others)}"
                continue
            paths = changed_paths(recipes[arm.against], arm.recipe)
            if not paths:
                yield f"{where} is the same recipe as {arm.against!r}"
            elif len(paths) > 1 and not arm.bundle and not self._crossed(arm):
                yield (
                    f"{where} changes {len(paths)} things at once, {', '.join(paths)}; make it several arms, "
                    "or say in `bundle` why they belong together"
                )

    def _crossed(self, arm: Arm) -> bool:
        """Whether an arm is a cell that moves in more than one factor: its parts are judged on their own."""
        firsts = [factor.levels[0] for factor in self.factors if factor.levels]
        return sum(level != first for level, first in zip(arm.levels, firsts)) > 1

    def _factor_problems(self) -> Iterator[str]:
        for factor in self.factors:
            if len(factor.levels) < 2 or len(set(factor.levels)) < len(factor.levels):
                yield f"factors: {factor.name!r} needs two or more different levels, found {factor.levels}"
                return
        cells = Counter(arm.levels for arm in self.arms if arm.levels)
        wanted = {*product(*(factor.levels for factor in self.factors))} if self.factors else set()
        wanted -= {tuple(factor.levels[0] for factor in self.factors)}
        yield from (f"factors: the cell {cell} has no arm" for cell in sorted(wanted - set(cells)))
        yield from (f"factors: no such cell {cell}" for cell in sorted(set(cells) - wanted))
        yield from (f"factors: the cell {cell} has {n} arms" for cell, n in cells.items() if n > 1)

    def _power_problems(self) -> Iterator[str]:
        n = len(self.seeds)
        if n < 2:
            yield f"seeds: one run shows no noise; name at least two, found {n}"
        elif self.test == "sign-flip" and self.arms and not self.factors:
            least, needed = 2 / 2**n, self.alpha / self.comparisons_at_most
            if least > needed:
                enough = int(np.ceil(1 - np.log2(needed)))
                yield (
                    f"test: {n} seeds flip in {2**n} ways, so no p is below {least:.3g}, and {needed:.3g} is "
                    f"needed for {self.comparisons_at_most} comparisons; name {enough} seeds, or use paired"
                )

    @property
    def comparisons_at_most(self) -> int:
        """How many comparisons the table will hold."""
        cells = int(np.prod([len(factor.levels) for factor in self.factors])) - 1 if self.factors else 0
        return cells + sum(not arm.levels for arm in self.arms)

    @property
    def names(self) -> tuple[str, ...]:
        """The arms, the baseline first."""
        return (BASELINE, *(arm.name for arm in self.arms))

    def recipes(self) -> dict[str, Recipe]:
        """What each arm runs, the baseline first: one name and one number of threads for all."""
        named = dict(zip(self.names, (self.baseline, *(arm.recipe for arm in self.arms))))
        fixed = {"name": self.baseline.name, "backend.threads": self.threads}
        return {name: recipe.replace(fixed) for name, recipe in named.items()}


def changed_paths(left: Recipe, right: Recipe) -> list[str]:
    """Where two recipes differ, their names aside."""
    return [path for path, _, _ in diff(left, right) if path != "name"]


def changed(recipe: Recipe, name: str, changes: Changes, *, against: str = BASELINE, bundle: str = "") -> Arm:
    """An arm: the recipe with changes, `{"average": Ema()}`. bundle: why, if they are more than one."""
    try:
        return Arm(name=name, recipe=recipe.replace(changes), against=against, bundle=bundle)
    except PlanError as error:
        raise PlanError(f"arm {name!r}: {problem}" for problem in error.problems) from None


def add_one(baseline: Recipe, changes: Mapping[str, Changes]) -> tuple[Arm, ...]:
    """One arm for each change, each against the baseline."""
    return tuple(changed(baseline, name, change) for name, change in changes.items())


def leave_one_out(whole: Recipe, changes: Mapping[str, Changes]) -> tuple[Arm, ...]:
    """One arm for each part of a whole, without it; the baseline of the study is the whole."""
    return tuple(changed(whole, f"without {name}", change) for name, change in changes.items())


def ladder(baseline: Recipe, changes: Mapping[str, Changes]) -> tuple[Arm, ...]:
    """Each change on top of those before it, and against the arm before it."""
    arms: list[Arm] = []
    for name, change in changes.items():
        below = arms[-1] if arms else Arm(name=BASELINE, recipe=baseline)
        arms.append(changed(below.recipe, f"+ {name}", change, against=below.name))
    return tuple(arms)


def factorial(
    baseline: Recipe, factors: Mapping[str, Mapping[str, Changes]]
) -> tuple[tuple[Arm, ...], tuple[Factor, ...]]:
    """The arms and factors of all combinations: `{"depth": {"9": {}, "11": {"model.layers": 11}}, ...}`.

    The first level of each factor is the baseline's, without changes.
    """
    named = tuple(Factor(name=name, levels=tuple(levels)) for name, levels in factors.items())
    arms = []
    for cell in product(*(factor.levels for factor in named)):
        overrides: dict[str, Any] = {}
        for factor, level in zip(named, cell):
            overrides |= factors[factor.name][level]
        if overrides:
            name = ", ".join(f"{factor.name} {level}" for factor, level in zip(named, cell))
            arms.append(dataclasses.replace(changed(baseline, name, overrides), levels=cell))
    return tuple(arms), named
