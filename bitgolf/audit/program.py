"""A script followed from its first line: its objects, its closures, its generators, its loops turn by turn.

What is not known stays unknown, and what it may have changed is unknown after it.
"""

import ast
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

from bitgolf.audit.interpreter import (
    BUILT_IN,
    LISTED,
    PYTHON_FAULTS,
    UNKNOWN,
    Interpreter,
    Known,
    Names,
    Seen,
    Unknown,
    same,
)
from bitgolf.audit.script import Script
from bitgolf.audit.tree import Definition, called, last_called, nodes, own_nodes
from bitgolf.audit.values import base_name, last_name

MOST_STEPS, MOST_DEPTH, MOST_LISTED = 400_000, 24, 30_000
IDLE = 3_000  # steps of turns of a loop that get nothing done, after which no more are followed


class LostError(Exception):
    """Too much is not known, or it takes too long."""


class Thing:
    """An object of a class of the script."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.fields: Names = {}


class Turns:
    """A loop: the tokens that it has scored, and whether its turn has scored others or kept something."""

    def __init__(self) -> None:
        self.tokens: set[int] = set()
        self.scored, self.listed = False, False


class Made:
    """A function, where it was made, or of which object it is a method; or a class of the script."""

    def __init__(self, node: Definition | ast.Lambda | ast.ClassDef, names: Names, of: Known = None) -> None:
        self.node, self.names, self.of = node, names, of


def _whole(function: Callable[..., Known]) -> Callable[..., Known]:
    """A function of lists in which all is known."""

    def of_known(*given: Known, **named: Known) -> Known:
        listed = [[*each] if isinstance(each, LISTED) else each for each in given]
        unknown = any(isinstance(part, Unknown) for each in listed if isinstance(each, list) for part in each)
        return UNKNOWN if unknown else function(*listed, **named)

    return of_known


PYTHON: dict[str, Callable[..., Known]] = {
    **BUILT_IN,
    **{each.__name__: _whole(each) for each in (sum, max, min, any, all, sorted, set)},
    **{each.__name__: each for each in (enumerate, zip, iter, divmod, slice)},
    "range": lambda *given: range(*given) if len(range(*given)) <= MOST_LISTED else UNKNOWN,
    "next": lambda each, *other: next(each, *other or (UNKNOWN,)),
    **{f"math.{each}": getattr(math, each) for each in "ceil floor log log2 sqrt gcd".split()},
    "reversed": lambda each: [*each][::-1],
    **dict.fromkeys(("islice", "itertools.islice"), islice),
    **dict.fromkeys(("chain", "itertools.chain"), chain),
    "print": lambda *_, **__: None,
    "deque": lambda each=(), *_: [*each],
    "tqdm": lambda each, *_, **__: each,
}
LIST_METHODS = frozenset("append extend pop popleft index insert".split())
SELF = frozenset("to cuda cpu eval train float bfloat16 half requires_grad_ double type".split())
HANDED_ON = frozenset("compile DistributedDataParallel DDP Path deepcopy abspath expanduser".split())


class Program(Interpreter):
    """Follows a whole script. Loops that get nothing done are left after some turns."""

    most_steps, most_depth, most_turns, most_listed = MOST_STEPS, MOST_DEPTH, MOST_LISTED, MOST_LISTED
    built_in = PYTHON

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.outside: Names = {}
        self.trained = 0
        self.turns: list[Turns] = []  # of the loops that are under way
        self.of_class: dict[str, Names] = {}
        self.yields: list[list[Known]] = []

    def run(self) -> None:
        """Follow it. Raises LostError."""
        self.outside["__name__"] = "__main__"
        for tree in self.flow.trees:
            self.block(tree.body, self.outside)
        if self.steps > self.most_steps:
            raise LostError

    def value(self, node: ast.expr | None, names: Names) -> Known:
        """Also of what only a whole program has."""
        if self.steps > self.most_steps:
            raise LostError
        return super().value(node, names)

    def _value(self, node: ast.expr, names: Names) -> Known:
        match node:
            case ast.Name() if node.id not in names:
                if node.id in self.outside:
                    return self.outside[node.id]
                if node.id in self.flow.classes:
                    return Made(self.flow.classes[node.id], names)
            case ast.Lambda():
                return Made(node, names)
            case ast.Yield():
                value = self.value(node.value, names) if node.value else None
                self.yields[-1].append(value)
                self.get_done(() if _unknown(value) else None)
                return UNKNOWN
            case ast.YieldFrom():
                self.yields[-1] += [*self.value(node.value, names)]
                return UNKNOWN
            case ast.Attribute(attr="environ"):
                return {}
            case ast.Starred():
                raise TypeError
        return super()._value(node, names)

    def listed(self, node: Sequence[ast.expr], names: Names) -> list[Known]:
        """The values of expressions, those with a star spread out."""
        values: list[Known] = []
        for each in node:
            if isinstance(each, ast.Starred):
                values += [*self.value(each.value, names)]
            else:
                values.append(self.value(each, names))
        return values

    def generated(self, items: list[Known]) -> Known:
        """Items that are taken one by one."""
        return iter(items)

    def attribute(self, node: ast.Attribute, held: Known, names: Names) -> Known:
        """Also of objects and classes of the script."""
        kind = held.kind if isinstance(held, Thing) else getattr(getattr(held, "node", None), "name", "")
        if isinstance(held, Thing) and node.attr in held.fields:
            return held.fields[node.attr]
        if kind in self.flow.classes and isinstance(held, Thing | Made):
            for each in self.flow.lineage(kind):
                if (method := self.flow.methods.get((each, node.attr))) is not None:
                    marks = {last_name(mark) for mark in method.decorator_list}
                    bound = Made(method, {}, None if "staticmethod" in marks else held)
                    return self.entered(bound, [], {}) if marks & {"property", "cached_property"} else bound
                if node.attr in (fields := self.static(each)):
                    return fields[node.attr]
        return super().attribute(node, held, names) if isinstance(held, Unknown | Thing | Made) else UNKNOWN

    def static(self, kind: str) -> Names:
        """What a class of the script gives its objects."""
        if kind not in self.of_class:
            fields = self.of_class[kind] = {}
            given = nodes(self.flow.classes[kind], ast.Assign, ast.AnnAssign)
            self.block(
                [each for each in given if each.value and each in self.flow.classes[kind].body], fields
            )
        return self.of_class[kind]

    def call(self, node: ast.Call, names: Names) -> Known:
        """Also with arguments that are spread out, and of what is made here."""
        given = self.listed(node.args, names)
        named = {each.arg: self.value(each.value, names) for each in node.keywords if each.arg}
        if isinstance(node.func, ast.Attribute):
            held = self.value(node.func.value, names)
            function = self.attribute(node.func, held, names) if isinstance(held, Thing | Made) else UNKNOWN
        else:
            held, function = UNKNOWN, self.value(node.func, names)
        call = Seen(node, last_called(node), given, named, held)
        self.seen.append(call)
        if (result := self.opaque(call, function)) is not UNKNOWN:
            return result
        if isinstance(function, Thing | Made):
            return self.entered(function, given, named)
        return self.answer(call, names)

    def opaque(self, call: Seen, function: Known) -> Known:
        """What stands in for a call, whatever is known of it."""
        return UNKNOWN

    def entered(self, function: Known, given: Sequence[Known], named: Mapping[str, Known]) -> Known:
        """What a function, an object that is called, or a class gives back."""
        if isinstance(function, Thing):
            kind = function.kind
            method = self.flow.method(kind, "__call__") or self.flow.method(kind, "forward")
            function = UNKNOWN if method is None else Made(method, {}, function)
        if not isinstance(function, Made):
            return UNKNOWN
        if isinstance(function.node, ast.Lambda):
            taken = [each.arg for each in function.node.args.args]
            return self.value(function.node.body, {**function.names, **dict(zip(taken, given))})
        if isinstance(function.node, ast.ClassDef):
            return self.built(function.node, given, named)
        outer, self.around, self.self = (self.around, self.self), function.names, function.of
        result = self.enter(function.node, given, named)
        self.around, self.self = outer
        return result

    around: Names = {}
    self: Known = None

    def built(self, kind: ast.ClassDef, given: Sequence[Known], named: Mapping[str, Known]) -> Known:
        """An object of a class; of a model no more than that."""
        thing = Thing(kind.name)
        if self.flow.method(kind.name, "forward") is None:
            fields = [
                part.target.id
                for each in reversed(self.flow.lineage(kind.name))
                for part in self.flow.classes[each].body
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
            ]
            if (start := self.flow.method(kind.name, "__init__")) is not None:
                self.entered(Made(start, {}, thing), given, named)
            else:
                thing.fields |= {**dict(zip(fields, given)), **named}
        return thing

    def enter(self, function: Definition, given: Sequence[Known], named: Mapping[str, Known]) -> Known:
        """Also of generators: all that they yield at once."""
        if self.depth >= self.most_depth:
            return UNKNOWN
        taken = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
        if self.self is not None and taken[0] not in ("self", "cls"):
            given = [self.self, *given]
        names = {**self.around, **self.handed(function, given, named)}
        if self.self is not None:
            names[taken[0]] = self.self
        names["return"] = []
        self.around, self.self = {}, None
        yields = any(isinstance(each, ast.Yield | ast.YieldFrom) for each in own_nodes(function))
        managed = any(last_name(mark) == "contextmanager" for mark in function.decorator_list)
        self.depth += 1
        self.yields.append([])
        try:
            self.block(function.body, names)
        finally:
            self.depth -= 1
            yielded = self.yields.pop()
        if yields:
            return UNKNOWN if managed or None in yielded else iter(yielded)
        returned = names["return"] or [None]
        return returned[0] if all(same(each, returned[0]) for each in returned) else UNKNOWN

    def answer(self, call: Seen, names: Names) -> Known:
        """Also of lists, and of what hands on what it is given."""
        node, last, given, named, held = call
        if not isinstance(node, ast.Call):
            return UNKNOWN
        if isinstance(held, Thing) and last in SELF:
            return held
        if last in HANDED_ON and given:
            return given[0]
        if last == "join" and called(node).endswith("path.join"):
            return UNKNOWN if _unknown(given) else "/".join(given)
        if last in ("get_rank", "get_world_size", "is_initialized"):
            return {"get_rank": 0, "get_world_size": 1, "is_initialized": False}[last]
        if last == "getattr" and len(given) > 1:
            return self.attribute(ast.Attribute(node.args[0], given[1], ast.Load()), given[0], names)
        if isinstance(held, list) and last in LIST_METHODS:
            self.changed.append((held, None))
            self.get_done(None if last in ("append", "extend") and not _unknown(given) else ())
            return held.pop(0) if last == "popleft" else getattr(held, last)(*given)
        if isinstance(node.func, ast.Name) and (function := self.own(node)) is not None:
            return self.enter(function, given, named)
        return super().answer(call, names)

    def assign(self, target: ast.expr, value: Known, names: Names) -> None:
        """Also to a field of an object, or a place in something."""
        match target:
            case ast.Attribute():
                held = self.value(target.value, names)
                if isinstance(held, Thing):
                    held.fields[target.attr] = value
                    self.changed.append((held, target.attr))
            case ast.Subscript():
                held, where = self.value(target.value, names), self.value(target.slice, names)
                if not isinstance(held, Unknown):
                    self.changed.append((held, None))
                    self.put(held, where, value)
            case _:
                super().assign(target, value, names)

    def put(self, held: Known, where: Known, value: Known) -> None:
        """Something at a place in a list or a dict. Raises LostError where it may be any place."""
        if isinstance(where, Unknown):
            self.emptied(held)
        else:
            held[where] = value

    def emptied(self, held: Known) -> None:
        """What is in a list or a dict is not known any more."""
        if isinstance(held, list):
            held[:] = [UNKNOWN]
        else:
            held.clear()

    def statement(self, node: ast.stmt, names: Names) -> str:
        """Also loops turn by turn, and functions where they are made."""
        try:
            match node:
                case ast.FunctionDef():
                    names[node.name] = Made(node, names if names is not self.outside else {})
                case ast.For():
                    return self._loop(node, self.value(node.iter, names), names)
                case ast.While():
                    return self._loop(node, self._while(node, names), names)
                case _:
                    return super().statement(node, names)
        except PYTHON_FAULTS:
            self.forget([node], names)
        return ""

    def _while(self, node: ast.While, names: Names) -> Iterator[Known]:
        while (truth := self.truth(node.test, names)) is not False:
            yield UNKNOWN if truth is None else None
            if truth is None:
                return

    def _loop(self, node: ast.For | ast.While, over: Known, names: Names) -> str:
        """Turns of a loop; what one did that gets nothing done, or is of unknown length, is not known."""
        known = isinstance(over, LISTED) or hasattr(over, "shape")
        self.turns.append(Turns())
        try:
            return self._turns(node, over if known else [UNKNOWN], known, names)
        finally:
            self.turns.pop()

    def _turns(self, node: ast.For | ast.While, over: Known, known: bool, names: Names) -> str:
        idle, mark = 0, len(self.changed)
        for each in over:
            known = known and not isinstance(each, Unknown)
            turns, trained, steps = self.turns[-1], self.trained, self.steps
            turns.scored = turns.listed = False
            if isinstance(node, ast.For):
                self.assign(node.target, each, names)
            end = self.block(node.body, names)
            if end in ("return", "break"):
                return "return" if end == "return" and known else ""
            done = turns.scored or turns.listed and self.trained == trained
            idle = 0 if done else idle + (IDLE if self.trained > trained else self.steps - steps)
            if idle > IDLE or not known:
                self.forget(node.body, names)
                self.spoil(mark)
                return ""
        return ""

    def get_done(self, tokens: Iterable[int] | None) -> None:
        """Tokens that are scored, which may be new in the loops around; or whatever is kept."""
        for each in self.turns:
            before = len(each.tokens)
            each.tokens.update(tokens or ())
            each.listed |= tokens is None
            each.scored |= len(each.tokens) > before

    def forget(self, body: Sequence[ast.stmt], names: Names) -> None:
        """What some statements give values to is not known."""
        for each in chain.from_iterable(map(ast.walk, body)):
            if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
                held = self.value(each.value, names)
                if isinstance(held, Thing):
                    held.fields[each.attr] = UNKNOWN
            elif isinstance(each, ast.Name | ast.Subscript) and isinstance(each.ctx, ast.Store):
                name = base_name(each)
                if name in names:
                    names[name] = UNKNOWN

    def spoil(self, mark: int) -> None:
        """What was changed since then is not known."""
        for held, field in self.changed[mark:]:
            if isinstance(held, Thing):
                held.fields[field] = UNKNOWN
            else:
                self.emptied(held)


def _unknown(value: Known) -> bool:
    """Whether it is, or some of it."""
    return isinstance(value, Unknown) or isinstance(value, list | tuple) and any(map(_unknown, value))
