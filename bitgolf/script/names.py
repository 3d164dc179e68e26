"""The names of a script that must keep their spelling; all others can be shortened.

Names are judged by their text alone, wherever they stand. One stays if it is known to Python or to a library
that the script imports, is read as an attribute that the script does not define, is given to a function of
others, stands in the script as text, or names a tensor of a module. So do the settings that an artifact
spells out.
"""

import argparse
import ast
import builtins
import functools
import importlib
import io
import keyword
import lzma
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator, Set
from types import ModuleType

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from bitgolf.script.reach import PLAIN_BASES
from bitgolf.script.syntax import names_loaded, nodes_in

# Decorators that read neither annotations nor names of parameters; any other may (torch custom operators).
BLIND_DECORATORS = frozenset(
    {"property", "staticmethod", "classmethod", "abstractmethod", "functools.cache", "functools.lru_cache"}
    | {"contextlib.contextmanager", "contextmanager", "torch.no_grad", "torch.inference_mode"}
)
# Artifacts hold the names and fields of these classes, of those below them and of what their fields are.
SPELLED_OUT = frozenset({"ModelPlan", "Grid", "Form"})
SPELLERS = frozenset({"to_json", "sparse_json"})  # functions that read them
REFLECTIONS = frozenset({"__dict__", "_asdict", "_fields", "asdict", "fields", "get_type_hints", "vars"})
COPIES = frozenset({"replace", "_replace"})  # their keywords are fields of ours
MODULE_BASES = frozenset(
    {"nn.Module", "torch.nn.Module"}
)  # torch calls a module's methods by names of its own
LARGE = ("torch", "numpy")  # packages of which a script names parts by their path


@functools.cache
def foreign_objects() -> tuple[object, ...]:
    """What scripts meet and no import names; objects, for some attributes are set when one is made."""
    compressors = (zlib.compressobj(), zlib.decompressobj(), lzma.LZMACompressor(), lzma.LZMADecompressor())
    arrays = (np.zeros(1), np.float32(0), np.dtype("u1"), np.memmap, np.random.default_rng(0), torch.zeros(1))
    learning = (nn.Module(), torch.optim.AdamW([nn.Parameter(torch.zeros(1))]), RemovableHandle)
    builtin = (str, bytes, bytearray, memoryview, int, float, complex, list, dict, set, tuple, slice, range)
    others = (type, property, BaseException(), iter(""), (i for i in ""), torch.finfo(), io.TextIOWrapper)
    return (*builtin, *others, *arrays, *learning, *compressors, argparse.Namespace(), struct.Struct("B"))


def visible_names(tree: ast.Module) -> set[str]:
    """Names that must keep their spelling for the script to mean what it meant."""
    items = nodes_in(tree)
    classes = {item.name: item for item in items if isinstance(item, ast.ClassDef)}
    own = set(_own_attributes(items)) | classes.keys()
    kept = {*dir(builtins), *keyword.kwlist, *_library_names(items), *_texts(items), *_state_names(classes)}
    kept |= {item.attr for item in items if isinstance(item, ast.Attribute)} - own
    kept |= {name for name in own if name.startswith("__")}
    if _reflects(tree):
        kept |= {name for item in classes.values() for name in _field_names(item)} | classes.keys()
    for item in items:
        if isinstance(item, ast.alias):
            kept.add((item.asname or item.name).split(".")[0])
        elif isinstance(item, ast.FunctionDef) and not is_blind(item):  # may hand names on, as annotations
            kept |= {inner.arg for inner in nodes_in(item.args) if isinstance(inner, ast.arg)}
        elif isinstance(item, ast.MatchMapping) and item.rest:
            kept.add(item.rest)
        elif isinstance(item, ast.MatchClass):
            kept |= set(item.kwd_attrs)
        elif isinstance(item, ast.ClassDef):
            kept |= {word.arg for word in item.keywords if word.arg}
        elif isinstance(item, ast.Name) and item.id.startswith("__"):
            kept.add(item.id)
    functions = {item.name for item in tree.body if isinstance(item, ast.FunctionDef)} | classes.keys()
    functions -= {item.id for item in items if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store)}
    functions -= {item.arg for item in items if isinstance(item, ast.arg)}
    methods = {name for item in classes.values() for name in _methods(item, classes)} - kept
    return kept | set(_foreign_keywords(items, functions, methods | COPIES))


def spelled_names(tree: ast.Module) -> Iterator[str]:
    """The classes and fields that an artifact spells out; tree: still with its annotations."""
    classes = {item.name: item for item in tree.body if isinstance(item, ast.ClassDef)}
    waiting, done = list(SPELLED_OUT & classes.keys()), set[str]()
    while waiting:
        if (name := waiting.pop()) in done:
            continue
        done.add(name)
        yield from (name, *_field_names(classes[name]))
        waiting += [other for other, node in classes.items() if name in map(ast.unparse, node.bases)]
        fields = [item for item in classes[name].body if isinstance(item, ast.AnnAssign)]
        waiting += [item for field in fields for item in names_loaded(nodes_in(field)) if item in classes]


def is_blind(node: ast.FunctionDef) -> bool:
    """Whether nothing but calls reads what stands in a function's head."""
    return {ast.unparse(item).split("(")[0] for item in node.decorator_list} <= BLIND_DECORATORS


def _own_attributes(items: Iterable[ast.AST]) -> Iterator[str]:
    for item in items:
        if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store):
            yield item.attr
        elif isinstance(item, ast.ClassDef):
            yield from _field_names(item)
            yield from (part.name for part in item.body if isinstance(part, ast.FunctionDef | ast.ClassDef))


def _field_names(node: ast.ClassDef) -> Iterator[str]:
    for item in node.body:
        targets = item.targets if isinstance(item, ast.Assign) else []
        targets = [item.target] if isinstance(item, ast.AnnAssign) else targets
        yield from (name.id for t in targets for name in nodes_in(t) if isinstance(name, ast.Name))


def _library_names(items: Iterable[ast.AST]) -> Iterator[str]:
    """Every attribute of what the script imports, of the classes in it, and of common objects."""
    for thing in foreign_objects():
        yield from dir(thing)
    for item in items:
        if isinstance(item, ast.Attribute):
            yield from _dotted(item)
        if isinstance(item, ast.Import):
            for alias in item.names:
                yield from _names_of_module(alias.name)
        elif isinstance(item, ast.ImportFrom) and item.module:
            for alias in item.names:
                yield from _names_of(item.module, alias.name)


def _dotted(item: ast.Attribute) -> Iterator[str]:
    """The names in `torch.ops.aten.add`, which are a library's if the first one is that of a module."""
    *_, first = names = ast.unparse(item).split(".")[::-1]
    if first in sys.modules and all(name.isidentifier() for name in names):
        yield from names


@functools.cache
def _names_of_module(name: str) -> frozenset[str]:
    """Attributes of a module, of its classes and parts; none of a module that is not installed."""
    try:
        return frozenset(_names_inside(importlib.import_module(name)))
    except ImportError:
        return frozenset()


def _names_inside(module: ModuleType) -> Iterator[str]:
    yield from dir(module)
    for name, thing in vars(module).items():
        if name.startswith("_"):
            continue
        if issubclass(type(thing), type):  # isinstance would wake up what is old and warns
            yield from dir(thing)
        elif type(thing) is ModuleType and _is_part(thing.__name__, module.__name__):
            yield from _names_inside(thing)


def _is_part(name: str, package: str) -> bool:
    """Whether a module is a part of a package by its name, or of a compiled one, where nobody imports it."""
    return not package.startswith(LARGE) and (name.startswith(f"{package}.") or name not in sys.modules)


@functools.cache
def _names_of(module: str, name: str) -> frozenset[str]:
    try:
        thing = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return frozenset()
    return _names_of_module(thing.__name__) if isinstance(thing, ModuleType) else frozenset(dir(thing))


def _texts(items: Iterable[ast.AST]) -> Iterator[str]:
    """Texts, and names that a text is put together to be: `getattr(self, f"rate_{number}")`."""
    items = list(items)
    first = (item.values[0] for item in items if isinstance(item, ast.JoinedStr) and item.values)
    texts = [part.value for part in first if isinstance(part, ast.Constant)]
    starts = tuple(text for text in texts if isinstance(text, str) and text.isidentifier())
    for item in items:
        if isinstance(item, ast.Constant) and isinstance(item.value, str):
            yield item.value
            yield item.value.lstrip("-").replace("-", "_")  # an option, which argparse makes an attribute
        name = getattr(item, "attr", None) or getattr(item, "id", None) or getattr(item, "name", None)
        if isinstance(name, str) and name.startswith(starts):
            yield name


def _state_names(classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    """What a class derived from another's sets on itself: tensors and parts of a module go by these names.

    And what it reads there and never sets, which is the other's. Of others than modules also the methods: a
    library may look for them.
    """
    for node in classes.values():
        foreign = set(_foreign_bases(node, classes))
        if not foreign:
            continue
        methods = set(_methods(node, classes))
        for item in nodes_in(node):
            if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store):
                yield item.attr
            elif isinstance(item, ast.Attribute) and ast.unparse(item.value) in ("self", "super()"):
                yield from {item.attr} - methods
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                yield item.target.id
            elif isinstance(item, ast.FunctionDef) and foreign - MODULE_BASES:
                yield item.name


def _methods(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    """The methods of a class and of those of the script that it is derived from."""
    yield from (item.name for item in node.body if isinstance(item, ast.FunctionDef))
    for base in map(ast.unparse, node.bases):
        yield from _methods(classes[base], classes) if base in classes else ()


def _foreign_bases(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    for base in map(ast.unparse, node.bases):
        if base in classes:
            yield from _foreign_bases(classes[base], classes)
        elif base not in PLAIN_BASES:
            yield base


def _reflects(tree: ast.Module) -> bool:
    """Whether anything but the writers of artifacts asks a class for the names of its fields."""
    others = [item for item in tree.body if getattr(item, "name", "") not in SPELLERS]
    parts = [part for item in others for part in nodes_in(item)]
    called = {
        part.func.id for part in parts if isinstance(part, ast.Call) and isinstance(part.func, ast.Name)
    }
    return bool(REFLECTIONS & (called | {part.attr for part in parts if isinstance(part, ast.Attribute)}))


def _foreign_keywords(items: Iterable[ast.AST], functions: Set[str], methods: Set[str]) -> Iterator[str]:
    """Keywords of calls of functions that the script does not define."""
    for item in items:
        if isinstance(item, ast.Call):
            called = item.func
            ours = functions if isinstance(called, ast.Name) else methods
            name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
            if name not in ours:
                yield from (word.arg for word in item.keywords if word.arg)
