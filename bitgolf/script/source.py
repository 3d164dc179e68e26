"""Modules read as text: their definitions, imports, and the names that each definition uses."""

import ast
import dataclasses
import functools
from collections.abc import Iterable, Set
from pathlib import Path

from bitgolf import __file__ as package_file
from bitgolf.base.errors import BitgolfError
from bitgolf.script.syntax import (
    first_line,
    names_outside,
    nodes_in,
    walked,
)

PACKAGE_FOLDER = Path(package_file).parent
PACKAGE = "bitgolf"


class SourceError(BitgolfError):
    """Core breaks a rule the generated script depends on; carries every fault as 'file:line: sentence'."""

    def __init__(self, faults: Iterable[str], what: str = "core cannot be put into one file:") -> None:
        self.faults = list(faults)
        super().__init__("\n  ".join([what, *self.faults]))


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported name: `import module as alias`, or `from module import name as alias`."""

    module: str
    name: str | None
    alias: str | None

    @property
    def bound(self) -> str:
        """The name the importing module sees."""
        return self.alias or self.name or self.module.partition(".")[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Definition:
    """A top-level statement that binds names, with its text and the comment lines right above it."""

    module: str
    names: tuple[str, ...]
    node: ast.stmt
    text: str
    is_alone: bool = False  # no other text was before it when it was read

    @functools.cached_property
    def used(self) -> frozenset[str]:
        """The names that it takes from around it."""
        return frozenset(names_outside(self.node))

    @property
    def items(self) -> list[ast.AST]:
        """Every node of its syntax tree."""
        return walked(self.node)

    @functools.cached_property
    def tree(self) -> ast.stmt:
        """Its syntax tree with places in its own text; `node` may have those of a file."""
        if self.is_alone:
            return self.node
        (node,) = ast.parse(self.text).body
        return node

    @functools.cached_property
    def mentioned(self) -> frozenset[str]:
        """Names and attributes that stand in it."""
        names = (getattr(item, "id", getattr(item, "attr", None)) for item in self.items)
        return frozenset(word for word in names if word)

    @property
    def is_import(self) -> bool:
        """True for an optional dependency: try, import, except ImportError."""
        return isinstance(self.node, ast.Try)


@dataclasses.dataclass(frozen=True, eq=False)
class Module:
    """One source file by its dotted name: its definitions in order, and its imports.

    path: of a file outside the package.
    """

    name: str
    tree: ast.Module
    definitions: tuple[Definition, ...]
    imports: tuple[tuple[Import, int], ...]
    path: str = ""

    @property
    def file(self) -> str:
        """Where it stands in the package, e.g. net/model.py, or outside of it."""
        return self.path or file_of(self.name)

    @property
    def docstring(self) -> str:
        """The module's docstring, or nothing."""
        return ast.get_docstring(self.tree) or ""

    def having(self, definitions: Iterable[Definition]) -> "Module":
        """The module with these definitions; itself where they are its own."""
        found = tuple(definitions)
        return self if found == self.definitions else dataclasses.replace(self, definitions=found)


def file_of(name: str) -> str:
    """The file of a module by its dotted name."""
    return name.replace(".", "/") + ".py"


def read_module(text: str, name: str, path: str = "") -> Module:
    """Split one source text into definitions and imports. path: of a file outside the package."""
    tree = ast.parse(text, filename=file_of(name))
    lines = text.splitlines()
    definitions, imports = [], []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports += [(item, node.lineno) for item in _imports(node)]
        elif names := bound_names(node):
            first = first_line(node, lines)
            own_text = "\n".join(lines[first : node.end_lineno])
            definitions.append(Definition(name, names, node, own_text, is_alone=first == 0))
    return Module(name, tree, tuple(definitions), tuple(imports), path)


def _imports(node: ast.Import | ast.ImportFrom) -> list[Import]:
    if isinstance(node, ast.Import):
        return [Import(alias.name, None, alias.asname) for alias in node.names]
    return [Import("." * node.level + (node.module or ""), alias.name, alias.asname) for alias in node.names]


def bound_names(node: ast.stmt) -> tuple[str, ...]:
    """The names that a statement of the top level binds; none for what is not looked into."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.Assign):
        targets = [item for target in node.targets for item in nodes_in(target)]
        return tuple(item.id for item in targets if isinstance(item, ast.Name))
    if isinstance(node, ast.AnnAssign):
        return (node.target.id,) if isinstance(node.target, ast.Name) else ()
    if isinstance(node, ast.Try):
        imported = (item for item in node.body if isinstance(item, ast.Import | ast.ImportFrom))
        return tuple(item.bound for statement in imported for item in _imports(statement))
    return ()


def without_methods(definition: Definition, dropped: Set[str]) -> Definition:
    """The class with these methods cut from its text, comments and decorators included."""
    if not dropped or not isinstance(definition.node, ast.ClassDef):
        return definition
    lines = definition.text.splitlines()
    node = definition.tree
    assert isinstance(node, ast.ClassDef)
    for item in reversed(node.body):
        if isinstance(item, ast.FunctionDef) and item.name in dropped:
            start = first_line(item, lines)
            while not lines[start - 1].strip():
                start -= 1
            del lines[start : item.end_lineno]
    if all(isinstance(item, ast.FunctionDef) and item.name in dropped for item in node.body):
        lines.append("    ...")
    (remaining,) = read_module("\n".join(lines), definition.module).definitions
    return remaining
