"""A syntax tree as the shortest text: statements share lines, without unneeded spaces."""

import ast
import copy
import io
import tokenize
from collections.abc import Iterator, Sequence

COMPOUND = (ast.FunctionDef, ast.ClassDef, ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)
FSTRING = getattr(tokenize, "FSTRING_START", None), getattr(tokenize, "FSTRING_END", None)  # from Python 3.12
Block = Sequence[ast.stmt]


def terse(tree: ast.Module) -> str:
    """Python text that parses to the same tree."""
    return _without_spaces("\n".join(_lines(tree.body, 0)) + "\n")


def _lines(body: Block, depth: int) -> Iterator[str]:
    row: list[str] = []
    for item in body:
        if not isinstance(item, COMPOUND):
            row.append(_simple(item))
            continue
        if row:
            yield " " * depth + ";".join(row)
            row = []
        yield from _compound(item, depth)
    if row:
        yield " " * depth + ";".join(row)


def _compound(item: ast.stmt, depth: int) -> Iterator[str]:
    if isinstance(item, ast.Match):
        for line in ast.unparse(item).splitlines():
            inside = line.lstrip()
            yield " " * (depth + (len(line) - len(inside)) // 4) + inside
        return
    for head, body in _parts(item):
        *decorators, last = head.splitlines()
        yield from (" " * depth + line for line in decorators)
        if any(isinstance(inner, COMPOUND) for inner in body):
            yield " " * depth + last
            yield from _lines(body, depth + 1)
        else:
            yield " " * depth + last + ";".join(map(_simple, body))


def _parts(item: ast.stmt) -> Iterator[tuple[str, Block]]:
    """What stands before the colon of each part of a statement, the colon too, and what is in that part."""
    if isinstance(item, ast.If):
        yield f"if {ast.unparse(item.test)}:", item.body
        while len(item.orelse) == 1 and isinstance(item.orelse[0], ast.If):
            item = item.orelse[0]
            yield f"elif {ast.unparse(item.test)}:", item.body
    elif isinstance(item, ast.Try):
        yield "try:", item.body
        yield from ((_head(handler), handler.body) for handler in item.handlers)
    else:
        assert isinstance(item, COMPOUND) and not isinstance(item, ast.Match)
        yield _head(item), item.body
    for name, word in (("orelse", "else:"), ("finalbody", "finally:")):
        if block := getattr(item, name, None):
            yield word, block


def _head(item: ast.AST) -> str:
    empty = copy.copy(item)
    empty.body = [ast.Pass()]  # type: ignore[attr-defined]
    for name in ("orelse", "finalbody"):
        if hasattr(empty, name):
            setattr(empty, name, [])
    return ast.unparse(empty).strip().rpartition("\n")[0]


def _simple(item: ast.stmt) -> str:
    if isinstance(item, ast.Assign):
        return "=".join(map(_bare, [*item.targets, item.value]))
    if isinstance(item, ast.Return) and item.value:
        return f"return {_bare(item.value)}"
    if isinstance(item, ast.Expr) and isinstance(item.value, ast.Yield) and item.value.value:
        return f"yield {_bare(item.value.value)}"
    return ast.unparse(item)


def _bare(item: ast.expr) -> str:
    """An expression, a tuple without its parentheses."""
    if isinstance(item, ast.Tuple) and item.elts:
        return ",".join(map(ast.unparse, item.elts)) + "," * (len(item.elts) == 1)
    return ast.unparse(item)


def _without_spaces(text: str) -> str:
    lines, parts, position, texts = text.splitlines(), [""], (0, 0), 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            continue
        line = lines[token.start[0] - 1]
        if token.start[0] != position[0]:
            parts.append(line[: token.start[1]])
        elif gap := line[position[1] : token.start[1]]:
            parts.append(gap if texts or _must_be_apart(parts[-1], token.string) else "")
        parts.append(token.string if token.type != tokenize.NEWLINE else "\n")
        texts += (token.type == FSTRING[0]) - (token.type == FSTRING[1])
        position = token.end if token.type != tokenize.NEWLINE else (0, 0)
    return "".join(parts)


def _must_be_apart(left: str, right: str) -> bool:
    """Two words, and a number before a point."""
    are_words = [side.isalnum() or side == "_" for side in (left[-1:], right[:1])]
    return all(are_words) or (left[-1:].isdigit() and right == ".")
