"""Names of a packed script: what nothing outside sees is short, and the script still does the same."""

import ast
import sys
import textwrap

import pytest

from bitgolf.script.shrink import minify

HEAD = """
    import ast
    import dataclasses
    import json
    from typing import Any, ClassVar, NamedTuple

    import torch
    from torch import nn


    @dataclasses.dataclass
    class Settings:
        interval_length: int = 3
        rate_0: float = 0.5
        called_by_text: int = 7

        def doubled_length(self) -> int:
            return 2 * self.interval_length

        def format(self) -> str:
            return "ours"


    class Point(NamedTuple):
        horizontal: int
        vertical: int


    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first_matrix = nn.Linear(2, 3, bias=False)

        def transformed(self, stream: Any) -> Any:
            return self.first_matrix(stream)

        def forward(self, stream: Any) -> Any:
            return self.transformed(stream=stream)


    class Descent(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"rate": 0.5})

        def step(self) -> int:
            self._count(self.param_groups[0]["params"][0])
            return len(self.state)

        def _count(self, parameter: Any) -> None:
            self.state[parameter]["seen"] = 1


    @dataclasses.dataclass
    class Format:
        separators: int = 0


    class Loop:
        state: int = 0

        def __init__(self) -> None:
            self.writer = json.dumps

        def scanstring(self) -> str:
            return "ours"

        def neg(self) -> int:
            return 0

        def param_groups(self) -> int:
            return self.state


    class Visitor(ast.NodeVisitor):
        def visit_Name(self, node: ast.Name) -> None:
            print(node.id)


    def report(settings: Settings, point: Point) -> None:
        BODY


    if __name__ == "__main__":
        report(Settings(interval_length=4), point=Point(horizontal=1, vertical=2))
"""
BODIES = {
    "a property of ours": ("print(settings.doubled_length())", "8\n"),
    "a copy with changes": ("print(dataclasses.replace(settings, interval_length=9).interval_length)", "9\n"),
    "a tuple's copy": ("print(point._replace(horizontal=5).horizontal)", "5\n"),
    "a name that a text gives": ("print(getattr(settings, 'called_by_text'))", "7\n"),
    "a name put together": ("print(getattr(settings, f'rate_{0}'))", "0.5\n"),
    "fields asked for": ("print(point._asdict())", "{'horizontal': 1, 'vertical': 2}\n"),
    "fields of a data class": (
        "print([f.name for f in dataclasses.fields(settings)])",
        "['interval_length', 'rate_0', 'called_by_text']\n",
    ),
    "attributes asked for": ("print(vars(settings)['interval_length'])", "4\n"),
    "names of tensors": ("print(list(Network().state_dict()))", "['first_matrix.weight']\n"),
    "a method that torch calls": ("print(Network()(torch.zeros(1, 2)).shape)", "torch.Size([1, 3])\n"),
    "an attribute that a library sets": ("print(Descent([torch.zeros(1)]).step(), Loop().state)", "1 0\n"),
    "an option": (
        "import argparse\nparser = argparse.ArgumentParser()\n"
        "parser.add_argument('--interval-length', default=6)\nprint(parser.parse_args().interval_length)",
        "6\n",
    ),
    "a part of a library": (
        "library = json\nprint(library.decoder.scanstring('ab\"', 0)[0], Loop().scanstring())",
        "ab ours\n",
    ),
    "a path into a library": ("print(torch.ops.aten.neg(torch.ones(1)), Loop().neg())", "tensor([-1.]) 0\n"),
    "a library's function kept as an attribute": (
        "print(Loop().writer([1, 2], separators=(',', ':')), Format(separators=3).separators)",
        "[1,2] 3\n",
    ),
    "methods that a library looks for": ("Visitor().visit(ast.parse('seen'))", "seen\n"),
    "a keyword of a library": ("print(json.dumps([1, 2], separators=(',', ':'), indent=None))", "[1,2]\n"),
    "a library's method of a name of ours": ("print(settings.format(), '{}'.format(1))", "ours 1\n"),
    "a pattern": (
        "match settings:\n    case Settings(interval_length=length):\n        print(length)",
        "4\n",
    ),
    "a text of the same spelling": (
        "print('interval_length', settings.interval_length)",
        "interval_length 4\n",
    ),
}


def script(body: str) -> str:
    return textwrap.dedent(HEAD).replace("BODY", textwrap.indent(textwrap.dedent(body), "    ").lstrip())


@pytest.mark.parametrize("case", BODIES)
def test_a_short_script_does_the_same(case, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script"])
    body, printed = BODIES[case]
    text = script(body)
    for form in (text, minify(text)):
        exec(compile(form, "script", "exec"), {"__name__": "__main__"})
        assert capsys.readouterr().out == printed


def names_in(text: str) -> set[str]:
    tree = ast.walk(ast.parse(text))
    return {getattr(i, "attr", None) or getattr(i, "id", None) or getattr(i, "name", "") for i in tree}


def test_names_of_ours_become_short_wherever_they_stand():
    small = names_in(
        minify(script("print(settings.doubled_length(), point.vertical, Network().transformed)"))
    )
    gone = {"Settings", "interval_length", "doubled_length", "Point", "vertical", "transformed", "Network"}
    assert not gone & small
    assert {"forward", "first_matrix", "dataclasses"} <= small


ARTIFACT = """
    class Plan:
        pass

    class Layout(Plan):
        rows: int = 1

    class Wide(Layout):
        columns_first: int = 2

    class Grid(Plan):
        granularity: Layout = Layout()

    class Elsewhere(Plan):
        never_shipped: int = 3

    if __name__ == "__main__":
        print(type(Grid().granularity).__name__, Wide().columns_first, Elsewhere().never_shipped)
"""


def test_settings_that_an_artifact_spells_out_keep_their_names():
    small = names_in(minify(textwrap.dedent(ARTIFACT)))
    assert {"Grid", "granularity", "Layout", "rows", "Wide", "columns_first"} <= small
    assert not {"Elsewhere", "never_shipped"} & small
