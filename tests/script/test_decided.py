"""Branches that a recipe has decided, and those that only a run decides."""

import dataclasses
import textwrap

import pytest

from bitgolf.base.plan import Plan
from bitgolf.script.decided import decided
from bitgolf.script.source import read_module


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner(Plan):
    rate: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known(Plan):
    steps: int = 0
    moved: int = 0
    copied: bool = False
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Twice(Plan):
    steps: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made(Plan):
    steps: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Default(Plan):
    steps: int = 0


PLANS = (Known(), Inner(), Twice(steps=0), Twice(steps=1), Made(), Default(steps=1))
ELSEWHERE = """

def elsewhere(plan):
    return plan.replace(moved=1, copied=False), Made(steps=3), Default(), plan == Known()


class Owner:
    plan: Known

    def __init__(self, twice: Twice, held: "Known") -> None:
        self.twice = twice
        self.held = held


class Absent(Plan):
    pass
"""
DECIDED = {
    "if plan.steps:\n    x = 1": "",
    "if plan.steps == 0:\n    x = 1": "x = 1",
    "if not plan.steps:\n    x = 1\nelse:\n    x = 2": "x = 1",
    "if plan.steps > 0:\n    x = 1\nelse:\n    x = 2": "x = 2",
    "if x and plan.steps:\n    x = 1": "",
    "if plan.inner.rate < 1:\n    x = 1": "x = 1",
    "if x or plan.steps == 0:\n    x = 1": "x = 1",
    "if plan.steps or plan.inner.rate > 1:\n    x = 1": "",
    "if plan == Known():\n    x = 1": "x = 1",
    "if plan.inner == Absent():\n    x = 1": "",
    "if owner.plan.steps:\n    x = 1": "",
    "if owner.held.steps:\n    x = 1": "",
    "other = owner.plan\nif other.steps:\n    x = 1": "other = owner.plan",
    "other, y = owner.plan, x\nif other.steps:\n    x = 1": "other, y = owner.plan, x",
    "for part in plan.parts:\n    x = part": "",
    "x = 1 if plan.steps else x + 2": "x = (x + 2)",
    "x = f(\n    1 if plan.steps else y,\n    3,\n)": "x = f(\n    y,\n    3,\n)",
    "if x:\n    x = 1\nelif plan.steps:\n    x = 2": "if x:\n    x = 1",
    "if x:\n    x = 1\nelif plan.steps:\n    x = 2\nelse:\n    x = 3": "if x:\n    x = 1\nelse:\n    x = 3",
    "if plan.copied:\n    x = 1": "",  # copies have it as it is
    "x = '\u00e9' + (1 if plan.steps else y)": "x = '\u00e9' + (y)",
}
OPEN = (
    "if plan.moved:\n    x = 1",  # changed by somebody
    "if twice.steps:\n    x = 1",  # two values
    "if made.steps:\n    x = 1",  # made by somebody
    "if x:\n    x = 1",
    "if x or plan.steps:\n    x = 1",
    "if other.steps:\n    x = 1",
    "if plan.unknown:\n    x = 1",
    "if x:\n    x = 1\nelif plan.steps == 0:\n    x = 2",
    "if default.steps:\n    x = 1",  # made by somebody, as it is without settings
    "if owner.twice.steps:\n    x = 1",
    "other = owner.plan\nother = x\nif other.steps:\n    x = 1",
    "for part in x.parts:\n    x = part",
    "x = 1 if x else 2",
)


def work(body: str) -> str:
    head = "def work(plan: Known, twice: Twice, made: Made, default: Default, owner: Owner, x, y):\n"
    return head + textwrap.indent(body + "\nreturn x" if body else "return x", "    ")


def after(text: str) -> str:
    (module,) = decided([read_module(text + ELSEWHERE, "some")], PLANS)
    return module.definitions[0].text


@pytest.mark.parametrize("body", DECIDED)
def test_a_branch_that_the_recipe_decides_is_decided(body):
    assert after(work(body)) == work(DECIDED[body])


@pytest.mark.parametrize("body", OPEN)
def test_a_branch_that_a_run_decides_stays(body):
    assert after(work(body)) == work(body)


def test_nothing_stays_after_a_return_that_is_always_reached():
    text = work("if plan.steps == 0:\n    return 5\nx = x + 1")
    assert after(text).endswith(":\n    return 5")


def test_nothing_stays_after_the_return_of_a_function_in_a_function():
    text = work("def inner():\n    if plan.steps == 0:\n        return 5\n    return x\nx = inner()")
    assert after(text) == work("def inner():\n    return 5\nx = inner()")


def test_a_parameter_that_is_another_value_later_is_not_known():
    body = "plan = x\nif plan.steps:\n    x = 1"
    assert after(work(body)) == work(body)
