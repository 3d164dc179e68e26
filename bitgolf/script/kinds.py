"""The classes of values, inferred from annotations and plain assignments."""

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeGuard

from bitgolf.script.source import Module
from bitgolf.script.syntax import CACHED, walked, written

ROWS = re.compile(r"(?:tuple|list|Sequence|Iterable|Iterator)\[(\w+)(?:, \.\.\.)?\]")  # of equal items


class Kinds:
    """The classes of modules: fields, what their methods return, and which are derived from which."""

    def __init__(self, modules: Sequence[Module]) -> None:
        nodes = [d.node for module in modules for d in module.definitions]
        self.classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
        self.bases = {
            name: [base for base in map(written, node.bases) if base in self.classes]
            for name, node in self.classes.items()
        }
        self._above: dict[str, tuple[str, ...]] = {}
        self._fields = {name: dict(_field_kinds(node)) for name, node in self.classes.items()}
        self._returns = {name: dict(_returned(node.body)) for name, node in self.classes.items()}
        self._returns[""] = dict(_returned(nodes)) | {name: name for name in self.classes}

        self.protocols = {name for name, node in self.classes.items() if _is_protocol(node)}
        self._met_by = {name: self._only_one(self.classes[name]) for name in self.protocols}

    def _only_one(self, protocol: ast.ClassDef) -> str:
        """The one class that has what a protocol asks for; empty where there are several."""
        needed = self.methods(protocol.name) | set(self._fields[protocol.name])
        fitting = [
            name
            for name, node in self.classes.items()
            if needed <= self.methods(name) | set(self._fields[name]) and not _is_protocol(node)
        ]
        return fitting[0] if len(fitting) == 1 else ""

    def above(self, name: str) -> tuple[str, ...]:
        """A class and those it is derived from."""
        if name not in self._above:
            bases = (other for base in self.bases.get(name, ()) for other in self.above(base))
            self._above[name] = (name, *bases) if name in self.classes else ()
        return self._above[name]

    def below(self, name: str) -> list[str]:
        """A class and those derived from it."""
        return [other for other in self.classes if name in self.above(other)]

    def methods(self, name: str) -> set[str]:
        """The functions that stand in a class."""
        return {item.name for item in self.classes[name].body if isinstance(item, ast.FunctionDef)}

    def constants(self, name: str) -> Iterator[tuple[str, object]]:
        """The class variables that stand in a class, with their values where these are plain."""
        fields = [item for item in self.classes[name].body if isinstance(item, ast.AnnAssign)]
        for item in (each for each in fields if written(each.annotation).startswith("ClassVar")):
            if isinstance(item.value, ast.Constant):
                yield written(item.target), item.value.value

    def root(self, name: str) -> str:
        """The first class of the family that a class is in; settings as such make none."""
        *_, last = [each for each in self.above(name) if each != "Plan"] or [name]
        return last

    def field(self, owner: str, name: str) -> str:
        """The class of a field or attribute; empty where nobody says it."""
        return next((self._fields[c][name] for c in self.above(owner) if name in self._fields[c]), "")

    def local(self, function: ast.FunctionDef, owner: str) -> dict[str, str]:
        """The classes of parameters, and of locals that are only set to what is known to be of one."""
        stored, bindings = _bound(function)
        kinds = {name: kind for name, kind in _parameters(function).items() if name not in stored}
        if owner and "self" not in stored:
            kinds["self"] = owner
        candidates: dict[str, list[str]] = {}
        for item in bindings:
            for name, kind in self._bindings(item, kinds):
                if isinstance(name, ast.Name) and kind:
                    candidates.setdefault(name.id, []).append(kind)
                    if len(candidates[name.id]) == stored[name.id] and (
                        one := self._common(candidates[name.id])
                    ):
                        kinds[name.id] = one
        return kinds

    def _common(self, names: Sequence[str]) -> str:
        """A class that all of these are of, or nothing."""
        for each in (set(names), {self.root(name) for name in names if name in self.classes}):
            if len(each) == 1 and len(names) == sum(name in self.classes or name in each for name in names):
                return each.pop()
        return ""

    def _bindings(self, item: ast.AST, kinds: Mapping[str, str]) -> Iterator[tuple[ast.expr, str]]:
        if isinstance(item, ast.Assign) and len(item.targets) == 1:
            yield from ((name, self.of(value, kinds)) for name, value in pairs(item.targets[0], item.value))
        elif isinstance(item, ast.For | ast.comprehension):
            match = ROWS.fullmatch(self.of(item.iter, kinds))
            yield item.target, match[1] if match else ""

    def of(self, node: ast.expr, kinds: Mapping[str, str]) -> str:
        """The class of an expression, given those of names; empty where it is not known."""
        kind = self._of(node, kinds)
        return self._met_by.get(kind, kind)

    def _of(self, node: ast.expr, kinds: Mapping[str, str]) -> str:
        if isinstance(node, ast.Name):
            return kinds.get(node.id, "")
        if isinstance(node, ast.List | ast.Tuple):
            one = self._common([self.of(each, kinds) for each in node.elts])
            return f"list[{one}]" if one else ""
        if isinstance(node, ast.Attribute):
            return self.field(self.of(node.value, kinds), node.attr)
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice):
            match = ROWS.fullmatch(self.of(node.value, kinds))
            return match[1] if match else ""
        if isinstance(node, ast.Call) and written(node.func) == "list" and len(node.args) == 1:
            match = ROWS.fullmatch(self.of(node.args[0], kinds))
            return f"list[{match[1]}]" if match else ""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in kinds:
            return self._returns[""].get(node.func.id, "")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, name = self.of(node.func.value, kinds), node.func.attr
            kind = next((self._returns[c][name] for c in self.above(owner) if name in self._returns[c]), "")
            return owner if kind == "Self" else kind
        return ""


@functools.lru_cache(maxsize=CACHED)
def _bound(function: ast.FunctionDef) -> tuple[Counter[str], list[ast.AST]]:
    """How often each name is set, and what sets some of them."""
    items = walked(function)
    names = (item for item in items if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store))
    return (
        Counter(name.id for name in names),
        [item for item in items if isinstance(item, ast.Assign | ast.For | ast.comprehension)],
    )


def pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """What an assignment sets, each with its value."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return list(zip(target.elts, value.elts))
    return [(target, value)]


def _field_kinds(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            yield item.target.id, _kind(item.annotation)
        elif isinstance(item, ast.FunctionDef) and item.name == "__init__":
            kinds = _parameters(item)
            for part in item.body:
                for target, value in (
                    pairs(part.targets[0], part.value) if isinstance(part, ast.Assign) else ()
                ):
                    if (
                        isinstance(target, ast.Attribute)
                        and isinstance(value, ast.Name)
                        and value.id in kinds
                    ):
                        yield target.attr, kinds[value.id]
        elif is_property(item) and item.returns:
            yield item.name, _kind(item.returns)


def _is_protocol(node: ast.ClassDef) -> bool:
    return "Protocol" in map(written, node.bases)


def is_property(item: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    """Whether a statement defines a property."""
    return isinstance(item, ast.FunctionDef) and list(map(written, item.decorator_list)) == ["property"]


def _returned(nodes: Iterable[ast.stmt]) -> Iterator[tuple[str, str]]:
    for item in nodes:
        if isinstance(item, ast.FunctionDef) and item.returns:
            yield item.name, _kind(item.returns)


def _kind(annotation: ast.expr) -> str:
    return written(annotation).strip("'\"")  # one of a class further down is quoted


def _parameters(function: ast.FunctionDef) -> dict[str, str]:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return {a.arg: _kind(a.annotation) for a in arguments if a.annotation}
