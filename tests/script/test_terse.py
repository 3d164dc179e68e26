"""The shortest text of a program means what it meant; names are short, function by function."""

import ast

import pytest

from bitgolf.script.rename import shorten_names
from bitgolf.script.source import PACKAGE_FOLDER
from bitgolf.script.terse import terse

ODD = '''
import a, b.c as d
from e import (f, g)
@deco
@other(1, 2)
def h(x, /, y: int = -1, *args, z=(1,), **kw) -> None:
    global q
    q = x = (y, z)
    a, b = (1, 2); (c,) = (3,)
    x[1:2, ::3] = lambda v, *w: (v, w)
    for i, (j, k) in [(1, (2, 3))]:
        if i: continue
        elif j: break
        else: pass
    else:
        del x[0], y
    while not x: x -= - 1
    try:
        raise ValueError('a') from None
    except (TypeError, ValueError) as error: print(error)
    except OSError: ...
    else: pass
    finally:
        with open('x') as file, open('y'): yield (file, 1)
    match x:
        case [1, *rest] if rest: return (rest, 1)
        case {'a': n, **more}: return
        case _: pass
    return f"{x!r:>{y}} {{a}} {'b' + 'c'} {1 .real}" + "if x : y" + b' a  b'.decode()
class K(L, metaclass=M):
    """doc"""
    n: int = 1 if 2 else 3
    async_ = not a or b and (c, d)
    def only(self): return self.n if self else 1 .bit_length(), -1 ** 2, [*a, *b], {**a, 'b': 1}
if __name__ == "__main__": h(1) if K else (yield_ := 2)
'''


@pytest.mark.parametrize("text", [ODD, "x = 1\n", "if a:\n    b\n    if c:\n        d\ne\n"])
def test_terse_text_parses_to_the_same_tree(text):
    tree = ast.parse(text)
    short = terse(tree)
    assert (
        ast.dump(ast.parse(short)) == ast.dump(ast.parse(text)) and len(short) <= len(ast.unparse(tree)) + 1
    )


def test_every_module_of_the_package_in_terse_form_is_itself():
    for path in sorted((PACKAGE_FOLDER / "net").glob("*.py")) + sorted(
        (PACKAGE_FOLDER / "squeeze").glob("*.py")
    ):
        tree = ast.parse(path.read_text())
        assert ast.dump(ast.parse(terse(tree))) == ast.dump(tree), path.name


SCOPES = """
FACTOR = 10
def scaled(value, factor=2):
    total = 0
    for item in value:
        total += item * factor * FACTOR
    def inner(item):
        nonlocal total
        total += item
        return [total for total in (item, FACTOR)]
    return inner(1), total, (lambda item, value=total: item + value)(5)
class Holder:
    value: int = 3
    def times(self, number):
        value = self.value * number
        names = [scaled for scaled in (value, number)]
        return scaled([value], factor=number), names
def caught(text):
    try:
        return int(text)
    except ValueError as error:
        return str(error)[:7]
RESULT = Holder().times(4), scaled((1, 2)), caught("x"), caught("3")
"""


def test_short_names_of_locals_change_nothing():
    tree = ast.parse(SCOPES)
    expected, found = {}, {}
    exec(compile(SCOPES, "a", "exec"), expected)
    shorten_names(tree, {"RESULT", "int", "str", "ValueError", "__name__"})
    text = terse(ast.fix_missing_locations(tree))
    exec(compile(text, "b", "exec"), found)
    assert found["RESULT"] == expected["RESULT"]
    for word in ("total", "item", "number", "names", "error", "text"):
        assert word not in text, text


def test_the_same_work_in_two_functions_is_written_in_the_same_letters():
    tree = ast.parse(
        "def one(left, right):\n    return left + right\ndef two(up, down):\n    return up + down\n"
    )
    shorten_names(tree, set())
    assert len({text.partition("(")[2] for text in terse(tree).splitlines()}) == 1
