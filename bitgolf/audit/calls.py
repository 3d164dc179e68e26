"""Calls in a script: each with the same values in the same state is followed once."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bitgolf.audit import library
from bitgolf.audit.expressions import Expressions
from bitgolf.audit.indices import text_of_index
from bitgolf.audit.tree import GUESSED, OVERRIDES, OWN, Callee, Definition
from bitgolf.audit.values import (
    LAMBDA,
    NO_NAMES,
    NOTHING,
    RANK,
    SPLIT_WORDS,
    STREAM,
    VAL,
    Frame,
    Value,
    constant,
    dotted,
    last_name,
    modes_of,
)
from bitgolf.audit.walk import Memory, Turns

MOST_DEPTH = 40  # of calls
MOST_WALKS = 12  # through one function with whatever constants
WHOLE = {"forward", "backward", "step"}  # what torch's classes do in one
HANDED = {"partial", "map", "apply", "submit", "reduce"}
CALLS_BACK = {"step", "minimize", "checkpoint"}  # call what they are given, here and now
OF_THE_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # variables whose defaults say nothing


class OwnCall(NamedTuple):
    """A call of a function of the script: its arguments, by place and by name, and what it is a method of.

    guessed: by its name alone.
    """

    node: ast.Call
    function: Definition
    given: Sequence[Value]
    named: Mapping[str, Value]
    held: Value = NOTHING
    guessed: bool = False


class Calls(Expressions):
    """Calls: into the own functions of a script, once for the same values, or of a library."""

    def call(self, node: ast.Call, frame: Frame) -> Value:
        """A call: into the script's own functions, or of a library's."""
        name, last = dotted(node.func), last_name(node.func)
        if last in ("getenv", "get") and "environ" in name or name.endswith("getenv"):
            default = self.value(node.args[1], frame) if len(node.args) > 1 else NOTHING
            variable = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            if isinstance(variable, str) and variable in self.settings:
                default = constant(self.settings[variable])
            rank = frozenset((RANK,)) if variable in ("RANK", "LOCAL_RANK") else NO_NAMES
            number = None if variable in OF_THE_LAUNCHER else default.number
            return Value(default.marks | rank, roots=default.roots, number=number, set=True)
        held = self.value(node.func.value, frame) if isinstance(node.func, ast.Attribute) else NOTHING
        if not isinstance(node.func, ast.Attribute | ast.Name):
            held = self.value(node.func, frame)
        if isinstance(node.func, ast.Attribute) and _is_super(node.func.value):
            held = frame.names.get("self", NOTHING)
        given = [self.value(each, frame) for each in node.args]
        named = {each.arg or "": self.value(each.value, frame) for each in node.keywords}
        kind = held.kind if isinstance(node.func, ast.Attribute) else self._kind(node.func, frame)
        callee = self.callee(node.func, kind or held.kind, node)
        if not callee.functions and isinstance(node.func, ast.Attribute):  # `self.weigh(x)` of an own object
            own_object = self.attribute(last, held)
            if (method := self.method(own_object.kind, "__call__")) is not None:
                callee, held = Callee((method,), OWN), own_object
        self.meet(node.func, callee)
        others = [each for each in callee.functions if id(each) not in self.entered]
        function = None if callee.how == OVERRIDES and last in WHOLE else next(iter(others), None)
        if function is None and name in ("next", "iter") and given:
            function, held = self.walked_by(given[0]), given[0]
        made = last if isinstance(node.func, ast.Name) and last in self.classes else ""
        if made:
            held = Value(tables=_objects(made, node, frame), kind=made)
        elif isinstance(node.func, ast.Name) and not held.kind and (function is not None or kind == LAMBDA):
            held = self.value(node.func, frame)  # an object that is called
        everything = held
        if function is not None:
            own = self.own(OwnCall(node, function, given, named, held, callee.how == GUESSED), frame)
            if own is not None:
                for value in self.called_back(node, given, named, frame):
                    own |= value
                return held if made else own
        elif last in HANDED:
            for value in self.called_back(node, given, named, frame):
                return value
        if last in CALLS_BACK:
            for _ in self.called_back(node, given, named, frame):
                pass
        for each in (*given, *named.values()):
            everything |= each
        if callee.how == OWN and callee.functions:  # that calls itself
            return everything.plain
        result = library.called(self, node, held, [*given, *named.values()], everything, frame)
        return result._replace(kind=made, tables=held.tables) if made else result

    def walked_by(self, value: Value) -> Definition | None:
        """What gives the items of an object of the script's own."""
        return self.method(value.kind, "__next__") or self.method(value.kind, "__iter__")

    def called_back(
        self,
        node: ast.Call,
        given: Sequence[Value],
        named: Mapping[str, Value],
        frame: Frame,
    ) -> Iterator[Value]:
        """What functions give back that a call is handed, called with what follows them."""
        for i, part in enumerate(node.args):
            callee = self.callee(part) if isinstance(part, ast.Name) else Callee()
            for function in callee.functions[:1] if callee.how == OWN else ():
                yield self.own(OwnCall(node, function, given[i + 1 :], named), frame) or NOTHING

    def _kind(self, func: ast.expr, frame: Frame) -> str:
        value = isinstance(func, ast.Name) and (frame.names.get(func.id) or self.globals.get(func.id))
        return value.kind if value else ""

    def own(self, call: OwnCall, frame: Frame) -> Value | None:
        """What a function of the script gives back; None where it is not entered."""
        function = call.function
        if frame.depth >= MOST_DEPTH or id(function) in self.entered:
            return None
        names, texts, parameters = self._given(call, frame)
        inner = Frame(
            function.name,
            names,
            frame.loops,
            len(frame.loops),
            frame.depth + 1,
            frame.control,
            frame.gate,
            off=frame.off,
        )
        inner.modes = modes_of(" ".join(map(ast.unparse, function.decorator_list)), frame.modes)
        inner.alone, inner.began_alone = frame.alone, bool(frame.alone)
        inner.scope = id(function)
        inner.texts, inner.kind = texts, self.owner.get(id(function), "")
        inner.guessed = frame.guessed or call.guessed
        closed = False
        if self.outer[id(function)] == frame.scope:  # functions inside others see the names around
            closed = True
            inner.names = {**frame.names, **names}
            inner.texts = {**frame.texts, **texts}
            inner.owners = {**frame.owners}
        if self.taker is not None and self.taker.call is call.node:
            inner.taker, self.taker = self.taker, None
            if any(
                isinstance(each, ast.Expr) and isinstance(each.value, ast.Yield) for each in function.body
            ):
                self.loop += 1  # what is yielded outside of its loops is of the taker's loop as all else
                self.turns[self.loop] = Turns(self.time, False, False, frame.name)
                inner.loops = (*frame.loops, self.loop)
        key = self._key(function, inner, frame)
        memory = self.memories.get(key) if inner.taker is None else None
        if memory is not None and memory.holds(self.changed):
            return self._again(memory, call.node, parameters, frame, closed)
        started, first, outer_read = self.time, len(self.events), self.read
        self.read = set()
        self.walked[id(function)] = self.walked.get(id(function), 0) + 1
        self.entered.append(id(function))
        self.block(function.body, inner)
        self.entered.pop()
        self._handed_back(call.node, parameters, inner, frame, closed)
        if not inner.shared and inner.taker is None:
            made = frozenset(name for name, time in self.made.items() if time > started)
            depth, events = len(frame.loops), [each for each in self.events[first:] if each.kind != "stop"]
            self.memories[key] = Memory(
                self.version, started, self.time, depth, frozenset(self.read), made, events, inner
            )
        self.read |= outer_read
        return inner.returned

    def _given(self, call: OwnCall, frame: Frame) -> tuple[dict[str, Value], dict[str, str], list[str]]:
        """What a function's parameters hold in a call, the indices that stand for some, and their names."""
        node, function, given = call.node, call.function, call.given
        arguments = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
        bound = arguments[:1] in (["self"], ["cls"])
        parameters = arguments[1:] if bound else arguments
        names: dict[str, Value] = {}
        for parameter, default in zip(reversed(parameters), reversed(function.args.defaults)):
            names[parameter] = self.value(default, frame)
        for each, given_default in zip(function.args.kwonlyargs, function.args.kw_defaults):
            names[each.arg] = self.value(given_default, frame)
        names |= (
            {name: _split(part, value) for name, part, value in zip(parameters, node.args, given)}
            if len(node.args) == len(given)
            else dict(zip(parameters, given))
        )
        if function.args.vararg and len(given) > len(parameters):
            rest = NOTHING
            for value in given[len(parameters) :]:
                rest |= value
            names[function.args.vararg.arg] = rest
        keywords = {each.arg: each.value for each in node.keywords if each.arg}
        names |= {
            name: _split(keywords[name], value) if name in keywords else value
            for name, value in call.named.items()
            if name
        }
        texts: dict[str, str] = {}
        if any(value.has(VAL) for value in names.values()):
            for name, part in [*zip(parameters, node.args), *keywords.items()]:
                if (text := text_of_index(part, frame)) and not isinstance(part, ast.Constant):
                    texts[name] = text
        for each in (*function.args.args, *function.args.kwonlyargs):
            kind = last_name(each.annotation) if each.annotation else ""
            if kind in self.classes and not self.heirs.get(kind) and each.arg in names:
                names[each.arg] = names[each.arg]._replace(kind=names[each.arg].kind or kind)
        if bound:
            names[arguments[0]] = call.held
        return names, texts, parameters

    def _key(self, function: Definition, inner: Frame, frame: Frame) -> tuple[object, ...]:
        """What a call depends on: the same key gives the same events."""
        key: tuple[object, ...] = (
            id(function),
            frozenset(inner.names.items()),
            frozenset(inner.texts.items()),
            bool(frame.loops),
            bool(self.scouts),
            frame.control,
            frame.gate,
            frame.off,
            frame.alone,
            inner.guessed,
            inner.modes,
        )
        if self.walked.get(id(function), 0) > MOST_WALKS:  # of constants alone there are too many
            marks = frozenset(
                (name, each.marks, each.keys, each.tables) for name, each in inner.names.items()
            )
            key = (id(function), marks, bool(frame.loops), bool(self.scouts), frame.off, inner.modes)
        return key

    def _again(
        self, memory: Memory, node: ast.Call, parameters: Sequence[str], frame: Frame, closed: bool
    ) -> Value:
        """The same call as before, later: its events at their new place, in loops of their own."""
        self.read |= memory.read
        loops: dict[int, int] = {}
        for event in memory.events:
            inside = []
            for number in event.loops[memory.depth :]:
                if number not in loops:
                    self.loop += 1
                    loops[number] = self.loop
                    self.turns[self.loop] = self.turns[number]
                inside.append(loops[number])
            time = event.time - memory.started + self.time
            value = memory.now(event.value, self.time)
            self.events.append(event._replace(time=time, loops=(*frame.loops, *inside), value=value))
        returned = memory.now(memory.inner.returned, self.time)
        self.time += memory.ended - memory.started
        self.made |= dict.fromkeys(memory.made, self.time)
        self._handed_back(node, parameters, memory.inner, frame, closed)
        return returned

    def _handed_back(
        self, node: ast.Call, parameters: Sequence[str], inner: Frame, frame: Frame, closed: bool
    ) -> None:
        """What a function has put into what it was given, or into names around it."""
        for name, part in zip(parameters, node.args):
            if name in inner.mutated:
                self.put(part, inner.names.get(name, NOTHING), frame)
        if closed:
            for name in (inner.mutated | inner.shared) - {*parameters}:
                if name in inner.names and name in frame.names:
                    frame.names[name] = frame.names[name] | inner.names[name]


def _is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and last_name(node.func) == "super"


def _objects(kind: str, node: ast.Call, frame: Frame) -> frozenset[str]:
    """An object by where it is made; one that another object makes is another one in each of these."""
    own = f"{kind} {node.lineno}:{node.col_offset}"
    outer = frame.names["self"].tables if frame.kind and "self" in frame.names else NO_NAMES
    return frozenset(f"{own} in {each.partition(' in ')[0]}" for each in outer) or frozenset((own,))


def _split(node: ast.expr, value: Value) -> Value:
    """An argument that names a split stands for its tokens: `load("val")`."""
    word = node.value if isinstance(node, ast.Constant) else None
    if isinstance(word, str) and (mark := SPLIT_WORDS.get(word)):
        return Value(frozenset((mark,)), roots=frozenset((STREAM,)) if mark == VAL else NO_NAMES)
    return value
