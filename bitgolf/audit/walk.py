"""What a walk through a script keeps: functions, names, events, and calls that are known."""

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from bitgolf.audit.callees import Callees
from bitgolf.audit.tree import Definition, named, names_given, names_in, nodes
from bitgolf.audit.values import (
    FEW,
    INFERENCE,
    NO_NAMES,
    NOTHING,
    RANK,
    STREAM,
    TRAIN,
    VAL,
    Event,
    Frame,
    Taker,
    Value,
    base_name,
    last_name,
)

NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
MOST_STEPS = 1_500_000  # statements and expressions that are followed


NO_ARGUMENTS = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
ANY_CLASS = "?"  # of an object that is given an attribute


class Memory(NamedTuple):
    """What a call did. started, ended: its time; read: names outside it; made: tables it allocated."""

    version: int
    started: int
    ended: int
    depth: int
    read: frozenset[str]
    made: frozenset[str]
    events: list[Event]
    inner: Frame

    def holds(self, changed: Mapping[str, int]) -> bool:
        """Whether nothing that it read has changed since."""
        return all(changed.get(name, 0) <= self.version for name in self.read)

    def now(self, value: Value, time: int) -> Value:
        """A value as if the call had begun at this time."""
        return value.each(
            lambda one: one._replace(born=one.born - self.started + time) if one.born > self.started else one
        )


class Turns(NamedTuple):
    """A loop: when it began, whether it is over tokens or the same again, and in which function it is."""

    began: int
    over_tokens: bool
    again: bool
    inside: str


class Walk(Callees):
    """What a walk through a script knows: its functions, its names outside of them, what has happened.

    What it does at an expression, a call, a statement is added by `Expressions`, `Calls` and `Flow`.
    """

    value: Callable[[ast.expr | None, Frame], Value]
    call: Callable[[ast.Call, Frame], Value]
    handed_over: Callable[[Value, Taker, Frame], None]
    assign: Callable[..., None]
    taken: Callable[[ast.expr, ast.expr, Value, Frame], None]
    block: Callable[[Iterable[ast.stmt], Frame], None]

    def __init__(
        self,
        trees: Sequence[ast.Module],
        settings: Mapping[str, str] = NO_SETTINGS,
        beside: Sequence[str] = (),
    ) -> None:
        super().__init__(trees, beside)
        self.settings = settings  # environment variables, as the script is run
        self.attributes: dict[str, Value] = {}
        self.written: set[str] = set()  # of these, in the turn of a loop that is seen first
        self.globals: dict[str, Value] = {}
        self.events: list[Event] = []
        self.time, self.loop, self.steps, self.version, self.scouts = 0, 0, 0, 0, 0
        self.entered: list[int] = []
        self.taker: Taker | None = None  # the loop that takes what the next call yields
        self.memories: dict[tuple[object, ...], Memory] = {}
        self.walked: dict[int, int] = {}  # functions, by how often they were followed
        self.read: set[str] = set()  # names outside the function that is followed
        self.turns: dict[int, Turns] = {}
        self.stops: set[int] = set()  # lines that end a loop by the clock
        self.changed: dict[str, int] = {}  # the version of each such name
        self.made: dict[str, int] = {}  # tables, by when they were made last
        self.kinds: dict[int, set[str]] = {}  # names and attributes, by the classes of their objects
        self.ending = ending(trees)
        self.tallied: set[str] = set()  # tables that are counted in, and so predict nothing by themselves
        statements = [each for each in trees[-1].body if not isinstance(each, Definition | ast.ClassDef)]
        line = statements[0].lineno if statements else 1
        self.outside = ast.FunctionDef("", NO_ARGUMENTS, statements, [], lineno=line, col_offset=0)
        self._fields: dict[str, dict[str, str]] = {"": {}}

    @cached_property
    def numbers(self) -> dict[str, float]:
        """Numbers that names of the whole script and attributes stand for; asked when all was followed."""
        known = {**self.attributes, **self.globals}
        return {name: value.number for name, value in known.items() if value.number is not None}

    @property
    def whole(self) -> bool:
        """Whether everything was followed to its end."""
        return self.steps < MOST_STEPS

    def event(
        self,
        kind: str,
        node: ast.AST,
        frame: Frame,
        value: Value = NOTHING,
        owner: str = "",
        tables: frozenset[str] = NO_NAMES,
        way: str = "",
        guessed: bool = False,
    ) -> None:
        """Note something that happens here."""
        marks = value.marks | (frame.control.marks & {RANK, FEW})
        line = getattr(node, "lineno", 0)
        value = value._replace(marks=marks)
        if kind in ("score", "studied") and frame.alone:
            owner = str(frame.alone)
        inside = (frame.loops, value, owner, frame.name, frame.off, tables, way, frame.guessed or guessed)
        self.events.append(Event(kind, line, self.time, *inside))

    def remember(self, name: str, value: Value, held: Value = NOTHING) -> None:
        """What an attribute of this name carries: in any object, and in the one that it is given in."""
        for owner in (*held.tables, held.kind or ANY_CLASS):
            self._remember(f"{owner}.{name}", value)
        self._remember(name, value)

    def attribute(self, name: str, held: Value) -> Value:
        """What an attribute carries in an object, in those of its class, or in any where neither is known."""
        own = [f"{owner}.{name}" for owner in held.tables]
        of_class = [f"{kind}.{name}" for kind in self.related(held.kind)]
        self.read |= {f".{each}" for each in (name, *own, *of_class)}
        if any(each in self.attributes for each in own):
            of_class = []
        elif any(each in self.attributes for each in of_class):
            own = [*of_class, f"{ANY_CLASS}.{name}"]
            self.read.add(f".{own[-1]}")
        values = [self.attributes[each] for each in own if each in self.attributes]
        field = self.fields(held.kind).get(name)
        if field is not None:
            values.append(held.plain._replace(kind="" if (field, "__init__") in self.methods else field))
        if not values:
            where = f"{ANY_CLASS}.{name}" if held.kind in self.classes else name
            anywhere = self.attributes.get(where, NOTHING)
            return held.plain | anywhere if held.marks else anywhere
        result = values[0]
        for each in values[1:]:
            result = result if each == result else result | each
        # Of either text in the objects of a class: which of them this one has is not known.
        differ = of_class and (held.kind, "__init__") in self.methods and result.has(TRAIN, VAL)
        return held.plain if differ else result

    def fields(self, kind: str) -> dict[str, str]:
        """The fields that a class of the script declares, with the classes of the script among theirs."""
        if kind not in self._fields:
            nodes = [
                node
                for each in reversed(self.lineage(kind))
                for node in (self.classes[each].body if each in self.classes else ())
                if isinstance(node, ast.AnnAssign)
            ]
            pairs = [(last_name(node.target), last_name(node.annotation)) for node in nodes]
            self._fields[kind] = {name: of if of in self.classes else "" for name, of in pairs if name}
        return self._fields[kind]

    def _remember(self, name: str, value: Value) -> None:
        self.written.add(name)
        old = self.attributes.get(name)
        roots = frozenset((STREAM,)) if value.has(VAL) else value.roots
        value = value._replace(marks=value.marks - {INFERENCE})  # of which time is not known
        new = value._replace(roots=roots, parts=())
        if old is not None:
            new = (old | new)._replace(number=new.number, set=new.set, kind=new.kind or old.kind)
        if new != old:
            self.attributes[name] = new
            self.version += 1
            self.changed[f".{name}"] = self.version

    def bind(self, name: str, value: Value, frame: Frame) -> None:
        """Give a name a value, here or in the whole script."""
        names = self.globals if name in frame.shared else frame.names
        if names is self.globals and names.get(name) != value:
            self.version += 1
            self.changed[name] = self.version
        names[name] = value
        if name in frame.shared:
            frame.names[name] = value

    def put(self, target: ast.expr, value: Value, frame: Frame) -> None:
        """Put a value into what an expression names."""
        name = base_name(target)
        if not name:
            return
        inner = target
        while isinstance(inner, ast.Subscript | ast.Call | ast.Starred):
            inner = inner.func if isinstance(inner, ast.Call) else inner.value
        if isinstance(inner, ast.Attribute):
            held = self.value(inner.value, frame)
            self.remember(name, self.attribute(name, held) | value, held)
            if name not in frame.names:
                return
        old = frame.names.get(name)
        old = self.globals.get(name, NOTHING) if old is None else old
        self.bind(name, old._replace(number=None) | value._replace(tables=NO_NAMES), frame)
        frame.mutated.add(name)

    def chosen(self, value: Value, frame: Frame) -> Value:
        """A value as the branches around chose it."""
        gate = frame.gate
        if gate is NOTHING or gate == NOTHING:
            return value
        return value.each(
            lambda one: one._replace(marks=one.marks | gate.marks, gates=one.gates | gate.gates)
        )

    def table(self, node: ast.expr) -> Value:
        """Something empty, made here and now: another one each time."""
        name = f"{node.lineno}:{node.col_offset}"
        self.made[name] = self.time + 1
        return Value(tables=frozenset((name,)))

    def made_here(self, node: ast.expr | None, frame: Frame) -> bool:
        """Whether what a name stands for was made in the same function, and so is no other's model."""
        function = self.functions.get(frame.name)
        if function is None or not isinstance(node, ast.Name):
            return False
        return node.id in named(function, lambda value: True)


def ending(trees: Iterable[ast.Module]) -> set[str]:
    """Names that decide whether a loop goes on, and those that they are made of."""
    names: set[str] = set()
    given = [each for tree in trees for each in nodes(tree, ast.Assign)]
    for node in (each for tree in trees for each in nodes(tree, ast.If, ast.While)):
        if isinstance(node, ast.While) or isinstance(node.body[-1], ast.Break | ast.Return):
            names |= names_in(node.test)
    for _ in range(2):
        names |= {name for each in given if names_given(each) & names for name in names_in(each.value)}
    return names
