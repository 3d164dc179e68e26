"""What a call is of: a function or a method of the script itself, something of a library, or not known.

This is the one place that says so. A function is what its name stands for where it is called, a method is
that of the class which its object was made of. A name alone says nothing: of an object that is not known the
methods of a name are guesses, and what follows from a guess is suspected at most.
"""

import ast
from collections.abc import Collection, Mapping, Sequence

import torch

from bitgolf.audit.library import BUFFER, COLLECTIVES
from bitgolf.audit.objects import OTHERS_OWN
from bitgolf.audit.tree import (
    GUESSED,
    MADE,
    NOT_KNOWN,
    OVERRIDES,
    OWN,
    Callee,
    Definition,
    keep_callee,
    nodes,
    walked,
)
from bitgolf.audit.values import LAMBDA, dotted, last_name

# What torch's own classes have: of a class that is made of one of them, a method of such a name is that.
OPTIMIZERS = {name for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
PROTOCOL = {*dir(torch.nn.Module), *dir(torch.optim.Optimizer), "backward"}
OTHERS = OTHERS_OWN | PROTOCOL | COLLECTIVES
PLAIN_KINDS = ("str", BUFFER, LAMBDA)


class Callees:
    """The functions and classes of some files, and which of them a call enters. beside: names of the first
    files, which the last one imports.
    """

    def __init__(self, trees: Sequence[ast.Module], beside: Sequence[str] = ()) -> None:
        self.trees = trees
        self.files = {name.removesuffix(".py"): id(tree) for name, tree in zip(beside, trees)}
        self.functions: dict[str, Definition] = {}  # the first of a name
        self.called_so: dict[str, list[Definition]] = {}  # every function of a name
        self.classes: dict[str, ast.ClassDef] = {}
        self.methods: dict[tuple[str, str], Definition] = {}
        self.owner: dict[int, str] = {}  # the class of a method
        self.imported: dict[str, str] = {}  # names of modules and of what is in them, whole
        # of names: the function or file that they stand in, and the class of the method around them
        self.scopes: dict[int, tuple[int, str]] = {}
        self.outer: dict[int, int] = {}  # functions, by what they stand in
        self.bound: dict[int, set[str]] = {}  # names that are given something there
        self.defined: dict[tuple[int, str], Definition] = {}  # functions that stand there
        self.met: dict[int, Callee] = {}  # what is called, as a flow has come to it
        for tree in trees:
            self._define(tree)
        self.bases = {kind: [last_name(base) for base in made.bases] for kind, made in self.classes.items()}
        self.heirs: dict[str, list[str]] = {}
        for kind, bases in self.bases.items():
            for base in bases:
                self.heirs.setdefault(base, []).append(kind)
        self._related: dict[str, frozenset[str]] = {}

    def _define(self, tree: ast.Module) -> None:
        """Note functions, classes and names, whatever they stand in; no recursion, trees may be deep."""
        waiting: list[tuple[ast.AST, Definition | None, str, str]] = [(tree, None, "", "")]
        while waiting:
            node, function, kind, of = waiting.pop()
            scope = id(function or tree)
            for child in ast.iter_child_nodes(node):
                inner, inner_kind, inner_of = function, "", of
                match child:
                    case ast.Name() | ast.Attribute():
                        self.scopes[id(child)] = scope, of
                        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                            self.bound.setdefault(scope, set()).add(child.id)
                    case ast.arg():
                        self.bound.setdefault(scope, set()).add(child.arg)
                    case ast.FunctionDef() | ast.AsyncFunctionDef():
                        inner, inner_of = child, of or kind
                        self._function(child, kind, scope)
                    case ast.ClassDef():
                        self.classes.setdefault(child.name, child)
                        inner_kind, inner_of = child.name, ""
                    case ast.Import():
                        self.imported |= {each.asname or each.name: each.name for each in child.names}
                    case ast.ImportFrom():
                        whole = {
                            each.asname or each.name: f"{child.module}.{each.name}" for each in child.names
                        }
                        self.imported |= whole
                    case ast.If() | ast.Try() | ast.With():
                        inner_kind = kind
                waiting.append((child, inner, inner_kind, inner_of))

    def _function(self, node: Definition, kind: str, scope: int) -> None:
        self.functions.setdefault(node.name, node)
        self.called_so.setdefault(node.name, []).append(node)
        self.outer[id(node)] = scope
        if kind:
            self.methods[kind, node.name] = node
            self.owner[id(node)] = kind
        else:
            self.defined.setdefault((scope, node.name), node)

    def callee(self, func: ast.expr, kind: str = "", call: ast.Call | None = None) -> Callee:
        """What is called. kind: the class of the object that a name stands for, or that it is a method of."""
        match func:
            case ast.Name(id=name):
                if name in self.classes:
                    return _callee(self.method(name, "__init__"), MADE)
                return self._method(kind, "__call__", call) if kind else self._named(func, call)
            case ast.Attribute(value=ast.Call(func=ast.Name("super")), attr=name):
                of = self.scopes.get(id(func), (0, ""))[1]
                above = (self.method(base, name) for base in self.bases.get(of, ()))
                return _callee(next((each for each in above if each is not None), None), OWN)
            case ast.Attribute(value=held, attr=name):
                root = dotted(held).partition(".")[0]
                if root in self.imported and not self._is_bound(root, func):
                    file = self.files.get(self.imported[root].rpartition(".")[2])
                    if file is not None:
                        return _callee(self.defined.get((file, name)), OWN)
                    if self.imported[root].partition(".")[0] not in self.files:
                        return NOT_KNOWN
                if root in ("self", "cls") and isinstance(held, ast.Name):
                    kind = kind or self.scopes.get(id(func), (0, ""))[1]
                elif root in self.classes and isinstance(held, ast.Name):
                    kind = root
                return self._method(kind, name, call)
        return self._method(kind, "__call__", call) if kind else NOT_KNOWN

    def _named(self, node: ast.Name, call: ast.Call | None) -> Callee:
        """What a name stands for; of one that was given something else than a function it is a guess."""
        scope = self.scopes.get(id(node), (id(self.trees[-1]), ""))[0]
        while scope:
            if (own := self.defined.get((scope, node.id))) is not None:
                return Callee((own,), OWN)
            if node.id in self.bound.get(scope, ()):
                break
            scope = self.outer.get(scope, 0)
        file, _, name = self.imported.get(node.id, "").rpartition(".")
        if not scope and file:
            return _callee(self.defined.get((self.files.get(file.rpartition(".")[2], 0), name)), OWN)
        return self._guessed(node.id, call, methods=False)

    def _is_bound(self, name: str, node: ast.expr) -> bool:
        """Whether a name is given something where this stands."""
        scope = self.scopes.get(id(node), (0, ""))[0]
        while scope and name not in self.bound.get(scope, ()):
            scope = self.outer.get(scope, 0)
        return bool(scope)

    def _method(self, kind: str, name: str, call: ast.Call | None) -> Callee:
        if kind in self.classes:
            if (own := self.method(kind, name)) is not None:
                return Callee((own,), OVERRIDES if self._overrides(kind, own) else OWN)
            if heirs := [own for each in self.related(kind) if (own := self.methods.get((each, name)))]:
                return Callee((*heirs,), OWN)
        if kind in PLAIN_KINDS or name in OTHERS:
            return NOT_KNOWN
        return self._guessed(name, call, methods=True)

    def _guessed(self, name: str, call: ast.Call | None, methods: bool) -> Callee:
        """All functions of a name that take what a call gives."""
        others = [each for each in self.called_so.get(name, ()) if methods is (id(each) in self.owner)]
        fitting = [each for each in others if call is None or _takes(each, call, methods)]
        return Callee((*(fitting or others),), GUESSED)

    def method(self, kind: str, name: str) -> Definition | None:
        """The method of a class, or of the first that has it of those that it is made of."""
        found = (self.methods.get((each, name)) for each in self.lineage(kind))
        return next((each for each in found if each is not None), None)

    def lineage(self, kind: str) -> list[str]:
        """A class of the script, and those of the script that it is made of."""
        found = [kind] if kind in self.classes else []
        for each in found:  # `class Module(nn.Module)` is made of another one
            found += [base for base in self.bases[each] if base in self.classes and base not in found]
        return found

    def makes_optimizer(self, node: ast.AST) -> bool:
        """A call of one of torch's optimizers, or of one's own that is made of it."""
        name = last_name(node.func) if isinstance(node, ast.Call) else ""
        bases = {base for kind in self.lineage(name) for base in self.bases[kind]} or {name}
        return bool(bases & OPTIMIZERS)

    def _overrides(self, kind: str, own: Definition) -> bool:
        """Whether a method does what torch's classes do by its name; an optimizer's step does anyway."""
        if own.name == "step":
            asked = {each.attr for each in nodes(own, ast.Attribute)}
            if "grad" in asked and "backward" not in asked:
                return True
        above = {base for each in _reached(kind, self.bases) for base in self.bases.get(each, ())}
        return own.name in PROTOCOL and bool(above - self.classes.keys() - {"object"})

    def related(self, kind: str) -> frozenset[str]:
        """A class of the script, those that it is made of, and those that are made of it."""
        if kind not in self._related:
            self._related[kind] = _reached(kind, self.bases) | _reached(kind, self.heirs)
        return self._related[kind]

    def library(self, node: ast.Call) -> str:
        """The package that a call is of by its import; nothing for another one."""
        root = dotted(node.func).partition(".")[0]
        return "" if self._is_bound(root, node.func) else self.imported.get(root, "").partition(".")[0]

    def reaches(self, kind: str, names: Collection[str]) -> bool:
        """Whether the forward of a class calls one of these, itself or by other functions of the script."""
        forward = self.method(kind, "forward")
        waiting, seen = [] if forward is None else [forward], set()
        for function in waiting:
            for node in nodes(function, ast.Call):
                if last_name(node.func) in names:
                    return True
                new = [each for each in self.callee(node.func, "", node).functions if id(each) not in seen]
                seen |= set(map(id, new))
                waiting += new
        return False

    def meet(self, func: ast.expr, callee: Callee) -> None:
        """Note what is called, as a flow has come to it."""
        known = self.met.get(id(func), callee)
        others = [each for each in callee.functions if each not in known.functions]
        self.met[id(func)] = known._replace(functions=(*known.functions, *others)) if others else known

    def settle(self) -> None:
        """Note at every call, and at every name of a function that is handed on, what it is of."""
        for tree in self.trees:
            called = {id(each.func): each for each in nodes(tree, ast.Call)}
            for node in walked(tree):
                if isinstance(node, ast.Name | ast.Attribute) and (
                    id(node) in called or last_name(node) in self.called_so
                ):
                    keep_callee(node, self.met.get(id(node)) or self.callee(node, "", called.get(id(node))))


def _callee(function: Definition | None, how: str) -> Callee:
    return NOT_KNOWN if function is None else Callee((function,), how)


def _takes(function: Definition, call: ast.Call, is_method: bool) -> bool:
    """Whether a function can be called with what stands in the parentheses."""
    taken = function.args
    most = len(taken.posonlyargs) + len(taken.args) - is_method
    starred = any(isinstance(each, ast.Starred) for each in call.args)
    least = most - len(taken.defaults) - len(call.keywords)
    return starred or least <= len(call.args) <= most or taken.vararg is not None


def _reached(start: str, steps: Mapping[str, Sequence[str]]) -> frozenset[str]:
    found, waiting = {start}, [start]
    while waiting:
        new = {*steps.get(waiting.pop(), ())} - found
        found |= new
        waiting += new
    return frozenset(found)
