"""The core read as text: definitions, imports, what each definition uses, and the rules that keep it movable.

Single-file bundling breaks on renaming imports, imports inside functions, data files, `__file__` and future
imports. Core forbids all of them, so putting it into one file needs no renaming and no guessing.
"""

import ast
import builtins
import dataclasses
import functools
import gc
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import ParamSpec, TypeVar

from bitgolf import READING_ORDER
from bitgolf import __file__ as package_file
from bitgolf.base.errors import BitgolfError

PACKAGE_FOLDER = Path(package_file).parent
PACKAGE = "bitgolf"
PLAIN_BASES = frozenset({"object", "Exception", "NamedTuple", "Protocol"})
CACHED = 1 << 13  # syntax trees of which what was found out is kept
SCOPES = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# A script has no docstrings once packed and lies in another folder than the package.
NAMES_LOST_IN_A_SCRIPT = frozenset({"__file__", "__doc__", "__package__", "__spec__"})


Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")


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
        words = (getattr(item, "id", getattr(item, "attr", None)) for item in self.items)
        return frozenset(word for word in words if word)

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


def without_collector(make: Callable[Arguments, Made]) -> Callable[Arguments, Made]:
    """The same function, and meanwhile no search for garbage: trees of syntax are a million small objects
    of which none is garbage."""

    @functools.wraps(make)
    def made(*given: Arguments.args, **named: Arguments.kwargs) -> Made:
        was_on = gc.isenabled()
        gc.disable()
        try:
            return make(*given, **named)
        finally:
            if was_on:
                gc.enable()

    return made


def nodes_in(node: ast.AST) -> list[ast.AST]:
    """Every node of a syntax tree in the order of `ast.walk`, in a third of its time."""
    found = [node]
    for item in found:
        for name in item._fields:
            part = getattr(item, name, None)
            if isinstance(part, ast.AST):
                found.append(part)
            elif isinstance(part, list):
                found += [each for each in part if isinstance(each, ast.AST)]
    return found


@functools.lru_cache(maxsize=CACHED)
def walked(node: ast.AST) -> list[ast.AST]:
    """Every node of a syntax tree that nobody changes."""
    return nodes_in(node)


@functools.lru_cache(maxsize=8 * CACHED)  # of small parts
def written(node: ast.AST) -> str:
    """The text of a node that nobody changes, as Python writes it."""
    return ast.unparse(node)


def file_of(name: str) -> str:
    """The file of a module by its dotted name."""
    return name.replace(".", "/") + ".py"


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


def read_module(text: str, name: str, path: str = "") -> Module:
    """Split one source text into definitions and imports. path: of a file outside the package."""
    tree = ast.parse(text, filename=file_of(name))
    lines = text.splitlines()
    definitions, imports = [], []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports += [(item, node.lineno) for item in _imports(node)]
        elif names := _bound_names(node):
            first = first_line(node, lines)
            own_text = "\n".join(lines[first : node.end_lineno])
            definitions.append(Definition(name, names, node, own_text, is_alone=first == 0))
    return Module(name, tree, tuple(definitions), tuple(imports), path)


def _imports(node: ast.Import | ast.ImportFrom) -> list[Import]:
    if isinstance(node, ast.Import):
        return [Import(alias.name, None, alias.asname) for alias in node.names]
    return [Import("." * node.level + (node.module or ""), alias.name, alias.asname) for alias in node.names]


def _bound_names(node: ast.stmt) -> tuple[str, ...]:
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


def first_line(node: ast.stmt, lines: list[str]) -> int:
    """Where a definition begins, counted from 0: at its decorators and the comment lines right above."""
    decorators = getattr(node, "decorator_list", [])
    start = min([node.lineno, *(decorator.lineno for decorator in decorators)]) - 1
    while start > 0 and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return start


def names_loaded(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Every name these nodes read, those inside quoted annotations included."""
    for item in nodes:
        if isinstance(item, ast.Name):
            yield item.id
        yield from _quoted_names(item)


def _quoted_names(item: ast.AST) -> Iterator[str]:
    for part in (getattr(item, "annotation", None), getattr(item, "returns", None)):
        for quoted in nodes_in(part) if isinstance(part, ast.AST) else ():
            if isinstance(quoted, ast.Constant) and isinstance(quoted.value, str):
                yield from _names_in_text(quoted.value)


def names_outside(
    node: ast.AST, left_out: Set[ast.AST] = frozenset(), bound: Set[str] = frozenset()
) -> Iterator[str]:
    """The names that a statement takes from around it: not the locals of its functions.

    left_out: nodes that are not looked into. bound: names that something around it binds.
    """
    if isinstance(node, ast.Name):
        yield from {node.id} - bound
        return
    yield from (name for name in _quoted_names(node) if name not in bound)
    around: list[ast.AST] = []  # of a scope, but read outside of it
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        defaults = [*node.args.defaults, *(each for each in node.args.kw_defaults if each)]
        around = [*defaults, *getattr(node, "decorator_list", ())]
    elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        around = [node.generators[0].iter]
    inner = bound | own_names(node) if isinstance(node, SCOPES) else bound
    waiting = [(child, inner) for child in ast.iter_child_nodes(node) if child not in around]
    for child, names in [*waiting, *((child, bound) for child in around)]:
        if isinstance(child, ast.arguments):
            parts: list[ast.AST] = [part for part in ast.iter_child_nodes(child) if part not in around]
            yield from (name for part in parts for name in names_outside(part, left_out, bound))
        elif child not in left_out:
            yield from names_outside(child, left_out, names)


@functools.lru_cache(maxsize=CACHED)
def own_names(scope: ast.AST) -> frozenset[str]:
    """The names that a function, lambda or comprehension binds in its own scope."""
    return frozenset(_own_names(scope))


def _own_names(scope: ast.AST) -> Iterator[str]:
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        item = waiting.pop()
        if isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Load):
            yield item.id
        elif isinstance(item, ast.arg):
            yield item.arg
        elif isinstance(item, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler) and item.name:
            yield item.name
        if not isinstance(item, (*SCOPES, ast.ClassDef)):
            waiting += ast.iter_child_nodes(item)


def _names_in_text(text: str) -> Iterator[str]:
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return
    yield from (item.id for item in nodes_in(tree) if isinstance(item, ast.Name))


def homes(modules: Iterable[Module]) -> dict[str, Definition]:
    """Where each name of the top level is defined."""
    return {name: d for module in modules for d in module.definitions for name in d.names}


def from_libraries(modules: Iterable[Module]) -> dict[tuple[str, str], Import]:
    """What modules import from elsewhere, by the module and the name that it has there."""
    return {
        (module.name, item.bound): item
        for module in modules
        for item, _ in module.imports
        if item.module.partition(".")[0] != PACKAGE
    }


def reach(modules: Sequence[Module], roots: Iterable[str]) -> tuple[list[Definition], list[Import]]:
    """What the roots use, directly or not: definitions in reading order, and the imports those need.

    A method counts as used when anything kept mentions its name. Raises SourceError for an unknown root.
    """
    home, libraries = homes(modules), from_libraries(modules)
    waiting = list(roots)
    if unknown := [name for name in waiting if name not in home]:
        raise SourceError(f"{name}: not defined in core" for name in unknown)
    kept: set[Definition] = set()
    mentioned: set[str] = set()
    asleep: dict[ast.FunctionDef, Definition] = {}  # methods of kept classes, not mentioned so far
    named: dict[str, list[ast.FunctionDef]] = {}  # the same by their names
    while waiting:
        definition = home[waiting.pop()]
        if definition not in kept:
            kept.add(definition)
            for item in optional_methods(definition.node, home, libraries):
                asleep[item] = definition
                named.setdefault(item.name, []).append(item)
            parts: list[tuple[ast.stmt, Definition]] = [(definition.node, definition)]
            while parts:
                part, owner = parts.pop()
                left_out = frozenset(item for item in getattr(part, "body", ()) if item in asleep)
                taken, awake = _taken(part, left_out)
                waiting += [name for name in taken if name in home]
                foreign = inherited_names(part, owner.node, home)
                mentioned |= set(names_mentioned(awake, foreign))
                for name in mentioned & named.keys():
                    parts += [(item, asleep.pop(item)) for item in named.pop(name)]
    unnamed: dict[Definition, set[str]] = {}
    for item, owner in asleep.items():
        unnamed.setdefault(owner, set()).add(item.name)
    definitions = [
        without_methods(d, unnamed.get(d, set()))
        for module in modules
        for d in module.definitions
        if d in kept
    ]
    own = {module.name: {item.bound for item, _ in module.imports} for module in modules}
    users: dict[str, list[Definition]] = {}
    for definition in definitions:
        for name in definition.used:
            users.setdefault(name, []).append(definition)
    imports = {
        item: None
        for module in modules
        for item, _ in module.imports
        if not item.module.startswith(f"{PACKAGE}.")
        and _is_used(item, module.name, users.get(item.bound, []), own)
    }
    return definitions, list(imports)


@functools.lru_cache(maxsize=CACHED)
def _taken(part: ast.stmt, left_out: frozenset[ast.AST]) -> tuple[list[str], list[ast.AST]]:
    """The names that a statement takes from around it, and its nodes; left_out: methods not looked into."""
    return list(names_outside(part, left_out)), list(walk_without(part, left_out))


def optional_methods(
    node: ast.stmt, home: Mapping[str, Definition], libraries: Mapping[tuple[str, str], Import]
) -> Iterator[ast.FunctionDef]:
    """Methods that only core calls, and only by name: those that no library's class above has too.

    libraries: what modules import from elsewhere, by the module and the name that it has there.
    """
    if isinstance(node, ast.ClassDef):
        theirs = _library_names(node, home, libraries)
        if theirs is None:
            return
        for item in node.body:
            if (
                isinstance(item, ast.FunctionDef)
                and not item.name.startswith("__")
                and item.name not in theirs
            ):
                yield item


def _library_names(
    node: ast.ClassDef, home: Mapping[str, Definition], libraries: Mapping[tuple[str, str], Import]
) -> set[str] | None:
    """What the classes of libraries define that this one is derived from; None where that is not known."""
    found: set[str] = set()
    for base in map(ast.unparse, node.bases):
        if base in PLAIN_BASES:
            continue
        parent = home[base].node if base in home else None
        if isinstance(parent, ast.ClassDef):
            names = _library_names(parent, home, libraries)
        else:
            first, *rest = base.split(".")
            item = libraries.get((home[node.name].module, first))
            if item is None or item.module.partition(".")[0] != "torch":  # others look for names they make up
                return None
            names = _names_of(item, tuple(rest))
        if names is None:
            return None
        found |= names
    return found


@functools.cache
def _names_of(item: Import, rest: tuple[str, ...]) -> set[str] | None:
    try:
        thing: object = importlib.import_module(item.module)
        for name in ([item.name] if item.name else []) + list(rest):
            thing = getattr(thing, name)
    except (ImportError, AttributeError):
        return None
    return set(dir(thing))


def _has_plain_bases(node: ast.ClassDef, home: Mapping[str, Definition]) -> bool:
    for base in map(ast.unparse, node.bases):
        parent = home[base].node if base in home else None
        if isinstance(parent, ast.ClassDef) and not _has_plain_bases(parent, home):
            return False
        if parent is None and base not in PLAIN_BASES:
            return False
    return True


def walk_without(node: ast.AST, left_out: Set[ast.AST]) -> Iterator[ast.AST]:
    """Like ast.walk, but not into the nodes left out."""
    waiting = [node]
    while waiting:
        item = waiting.pop()
        yield item
        waiting += [child for child in ast.iter_child_nodes(item) if child not in left_out]


def inherited_names(part: ast.AST, owner: ast.stmt, home: Mapping[str, Definition]) -> set[str]:
    """What a class derived from a library's reads of itself and no class of ours defines."""
    if not isinstance(owner, ast.ClassDef) or _has_plain_bases(owner, home):
        return set()
    ours = {item.name for item in _methods(owner, home)}
    return {
        item.attr for item in walked(part) if isinstance(item, ast.Attribute) and _is_self(item.value)
    } - ours


def _methods(node: ast.ClassDef, home: Mapping[str, Definition]) -> Iterator[ast.FunctionDef]:
    """Those of a class and of all that it is derived from."""
    yield from (item for item in node.body if isinstance(item, ast.FunctionDef))
    for base in map(ast.unparse, node.bases):
        parent = home[base].node if base in home else None
        yield from _methods(parent, home) if isinstance(parent, ast.ClassDef) else ()


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def names_mentioned(nodes: Iterable[ast.AST], inherited: Set[str] = frozenset()) -> Iterator[str]:
    """Attributes, and texts that could be one. inherited: attributes of `self` that are none of ours."""
    nodes = list(nodes)
    yield from texts_in(nodes)
    for item in nodes:
        if isinstance(item, ast.Attribute) and (item.attr not in inherited or not _is_self(item.value)):
            yield item.attr


def texts_in(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Texts that may be names of attributes: not the keys of dictionaries."""
    keys = {id(item.slice) for item in nodes if isinstance(item, ast.Subscript)}  # of dictionaries
    keys |= {id(key) for item in nodes if isinstance(item, ast.Dict) for key in item.keys}
    keys |= {id(item.left) for item in nodes if isinstance(item, ast.Compare)}
    for item in nodes:
        if isinstance(item, ast.Constant) and isinstance(item.value, str) and id(item) not in keys:
            yield item.value


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


def _is_used(item: Import, module: str, users: list[Definition], imported: Mapping[str, set[str]]) -> bool:
    """Whether a definition of this module needs an import, or one that has got its code from here.

    users: definitions that take the name from around them.
    """
    users = [d for d in users if d.module == module or item.bound not in imported[d.module]]
    if item.name is None and item.alias is None and "." in item.module:  # `import a.b`: only for users of a.b
        return any(f"{item.module}." in ast.unparse(d.node) for d in users)
    return bool(users)


def core_faults(modules: Sequence[Module]) -> Iterator[str]:
    """Every rule broken, as 'file:line: sentence'. Nothing when core can be put into one file."""
    known = {module.name for module in modules}
    earlier: dict[str, set[str]] = {}
    for module in modules:
        yield from (f"{module.file}:{text}" for text in top_level_faults(module))
        yield from (f"{module.file}:{text}" for text in inner_faults(module.tree.body))
        yield from (f"{module.file}:{text}" for text in _import_faults(module, earlier, known))
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
    return isinstance(node, ast.FunctionDef | ast.ClassDef) or bool(_bound_names(node))


def _import_faults(module: Module, earlier: dict[str, set[str]], known: Set[str]) -> Iterator[str]:
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
        elif item.name is None or f"{item.module}.{item.name}".removeprefix(f"{PACKAGE}.") in known:
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
