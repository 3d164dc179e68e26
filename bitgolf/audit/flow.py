"""What reaches what in a script: its statements are followed in order, calls into its own functions too.

Nothing is executed. What happens to marked values becomes a list of events in the order in which the script
would do it, each with the loops around it. Names mean nothing here, data paths and operations do; names of
libraries' own functions are as they are. A call with the same values in the same state does the same, so it
is followed once: the cost grows with the script, not with the paths through it.
"""

import ast
from collections.abc import Iterable, Sequence

from bitgolf.audit.callees import OPTIMIZERS
from bitgolf.audit.calls import Calls, OwnCall
from bitgolf.audit.expressions import joined
from bitgolf.audit.indices import meeting, text_of_index
from bitgolf.audit.library import COLLECTIVES
from bitgolf.audit.tree import Definition, last_called, names_given, names_in, nodes, number, walked
from bitgolf.audit.values import (
    BEFORE,
    CHOSEN,
    CLOCK,
    COUNTED,
    COUNTER,
    EITHER,
    GOLD,
    GRAD,
    HASH,
    ITEMS,
    LAMBDA,
    NO_NAMES,
    NOTHING,
    PIECE,
    RANK,
    SEEN,
    SIZE,
    STORED,
    STREAM,
    SUM,
    TABLE,
    TIME,
    VAL,
    Event,
    Frame,
    Taker,
    Value,
    base_name,
    last_name,
    modes_of,
    optimized_thing,
    places,
)
from bitgolf.audit.walk import MOST_STEPS, Turns

MOST_EPOCHS = 50  # of a loop over the same again


class Flow(Calls):
    """A walk through a script and the modules beside it that it imports."""

    def run(self) -> list[Event]:
        """The events of the script; walked until attributes of objects carry what they ever carry.

        A score is what is added up; where a script adds nothing up, what it keeps of each token to sum later.
        """
        for _ in range(3):
            before = {name: value.marks for name, value in self.attributes.items()}
            self.events, self.time, self.loop, self.entered = [], 0, 0, []
            self.memories, self.made, self.walked, self.stops = {}, {}, {}, set()
            for tree in self.trees:
                mains = [each for each in nodes(tree, ast.If) if "__name__" in ast.unparse(each.test)]
                imported = [each for each in tree.body if each not in mains]
                self.block(tree.body if tree is self.trees[-1] else imported, Frame("", self.globals))
            if before == {name: value.marks for name, value in self.attributes.items()}:
                break
        if not any(event.kind == "score" for event in self.events):
            self.events = [
                each._replace(kind="score") if each.kind == "kept" else each for each in self.events
            ]
        return self.events

    def block(self, body: Iterable[ast.stmt], frame: Frame) -> None:
        """Statements in order; behind one that some processes leave by, the others are alone."""
        alone = frame.alone
        for node in body:
            self.steps += 1
            if self.steps < MOST_STEPS:
                self.statement(node, frame)
                if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return | ast.Continue):
                    left = self.by_rank(node.test, frame)
                    frame.alone = frame.alone or left
                    if left and frame.loops and not any(map(number, getattr(node.test, "comparators", ()))):
                        frame.control |= Value(frozenset((RANK,)))  # each takes its turns of the loop
        frame.alone = alone

    def statement(self, node: ast.stmt, frame: Frame) -> None:
        """One statement."""
        self.time += 1
        match node:
            case ast.Assign():
                value = self.value(node.value, frame)
                for target in node.targets:
                    self.assign(target, value, frame, node.value)
            case ast.AnnAssign() if node.value:
                self.assign(node.target, self.value(node.value, frame), frame, node.value)
            case ast.AugAssign():
                self.augment(node, frame)
            case ast.Expr():
                self.value(node.value, frame)
                if last_called(node.value) == "set_grad_enabled":
                    frame.modes = modes_of(ast.unparse(node.value), frame.modes)
            case ast.Return() if node.value:
                value = self.chosen(self.value(node.value, frame), frame)
                asked = frame.one_way if value.has(PIECE) else NO_NAMES
                seen = meeting(places(value.gates), places(asked))
                frame.returned |= value.marked(*(f"{SEEN}{path}" for path in seen))
            case ast.For() | ast.AsyncFor():
                self.walked_over(node, frame)
            case ast.While():
                sized = isinstance(node.test, ast.Compare) and "len(" in ast.unparse(node.test.left)
                self.looped(node.body, self.value(node.test, frame), frame, sized)
            case ast.If():
                self.branched(node, frame)
            case ast.With() | ast.AsyncWith():
                modes = frame.modes
                for item in node.items:
                    frame.modes = modes_of(ast.unparse(item.context_expr), frame.modes)
                    value = self.value(item.context_expr, frame)
                    if item.optional_vars:
                        self.assign(item.optional_vars, value, frame, item.context_expr)
                self.block(node.body, frame)
                frame.modes = modes
            case ast.Try():
                self.block(node.body, frame)
                stored = _stored(frame)
                for handler in node.handlers:
                    self.block(handler.body, frame)
                _keep(stored, frame)
                self.block([*node.orelse, *node.finalbody], frame)
            case ast.ClassDef():
                self.class_body(node, frame)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                pass  # followed where it is called
            case ast.Global() | ast.Nonlocal():
                frame.shared |= set(node.names)
            case ast.Match():
                self.value(node.subject, frame)
                for arm in node.cases:
                    self.block(arm.body, frame)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.value(child, frame)

    def handed_over(self, value: Value, taker: Taker, frame: Frame) -> None:
        """A value that is yielded: what takes it runs now, in the loops around the yield."""
        taking, frame.taker, taker.ran = taker.frame, None, True  # its body may yield by itself
        loops, control = taking.loops, taking.control
        taking.loops, taking.control = frame.loops, control | frame.control | value
        if frame.loops:
            turns = self.turns[frame.loops[-1]]
            of_tokens = turns.over_tokens or value.has(VAL) or STREAM in value.roots or bool(value.keys)
            self.turns[frame.loops[-1]] = turns._replace(over_tokens=of_tokens, inside=taking.name)
        self.assign(taker.target, value, taking)
        self.block(taker.body, taking)
        taking.loops, taking.control, frame.taker = loops, control, taker

    def walked_over(self, node: ast.For | ast.AsyncFor, frame: Frame) -> None:
        """A loop over something."""
        if _is_numbered(node.iter, node.target) and isinstance(node.target, ast.Tuple):
            self.assign(node.target.elts[0], Value(frozenset((COUNTER,))), frame)
        self.taker = taker = _taker(node, frame)
        over = self.value(node.iter, frame)
        self.taker = None
        if taker is not None and taker.ran or self.own_items(node, frame):
            return
        self.taken(node.target, node.iter, over, frame)
        for name in names_in(node.target):
            frame.texts.pop(name, None)
        again = _is_counted(node.iter, over) or self._is_set(node.iter, frame)
        self.looped(node.body, over, frame, again)
        self.block(node.orelse, frame)

    def _is_set(self, node: ast.expr, frame: Frame) -> bool:
        """Whether a loop takes as few turns as a setting says."""
        match node:
            case ast.Call(func=ast.Name("range"), args=[ast.Name() | ast.Attribute() as turns]):
                value = self.again(turns, frame)
                return value.number is not None and value.number <= MOST_EPOCHS and not value.has(SIZE)
        return False

    def own_items(self, node: ast.For | ast.AsyncFor, frame: Frame) -> bool:
        """A loop over an object of the script's own, whose method gives the items; whether it is one."""
        over, target = node.iter, node.target
        if _is_numbered(over, target) and isinstance(over, ast.Call) and isinstance(target, ast.Tuple):
            over, target = over.args[0], target.elts[1]
        held = self.value(over, frame) if isinstance(over, ast.Name | ast.Attribute) else NOTHING
        if (items := self.walked_by(held)) is None:
            return False
        call = ast.copy_location(ast.Call(over, [], []), node)
        self.taker = taker = Taker(call, target, node.body, frame)
        self.own(OwnCall(call, items, (), {}, held), frame)
        self.taker = None
        return taker.ran

    def class_body(self, node: ast.ClassDef, frame: Frame) -> None:
        """What a class gives its objects before any is made."""
        inner = Frame(node.name, {}, depth=frame.depth + 1)
        self.block([each for each in node.body if not isinstance(each, Definition | ast.ClassDef)], inner)
        for name, value in inner.names.items():
            self.remember(name, value, Value(kind=node.name))
        if (made := self.methods.get((node.name, "__post_init__"))) is not None:
            self.block(made.body, Frame(made.name, {}, depth=frame.depth + 1))

    def branched(self, node: ast.If, frame: Frame) -> None:
        """Both ways of a branch; what is assigned there is chosen by the condition."""
        test = self.value(node.test, frame)
        outer, gate = frame.off, frame.gate
        held = self.truth(node.test, frame)
        if held is False:  # the innermost: a log that shows it shows those around it
            frame.off = (node.lineno, node.body[-1].end_lineno or node.lineno)
        leaves = (ast.Break, *((ast.Return,) if len(frame.loops) > frame.called_in else ()))
        ends = test.has(TIME) and any(
            isinstance(each, leaves) or isinstance(each, ast.Assign) and self.decides(each)
            for each in node.body
        )
        if ends and frame.loops and not self.scouts and node.lineno not in self.stops:
            self.stops.add(node.lineno)
            left = not test.has(CLOCK) and any(isinstance(each, ast.Break | ast.Return) for each in node.body)
            self.event("stop", node, frame, test, way="left" if left else "")
        if frame.loops and test.number is None and any(isinstance(each, ast.Break) for each in node.body):
            self._counted_stop(node, frame)
        if test.gates or test.has(GOLD) or test.has(VAL):
            marks = frozenset((CHOSEN,)) if test.has(GOLD) else NO_NAMES
            frame.gate = gate | Value(marks, gates=test.gates | (NO_NAMES if test.has(GOLD) else test.keys))
        alone = frame.alone
        if not any(
            last_name(each.func) in COLLECTIVES
            for part in node.orelse
            for each in walked(part)
            if isinstance(each, ast.Call)
        ):
            frame.alone = alone or self.by_rank(node.test, frame)
        one_way, equal = frame.one_way, frame.equal
        frame.equal = equal | (self._compared(node.test, frame) if test.keys else NO_NAMES)
        counted = isinstance(node.test, ast.Compare) and isinstance(node.test.ops[0], ast.Gt | ast.GtE)
        looked_up = counted and test.has(PIECE) and not test.has(GOLD)  # `is not None` asks of a context
        frame.one_way = test.gates if looked_up and not node.orelse else NO_NAMES
        self.block(node.body, frame)
        frame.off, frame.alone, frame.one_way, frame.equal = outer, alone, one_way, equal
        stored = _stored(frame)
        self.block(node.orelse, frame)
        _keep(stored, frame)
        frame.gate = gate

    def decides(self, node: ast.Assign) -> bool:
        """Whether what is given here may end a loop."""
        return any(not isinstance(each, ast.Name) for each in node.targets) or bool(
            names_given(node) & self.ending
        )

    def by_rank(self, test: ast.expr, frame: Frame) -> int:
        """The line of a test that holds in some processes alone; 0 of another."""
        for part in test.values if isinstance(test, ast.BoolOp) else [test]:
            compared = isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.Eq | ast.NotEq)
            only = {RANK, SIZE, COUNTER} if compared else {RANK}  # no data that a process has
            # That two numbers of one process are equal does not say which process it is.
            own = isinstance(part, ast.Compare) and all(
                self.again(side, frame).has(RANK) for side in (part.left, *part.comparators)
            )
            if own or isinstance(part, ast.Compare) > compared:
                continue
            if {RANK} <= self.again(part, frame).marks <= only:
                return test.lineno
        return 0

    def _compared(self, test: ast.expr, frame: Frame) -> frozenset[str]:
        """The tokens that a condition says are equal to something."""
        parts = test.values if isinstance(test, ast.BoolOp) else [test]
        sides = [
            side
            for part in parts
            if isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.Eq)
            for side in (part.left, part.comparators[0])
        ]
        return joined([self.again(each, frame) for each in sides]).keys

    def _counted_stop(self, node: ast.If, frame: Frame) -> None:
        """`if seen >= 3_000_000: break` in a loop that scores."""
        if isinstance(node.test, ast.Compare) and isinstance(node.test.ops[0], ast.Gt | ast.GtE):
            limit, seen = self.again(node.test.comparators[0], frame), self.again(node.test.left, frame)
            if limit.number is not None and limit.number > 1000 and seen.has(SIZE) and seen.roots:
                self.event("limit", node, frame, limit)

    def looped(self, body: Sequence[ast.stmt], over: Value, frame: Frame, again: bool = False) -> None:
        """A loop: once to see what its end hands to its start, then once for its events.

        again: whether its turns are no parts of a text.
        While an outer loop is seen for the first time, its inner ones are walked once.
        """
        self.loop += 1
        over_tokens = over.has(VAL) or STREAM in over.roots or bool(over.keys)
        self.turns[self.loop] = Turns(self.time, over_tokens, again, frame.name)
        before, control = frame.loops, frame.control
        frame.loops, frame.control = (*before, self.loop), control | over
        if not self.scouts:
            events, time = self.events, self.time
            frames = [frame, *([frame.taker.frame] if frame.taker else [])]
            names_before = [dict(each.names) for each in frames]
            self.events, self.written = [], set()
            self.scouts += 1
            self.block(body, frame)
            self.scouts -= 1
            self.events, self.time = events, time
            for each, before_it in zip(frames, names_before):
                for name, value in each.names.items():
                    if value != before_it.get(name) and (value.roots or value.keys or value.gates):
                        each.names[name] = _older(value, before_it.get(name, NOTHING))
            for name in self.written:  # of objects: what they know is of tokens of earlier turns
                self.attributes[name] = self.attributes[name].each(_forgetting)
        self.block(body, frame)
        frame.loops, frame.control = before, control

    def assign(self, target: ast.expr, value: Value, frame: Frame, source: ast.expr | None = None) -> None:
        """Give a value to a name, an attribute, or a place in something."""
        asked = frame.one_way if value.has(PIECE) else frame.equal if not value.has(SUM) else NO_NAMES
        known = meeting(places(value.golds), places(asked)) if value.has(GOLD) else NO_NAMES
        if value.has(GOLD) and not value.has(SUM):
            seen = frozenset(each.removeprefix(SEEN) for each in value.marks if each.startswith(SEEN))
            known |= meeting(places(value.golds), places(seen))
        if known:
            self.event("leak", target, frame, value._replace(keys=known), way="chosen")
        value = self.chosen(value, frame)
        if value.has(TIME) and isinstance(target, ast.Name | ast.Attribute):
            kind = "clock" if value.has(CLOCK) or value.kind == LAMBDA else "timed"
            self.event(kind, target, frame, value, owner=ast.unparse(target))
        match target:
            case ast.Name():
                unnamed = value.has(VAL) and not value.keys and STREAM not in value.roots
                if unnamed and not value.has(GOLD) and not value.has(SIZE):
                    value = value._replace(keys=frozenset((target.id,)))
                self.bind(target.id, value, frame)
                if source is not None:
                    frame.owners[target.id] = _optimized(source)
                text = text_of_index(source, frame) if source is not None else ""
                if text and target.id not in text:
                    frame.texts[target.id] = text
                else:
                    frame.texts.pop(target.id, None)
            case ast.Attribute():
                held = self.value(target.value, frame)
                one_of_few = isinstance(source, ast.Attribute) or value.has(ITEMS) or value.parts
                of_steps = value.marks & {COUNTER, TIME} and not one_of_few
                if of_steps and (held.kind, "forward") in self.methods:
                    self.event("setting", target, frame, value, owner=target.attr)
                self.remember(target.attr, value, held)
                if source is not None:
                    frame.owners[target.attr] = _optimized(source)
            case ast.Tuple() | ast.List():
                parts = value.parts
                if len(parts) != len(target.elts):
                    listed = source.elts if isinstance(source, ast.List) else []
                    parts = tuple(self.value(each, frame) for each in listed)
                for i, each in enumerate(target.elts):
                    own = parts[i] if len(parts) == len(target.elts) else value
                    if own is value and own.has(VAL) and isinstance(each, ast.Name):
                        own = own._replace(keys=frozenset((each.id,)))
                    self.assign(each, own, frame, None)
            case ast.Starred():
                self.assign(target.value, value, frame)
            case ast.Subscript():
                self.put_at(target, value, frame)

    def put_at(self, target: ast.Subscript, value: Value, frame: Frame) -> None:
        """A value at a place in something: a count, if tokens say where."""
        where, held = self.value(target.slice, frame), self.value(target.value, frame)
        if isinstance(target.slice, ast.Constant) and target.slice.value == "lr":
            self.event("lr", target, frame, value)
        if where.has(VAL) and not value.has(VAL, GOLD):
            self.event("count", target, frame, where, owner=base_name(target), tables=held.tables)
        if value.has(GOLD, VAL):
            self.event("kept", target, frame, value)
        self.put(target.value, value, frame)

    def taken(self, target: ast.expr, over: ast.expr, value: Value, frame: Frame) -> None:
        """What a loop takes its names from; of `enumerate` the first is a number."""
        if _is_numbered(over, target) and isinstance(target, ast.Tuple):
            self.assign(target.elts[0], Value(frozenset((COUNTER,))), frame)
            target = target.elts[1]
        self.assign(target, value, frame, over)

    def augment(self, node: ast.AugAssign, frame: Frame) -> None:
        """`+=`: a score, if a loss is added; counts, if tokens say where."""
        value = self.value(node.value, frame)
        if value.has(GRAD) and isinstance(node.op, ast.Add | ast.Sub) and isinstance(node.value, ast.BinOp):
            sides = [self.value(each, frame) for each in (node.value.left, node.value.right)]
            for rate in (each for each in sides if not each.has(GRAD)):
                self.event("lr", node, frame, rate)
        if value.marks & {PIECE, STORED}:
            self.event("weighed", node, frame, value)
        if value.has(TIME):
            self.event("timed", node, frame, value, owner=ast.unparse(node.target), way="sum")
        if value.has(COUNTED):
            held = self.value(node.target, frame)
            counted = Value(frozenset((VAL,)))
            self.event("count", node, frame, counted, owner=base_name(node.target), tables=held.tables)
            value = value._replace(tables=NO_NAMES)
        if isinstance(node.target, ast.Subscript):
            where = self.value(node.target.slice, frame)
            held = self.value(node.target.value, frame)
            if isinstance(node.op, ast.Add) and value.number is not None:
                self.tallied.add(base_name(node.target))
            if where.has(VAL):
                self.event("count", node, frame, where, owner=base_name(node.target), tables=held.tables)
            elif isinstance(node.op, ast.Add | ast.Sub) and value.has(GOLD):
                self.event("score", node, frame, value)
                value = Value(frozenset((SUM,)))
            self.put(node.target.value, value, frame)
            return
        if isinstance(node.op, ast.BitXor | ast.BitAnd | ast.Mod) and value.has(VAL):
            value = value.marked(HASH)
        if isinstance(node.op, ast.Add | ast.Sub) and value.has(GOLD):
            self.event("score", node, frame, value)
            value = Value(frozenset((SUM,)))
        if isinstance(node.op, ast.Add) and value.number is not None:
            value = Value(frozenset((COUNTER,)))
        if isinstance(node.op, ast.Div):
            value = self.divided(node, self.value(node.target, frame), value, frame)
        name = base_name(node.target)
        value = self.chosen(value, frame)
        if isinstance(node.target, ast.Attribute):
            self.remember(name, value, self.value(node.target.value, frame))
        elif name:
            old = frame.names.get(name)
            old = self.globals.get(name, NOTHING) if old is None else old
            self.bind(name, old._replace(number=None) | value, frame)
            frame.texts.pop(name, None)
            if value.has(SUM):
                frame.mutated.add(name)  # a tensor is added to in place


def _stored(frame: Frame) -> dict[str, Value]:
    """Names of what was read from a file."""
    return {name: value for name, value in frame.names.items() if value.has(STORED)}


def _keep(stored: dict[str, Value], frame: Frame) -> None:
    """Where something else was put in the place of what was read, it is either of both."""
    for name, value in stored.items():
        other = frame.names[name]
        if other != NOTHING and not other.has(STORED):
            frame.names[name] = (value | other).marked(EITHER)


def _is_numbered(over: ast.expr, target: ast.expr) -> bool:
    """Whether a loop takes its items with their numbers."""
    numbered = isinstance(over, ast.Call) and last_name(over.func) == "enumerate"
    return numbered and isinstance(target, ast.Tuple) and len(target.elts) == 2


def _is_counted(node: ast.expr, over: Value) -> bool:
    """A loop over what is written out, or so many turns of whatever: its turns are no parts of a text."""
    if isinstance(node, ast.Tuple | ast.List):
        return all(isinstance(each, ast.Constant) for each in node.elts)
    match node:
        case ast.Call(func=ast.Name("range"), args=[ast.Constant()]):
            return not over.has(SIZE)
    return False


def _forgetting(value: Value) -> Value:
    """What an earlier turn of a loop has left: it knows no token of this one."""
    return value._replace(marks=value.marks - {GOLD, CHOSEN}, gates=NO_NAMES, golds=NO_NAMES)


def _older(value: Value, before: Value) -> Value:
    """What a name holds when a turn of a loop begins: what the loop gave it is of an earlier turn."""
    return value.each(
        lambda one: one._replace(
            roots=_aged(one.roots),
            keys=before.keys & one.keys | _aged(one.keys - before.keys),
            gates=before.gates & one.gates | _aged(one.gates - before.gates),
            golds=before.golds & one.golds | _aged(one.golds - before.golds),
        )
    )


def _aged(roots: frozenset[str]) -> frozenset[str]:
    """Paths of an earlier turn of a loop."""
    return frozenset(
        root if root == STREAM or root.startswith((BEFORE, TABLE)) else BEFORE + root for root in roots
    )


def _optimized(node: ast.expr) -> str:
    """Of `Optimizer(thing.parameters(), lr=...)` or `Optimizer([thing], lr=...)` the thing; else nothing."""
    if not (isinstance(node, ast.Call) and node.args):
        return ""
    if not (any(each.arg == "lr" for each in node.keywords) or last_name(node.func) in OPTIMIZERS):
        return ""
    return optimized_thing(node.args[0])


def _taker(node: ast.For | ast.AsyncFor, frame: Frame) -> Taker | None:
    """A loop over a call, or over an `enumerate` of one, as what takes its yields."""
    match node.iter, node.target:
        case ast.Call(func=ast.Name("enumerate"), args=[ast.Call() as call, *_]), ast.Tuple(elts=[_, target]):
            return Taker(call, target, node.body, frame)
        case ast.Call(func=ast.Name("tqdm"), args=[ast.Call() as call, *_]), target:
            return Taker(call, target, node.body, frame)
        case ast.Call() as call, target:
            return Taker(call, target, node.body, frame)
    return None
