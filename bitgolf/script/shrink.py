"""A readable script to the shortest equal one: no comments, no docstrings, short names.

What stays: that class fields have an annotation (data classes are made by it), and names that something
outside may see (names.py).
"""

import ast
import itertools
import keyword
import string
from collections import Counter
from collections.abc import Iterator, Set

from bitgolf.script.names import is_blind, spelled_names, visible_names
from bitgolf.script.source import names_loaded, reach, read_module

NAMED: dict[type[ast.AST] | tuple[type[ast.AST], ...], str] = {
    ast.Name: "id",
    ast.Attribute: "attr",
    (ast.arg, ast.keyword): "arg",
    (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar): "name",
}


def minify(script: str) -> str:
    """The same program in fewer characters; what only annotations used falls away too."""
    spelled = set(spelled_names(ast.parse(script)))  # their annotations say it, which go
    tree = ast.parse(_drop_unreached(ast.unparse(_Strip().visit(ast.parse(script)))))
    _shorten_names(tree, visible_names(tree) | spelled)
    text = ast.unparse(ast.fix_missing_locations(tree))
    lines = (line for line in text.splitlines() if line)
    return (
        "\n".join(" " * ((len(line) - len(line.lstrip(" "))) // 4) + line.lstrip(" ") for line in lines)
        + "\n"
    )


class _Strip(ast.NodeTransformer):
    """Removes docstrings and the annotations nobody reads."""

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for item in node.body:  # a data class asks whether a field has an annotation, not which
            if isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.unparse(item.annotation):
                item.annotation = ast.Name("int", ast.Load())
        return self._without_docstring(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if is_blind(node):
            node.returns = None
            for item in ast.walk(node.args):
                if isinstance(item, ast.arg):
                    item.annotation = None
        inner = _StripLocals()
        node.body = [inner.visit(item) for item in node.body]
        return self._without_docstring(node)

    def _without_docstring(self, node: ast.Module | ast.ClassDef | ast.FunctionDef) -> ast.AST:
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            del node.body[0]
        node.body = node.body or [ast.Expr(ast.Constant(...))]
        return self.generic_visit(node)


class _StripLocals(ast.NodeTransformer):
    """Local annotations are never evaluated by Python: `x: int = 1` is `x = 1`."""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.Pass()
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)


def _drop_unreached(script: str) -> str:
    module = read_module(script, "script")
    tail = module.tree.body[-1]
    if not isinstance(tail, ast.If):
        return script
    defined = {name for definition in module.definitions for name in definition.names}
    used = set(names_loaded(ast.walk(tail)))
    definitions, imports = reach([module], used & defined)
    kept = [d.node for d in definitions]
    needed = {item.bound for item in imports} | used
    heads: list[ast.stmt] = []
    for node in module.tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [
                alias for alias in node.names if (alias.asname or alias.name.split(".")[0]) in needed
            ]
            heads += [node] if node.names else []
    return ast.unparse(ast.Module(body=[*heads, *kept, tail], type_ignores=[]))


def _shorten_names(tree: ast.Module, visible: Set[str]) -> None:
    """Rename an identifier everywhere at once, which is safe when nothing outside sees it.

    Most frequent first, so they get the shortest names.
    """
    counts = Counter(name for item in ast.walk(tree) for _, name in _names(item))
    if {"locals", "globals"} & counts.keys():
        return
    used = visible | counts.keys()
    fresh = (name for name in _short_names() if name not in used)
    short = {name: next(fresh) for name, _ in counts.most_common() if name not in visible and len(name) > 1}
    short = {name: new for name, new in short.items() if len(new) < len(name)}
    for item in ast.walk(tree):
        for field, name in _names(item):
            setattr(item, field, short.get(name, name))
        if isinstance(item, ast.Global | ast.Nonlocal):
            item.names = [short.get(name, name) for name in item.names]


def _names(item: ast.AST) -> Iterator[tuple[str, str]]:
    """The field of a node that holds a name, if it has one, and the name."""
    for kinds, field in NAMED.items():
        if isinstance(item, kinds) and (name := getattr(item, field)):
            yield field, name


def _short_names() -> Iterator[str]:
    letters = string.ascii_letters + "_"
    for length in itertools.count(1):
        for parts in itertools.product(letters, repeat=length):
            if not keyword.iskeyword(name := "".join(parts)):
                yield name
