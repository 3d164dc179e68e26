"""Defaults that a recipe always writes over go from its script."""

import dataclasses
import textwrap

import pytest

from bitgolf.base.plan import Plan
from bitgolf.script.source import read_module
from bitgolf.script.written import without_defaults


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(Plan):
    size: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole(Plan):
    part: Plain = Plain()


WRITTEN = """
    class Plain(Plan):
        size: int = 1

    class Whole(Plan):
        part: Plain = Plain()

    def main(whole: Whole) -> Whole:
        return LINE
"""


@pytest.mark.parametrize(
    ("line", "plan", "goes"),
    [
        ("whole.part.size", Whole(part=Plain(size=2)), True),
        ("isinstance(whole, Whole)", Whole(part=Plain(size=2)), True),
        ("Whole(part=whole.part)", Whole(part=Plain(size=2)), True),
        ("whole.part.size", Whole(), False),  # a recipe leaves it out
        ("whole.part.size, Whole()", Whole(part=Plain(size=2)), False),  # a function does
        ("map(Whole, whole)", Whole(part=Plain(size=2)), False),  # may do
        ("whole.replace(part=whole)", Whole(part=Plain(size=2)), False),  # an artifact may leave it out
    ],
)
def test_a_default_goes_that_nothing_takes(line, plan, goes):
    text = textwrap.dedent(WRITTEN).lstrip().replace("LINE", line)
    (changed,) = without_defaults([read_module(text, "one")], [plan, plan.part])
    assert any(d.text.endswith("part: Plain") for d in changed.definitions) == goes
