"""Indices as texts in which names stand for what they were given, so that helpers hide nothing."""

import ast
import copy
import re
from collections.abc import Mapping

from bitgolf.audit.values import Frame


def text_of_index(node: ast.expr | None, frame: Frame) -> str:
    """An index as a text, its names replaced; empty for what is no plain arithmetic."""
    match node:
        case ast.Call(func=ast.Name("slice"), args=[ast.expr() as begin, ast.expr() as end]):
            return f"{with_texts(begin, frame.texts)}:{with_texts(end, frame.texts)}"
    if node is None or not isinstance(node, ast.Name | ast.BinOp | ast.Constant):
        return ""
    inner: list[ast.expr] = [node]
    while inner:
        each = inner.pop()
        if isinstance(each, ast.BinOp) and isinstance(each.op, ast.Add | ast.Sub | ast.Mult | ast.FloorDiv):
            inner += [each.left, each.right]
        elif not isinstance(each, ast.Name) and not (
            isinstance(each, ast.Constant) and isinstance(each.value, int)
        ):
            return ""
    return with_texts(node, frame.texts)


def with_texts(node: ast.expr, texts: Mapping[str, str]) -> str:
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} & texts.keys()
    if not names:
        return _sliced(node)
    if isinstance(node, ast.Name):
        return texts[node.id]
    return _sliced(_Renamed({name: texts[name] for name in names}).visit(copy.deepcopy(node)))


def _sliced(node: ast.expr) -> str:
    """An index as a text; a bare slice does not stand alone."""
    return ast.unparse(ast.Subscript(ast.Name("x"), node))[2:-1]


def shifted(path: str) -> str:
    """`[a:b][1:]` as `[a + 1:b]`, `[a:b + 1][:-1]` as `[a:b]`: two ways to the same tokens are one."""
    if match := AGAIN.match(BEHIND_FIRST.sub("[1:]", path)):
        before, begin, end, place = match.groups()
        if place == "1:":
            return f"{before}[{begin} + 1:{end}]"
        return f"{before}[{begin}:{end.removesuffix(' + 1') if end.endswith(' + 1') else end + ' - 1'}]"
    return path


BEHIND_FIRST = re.compile(r"\[1:[^\[\]]+\]$")  # all but the first, to whatever end
AGAIN = re.compile(r"^(.*)\[([\w .+*-]+):([\w .+*-]+)\]\[(1:|:-1)\]$")


class _Renamed(ast.NodeTransformer):
    """Names replaced by the expressions that they stand for."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def visit_Name(self, node: ast.Name) -> ast.expr:  # noqa: N802
        """One name."""
        text = self.texts.get(node.id)
        return ast.parse(text, mode="eval").body if text else node
