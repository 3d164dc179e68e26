"""The core modules as scripts contain them, and the rules that make this possible.

Single-file bundling breaks on renaming imports, imports inside functions, data files, `__file__` and future
imports. Core forbids all of them, so putting it into one file needs no renaming and no guessing.
"""

import ast
import builtins
import functools
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from bitgolf import READING_ORDER
from bitgolf.script.source import (
    PACKAGE,
    PACKAGE_FOLDER,
    Module,
    SourceError,
    bound_names,
    file_of,
    read_module,
)
from bitgolf.script.syntax import (
    nodes_in,
)

# A script has no docstrings once packed and lies in another folder than the package.
NAMES_LOST_IN_A_SCRIPT = frozenset({"__file__", "__doc__", "__package__", "__spec__"})


def read_core(folder: Path = PACKAGE_FOLDER, order: Sequence[str] = READING_ORDER) -> list[Module]:
    """The modules of core in reading order. Raises SourceError with every broken rule."""
    files = [(name, folder / file_of(name)) for name in order]
    modules = [read_module(path.read_text(encoding="utf-8"), name) for name, path in files if path.exists()]
    faults = [
        *(f"{file_of(name)}: missing" for name, path in files if not path.exists()),
        *core_faults(modules),
    ]
    if faults:
        raise SourceError(faults)
    return modules


@functools.cache
def core() -> tuple[Module, ...]:
    """The modules of core in reading order."""
    return tuple(read_core())


def core_faults(modules: Sequence[Module]) -> Iterator[str]:
    """Every rule broken, as 'file:line: sentence'. Nothing when core can be put into one file."""
    module_names = {module.name for module in modules}
    earlier: dict[str, set[str]] = {}
    for module in modules:
        yield from (f"{module.file}:{text}" for text in top_level_faults(module))
        yield from (f"{module.file}:{text}" for text in inner_faults(module.tree.body))
        yield from (f"{module.file}:{text}" for text in _import_faults(module, earlier, module_names))
        earlier[module.name] = {name for d in module.definitions for name in d.names}
    yield from shared_namespace_faults(modules)


def top_level_faults(module: Module) -> Iterator[str]:
    """Statements at top level that a script would not hold, as 'line: sentence'."""
    for position, node in enumerate(module.tree.body):
        is_docstring = position == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (is_docstring or isinstance(node, ast.Import | ast.ImportFrom) or _is_plain(node)):
            line = ast.unparse(node).splitlines()[0]
            yield f"{node.lineno}: {line!r} at top level; only def, class, constants, imports"


def inner_faults(statements: Sequence[ast.stmt]) -> Iterator[str]:
    """What top-level statements may not have in them, as 'line: sentence'."""
    top = {*statements} | {item for node in statements if isinstance(node, ast.Try) for item in node.body}
    for item in (item for node in statements for item in nodes_in(node)):
        if isinstance(item, ast.Import | ast.ImportFrom) and item not in top:
            yield f"{item.lineno}: import inside a function or block; move it to the top"
        name = item.id if isinstance(item, ast.Name) else getattr(item, "attr", None)
        if name in NAMES_LOST_IN_A_SCRIPT:
            yield f"{item.lineno}: {name} means something else in a script"  # type: ignore[attr-defined]


def _is_plain(node: ast.stmt) -> bool:
    if isinstance(node, ast.Try):
        handled = [ast.unparse(handler.type) if handler.type else "" for handler in node.handlers]
        fallbacks = [item for handler in node.handlers for item in handler.body]
        return (
            all(isinstance(item, ast.Import | ast.ImportFrom) for item in node.body)
            and set(handled) <= {"ImportError", "ModuleNotFoundError"}
            and all(isinstance(item, ast.Assign) for item in fallbacks)
            and not node.orelse
            and not node.finalbody
        )
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Name | ast.Tuple) for target in node.targets)
    return isinstance(node, ast.FunctionDef | ast.ClassDef) or bool(bound_names(node))


def _import_faults(module: Module, earlier: dict[str, set[str]], module_names: Set[str]) -> Iterator[str]:
    for item, line in module.imports:
        source = item.module.removeprefix(f"{PACKAGE}.")
        if item.module.startswith("."):
            yield f"{line}: relative import; write `from {PACKAGE}.X import name`"
        elif item.name == "*":
            yield f"{line}: star import; name what is used"
        elif item.module == "__future__":
            yield f"{line}: future import; it would change every other module in the script"
        elif item.module.partition(".")[0] != PACKAGE:
            continue
        elif item.name is None or f"{item.module}.{item.name}".removeprefix(f"{PACKAGE}.") in module_names:
            yield f"{line}: imports a whole module; write `from {PACKAGE}.X import name`"
        elif item.alias:
            yield f"{line}: `{item.name} as {item.alias}`; core names keep one name"
        elif source not in earlier:
            yield f"{line}: imports {item.module}, which is not before {module.name} in READING_ORDER"
        elif item.name not in earlier[source]:
            yield f"{line}: {item.module} defines no {item.name}"


def shared_namespace_faults(modules: Sequence[Module]) -> Iterator[str]:
    """In one file all modules share a namespace: a name must mean one thing everywhere."""
    meaning: dict[str, tuple[object, str]] = {}
    for module in modules:
        uses: list[tuple[str, int, object]] = [
            (name, d.node.lineno, d) for d in module.definitions for name in d.names
        ]
        for item, line in module.imports:
            if not item.module.startswith((f"{PACKAGE}.", ".")) and item.name != "*":
                dotted = item.name is None and item.alias is None  # `import a` and `import a.b` both bind a
                uses.append((item.bound, line, item.bound if dotted else item))
        for name, line, what in uses:
            first = meaning.setdefault(name, (what, f"{module.file}:{line}"))
            if first[0] != what:
                yield f"{module.file}:{line}: {name} already means something else at {first[1]}"
            if hasattr(builtins, name):
                yield f"{module.file}:{line}: {name} hides the builtin in every other module of a script"
