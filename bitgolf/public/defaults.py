"""The defaults of a public script's variables, read from its syntax tree; nothing of it is executed.

Read are `os.environ.get("NAME", default)` and `os.getenv`, however wrapped (`int(...)`, `bool(int(...))`), in
classes, dataclasses and functions, and plain fields of a class of hyperparameters (`num_layers = 9` is
NUM_LAYERS).
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.public.constants import Number, folded
from bitgolf.public.names import IGNORED, KINDS, OTHER_NAMES, later, read_variables
from bitgolf.public.variables import apply_variables
from bitgolf.recipe import Recipe

LARGEST_SCRIPT = 4 << 20  # bytes
CONFIG_CLASS = re.compile(r"hyper|config|args|settings", re.IGNORECASE)
READERS = ("environ.get", "getenv")
COMPUTED = "the script computes it as it runs; the recipe keeps its own"


class NotTaken(NamedTuple):
    """A variable of a script that sets nothing here, its default as it is written, and why."""

    name: str
    default: str
    why: str


def read_defaults(path: Path) -> tuple[dict[str, str], list[NotTaken]]:
    """The default of each variable as text, and those that a script computes as it runs.

    Raises BitgolfError for a file that is no Python.
    """
    try:
        if path.stat().st_size > LARGEST_SCRIPT:
            raise BitgolfError("too large for a script", where=str(path))
        return _defaults_in(ast.parse(path.read_bytes()))
    except OSError as error:
        raise BitgolfError(f"cannot read: {error.strerror}", where=str(path)) from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BitgolfError(f"not Python: {error}", where=str(path)) from None


def _defaults_in(tree: ast.Module) -> tuple[dict[str, str], list[NotTaken]]:
    defaults: dict[str, str] = {}
    unread: dict[str, NotTaken] = {}
    constants = _constants(tree)
    for name, node in [*_environment(tree), *_fields(tree)]:
        if name in defaults or name in unread:
            continue
        value = _value(node, constants)
        if value is None and name in IGNORED:
            continue  # as RUN_ID: it decides nothing that is trained or scored
        if value is None:
            unread[name] = NotTaken(name, ast.unparse(node)[:60], COMPUTED)
        else:
            defaults[name] = str(int(value)) if isinstance(value, bool) else str(value)
    return defaults, list(unread.values())


def taken(recipe: Recipe, defaults: Mapping[str, str]) -> tuple[dict[str, str], list[NotTaken]]:
    """The defaults that this recipe takes as variables, and the others with their reasons."""
    kept: dict[str, str] = {}
    left: list[NotTaken] = []
    for name, text in defaults.items():
        _, problems = read_variables({name: text})
        if problems:
            why = "unknown here" if "unknown variable" in problems[0] else problems[0].partition(": ")[2]
            left.append(NotTaken(name, text, why))
        elif name not in IGNORED and later(OTHER_NAMES.get(name, name)) is None and name != "SEED":
            kept[name] = text
    while kept:
        try:
            apply_variables(recipe, kept)
            break
        except PlanError as error:
            blamed = {
                n: problem for problem in error.problems for n in kept if re.search(rf"\b{n}\b", problem)
            }
            if not blamed:
                raise
            for name, problem in blamed.items():
                left.append(NotTaken(name, kept.pop(name), problem.removeprefix(f"{name}: ")))
    return kept, left


def _environment(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Name and default of each reading of the environment, in the order of the text."""
    for node in sorted((n for n in ast.walk(tree) if isinstance(n, ast.Call)), key=lambda n: n.lineno):
        if ast.unparse(node.func).endswith(READERS) and node.args:
            name = node.args[0]
            default = node.args[1] if len(node.args) > 1 else next((k.value for k in node.keywords), None)
            if isinstance(name, ast.Constant) and isinstance(name.value, str) and default is not None:
                yield name.value, default


def _fields(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Fields with a plain value of classes that look like hyperparameters, if their names are known here."""
    for owner in ast.walk(tree):
        if not isinstance(owner, ast.ClassDef) or not CONFIG_CLASS.search(owner.name):
            continue
        for node in owner.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            value = getattr(node, "value", None)
            if isinstance(target, ast.Name) and isinstance(value, ast.Constant | ast.BinOp | ast.UnaryOp):
                name = target.id.upper()
                if name in KINDS or name in OTHER_NAMES:
                    yield name, value


def _constants(tree: ast.Module) -> dict[str, Number | str]:
    """Names of the module that are set once, to a plain value."""
    counts: dict[str, int] = {}
    constants: dict[str, Number | str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            counts[name] = counts.get(name, 0) + 1
            if (value := _value(node.value, constants)) is not None:
                constants[name] = value
    return {name: value for name, value in constants.items() if counts[name] == 1}


def _value(node: ast.expr, constants: Mapping[str, Number | str]) -> Number | str | None:
    """What an expression of constants is; None for any other."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, int | float | str) else None
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, constants)
        return None if value is None or isinstance(value, str) else -value
    if (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("str", "int", "float", "bool")
        and len(node.args) == 1
    ):
        return _value(node.args[0], constants)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, constants), _value(node.right, constants)
        if isinstance(left, Number) and isinstance(right, Number):
            return folded(node.op, left, right)
    return None
