"""Indices as texts in which names stand for what they were given, so that helpers hide nothing."""

import ast
import copy
import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from bitgolf.audit.tree import number
from bitgolf.audit.values import MOST_PATH, Frame


def text_of_index(node: ast.expr | None, frame: Frame) -> str:
    """An index as a text, its names replaced; empty for what is no plain arithmetic."""
    match node:
        case ast.Call(func=ast.Name("slice"), args=[ast.expr() as begin, ast.expr() as end]):
            return f"{with_texts(begin, frame.texts)}:{with_texts(end, frame.texts)}"
        case ast.Call(func=ast.Name("min"), args=[ast.BinOp() as end, _] | [_, ast.BinOp() as end]):
            return text_of_index(end, frame)  # a window, but for the last one
    if node is None or not isinstance(node, ast.Name | ast.BinOp | ast.Constant):
        return ""
    inner: list[ast.expr] = [node]
    while inner:
        each = inner.pop()
        if isinstance(each, ast.BinOp) and isinstance(each.op, ast.Add | ast.Sub | ast.Mult | ast.FloorDiv):
            inner += [each.left, each.right]
        elif not isinstance(each, ast.Name | ast.Attribute) and number(each) is None:
            return ""
    text = with_texts(node, frame.texts)
    return text if len(text) <= MOST_PATH else ""  # sums of sums would double without end


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


def meeting(paths: frozenset[str], others: frozenset[str]) -> frozenset[str]:
    """Those of some paths that lead to the tokens of one of others, however both were cut."""
    known = {span(other) for other in others}
    return frozenset(path for path in paths if span(path) in known)


Sum = frozenset[tuple[str, int]]  # terms, and how often each is in it


@lru_cache(maxsize=4096)
def span(path: str) -> tuple[str, Sum, Sum]:
    """Whose tokens a path leads to, where they begin and where they end, as sums of what was cut at.

    `ids[a:b + 1][1:][i, s:]` is `ids` from a + 1 + s to b + 1: of several indices the last one is of tokens.
    """
    root, bracket, rest = path.partition("[")
    begin, end = Counter[str](), Counter({END: 1})
    try:
        node = ast.parse(f"x{bracket}{rest}", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return path, frozenset(), frozenset()
    cuts: list[ast.expr] = []
    while isinstance(node, ast.Subscript):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        cuts += [each for each in parts if ast.unparse(each) not in (":", "None", "...")][-1:]
        node = node.value
    for cut in reversed(cuts):
        if isinstance(cut, ast.Slice) and cut.step is None:
            if cut.upper is not None and not isinstance(cut.upper, ast.UnaryOp):
                end = begin.copy()  # `[:-1]` counts from the end
            _add_terms(cut.upper, 1, end)
            _add_terms(cut.lower, 1, begin)
        else:  # one place
            _add_terms(cut, 1, begin)
            end = begin + Counter({"": 1})
    return root, _sum(begin), _sum(end)


END = "end"


def _sum(terms: Counter[str]) -> Sum:
    return frozenset((term, count) for term, count in terms.items() if count)


def _add_terms(node: ast.expr | None, sign: int, terms: Counter[str]) -> None:
    match node:
        case None:
            pass
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            _add_terms(left, sign, terms)
            _add_terms(right, sign if isinstance(op, ast.Add) else -sign, terms)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            _add_terms(inner, -sign, terms)
        case ast.Constant(value=int(value)):
            terms[""] += sign * value
        case _:
            terms[ast.unparse(node)] += sign


def length(node: ast.expr, texts: Mapping[str, str]) -> dict[str, int]:
    """How many places a slice takes, as a sum of terms; nothing where it has no begin, no end or a step."""
    node = node.elts[-1] if isinstance(node, ast.Tuple) and node.elts else node
    if not isinstance(node, ast.Slice) or node.lower is None or node.upper is None or node.step is not None:
        return {}
    terms: Counter[str] = Counter()
    for bound, sign in ((node.upper, 1), (node.lower, -1)):
        _add_terms(ast.parse(with_texts(bound, texts), mode="eval").body, sign, terms)
    return {term: count for term, count in terms.items() if count}


class _Renamed(ast.NodeTransformer):
    """Names replaced by the expressions that they stand for."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def visit_Name(self, node: ast.Name) -> ast.expr:  # noqa: N802
        """One name."""
        text = self.texts.get(node.id)
        held = ast.parse(f"x[{text}]", mode="eval").body if text else None  # a slice does not stand alone
        return held.slice if isinstance(held, ast.Subscript) else node
