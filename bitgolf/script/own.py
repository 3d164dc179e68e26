"""A user's own file: executed as a module, and its definitions for the script.

A technique in such a file is a class like ours. Its script holds the class with the constants, helpers and
imports that it needs, under the rules of our own modules.
"""

import ast
import copyreg
import dataclasses
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from bitgolf.base.errors import BitgolfError
from bitgolf.base.plan import Plan
from bitgolf.script.core import inner_faults, shared_namespace_faults, top_level_faults
from bitgolf.script.source import PACKAGE, Definition, Import, Module, SourceError, read_module
from bitgolf.script.syntax import nodes_in

ONE_FILE = "a technique and all that it needs stand in one file: move that into this one"
OWN_CODEC = (
    "is a codec of your own, which no artifact can name: its format numbers the codecs that every reader has"
)
LIBRARIES = frozenset({"numpy", "torch"})  # beside the standard library, of what a user's file may bring


class OwnFile(NamedTuple):
    """A user's file as it was executed."""

    path: Path
    text: str

    @property
    def identity(self) -> str:
        """SHA-256 of its text."""
        return hashlib.sha256(self.text.encode(errors="surrogatepass")).hexdigest()


OWN_FILES: dict[str, OwnFile] = {}  # those with classes of settings, by the names of their modules


def load_own(path: Path, text: str | None = None) -> ModuleType:
    """The module of a user's file. Whatever goes wrong in the file is raised as it is.

    A file with classes of settings is executed once for each text, so that its classes stay the same. Of
    classes with one name in several files those of the file loaded last are found.
    text: what it held, where it may hold something else by now.
    """
    path = path.absolute()
    text = importlib.util.decode_source(path.read_bytes()) if text is None else text
    file = OwnFile(path, text)
    name = f"own_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{file.identity[:16]}"
    if name not in OWN_FILES:
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module  # where dataclasses look their annotations up
        try:
            exec(compile(text, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102
        except BaseException as error:
            del sys.modules[name]
            if isinstance(error, ImportError) and (beside := _neighbour(path, error)):
                refusal = BitgolfError(f"imports {beside}, a file beside it", way_out=ONE_FILE)
                raise refusal.with_traceback(error.__traceback__) from None
            raise
        if kinds_of(module):
            OWN_FILES[name] = file
    module = sys.modules[name]
    _put_first(module)
    return module


def _neighbour(path: Path, error: ImportError) -> str:
    """The module beside a file that it failed to import; empty where the failure is another."""
    package = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError):
        beside = (path.parent / f"{package}.py").is_file() or (path.parent / package).is_dir()
        return package if package and beside else ""
    return "by a leading dot" if "relative import" in str(error) else ""


def kinds_of(module: ModuleType) -> list[type[Plan]]:
    """The classes of settings that a file defines, in its order."""
    return [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Plan) and kind.__module__ == module.__name__
    ]


def _put_first(module: ModuleType) -> None:
    """Let a slot find the classes of this file, and none of another with the same name."""
    kinds = {kind.__name__: kind for kind in kinds_of(module)}
    for name in OWN_FILES:
        for other in kinds_of(sys.modules[name]):
            if other.__name__ in kinds:
                _hide(other, hidden=name != module.__name__)
    for kind in kinds.values():
        copyreg.pickle(kind, _reduced)


def _hide(kind: Any, *, hidden: bool) -> None:
    if hidden and not kind.__dict__.get("abstract"):
        kind.abstract = kind.hidden_by_another = True
    elif not hidden and kind.__dict__.get("hidden_by_another"):
        del kind.abstract, kind.hidden_by_another


def _reduced(plan: Plan) -> tuple[Any, ...]:
    """How such settings go to another process: with the text of their file."""
    file = OWN_FILES[type(plan).__module__]
    return revived, (str(file.path), file.text, type(plan).__qualname__, dict(plan.__dict__))


def revived(path: str, text: str, name: str, fields: dict[str, Any]) -> Plan:
    """Settings of a class in a user's file, as another process had them."""
    made: Plan = getattr(load_own(Path(path), text), name)(**fields)
    return made


def plans_in(value: Any) -> Iterator[Plan]:
    """The plan and every plan inside it."""
    if isinstance(value, Plan):
        yield value
        for field in dataclasses.fields(value):
            yield from plans_in(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from plans_in(item)


def own_files(kinds: Iterable[type[Plan]]) -> dict[str, OwnFile]:
    """The files of those of these classes that are in a user's file, by the names of their modules."""
    names = dict.fromkeys(kind.__module__ for kind in kinds if kind.__module__ in OWN_FILES)
    return {name: OWN_FILES[name] for name in names}


def carried(kinds: Iterable[type[Plan]], core: Sequence[Module]) -> list[Module]:
    """What classes in users' files need of them, as modules that stand after core.

    Raises SourceError with every reason why something cannot be carried, as 'file:line: sentence'.
    """
    kinds = sorted(kinds, key=lambda kind: kind.__name__)
    modules: list[Module] = []
    defined = {name for module in core for d in module.definitions for name in d.names}
    faults = [
        f"{kind.__name__} is of {kind.__module__}; put it into the file that the recipe is in"
        for kind in kinds
        if kind.__module__ not in OWN_FILES and kind.__name__ not in defined
    ]
    faults += [f"{kind.__name__} {OWN_CODEC}" for kind in kinds if is_own_codec(kind)]
    for name, file in own_files(kinds).items():
        module = read_module(file.text, file.path.name, file.path.name)
        roots = [kind.__qualname__ for kind in kinds if kind.__module__ == name]
        there = {each for d in module.definitions for each in d.names}
        faults += [f"{module.file}: {root} is not at the top level" for root in roots if root not in there]
        needed = _needed(module, {*roots} & there)
        faults += _faults(module, needed, core)
        modules.append(needed)
    if not faults and modules:
        faults += [f"{text}; give it another name" for text in shared_namespace_faults([*core, *modules])]
    if faults:
        raise SourceError(faults, "a technique cannot be put into the script:")
    return modules


def is_own_codec(kind: type[Plan]) -> bool:
    """Whether a class of a user's file is a codec that artifacts would have to name."""
    return kind.__module__ in OWN_FILES and any(base.__name__ == "Codec" for base in kind.__mro__[1:])


def parts_of(text: str, names: Iterable[str]) -> list[str]:
    """The definitions in a file that these names use, directly or not, as they are written there."""
    try:
        return [d.text for d in _needed(read_module(text, ""), names).definitions]
    except SyntaxError:
        return []


def _needed(module: Module, roots: Iterable[str]) -> Module:
    """The part of a module that these names use, directly or not."""
    home: dict[str, list[Definition]] = {}
    for definition in module.definitions:
        for name in definition.names:
            home.setdefault(name, []).append(definition)
    waiting, kept = [d for name in roots for d in home.get(name, ())], set()
    while waiting:
        definition = waiting.pop()
        if definition not in kept:
            kept.add(definition)
            waiting += [d for name in definition.used for d in home.get(name, ())]
    definitions = tuple(d for d in module.definitions if d in kept)
    used = {name for d in definitions for name in d.used}
    imports = tuple((item, line) for item, line in module.imports if item.bound in used)
    return Module(module.name, module.tree, definitions, imports, module.path)


def _faults(module: Module, needed: Module, core: Sequence[Module]) -> Iterator[str]:
    """Why a file, or what is needed of it, cannot go into a script."""
    yield from (f"{module.file}:{text}" for text in top_level_faults(module) if not _is_main(module, text))
    yield from (f"{module.file}:{text}" for text in inner_faults([d.node for d in needed.definitions]))
    for item, line in module.imports:
        if item.name == "*":
            yield f"{module.file}:{line}: star import; name what is used"
        elif item.module == "__future__":
            yield f"{module.file}:{line}: future import; it would change every other module in the script"
    optional = [
        (item, d.node.lineno) for d in needed.definitions if d.is_import for item in _imports_in(d.node)
    ]
    for item, line in (*needed.imports, *optional):
        if text := _import_fault(item, core):
            yield f"{module.file}:{line}: {text}"


def _is_main(module: Module, fault: str) -> bool:
    """Whether a fault is only about `if __name__ == "__main__":`, which does nothing in a module."""
    line = int(fault.partition(":")[0])
    (node,) = (node for node in module.tree.body if node.lineno == line)
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) == "__name__ == '__main__'"


def _imports_in(node: ast.AST) -> Iterator[Import]:
    for item in nodes_in(node):
        if isinstance(item, ast.Import | ast.ImportFrom):
            yield from (each for each, _ in read_module(ast.unparse(item), "").imports)


def _import_fault(item: Import, core: Sequence[Module]) -> str:
    package = item.module.partition(".")[0]
    if package != PACKAGE:
        if package in sys.stdlib_module_names | LIBRARIES:
            return ""
        return f"imports {item.module}; a script brings the standard library, numpy, torch and this one file"
    source = item.module.removeprefix(f"{PACKAGE}.")
    defined = {module.name: {name for d in module.definitions for name in d.names} for module in core}
    if item.name is None or f"{item.module}.{item.name}".removeprefix(f"{PACKAGE}.") in defined:
        return f"imports a whole module; write `from {PACKAGE}.X import name`"
    if source not in defined:
        return f"imports {item.module}, which no script can contain"
    if item.name not in defined[source]:
        return f"{item.module} defines no {item.name}"
    return f"`{item.name} as {item.alias}`; what is of {PACKAGE} keeps its name" if item.alias else ""
