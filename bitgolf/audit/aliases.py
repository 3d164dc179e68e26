"""Other names for what a library has are spelled out: `get` of `get = os.environ.get`, `N` for numpy."""

import ast
import copy
from collections import Counter
from collections.abc import Iterator, Mapping

from bitgolf.audit.tree import Definition, replace
from bitgolf.audit.values import dotted

# Modules that checks know by the name that everybody gives them.
USUAL = {"torch.nn.functional": "F", "torch.distributed": "dist", "numpy": "np"}


def spell_out(tree: ast.Module) -> None:
    """Put a library's own name wherever a script has another one for it and for nothing else."""
    given = Counter(_given(tree))
    imported = {name: own for name, own in _imported(tree, given) if not given[name]}
    _replace(tree, {name: ast.parse(own, mode="eval").body for name, own in imported.items()})
    libraries = {(each.asname or each.name).partition(".")[0] for _, each in _imports(tree)}
    assigned = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute)
        if (root := dotted(node.value).partition(".")[0]) in libraries and not given[root]
        for target in node.targets
        if isinstance(target, ast.Name) and given[target.id] == 1
    }
    _replace(tree, assigned)


def _given(tree: ast.Module) -> Iterator[str]:
    """Every name that is given something, once for each time, but not by imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, Definition | ast.ClassDef):
            yield node.name


def _imports(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, ast.alias]]:
    return (
        (n, each) for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) for each in n.names
    )


def _imported(tree: ast.Module, given: Counter[str]) -> Iterator[tuple[str, str]]:
    """Names that imports give, with the library's own, which the imports give from now on."""
    for node, each in _imports(tree):
        whole = each.name if isinstance(node, ast.Import) else f"{node.module}.{each.name}"
        own, known = USUAL.get(whole, each.name), each.asname or each.name
        if own != known and "." not in known and not given[own.partition(".")[0]]:
            each.asname = None if "." in own else own
            yield known, own


def _replace(tree: ast.Module, own: Mapping[str, ast.expr]) -> None:
    def of(node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in own:
            made = copy.deepcopy(own[node.id])
            for part in ast.walk(made):
                ast.copy_location(part, node)
            return made
        return node

    if own:
        replace(tree, of)
