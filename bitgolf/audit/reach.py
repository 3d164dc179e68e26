"""Where a value of a script can get to: through names, attributes, calls of its own functions and loops.

Without order or branches: for values that a followed flow has no marks for, such as texts.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NamedTuple, TypeVar

from bitgolf.audit.tree import Definition, last_called, own, walked

RETURN, CALLED = "return", "called"
Place = tuple[int, str]  # a name and the scope that it is of, 0 for those of all
Kinds = Mapping[int, set[str]]  # nodes, and the classes of the objects that they stand for
MOST_ASKED = 100  # values that are followed in a script: some have hundreds of thousands, to no end
Node = TypeVar("Node", bound=ast.AST)


class Step(NamedTuple):
    """What is given to places. reads: names in it; calls: own functions; inside: all nodes of it."""

    given: frozenset[Place]
    reads: frozenset[Place]
    calls: frozenset[int]
    inside: frozenset[int]


class Reach:
    """The ways of values through some trees. Names of a function are those of the functions in it too."""

    def __init__(self, trees: list[ast.Module], kinds: Kinds) -> None:
        self.kinds = kinds
        self.asked = 0
        self.scopes: dict[int, int] = {}  # functions, by the outermost one around
        self.fields: dict[int, str] = {}  # statements of a class, by its name
        self.scoped: list[tuple[ast.AST, int, int]] = []  # all nodes, with their scope and their function
        waiting: list[tuple[ast.AST, int, int]] = [(tree, 0, 0) for tree in trees]
        while waiting:
            node, scope, function = waiting.pop()
            self.scoped.append((node, scope, function))
            if isinstance(node, ast.ClassDef):
                self.fields |= {id(each): node.name for each in node.body}
            if isinstance(node, Definition):
                scope, function = scope or id(node), id(node)
                self.scopes[function] = scope
            waiting += [(child, scope, function) for child in ast.iter_child_nodes(node)]

    @cached_property
    def steps(self) -> list[Step]:
        """Everything that gives something to a place."""
        return [step for each in self.scoped for step in self._steps(*each)]

    def _steps(self, node: ast.AST, scope: int, inside: int) -> Iterator[Step]:
        match node:
            case ast.Assign(targets=targets, value=value):
                places = {place for each in targets for place in self._given(each, scope)}
                kind = self.fields.get(id(node))
                places |= {(0, f"{kind}.{name}") for _, name in places} if kind else set()
                yield self._step(places, value, scope)
            case (
                ast.AnnAssign(target=target, value=ast.expr() as value)
                | ast.AugAssign(target=target, value=value)
                | ast.NamedExpr(target=target, value=value)
                | ast.For(target=target, iter=value)
                | ast.comprehension(target=target, iter=value)
                | ast.withitem(optional_vars=ast.expr() as target, context_expr=value)
            ):
                yield self._step({*self._given(target, scope)}, value, scope)
            case ast.Return(value=ast.expr() as value) | ast.Yield(value=ast.expr() as value):
                yield self._step({(inside, RETURN)}, value, scope)
            case ast.Call(func=ast.Attribute(value=held, attr="append" | "extend" | "add"), args=[part]):
                yield self._step({*self._given(held, scope)}, part, scope)
        if isinstance(node, ast.Call):
            words = [(each.arg, each.value) for each in node.keywords if each.arg]
            for function in own(node):
                names = [each.arg for each in function.args.args if each.arg not in ("self", "cls")]
                for name, part in [*zip(names, node.args), *words]:
                    yield self._step({(self.scopes[id(function)], name)}, part, scope)

    @cached_property
    def followers(self) -> dict[object, list[Step]]:
        """By a place, a function or a node, the steps that take it."""
        found: dict[object, list[Step]] = {}
        for step in self.steps:
            for each in (*step.reads, *((CALLED, called) for called in step.calls), *step.inside):
                found.setdefault(each, []).append(step)
        return found

    def carries(self, *sources: ast.AST) -> "Carried":
        """All places that get what some nodes give; none where too much was asked before."""
        self.asked += 1
        if self.asked > MOST_ASKED:
            return Carried(self, frozenset(), frozenset(), frozenset())
        places: set[Place] = set()
        functions: set[int] = set()
        waiting: list[object] = [*map(id, sources)]
        while waiting:
            for step in self.followers.get(waiting.pop(), ()):
                for place in step.given - places:
                    places.add(place)
                    waiting.append(place)
                    if place[1] == RETURN:
                        functions.add(place[0])
                        waiting.append((CALLED, place[0]))
        return Carried(self, frozenset(map(id, sources)), frozenset(places), frozenset(functions))

    def all(self, kind: type[Node]) -> Iterator[tuple[Node, int]]:
        """All nodes of a kind, with their scopes."""
        return ((node, scope) for node, scope, _ in self.scoped if isinstance(node, kind))

    def handed(self, *names: str) -> list[tuple[ast.expr, int]]:
        """What all calls of these names are given, with their scopes."""
        asked = [(call, scope) for call, scope in self.all(ast.Call) if last_called(call) in names]
        return [(part, scope) for call, scope in asked for part in call.args]

    def _step(self, given: set[Place], value: ast.expr, scope: int) -> Step:
        return Step(frozenset(given), *self.read(value, scope), frozenset(map(id, walked(value))))

    def _given(self, target: ast.expr, scope: int) -> Iterator[Place]:
        """The places that a target is made of."""
        match target:
            case ast.Name():
                yield scope, target.id
            case ast.Attribute():
                yield from self._attribute(target, scope)
            case ast.Subscript() | ast.Starred():
                yield from self._given(target.value, scope)
            case ast.Tuple() | ast.List():
                for each in target.elts:
                    yield from self._given(each, scope)

    def _attribute(self, node: ast.Attribute, scope: int) -> list[Place]:
        """That of any object of the same class; of an object that is not known, in the same function."""
        of_self = {self.fields[scope]} if ast.unparse(node.value) == "self" and scope in self.fields else ()
        kinds = self.kinds.get(id(node.value)) or of_self
        return [(0, f"{kind}.{node.attr}") for kind in kinds] or [(scope, ast.unparse(node))]

    def read(self, node: ast.expr, scope: int) -> tuple[frozenset[Place], frozenset[int]]:
        """The places that an expression looks at, and the functions that it calls."""
        reads: set[Place] = set()
        called: set[int] = set()
        asked = {id(each.func) for each in walked(node) if isinstance(each, ast.Call)}
        for each in walked(node):
            if isinstance(each, ast.Name):
                reads |= {(scope, each.id), (0, each.id)}
            elif isinstance(each, ast.Attribute) and id(each) not in asked:
                reads |= {*self._attribute(each, scope), *self._attribute(each, 0)}
            elif isinstance(each, ast.Call):
                called |= set(map(id, own(each)))
        return frozenset(reads), frozenset(called)


class Carried(NamedTuple):
    """What has got what some nodes give."""

    reach: Reach
    sources: frozenset[int]
    places: frozenset[Place]
    functions: frozenset[int]

    def by(self, node: ast.expr, scope: int) -> bool:
        """Whether an expression is one of them."""
        if not self.sources:
            return False
        reads, calls = self.reach.read(node, scope)
        return bool(reads & self.places or calls & self.functions) or any(
            id(each) in self.sources for each in walked(node)
        )
