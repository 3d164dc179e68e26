"""From a readable script to the shortest equal one: no comments, no docstrings, short names.

What stays: that class fields have an annotation (data classes are made by it), and names that something
outside may see (names.py).
"""

import ast
from collections import Counter

from bitgolf.script.names import is_blind, spelled_names, visible_names
from bitgolf.script.reach import reach
from bitgolf.script.rename import shorten_names
from bitgolf.script.source import read_module
from bitgolf.script.syntax import names_loaded, nodes_in, without_collector
from bitgolf.script.terse import terse


@without_collector
def minify(script: str) -> str:
    """The same program in fewer characters; what only annotations used falls away too."""
    spelled = set(spelled_names(ast.parse(script)))  # their annotations say it, which go
    tree = ast.parse(_drop_unreached(ast.unparse(_Strip().visit(ast.parse(script)))))
    _inline_constants(tree)
    _join_imports(tree)
    shorten_names(tree, visible_names(tree) | spelled)
    return terse(ast.fix_missing_locations(tree))


def _inline_constants(tree: ast.Module) -> None:
    """Write numbers of the module where they are read, if that is one place."""
    items = nodes_in(tree)
    counts = Counter(item.id for item in items if isinstance(item, ast.Name))
    bound = Counter(item.arg for item in items if isinstance(item, ast.arg))
    values: dict[str, ast.Constant] = {}
    for statement in list(tree.body):
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            name = ast.unparse(statement.targets[0])
            once = len(statement.targets) == 1 and counts[name] == 2 and not bound[name]
            if once and type(statement.value.value) in (int, float):
                values[name] = statement.value
                tree.body.remove(statement)
    for item in items:
        for field, value in ast.iter_fields(item):
            if isinstance(value, ast.Name) and value.id in values:
                setattr(item, field, values[value.id])
            elif isinstance(value, list):
                value[:] = [values.get(one.id, one) if isinstance(one, ast.Name) else one for one in value]


def _join_imports(tree: ast.Module) -> None:
    """One statement for all plain imports."""
    plain = [item for item in tree.body if isinstance(item, ast.Import)]
    if plain:
        plain[0].names = [alias for item in plain for alias in item.names]
        tree.body = [item for item in tree.body if item not in plain[1:]]


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
            for item in nodes_in(node.args):
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
    used = set(names_loaded(nodes_in(tail)))
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
