"""The parameters of a script's model, by the names and dimensions that they have in its state dict."""

import ast
import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bitgolf.audit.tree import last_called, nodes

MOST_DEPTH = 5  # of modules in modules
SIZED = {"ones", "zeros", "empty", "rand", "randn"}  # are given their sizes one by one, or as one tuple
SHAPED = {"view", "reshape", "expand", "repeat"}  # as methods
SAME = {"clone", "float", "to", "contiguous", "detach", "half", "bfloat16", "mul", "fill_", "normal_"}
LISTS = {"ModuleList", "Sequential"}


class Part(NamedTuple):
    """A parameter. kind: Embedding, Linear or Parameter; dims: how many dimensions, None where not told."""

    name: str
    kind: str
    dims: int | None
    line: int


def parameters_of(classes: Mapping[str, ast.ClassDef]) -> list[Part]:
    """The parameters of the class that holds an embedding and whatever else; none where there is none."""
    models = [
        each
        for each in classes.values()
        if any(_kind(node.value, classes) == "Embedding" for node in nodes(each, ast.Assign))
        or any(part.kind == "Embedding" for part in _parts(each, classes, "", MOST_DEPTH - 1))
    ]
    inner = {last_called(node) for each in classes.values() for node in nodes(each, ast.Call)}
    models = [each for each in models if each.name not in inner] or models
    whole = [[*_parts(each, classes, "", 0)] for each in models]
    return max(whole, key=len, default=[])


def _kind(node: ast.AST, classes: Mapping[str, ast.ClassDef]) -> str:
    """What is made, also by one's own class of such."""
    name = last_called(node)
    names = [name, *(ast.unparse(base) for base in classes[name].bases)] if name in classes else [name]
    last = {each.rpartition(".")[2] for each in names}
    return next((each for each in ("Embedding", "Parameter", "Linear") if each in last), "")


def _parts(
    kind: ast.ClassDef, classes: Mapping[str, ast.ClassDef], prefix: str, depth: int
) -> Iterator[Part]:
    looked_up = {  # by numbers that are no constants
        each.value.attr
        for each in nodes(kind, ast.Subscript)
        if isinstance(each.value, ast.Attribute) and isinstance(each.slice, ast.Name)
    }
    for node in nodes(kind, ast.Assign) if depth < MOST_DEPTH else ():
        target = node.targets[0]
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = [*zip(target.elts, node.value.elts)]
        for held, value in pairs:
            if isinstance(held, ast.Attribute) and isinstance(held.value, ast.Name):
                for part in _of_value(value, classes, prefix + held.attr, depth):
                    of_tokens = (
                        part == (prefix + held.attr, "Parameter", 2, part.line) and held.attr in looked_up
                    )
                    yield part._replace(kind="Embedding") if of_tokens else part


def _of_value(value: ast.expr, classes: Mapping[str, ast.ClassDef], name: str, depth: int) -> Iterator[Part]:
    kind = last_called(value)
    if kind in LISTS and isinstance(value, ast.Call):
        inner = (each for arg in value.args for each in nodes(arg, ast.Call))
        makers = (each for each in inner if last_called(each) in classes or _kind(each, classes))
        for first in itertools.islice(makers, 1):
            yield from _of_value(first, classes, f"{name}.0", depth)
    elif kind in classes and not _kind(value, classes):
        yield from _parts(classes[kind], classes, f"{name}.", depth + 1)
    elif (own := _kind(value, classes)) == "Parameter" and isinstance(value, ast.Call) and value.args:
        dims = dimensions(value.args[0])
        matrix = name.endswith(".weight") and dims == 2  # of one's own layer
        yield Part(name, "Linear" if matrix else own, dims, value.lineno)
    elif own in ("Embedding", "Linear"):
        yield Part(f"{name}.weight", own, 2, value.lineno)


def dimensions(node: ast.expr) -> int | None:
    """How many dimensions a tensor has that is made here."""
    match node:
        case ast.IfExp():
            return dimensions(node.body) or dimensions(node.orelse)
        case ast.BinOp():
            return dimensions(node.left) or dimensions(node.right)
        case ast.Call(func=ast.Attribute(value=inner, attr=name), args=args):
            sizes = args[0].elts if args and isinstance(args[0], ast.Tuple | ast.List) else args
            if any(isinstance(each, ast.Starred) for each in sizes):
                return None
            if name in SHAPED and not (isinstance(inner, ast.Name) and inner.id == "torch"):
                return len(sizes)
            if name in SAME:
                return dimensions(inner)
            if name in SIZED:
                return None if len(sizes) == 1 and isinstance(sizes[0], ast.Attribute) else len(sizes)
            if name == "full":
                return len(sizes) if isinstance(args[0], ast.Tuple | ast.List) else None
            if name == "stack" and sizes and sizes is not args:
                below = dimensions(sizes[0])
                return None if below is None else below + 1
            return {"eye": 2, "arange": 1, "linspace": 1}.get(name)
    return None
