"""What a script says fits what it has, and nothing that only specialising left stays in it."""

import textwrap

import pytest

from bitgolf.audit.audit import audit
from bitgolf.audit.rules import rules_named
from bitgolf.inputs.resolve import find_recipe
from bitgolf.recipes import recipe_names
from bitgolf.script.counted import script_of
from bitgolf.script.flatten import code_lines
from bitgolf.script.leftovers import without_leftovers
from bitgolf.script.source import read_module
from bitgolf.script.tidy import about, double_quoted, joined, tidied, without_brackets, words_of
from tests.script.test_flatten import SIZES, script_named
from tests.script.test_specialised import module, texts


def test_text_about_what_is_gone_goes():
    source = module('''
        class Clip(Plan):
            """Rounds weights.

            What: the ends are cut at `share`. With `gone_too` they are not. level (in bits): none.
            Source: a paper
            Cost: nothing,
                or little
            Not for: vectors
            Neutral: share=1

            share: of the weights, 0 to 1. gone: another one, which
                takes two lines. other, share: both.

            Raises PlanError where it is none.
            """

            share: float = 1.0

            def apply(self, x):
                """x, rounded. Raises PlanError where it is none. Raises ValueError too."""
                return x * self.share
    ''')
    assert texts(tidied([source])) == textwrap.dedent('''
        class Clip(Plan):
            """Rounds weights.

            What: the ends are cut at `share`.
            Source: a paper

            share: of the weights, 0 to 1. other, share: both.
            """

            share: float = 1.0

            def apply(self, x):
                """x, rounded. Raises ValueError too."""
                return x * self.share
    ''').strip()  # fmt: skip


def test_a_section_of_constants_has_one_line():
    text = '"""What it is.\n\nHow `size` is kept. How `other` is.\n"""\n\nSIZE = 3\n'
    constants = read_module(text, "a")
    assert about(constants, words_of([constants])) == ["What it is."]
    functions = read_module(text + "\n\ndef size():\n    return SIZE\n", "a")
    assert about(functions, words_of([functions])) == ["What it is.", "", "How `size` is kept."]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("return (f)(x)", "return f(x)"),
        ("return (-x)", "return -x"),
        ("a, b = (x, y)", "a, b = x, y"),
        ("y = x[:, (None) :]", "y = x[:, None :]"),
        ("if (x == 1):\n        pass", "if x == 1:\n        pass"),
        ("y = f((x if x else 1), 2)", "y = f(x if x else 1, 2)"),
    ],
)
def test_brackets_that_mean_nothing_go(before, after):
    assert without_brackets(f"def main(f, x, y):\n    {before}") == f"def main(f, x, y):\n    {after}"


@pytest.mark.parametrize(
    "text",
    [
        "y = (x + 1) * 2",
        "y = f((x, 1))",
        "y = (x for x in y)",
        "y = x, (x, 1)",
        "POINT = (1.0, 2.0)",
        "y = '(x)'",
    ],
)
def test_brackets_that_mean_something_stay(text):
    assert without_brackets(text) == text


def test_brackets_stand_on_one_line_where_that_fits():
    assert joined("f(\n    a,\n    g(\n        b\n    )\n)") == "f(a, g(b))"
    for text in (
        "f(\n    a,\n    b,\n)",
        "f(\n    a,  # why\n    b\n)",
        "f(\n    a, '''\n'''\n)",
        f"f(\n    {'a' * 110}\n)",
    ):
        assert joined(text) == text


def test_texts_have_the_same_quotes():
    assert double_quoted("a = ['b', '', \"c\", 'it\"s', '\\n']  # 'd'\n") == (
        'a = ["b", "", "c", \'it"s\', \'\\n\']  # \'d\'\n'
    )


def test_attributes_that_nobody_reads_and_second_names_go():
    source = module("""
        class Layer(nn.Module):
            def __init__(self, width: int, number: int, inner, shared: int):
                super().__init__()
                self.width, self.number = width, number
                self.inner = inner
                self.rows = ()
                self.shared = shared

            def forward(self, x):
                second = x
                return second * self.width + second

        def main(layer, rows):
            return layer.shared, rows.values(), rows.rows(3)
    """)
    changed = texts(without_leftovers([source]))
    assert "self.width = width\n" in changed and "number\n" not in changed and "self.rows" not in changed
    assert "self.inner = inner" in changed  # a module is registered by it
    assert "self.shared = shared" in changed and "return x * self.width + x" in changed


@pytest.mark.parametrize(
    "body",
    [
        "second = x\n    x = 2\n    return second + x",
        "second = x\n    second += 1\n    return second",
        "for x in rows:\n        second = x\n    return second",
        "second = x\n    return [second for x in rows]",
        "second = x\n    return lambda x: second",
    ],
)
def test_a_second_name_stays_where_the_first_may_be_another_value(body):
    source = module(f"def main(x, rows):\n    {body}\n")
    assert texts(without_leftovers([source])) == texts([source])


@pytest.mark.parametrize("name", SIZES)
def test_scripts_speak_of_what_they_have(name):
    script = script_named(name)
    assert "type: ignore" not in script and "Neutral:" not in script and "\n\n\n\n" not in script
    assert "PlanError" not in script and "BitgolfError" not in script
    assert code_lines(script) < SIZES[name][0]


RECIPES = [
    pytest.param(name, marks=[] if name == "baseline" else [pytest.mark.slow]) for name in recipe_names()
]


@pytest.mark.parametrize("name", RECIPES)
def test_scripts_audit_without_a_finding(name, tmp_path):
    (tmp_path / "train_gpt.py").write_text(script_named(name))
    assert audit(tmp_path / "train_gpt.py", rules_named("final")).real == []


@pytest.mark.parametrize("name", RECIPES)
def test_a_script_audits_as_well_when_it_is_packed(name, tmp_path):
    """Without its annotations, and with a packer's names."""
    (tmp_path / "train_gpt.py").write_bytes(script_of(find_recipe(name)))
    assert audit(tmp_path / "train_gpt.py", rules_named("final")).verdict == "clean"
