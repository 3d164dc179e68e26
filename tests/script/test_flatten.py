"""One script from modules: what it holds, that it runs alone, and that it does the same as the package."""

import ast
import dataclasses
import functools
import random
import re
import textwrap
from typing import ClassVar

import numpy as np
import pytest
import torch

from bitgolf.base.plan import Plan
from bitgolf.base.tensors import write_tensors
from bitgolf.inputs.resolve import find_recipe
from bitgolf.recipes.baseline import baseline
from bitgolf.script.core import read_core
from bitgolf.script.flatten import (
    body_hash,
    code_lines,
    flatten,
    literal,
    pack_script,
    source_of,
    undefined_names,
)
from bitgolf.script.proofs import (
    COMPARED_COLUMNS,
    COMPARED_FILES,
    ScriptError,
    compare_runs,
    prove_scripts,
    run_alone,
)
from bitgolf.script.shrink import minify
from bitgolf.script.slim import slim_core
from bitgolf.script.source import SourceError
from bitgolf.squeeze.quantize import absmax_rows
from bitgolf.train.loop import Stage
from tests.test_behaviour import FACTORS, model_of
from tests.test_behaviour import optim as behaviour_optim

SMALL_CORE = {
    "shapes": '''
        """What can be drawn.

        A second line.
        """

        import abc
        import dataclasses
        import math
        from typing import Any, ClassVar

        try:
            import brotli
        except ImportError:
            brotli = None

        # Why this many sides.
        SIDES = 4  # a square
        UNUSED = 5


        class Base:
            """Settings."""

            def __init__(self, **fields: Any) -> None:
                self.__dict__.update(fields)


        class Shape(Base):
            """A slot."""

            @abc.abstractmethod
            def area(self) -> float:
                """How big."""


        class Circle(Shape):
            """Round."""

            def area(self) -> float:
                """How big."""
                return _circle_area(getattr(self, "radius", 1.0))


        class Box(Shape):
            """Square."""

            def area(self) -> float:
                """How big."""
                return float(SIDES)


        def _circle_area(radius: float) -> float:
            """Not for use elsewhere."""
            squared: float = radius * radius
            return math.pi * squared
    ''',
    "draw": '''
        """Drawing."""

        import math
        import sys

        from bitgolf.shapes import Shape


        # Says what it sees.
        def main(shape: "Shape") -> int:
            """The main of a script."""
            try:
                print(f"{shape.area():.3f}", *(name.upper() for name in sys.argv[1:]))
            except ValueError as error:
                print(error)
            return 0


        def never_called(value: float) -> float:
            """Falls out."""
            return math.tau * value
    ''',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape(Plan):
    abstract: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Circle(Shape):
    radius: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair(Plan):
    left: Shape = Circle()
    many: tuple[Shape, ...] = (Circle(),)
    note: str | None = None


def write_core(folder, sources):
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text).lstrip())
    return list(sources)


@pytest.fixture
def modules(tmp_path):
    return read_core(tmp_path, write_core(tmp_path, SMALL_CORE))


@pytest.fixture
def script(modules):
    return flatten(Circle(radius=2), modules=modules)


def test_only_what_is_used_is_kept_in_reading_order(script):
    names = [node.name for node in ast.parse(script).body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert names == ["settings", "Base", "Shape", "Circle", "_circle_area", "main"]
    assert "brotli" not in script
    assert "SIDES" not in script


def test_comments_docstrings_and_identity_are_in_the_script(script):
    assert "# Says what it sees.\ndef main" in script
    assert '"""Not for use elsewhere."""' in script
    assert "# A second line." in script
    assert Circle(radius=2).identity() in script
    assert body_hash(script) in script


def test_another_technique_brings_what_it_needs(modules):
    box = dataclasses.make_dataclass("Box", [], bases=(Shape,), frozen=True, kw_only=True)
    script = flatten(box(), modules=modules)
    assert "# Why this many sides.\nSIDES = 4  # a square" in script
    assert "_circle_area" not in script


def test_full_writes_every_setting(modules):
    assert "    return Circle()\n" in flatten(Circle(), modules=modules)
    assert "    return Circle(radius=1.0)\n" in flatten(Circle(), full=True, modules=modules)


def test_the_three_forms_run_alone_and_agree(script):
    results = [run_alone(form, ("abc", "d")) for form in (script, minify(script), pack_script(script))]
    assert [r.stdout for r in results] == ["12.566 ABC D\n"] * 3, results[-1].stderr
    assert len(pack_script(script)) < len(minify(script)) < len(script) / 2


def test_a_script_that_needs_the_package_is_found_out(script):
    result = run_alone(script.replace("import math", "import bitgolf\nimport math"))
    assert result.returncode != 0
    assert "not available here" in result.stderr


def test_a_missing_definition_is_found_without_running(script):
    assert undefined_names(script) == []
    broken = script.replace("def _circle_area", "def _renamed")
    assert undefined_names(broken) == ["_circle_area"]


def test_literals_evaluate_to_the_recipe_short_and_full():
    pair = Pair(many=(Circle(radius=0.1), Circle()), note="it's\n")
    for full in (False, True):
        assert eval(literal(pair, full=full)) == pair
    assert literal(pair) == 'Pair(many=(Circle(radius=0.1), Circle()), note="it\'s\\n")'
    assert "left=Circle(radius=1.0)" in literal(pair, full=True)
    wide = Pair(many=tuple(Circle(radius=n / 7) for n in range(20)))
    assert eval(literal(wide)) == wide
    alone = Pair(many=(Circle(radius=3.0),), note="n" * 90)  # one item that needs lines
    assert eval(literal((alone,))) == (alone,)
    assert max(map(len, literal(wide).splitlines())) < 100


def test_packed_bytes_survive_a_source_file():
    source = random.Random(0)
    for size in (0, 1, 2, 7, 50_000):
        data = source.randbytes(size) + b'\0001\0\0"""""\\\r\n\r"'
        text = f"#coding:L1\nresult = {source_of(data)}\n".encode("latin-1")
        for checkout in (text, text.replace(b"\n", b"\r\n")):
            scope: dict[str, bytes] = {}
            exec(compile(checkout, "script", "exec"), scope)
            assert scope["result"] == data
    assert len(source_of(source.randbytes(50_000))) < 1.03 * 50_000


def test_class_fields_keep_their_annotations_and_what_is_seen_its_name():
    small = minify(
        textwrap.dedent('''
            """Doc."""
            import dataclasses
            from typing import Any

            @dataclasses.dataclass
            class Plan:
                """Doc."""
                width: int = 3

                def scaled(self, factor: Any) -> int:
                    """Doc."""
                    intermediate: int = self.width * factor
                    return intermediate

            def calculate(settings: Any, number=2) -> int:
                text = getattr(settings, "width")
                return helper(settings.scaled(factor=number)) + text

            def helper(value):
                """Only this."""
                return value

            RECIPE = Plan()
            if __name__ == "__main__":
                print(calculate(RECIPE))
        ''')
    )
    assert "width:int" in small.replace(" ", "")
    assert re.search(r"def \w\(\w,\w\):", small) and "factor" not in small and "scaled" not in small
    assert "Any" not in small
    assert "Doc" not in small
    assert "calculate" not in small
    assert "intermediate" not in small
    scope = {"__name__": "x"}
    exec(small, scope)
    assert run_alone(small).stdout == "9\n"


BAD_LINES = {
    "from bitgolf.shapes import Shape as S": "core names keep one name",
    "import bitgolf.shapes": "imports a whole module",
    "from bitgolf import shapes": "imports a whole module",
    "from bitgolf.later import thing": "not before draw in READING_ORDER",
    "from bitgolf.shapes import Shepe": "defines no Shepe",
    "from .shapes import Shape": "relative import",
    "from bitgolf.shapes import *": "star import",
    "from __future__ import annotations": "future import",
    "def helper():\n    import os": "import inside a function",
    "class Circle: ...": "Circle already means something else at shapes.py:",
    "SIDES = 3": "SIDES already means something else",
    "from collections import Counter as math": "math already means something else",
    "from os import open": "hides the builtin",
    "print(1)": "'print(1)' at top level",
    "if 1:\n    X = 3": "'if 1:' at top level",
    "HERE = __file__": "__file__ means something else in a script",
    "Shape.size = 3": "at top level",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_core_that_cannot_be_one_file_is_refused_with_the_line(tmp_path, line):
    sources = {name: textwrap.dedent(text) for name, text in SMALL_CORE.items()}
    sources["draw"] += "\n" + line + "\n"
    with pytest.raises(SourceError) as caught:
        read_core(tmp_path, write_core(tmp_path, sources))
    assert BAD_LINES[line] in str(caught.value)
    assert all(fault.startswith("draw.py:") for fault in caught.value.faults)


def test_a_module_listed_but_absent_is_named(tmp_path):
    with pytest.raises(SourceError, match="absent.py: missing"):
        read_core(tmp_path, [*write_core(tmp_path, SMALL_CORE), "absent"])


def test_a_recipe_class_outside_core_is_refused(modules):
    with pytest.raises(SourceError, match="Pair is of tests.script.test_flatten; put it into the file"):
        flatten(Pair(), modules=modules)


METHODS = """
    '''Methods.'''

    import ast
    import dataclasses


    @dataclasses.dataclass
    class Plain:
        '''Only core calls it.'''

        size: int = 1

        @property
        def doubled(self) -> int:
            '''Called.'''
            return 2 * self.size

        # This comment goes too.
        @property
        def silent(self) -> int:
            '''Not called, and it alone uses `unused`.'''
            return unused(self.size)

        def by_text(self) -> int:
            '''Called by name.'''
            return 5

        def waking(self) -> int:
            '''Called by a class of a library's kind.'''
            return self.woken() + 1

        def woken(self) -> int:
            '''Called by nobody else.'''
            return 6


    class Visitor(ast.NodeVisitor):
        '''A library calls its methods.'''

        def visit_Name(self, node: ast.Name) -> None:
            '''Never mentioned.'''
            print(node.id, self.silent if self is None else "")

        def ask(self, plain: Plain) -> None:
            '''Wakes a method that calls another of its class.'''
            print(plain.waking())


    def unused(size: int) -> int:
        '''Falls out with its only user.'''
        return size


    def main(plain: Plain) -> int:
        '''The main.'''
        Visitor().visit(ast.parse("seen"))
        Visitor().ask(plain)
        print(Plain().doubled, getattr(plain, "by_text")())
        return 0
"""


def test_methods_nothing_mentions_are_cut_and_a_librarys_are_kept(tmp_path):
    plain = dataclasses.make_dataclass("Plain", [], bases=(Plan,), frozen=True, kw_only=True)
    script = flatten(plain(), modules=read_core(tmp_path, write_core(tmp_path, {"methods": METHODS})))
    assert "def silent" not in script
    assert "This comment goes too" not in script
    assert "def unused" not in script
    for form in (script, minify(script)):
        assert run_alone(form).stdout == "seen \n7\n2 5\n"


def test_lines_of_code_are_counted_without_prose():
    script = '"""A.\n\nB."""\n\n# c\nX = 1  # d\n\ndef f():\n    """E."""\n    return """\n#"""\n'
    assert code_lines(script) == 3


# ---- the real core ----


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from bitgolf.corpus.build import build_dataset
    from bitgolf.corpus.sources import source_from

    text = tmp_path_factory.mktemp("text")
    for i in range(20):
        (text / f"{i:02}.txt").write_text(f"document {i} says that {i * 7919} is a number. " * 20)
    folder = tmp_path_factory.mktemp("data") / "tiny"
    for _ in build_dataset(source_from(str(text)), folder, vocabulary_size=280):
        pass
    return folder


TINY = {
    "model.vocabulary_size": 280,
    "model.layers": 2,
    "model.width": 32,
    "model.heads": 4,
    "model.kv_heads": 2,
    "data.sequence_length": 32,
    "train.steps": 20,
    "train.train_seconds": 0.0,
    "train.batch_tokens": 256,
    "train.accumulation": 2,
    "backend.dtype": "float32",
    "backend.threads": 1,
}


def test_readable_and_packed_script_train_and_score_as_the_package_bit_for_bit(data):
    recipe = baseline().replace(TINY)
    script = flatten(recipe)
    wrong = script.replace("choice.seed).use(", "choice.seed + 1).use(")
    assert wrong != script
    with pytest.raises(ScriptError, match="wrong: its weights.safetensors is not the package's"):
        prove_scripts(recipe, data, {"readable": script, "packed": pack_script(script), "wrong": wrong})


# Level n of every factor, or its last: together these hold every technique.
BUNDLES = [
    {name: levels[min(n, len(levels) - 1)] for name, levels in FACTORS.items()}
    for n in range(max(map(len, FACTORS.values())))
]


@pytest.mark.parametrize(
    "number", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(len(BUNDLES)) if n != 2)]
)
def test_scripts_of_every_technique_train_and_score_as_the_package(data, number):
    level = BUNDLES[number]
    optim = behaviour_optim(level["muon"], level["schedule"], level["frozen"])
    recipe = (
        baseline()
        .replace(TINY)
        .replace(
            {
                "model": model_of(level, 280),
                "optim": optim,
                "average": level["average"],
                "noise": level["noise"],
                "quantize": absmax_rows(),
                "data.order": level["order"],
                "train.grad_clip_norm": level["grad_clip_norm"],
                "train.stages": (Stage(until=0.5, sequence_length=16),) if level["stages"] else (),
            }
        )
    )
    script = flatten(recipe)
    prove_scripts(recipe, data, {"readable": script, "packed": pack_script(script)})


def write_run(folder, *, changed=None):
    folder.mkdir(exist_ok=True)
    for file in COMPARED_FILES:
        (folder / file).write_bytes(b"else" if file == changed else b"same")
    columns = {name: np.full(3, 1 + (changed == "scores.npz")) for name in COMPARED_COLUMNS}
    np.savez(folder / "scores.npz", **columns)
    weight = torch.full((3,), 2.0 if changed == "weights.safetensors" else 1.0)
    write_tensors(folder / "weights.safetensors", {"a": weight, "b": torch.zeros(2)}, {"recipe": "r"})


def test_a_difference_in_any_compared_file_is_named(tmp_path):
    script, package = tmp_path / "script", tmp_path / "package"
    write_run(package)
    write_run(script)
    compare_runs(script, package)
    for file in COMPARED_FILES:
        write_run(script, changed=file)
        with pytest.raises(ScriptError, match=f"script: its {file} is not the package's"):
            compare_runs(script, package)


SIZES = {"baseline": (1_500, 15_000), "pr543": (2_600, 26_000), "demo": (3_000, 30_000)}


@functools.cache
def script_named(name):
    """The readable script of a recipe of ours, made once."""
    return flatten(find_recipe(name))


def test_an_end_in_tokens_is_one_in_steps_to_a_script(monkeypatch):
    monkeypatch.setattr("bitgolf.script.flatten.reach", lambda modules, roots: ((), ()))  # settings alone
    recipe, modules = baseline(), slim_core()
    by_steps = flatten(recipe.replace({"train.steps": 500}), modules=modules)
    by_tokens = flatten(recipe.replace({"train.tokens": 500 * 524_288 - 1}), modules=modules)
    assert "tokens=262143999" in by_tokens  # for readers, in the comment above the settings
    settings = 'def settings() -> "Recipe":'
    assert by_tokens.partition(settings)[2] == by_steps.partition(settings)[2] != ""


@pytest.mark.parametrize("name", SIZES)
def test_generated_scripts_stay_small(name):
    """Lines of code and packed bytes; what is counted is the packed form. The limits are fixed."""
    lines, size = SIZES[name]
    script = script_named(name)
    assert code_lines(script) < lines
    assert len(pack_script(script)) < size
