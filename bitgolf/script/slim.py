"""The core for scripts: shorter definitions if there are any, no refusals, settings as constants.

Three steps, each of them blind to what any technique does. A definition in `bitgolf/script/lean` replaces the
one of the same name, and a module of its own there stands at the end. Refusals go (trust.py). Settings lose
what only checks and messages read: a field keeps its default without its limits, methods that say what is
wrong or that a slot leaves open go, and becoming a data class is said once, by their base.
"""

import ast
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from bitgolf.script.core import core, shared_namespace_faults
from bitgolf.script.source import Definition, Module, SourceError, file_of, read_module, without_methods
from bitgolf.script.syntax import first_line
from bitgolf.script.trust import trusting

LEAN_FOLDER = Path(__file__).parent / "lean"
SETTINGS = "Plan"
# Methods of settings that only making them asks.
CHECKS = frozenset({"validate", "validate_for"})
MADE_A_DATACLASS = ("dataclasses.dataclass", "dataclass")


@functools.cache
def slim_core() -> tuple[Module, ...]:
    """The modules of core in reading order, slim."""
    return tuple(slim(core(), LEAN_FOLDER))


def slim(modules: Sequence[Module], folder: Path) -> list[Module]:
    """The same modules, slim; folder: of the shorter definitions.

    Raises SourceError where one of these has the name of something else in core.
    """
    overlaid_modules = [*(overlaid(module, folder) for module in modules), *added(modules, folder)]
    if faults := list(shared_namespace_faults(overlaid_modules)):
        raise SourceError(faults)
    return plain_settings(trusting(overlaid_modules))


def added(modules: Sequence[Module], folder: Path = LEAN_FOLDER) -> list[Module]:
    """The modules that only scripts have, after those of core."""
    core_files = {file_of(module.name) for module in modules}
    own = [path for path in sorted(folder.glob("[!_]*.py")) if path.name not in core_files]
    return [read_module(path.read_text(encoding="utf-8"), path.stem) for path in own]


def overlaid(module: Module, folder: Path) -> Module:
    """A module with its shorter definitions; what they need besides stands before them."""
    path = folder / file_of(module.name)
    if not path.is_file():
        return module
    lean = read_module(path.read_text(encoding="utf-8"), module.name)
    own = {name: index for index, d in enumerate(module.definitions) for name in d.names}
    placed: dict[int, list[Definition]] = {}
    waiting: list[Definition] = []
    for definition in lean.definitions:
        waiting.append(definition)
        if definition.names[0] in own:
            placed[own[definition.names[0]]], waiting = waiting, []
    definitions = [d for i, old in enumerate(module.definitions) for d in placed.get(i, [old])] + waiting
    return Module(module.name, lean.tree, tuple(definitions), module.imports + lean.imports)


def plain_settings(modules: Sequence[Module]) -> list[Module]:
    """Classes of settings without limits of fields, marks for the catalogue and a decorator each.

    A default that a function makes goes: the recipe writes it out, and the function is not needed.
    """
    family, changed, incomplete = {SETTINGS}, [], set[str]()
    for module in modules:
        definitions = []
        for definition in module.definitions:
            node = definition.node
            if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & family:
                family.add(node.name)
                definition = _plain_class(definition, incomplete)
            definitions.append(definition)
        changed.append(dataclasses.replace(module, definitions=tuple(definitions)))
    return changed


def _plain_class(definition: Definition, incomplete: set[str]) -> Definition:
    lines = definition.text.splitlines()
    node = definition.tree
    assert isinstance(node, ast.ClassDef)
    cuts = list(_field_cuts(node, lines, incomplete))
    for item in node.decorator_list:
        if ast.unparse(item).partition("(")[0] in MADE_A_DATACLASS:
            cuts.append((item.lineno - 1, item.lineno, []))
    for first, last, instead in sorted(cuts, key=lambda cut: cut[0], reverse=True):
        lines[first:last] = instead
    (changed,) = read_module("\n".join(lines), definition.module).definitions
    return without_methods(changed, set(_open_methods(node)))


def _open_methods(node: ast.ClassDef) -> Iterator[str]:
    """Checks, and methods that are there to be defined by others."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef):
            body = item.body[1:] if ast.get_docstring(item) else item.body
            if item.name in CHECKS or (len(body) == 1 and isinstance(body[0], ast.Raise)):
                yield item.name


def _is_for_the_recipe(called: str, incomplete: set[str]) -> bool:
    """Whether a recipe writes a default out: a function makes it, or a class of which it writes something."""
    return called in incomplete or called.replace("_", "a").isalpha() and called.islower()


def _field_cuts(
    node: ast.ClassDef, lines: list[str], incomplete: set[str]
) -> Iterator[tuple[int, int, list[str]]]:
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        first, last, kind = item.lineno - 1, item.end_lineno or 0, ast.unparse(item.annotation)
        if item.target.id == "abstract":
            alone = len(node.body) == 1
            yield first_line(item, lines), last, ["    ..."] if alone else []
            continue
        value = item.value
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "setting":
            value = value.args[0]
        if kind == "float" and isinstance(value, ast.Constant) and type(value.value) is int:
            value = ast.Constant(float(value.value))
        if isinstance(value, ast.Call) and _is_for_the_recipe(ast.unparse(value.func), incomplete):
            incomplete.add(node.name)
            yield first, last, [f"    {item.target.id}: {kind}"]
        elif value is not None and value is not item.value:
            yield first, last, [f"    {item.target.id}: {kind} = {ast.unparse(value)}"]
