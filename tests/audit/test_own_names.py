"""Names of one or two letters, as a packer makes them: each function has its own."""

import ast

import pytest

from bitgolf.audit.audit import audit
from bitgolf.audit.own_names import as_written, set_apart
from bitgolf.audit.rules import rules_named

PACKED = """
import io, zlib, torch
def t(m, d):
 {optimizer} = torch.optim.Adam(m.parameters())
 for b in d:
  {optimizer}.zero_grad(); m(b).sum().backward(); {optimizer}.step()
 return {given}
def p(a):
 b = io.BytesIO(); torch.save(a.state_dict(), b)
 return zlib.compress(b.getvalue())
"""


def codes(text: str, path) -> set[str]:
    path.write_text(text)
    return {finding.code for finding in audit(path, rules_named()).findings if finding.sure != "cannot tell"}


@pytest.mark.parametrize("optimizer", ["a", "aB", "o"])
def test_a_model_is_no_optimizer_because_a_packer_gave_both_one_name(optimizer, tmp_path):
    assert "K06" not in codes(PACKED.format(optimizer=optimizer, given="m"), tmp_path / "s.py")


def test_own_names_are_those_of_the_outermost_function():
    tree = ast.parse(
        "x = 1\ndef f(a, *, k):\n b = a\n def g(c):\n  nonlocal b\n  b = c + k + x\n return g\nf(1, k=2)"
    )
    set_apart(tree)
    text = ast.unparse(tree)
    assert "bˑ0 = aˑ0" in text and "nonlocal bˑ0" in text and "cˑ0 + k + x" in text and "f(1, k=2)" in text
    assert as_written(text) == ast.unparse(ast.parse(as_written(text)))
    compile(text, "told apart", "exec")


def test_a_script_with_names_of_its_own_is_left_alone():
    text = "def total(values, x):\n    summed = sum(values)\n    return summed * x"
    tree = ast.parse(text)
    set_apart(tree)
    assert ast.unparse(tree) == text
