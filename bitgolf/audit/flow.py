"""What reaches what in a script: its statements are followed in order, calls into its own functions too.

Nothing is executed. What happens to marked values becomes a list of events in the order in which the script
would do it, each with the loops around it. Names mean nothing here, data paths and operations do; names of
libraries' own functions are as they are. A call with the same values in the same state does the same, so it
is followed once: the cost grows with the script, not with the paths through it.
"""

import ast
import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bitgolf.audit import library
from bitgolf.audit.values import (
    AVERAGED,
    BEFORE,
    CHOSEN,
    COUNTER,
    DRAWN,
    FILES,
    GOLD,
    HASH,
    MASK,
    NO_NAMES,
    NOTHING,
    PADDED,
    PIECE,
    RANK,
    READ,
    SHARE,
    SIZE,
    SPLIT_WORDS,
    STREAM,
    SUM,
    TIME,
    VAL,
    Definition,
    Event,
    Frame,
    Value,
    base_name,
    constant,
    dotted,
    folded,
    last_name,
)

MOST_STEPS = 1_500_000  # statements and expressions that are followed
MOST_DEPTH = 40  # of calls
MOST_WALKS = 12  # through one function with whatever constants
TORCH_OWN = {"forward", "backward", "step", "sum", "mean", "add_", "all_reduce"}
PLAIN_KINDS = ("str",)


class _Memory(NamedTuple):
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
        return value._replace(born=value.born - self.started + time) if value.born > self.started else value


class Flow:
    """A walk through a script and the modules beside it that it imports."""

    def __init__(self, trees: Sequence[ast.Module]) -> None:
        self.functions: dict[str, Definition] = {}
        self.called_so: dict[str, list[Definition]] = {}  # every function of a name
        self.classes: dict[str, ast.ClassDef] = {}
        self.methods: dict[tuple[str, str], Definition] = {}
        self.owner: dict[int, str] = {}  # the class of a method
        self.around: dict[int, Definition] = {}  # the function around a function
        self.attributes: dict[str, Value] = {}
        self.globals: dict[str, Value] = {}
        self.events: list[Event] = []
        self.time, self.loop, self.steps, self.version, self.scouts = 0, 0, 0, 0, 0
        self.entered: list[int] = []
        self.known: dict[tuple[object, ...], _Memory] = {}
        self.walked: dict[int, int] = {}  # functions, by how often they were followed
        self.read: set[str] = set()  # names outside the function that is followed
        self.stops: set[int] = set()  # lines that end a loop by the clock
        self.changed: dict[str, int] = {}  # the version of each such name
        self.made: dict[str, int] = {}  # tables, by when they were made last
        for tree in trees:
            self._define(tree, None, "")
        self.trees = trees

    def _define(self, node: ast.AST, outer: Definition | None, kind: str) -> None:
        """Note functions and classes, whatever they stand in; no recursion, trees may be deep."""
        waiting: list[tuple[ast.AST, Definition | None, str]] = [(node, outer, kind)]
        while waiting:
            node, outer, kind = waiting.pop()
            for child in ast.iter_child_nodes(node):
                inner, inner_kind = outer, ""
                if isinstance(child, Definition):
                    inner = child
                    self.functions.setdefault(child.name, child)
                    self.called_so.setdefault(child.name, []).append(child)
                    if kind:
                        self.methods[kind, child.name] = child
                        self.owner[id(child)] = kind
                    if outer is not None:
                        self.around[id(child)] = outer
                elif isinstance(child, ast.ClassDef):
                    self.classes.setdefault(child.name, child)
                    inner_kind = child.name
                elif isinstance(child, ast.expr) and not isinstance(child, ast.Lambda):
                    continue
                elif isinstance(child, ast.If | ast.Try | ast.With):
                    inner_kind = kind
                waiting.append((child, inner, inner_kind))

    @property
    def whole(self) -> bool:
        """Whether everything was followed to its end."""
        return self.steps < MOST_STEPS

    def run(self) -> list[Event]:
        """The events of the script; walked until attributes of objects carry what they ever carry."""
        for _ in range(3):
            before = {name: value.marks for name, value in self.attributes.items()}
            self.events, self.time, self.loop, self.entered = [], 0, 0, []
            self.known, self.made, self.walked, self.stops = {}, {}, {}, set()
            for tree in self.trees:
                self.block(tree.body, Frame("", self.globals))
            if before == {name: value.marks for name, value in self.attributes.items()}:
                break
        return self.events

    # Statements.

    def block(self, body: Iterable[ast.stmt], frame: Frame) -> None:
        """Statements in order."""
        for node in body:
            self.steps += 1
            if self.steps < MOST_STEPS:
                self.statement(node, frame)

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
            case ast.Return() if node.value:
                frame.returned |= self.chosen(self.value(node.value, frame), frame)
            case ast.For() | ast.AsyncFor():
                over = self.value(node.iter, frame)
                self.taken(node.target, node.iter, over, frame)
                for each in ast.walk(node.target):
                    if isinstance(each, ast.Name):
                        frame.texts.pop(each.id, None)
                self.looped(node.body, over, frame)
                self.block(node.orelse, frame)
            case ast.While():
                self.looped(node.body, self.value(node.test, frame), frame)
            case ast.If():
                self.branched(node, frame)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    value = self.value(item.context_expr, frame)
                    if item.optional_vars:
                        self.assign(item.optional_vars, value, frame, item.context_expr)
                self.block(node.body, frame)
            case ast.Try():
                self.block(node.body, frame)
                for handler in node.handlers:
                    self.block(handler.body, frame)
                self.block([*node.orelse, *node.finalbody], frame)
            case ast.ClassDef():
                inner = Frame(node.name, {}, depth=frame.depth + 1)
                self.block(
                    [each for each in node.body if not isinstance(each, Definition | ast.ClassDef)], inner
                )
                for name, value in inner.names.items():
                    self.remember(name, value)
                if (made := self.methods.get((node.name, "__post_init__"))) is not None:
                    self.block(made.body, Frame(made.name, {}, depth=frame.depth + 1))
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

    def branched(self, node: ast.If, frame: Frame) -> None:
        """Both ways of a branch; what is assigned there is chosen by the condition."""
        test = self.value(node.test, frame)
        outer, gate = frame.off, frame.gate
        held = self.truth(node.test, frame)
        if not outer and held is False:
            frame.off = (node.lineno, node.body[-1].end_lineno or node.lineno)
        ends = test.has(TIME) and any(isinstance(each, ast.Break | ast.Assign) for each in node.body)
        if ends and frame.loops and not self.scouts and node.lineno not in self.stops:
            self.stops.add(node.lineno)
            self.event("stop", node, frame, test)
        if frame.loops and test.number is None and any(isinstance(each, ast.Break) for each in node.body):
            self._counted_stop(node, frame)
        if test.gates or test.has(GOLD) or test.has(VAL):
            marks = frozenset((CHOSEN,)) if test.has(GOLD) else NO_NAMES
            frame.gate = gate | Value(marks, gates=test.gates | (NO_NAMES if test.has(GOLD) else test.keys))
        self.block(node.body, frame)
        frame.off = outer
        self.block(node.orelse, frame)
        frame.gate = gate

    def _counted_stop(self, node: ast.If, frame: Frame) -> None:
        """`if seen >= 3_000_000: break` in a loop that scores."""
        if isinstance(node.test, ast.Compare) and isinstance(node.test.ops[0], ast.Gt | ast.GtE):
            limit = self.value(node.test.comparators[0], frame)
            if limit.number is not None and limit.number > 1000:
                self.event("limit", node, frame, limit)

    def chosen(self, value: Value, frame: Frame) -> Value:
        """A value as the branches around chose it."""
        gate = frame.gate
        if gate is NOTHING or gate == NOTHING:
            return value
        return value._replace(marks=value.marks | gate.marks, gates=value.gates | gate.gates)

    def truth(self, node: ast.expr, frame: Frame) -> bool | None:
        """Whether a condition holds at the script's own settings; None where that is not known."""
        match node:
            case ast.Constant(value=bool()):
                return bool(node.value)
            case ast.UnaryOp(op=ast.Not()):
                inner = self.truth(node.operand, frame)
                return None if inner is None else not inner
            case ast.BoolOp():
                known = [self.truth(each, frame) for each in node.values]
                if isinstance(node.op, ast.And):
                    return False if False in known else None
                return False if all(each is False for each in known) else None
            case ast.Compare(ops=[ast.Gt() | ast.Eq() | ast.NotEq()], comparators=[other]):
                left, right = self.value(node.left, frame).number, self.value(other, frame).number
                if left is None or right is None:
                    return None
                if isinstance(node.ops[0], ast.Gt):
                    return left > right
                return (left == right) == isinstance(node.ops[0], ast.Eq)
            case ast.Name() | ast.Attribute():
                number = self.value(node, frame).number
                return None if number is None else number != 0
        return None

    def looped(self, body: Sequence[ast.stmt], over: Value, frame: Frame) -> None:
        """A loop: once to see what its end hands to its start, then once for its events.

        While an outer loop is seen for the first time, its inner ones are walked once.
        """
        self.loop += 1
        before, control = frame.loops, frame.control
        frame.loops, frame.control = (*before, self.loop), control | over
        if not self.scouts:
            events, time = self.events, self.time
            known = dict(frame.names)
            self.events = []
            self.scouts += 1
            self.block(body, frame)
            self.scouts -= 1
            self.events, self.time = events, time
            for name, value in frame.names.items():
                if value.roots and value != known.get(name):
                    frame.names[name] = value._replace(roots=_aged(value.roots))
        self.block(body, frame)
        frame.loops, frame.control = before, control

    def assign(self, target: ast.expr, value: Value, frame: Frame, source: ast.expr | None = None) -> None:
        """Give a value to a name, an attribute, or a place in something."""
        value = self.chosen(value, frame)
        match target:
            case ast.Name():
                if value.has(VAL) and not value.keys and not value.has(GOLD) and STREAM not in value.roots:
                    value = value._replace(keys=frozenset((target.id,)))
                self.bind(target.id, value, frame)
                if source is not None:
                    frame.owners[target.id] = _optimized(source)
                text = _text(source, frame) if source is not None else ""
                if text and target.id not in text:
                    frame.texts[target.id] = text
                else:
                    frame.texts.pop(target.id, None)
            case ast.Attribute():
                self.remember(target.attr, value)
                if source is not None:
                    frame.owners[target.attr] = _optimized(source)
            case ast.Tuple() | ast.List():
                parts = source.elts if isinstance(source, ast.Tuple | ast.List) else []
                for i, each in enumerate(target.elts):
                    own = self.value(parts[i], frame) if len(parts) == len(target.elts) else value
                    if own is value and own.has(VAL) and isinstance(each, ast.Name):
                        own = own._replace(keys=frozenset((each.id,)))
                    self.assign(each, own, frame, None)
            case ast.Starred():
                self.assign(target.value, value, frame)
            case ast.Subscript():
                where = self.value(target.slice, frame)
                if isinstance(target.slice, ast.Constant) and target.slice.value == "lr":
                    self.event("lr", target, frame, value)
                if where.has(VAL) and not value.has(VAL, GOLD):
                    self.event(
                        "count",
                        target,
                        frame,
                        where,
                        owner=base_name(target),
                        tables=self.value(target.value, frame).tables,
                    )
                held = self.value(target.value, frame)
                if value.has(VAL) and held.tables and _is_part(target.slice):
                    value = value.marked(PADDED)
                self.put(target.value, value, frame)

    def taken(self, target: ast.expr, over: ast.expr, value: Value, frame: Frame) -> None:
        """What a loop takes its names from; of `enumerate` the first is a number."""
        numbered = isinstance(over, ast.Call) and last_name(over.func) == "enumerate"
        if numbered and isinstance(target, ast.Tuple) and len(target.elts) == 2:
            self.assign(target.elts[0], Value(frozenset((COUNTER,))), frame)
            target = target.elts[1]
        self.assign(target, value, frame, over)

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
            self.remember(name, self.attributes.get(name, NOTHING) | value)
            if name not in frame.names:
                return
        old = frame.names.get(name)
        old = self.globals.get(name, NOTHING) if old is None else old
        self.bind(name, old._replace(number=None) | value._replace(tables=NO_NAMES), frame)
        frame.mutated.add(name)

    def augment(self, node: ast.AugAssign, frame: Frame) -> None:
        """`+=`: a score, if a loss is added; counts, if tokens say where."""
        value = self.value(node.value, frame)
        if isinstance(node.target, ast.Subscript):
            where = self.value(node.target.slice, frame)
            held = self.value(node.target.value, frame)
            if where.has(VAL):
                self.event("count", node, frame, where, owner=base_name(node.target), tables=held.tables)
            elif isinstance(node.op, ast.Add) and value.has(GOLD):
                self.event("score", node, frame, value)
                value = Value(frozenset((SUM,)))
            self.put(node.target.value, value, frame)
            return
        if isinstance(node.op, ast.BitXor | ast.BitAnd | ast.Mod) and value.has(VAL):
            value = value.marked(HASH)
        if isinstance(node.op, ast.Add) and value.has(GOLD):
            self.event("score", node, frame, value)
            value = Value(frozenset((SUM,)))
        if isinstance(node.op, ast.Add) and value.number is not None:
            value = Value(frozenset((COUNTER,)))
        if isinstance(node.op, ast.Div):
            value = self.divided(node, self.value(node.target, frame), value, frame)
        name = base_name(node.target)
        value = self.chosen(value, frame)
        if isinstance(node.target, ast.Attribute):
            self.remember(name, value)
        elif name:
            old = frame.names.get(name)
            old = self.globals.get(name, NOTHING) if old is None else old
            self.bind(name, old._replace(number=None) | value, frame)
            frame.texts.pop(name, None)
            if value.has(SUM):
                frame.mutated.add(name)  # a tensor is added to in place

    def remember(self, name: str, value: Value) -> None:
        """What an attribute of this name carries in any object."""
        old = self.attributes.get(name)
        roots = frozenset((STREAM,)) if value.has(VAL) else value.roots
        new = value._replace(roots=roots)
        if old is not None:
            new = (old | new)._replace(number=new.number, set=new.set, kind=new.kind or old.kind)
        if new != old:
            self.attributes[name] = new
            self.version += 1
            self.changed[f".{name}"] = self.version

    def event(
        self,
        kind: str,
        node: ast.AST,
        frame: Frame,
        value: Value = NOTHING,
        owner: str = "",
        tables: frozenset[str] = NO_NAMES,
        way: str = "",
    ) -> None:
        """Note something that happens here."""
        marks = value.marks | (frame.control.marks & {RANK})
        line = getattr(node, "lineno", 0)
        value = value._replace(marks=marks)
        self.events.append(
            Event(kind, line, self.time, frame.loops, value, owner, frame.name, frame.off, tables, way)
        )

    # Expressions.

    def value(self, node: ast.expr | None, frame: Frame) -> Value:
        """What an expression carries."""
        self.steps += 1
        if node is None or self.steps >= MOST_STEPS:
            return NOTHING
        match node:
            case ast.Constant():
                return constant(node.value)
            case ast.Name():
                found = frame.names.get(node.id)
                if found is None:
                    self.read.add(node.id)
                    return self.globals.get(node.id, NOTHING)
                return found
            case ast.Attribute():
                inner = self.value(node.value, frame)
                self.read.add(f".{node.attr}")
                if node.attr in library.SIZES:
                    return Value(frozenset((SIZE,)))
                own = self.attributes.get(node.attr, NOTHING)
                return own if not inner.marks else inner.plain | own
            case ast.Subscript():
                return self.part(node, frame)
            case ast.BinOp():
                return self.operation(node, frame)
            case ast.Call():
                return self.call(node, frame)
            case ast.Compare():
                value = self.union([node.left, *node.comparators], frame).plain
                return (
                    value._replace(gates=value.gates | value.keys).marked(MASK) if value.has(VAL) else value
                )
            case ast.Lambda():
                return self.value(node.body, frame)
            case ast.IfExp():
                test = self.value(node.test, frame)
                value = self.value(node.body, frame) | self.value(node.orelse, frame)
                marks = value.marks | ({CHOSEN} if test.has(GOLD) else NO_NAMES)
                return value._replace(marks=marks, gates=value.gates | test.gates)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                for each in node.generators:
                    self.taken(each.target, each.iter, self.value(each.iter, frame), frame)
                    for condition in each.ifs:
                        self.value(condition, frame)
                parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
                return self.union(parts, frame)
            case ast.Dict() if not node.keys:
                return self.table(node)
            case ast.JoinedStr():
                parts_of = [each.value for each in node.values if isinstance(each, ast.FormattedValue)]
                text = "".join(
                    str(each.value) if isinstance(each, ast.Constant) else "*" for each in node.values
                )
                return (constant(text)._replace(number=None) | self.union(parts_of, frame))._replace(
                    kind="str"
                )
            case ast.NamedExpr():
                value = self.value(node.value, frame)
                self.assign(node.target, value, frame, node.value)
                return value
            case _:
                return self.union(
                    [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)], frame
                )

    def union(self, nodes: Iterable[ast.expr | None], frame: Frame) -> Value:
        """What any of several expressions carries."""
        values = [self.value(node, frame) for node in nodes]
        if len(values) == 1:
            return values[0]
        result = NOTHING
        for value in values:
            result |= value
        return result

    def part(self, node: ast.Subscript, frame: Frame) -> Value:
        """A look into a table by tokens, or some of the tokens."""
        held, where = self.value(node.value, frame), self.value(node.slice, frame)
        if held.has(VAL) and not held.has(GOLD):
            if (
                where.has(VAL)
                and where.keys
                and not where.has(MASK)
                and not isinstance(node.slice, ast.Slice)
            ):
                return self.picked(node, held, where, frame)
            return self.cut_out(node, held, where, frame)
        if where.has(VAL) and not held.has(GOLD):
            return self.looked(node, held, where, frame)
        if held.gates and not held.has(GOLD):  # a table over all tokens, at some of them
            path = self.path(node, frame)
            held = held._replace(gates=frozenset(f"{gate}{path}" for gate in held.gates))
        if where.has(VAL) and held.has(GOLD) is False:
            return held
        if where.has(VAL) and not where.has(GOLD) and held.has(GOLD):
            held = held._replace(golds=held.golds | where.keys)
        return held._replace(tables=held.tables) | where._replace(
            roots=NO_NAMES, keys=NO_NAMES, tables=NO_NAMES
        )

    def cut_out(self, node: ast.Subscript, held: Value, where: Value, frame: Frame) -> Value:
        """Some of the tokens, by the path of slices that leads to them."""
        bounds = node.slice if isinstance(node.slice, ast.Slice) else None
        if STREAM in held.roots and not frame.loops:
            limit = self.value(bounds.upper, frame) if bounds and bounds.upper is not None else NOTHING
            if limit.number is not None and limit.number > 1000 and not limit.has(SIZE):
                self.event("cut", node, frame, limit)
            step = self.value(bounds.step, frame).number if bounds and bounds.step is not None else None
            if step is not None and step > 1:
                self.event("cut", node, frame, Value(number=step), way="step")
            if held.has(FILES):
                self.event("cut", node, frame, limit, way="files")
            if where.has(DRAWN):
                self.event("cut", node, frame, where, way="drawn")
        path = self.path(node, frame)
        keys = frozenset(f"{key}{path}" for key in held.keys or ("",))
        roots = frozenset((path,)) if STREAM in held.roots and frame.loops else held.roots
        held = held._replace(number=None, keys=keys, roots=roots, set=False)
        return held | where._replace(roots=NO_NAMES, keys=NO_NAMES, gates=NO_NAMES, tables=NO_NAMES)

    def picked(self, node: ast.AST, source: Value, where: Value, frame: Frame) -> Value:
        """The probability of the realised token, out of those of all tokens."""
        if leaks := source.gates & where.keys:
            self.event("leak", node, frame, source._replace(keys=leaks), way="table")
        value = (source | where).plain.marked(GOLD)
        return value._replace(born=self.time, golds=where.keys)

    def path(self, node: ast.Subscript, frame: Frame) -> str:
        """A slice as a text in which names stand for what they were given."""
        if _is_whole(node.slice):
            return ""
        if isinstance(node.slice, ast.Name) and node.slice.id in frame.texts:
            return f"[{frame.texts[node.slice.id]}]"
        return f"[{_replaced(node.slice, frame.texts)}]"

    def table(self, node: ast.expr) -> Value:
        """Something empty, made here and now: another one each time."""
        name = f"{node.lineno}:{node.col_offset}"
        self.made[name] = self.time + 1
        return Value(tables=frozenset((name,)))

    def looked(self, node: ast.AST, held: Value, where: Value, frame: Frame) -> Value:
        """What a table says of tokens, or of a hash of them."""
        owner = base_name(node) if isinstance(node, ast.expr) else ""
        made = max((self.made.get(each, 0) for each in held.tables), default=0)
        self.event("look", node, frame, where._replace(born=made), owner=owner, tables=held.tables)
        held = held._replace(tables=NO_NAMES, number=None)
        if where.has(HASH):
            return Value(frozenset((READ,)), keys=where.keys) | held
        return Value(frozenset((PIECE,)), roots=where.roots, gates=where.keys) | held

    def operation(self, node: ast.BinOp, frame: Frame) -> Value:
        """Arithmetic: hashes, ratios of counts, mixtures, logarithms spread over bytes."""
        left, right = self.value(node.left, frame), self.value(node.right, frame)
        value = (left | right).plain
        match node.op:
            case ast.BitXor() | ast.BitAnd() | ast.Mod() if value.has(VAL) and not value.has(GOLD):
                return value.marked(HASH)
            case ast.Div():
                value = self.divided(node, left, right, frame)
            case ast.Sub() if left.has(READ) and right.has(READ) and left.keys > right.keys:
                self.event("ratio", node, frame, value)
            case ast.Pow() if left.has(GOLD) and right.has(PIECE) and not left.has(SUM):
                value = value.marked(SHARE)
            case ast.Mult() if GOLD in left.marks | right.marks and _by_piece(left, right):
                value = value.marked(SHARE)
            case ast.Mult() if value.has(AVERAGED) and (
                SIZE in left.marks | right.marks or _is_number(left, right)
            ):
                value = value._replace(marks=value.marks - {AVERAGED})
            case ast.Add():
                self._added(node, left, right, value, frame)
        if left.number is not None and right.number is not None:
            return value._replace(
                number=folded(node.op, left.number, right.number), set=left.set or right.set
            )
        return value

    def _added(self, node: ast.BinOp, left: Value, right: Value, value: Value, frame: Frame) -> None:
        for side in (node.left, node.right):
            while isinstance(side, ast.Call) and side.args and last_name(side.func) in ("log", "exp"):
                side = side.args[0]
            if isinstance(side, ast.BinOp) and isinstance(side.op, ast.Mult):
                one, other = self.value(side.left, frame), self.value(side.right, frame)
                if value.has(GOLD) and not value.has(SUM):
                    self.weighed(node, one, other, frame)
        if library.put_together(left, right):
            self.event("share", node, frame, value)

    def weighed(self, node: ast.AST, one: Value, other: Value, frame: Frame) -> None:
        """A part of a mixture: a probability and its weight, in no known order."""
        if one.has(SUM) or other.has(SUM):
            return
        if one.has(GOLD) and other.has(GOLD):
            self.event("mix", node, frame, one | other, way="weight")
        for weight, part in ((one, other), (other, one)):
            if part.has(GOLD) or part.has(READ):
                self.mixed(node, weight, part, frame, way="weight")

    def mixed(self, node: ast.AST, weight: Value, parts: Value, frame: Frame, way: str) -> None:
        """A weight of a mixture that knows the outcome."""
        if weight.has(SUM) or parts.has(SUM):
            return
        if weight.has(CHOSEN) or weight.has(GOLD) and way != "weight":
            self.event("mix", node, frame, (weight | parts).marked(GOLD, VAL), way=way)
        elif weight.gates & parts.golds and not weight.has(GOLD):
            self.event("leak", node, frame, weight._replace(keys=weight.gates & parts.golds), way="table")

    def divided(self, node: ast.AST, left: Value, right: Value, frame: Frame) -> Value:
        """A quotient: of counts, or of a score by bytes."""
        value = (left | right).plain
        if left.has(READ) and right.has(READ) and left.keys > right.keys:
            self.event("ratio", node, frame, value)
        if left.has(GOLD) and right.has(PIECE) and not (left.has(SUM) or right.has(SUM)):
            return value.marked(SHARE)
        if right.has(PIECE) and not right.has(GOLD) and left.number == 1:
            return value.marked("per byte")
        return value

    def call(self, node: ast.Call, frame: Frame) -> Value:
        """A call: into the script's own functions, or of a library's."""
        name, last = dotted(node.func), last_name(node.func)
        if last in ("getenv", "get") and "environ" in name or name.endswith("getenv"):
            default = self.value(node.args[1], frame) if len(node.args) > 1 else NOTHING
            words = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            rank = frozenset((RANK,)) if words in ("RANK", "LOCAL_RANK") else NO_NAMES
            return Value(default.marks | rank, roots=default.roots, number=default.number, set=True)
        held = self.value(node.func.value, frame) if isinstance(node.func, ast.Attribute) else NOTHING
        if not isinstance(node.func, ast.Attribute | ast.Name):
            held = self.value(node.func, frame)
        given = [self.value(each, frame) for each in node.args]
        named = {each.arg or "": self.value(each.value, frame) for each in node.keywords}
        function = self.resolved(node.func, held, frame)
        if function is not None:
            own = self.own(node, function, given, named, frame)
            if own is not None:
                for i, part in enumerate(
                    node.args
                ):  # a function that is handed over is called with what follows
                    if (
                        isinstance(part, ast.Name)
                        and part.id in self.functions
                        and part.id not in frame.names
                    ):
                        more = self.own(node, self.functions[part.id], given[i + 1 :], named, frame)
                        own |= more or NOTHING
                made = last if isinstance(node.func, ast.Name) and last in self.classes else ""
                return own._replace(kind=made) if made else own
        elif last == "partial" or last in ("map", "apply", "submit"):
            for i, part in enumerate(node.args):
                if isinstance(part, ast.Name) and part.id in self.functions and part.id not in frame.names:
                    return self.own(node, self.functions[part.id], given[i + 1 :], named, frame) or NOTHING
        everything = held
        for each in (*given, *named.values()):
            everything |= each
        found = library.called(self, node, held, [*given, *named.values()], everything, frame)
        if isinstance(node.func, ast.Name) and last in self.classes:
            return found._replace(kind=last)
        return found

    def resolved(self, func: ast.expr, held: Value, frame: Frame) -> Definition | None:
        """The function of the script that a call enters; None for others, and for what torch itself calls."""
        last = last_name(func)
        if isinstance(func, ast.Name):
            if last in self.classes:
                return self.methods.get((last, "__init__"))
            if (kind := self._kind(func, frame)) and (kind, "__call__") in self.methods:
                return self.methods[kind, "__call__"]
            found = self.functions.get(last)
            return None if found is None or found.name in TORCH_OWN else found
        if not isinstance(func, ast.Attribute) or last in TORCH_OWN:
            return None
        kind = frame.kind if isinstance(func.value, ast.Name) and func.value.id == "self" else held.kind
        if kind in PLAIN_KINDS:
            return None
        if kind and (kind, last) in self.methods:
            return self.methods[kind, last]
        others = [each for each in self.called_so.get(last, ()) if id(each) not in self.entered]
        return others[0] if others else self.functions.get(last)

    def _kind(self, func: ast.Name, frame: Frame) -> str:
        found = frame.names.get(func.id) or self.globals.get(func.id)
        return found.kind if found else ""

    def own(
        self,
        node: ast.Call,
        function: Definition,
        given: Sequence[Value],
        named: Mapping[str, Value],
        frame: Frame,
    ) -> Value | None:
        """A call of a function of the script; None where it is not entered."""
        if frame.depth >= MOST_DEPTH or id(function) in self.entered:
            return None
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
        words = {each.arg: each.value for each in node.keywords if each.arg}
        names |= {
            name: _split(words[name], value) if name in words else value
            for name, value in named.items()
            if name
        }
        texts = {}
        if any(value.has(VAL) for value in names.values()):
            for name, part in [*zip(parameters, node.args), *words.items()]:
                if (text := _text(part, frame)) and not isinstance(part, ast.Constant):
                    texts[name] = text
        inner = Frame(
            function.name, names, frame.loops, frame.depth + 1, frame.control, frame.gate, off=frame.off
        )
        inner.texts, inner.kind = texts, self.owner.get(id(function), "")
        closed = False
        around = self.around.get(id(function))
        if (
            around is not None and around.name == frame.name
        ):  # functions inside functions see the names around
            closed = True
            inner.names = {**frame.names, **names}
            inner.texts = {**frame.texts, **texts}
        key: tuple[object, ...] = (
            id(function),
            frozenset(inner.names.items()),
            frozenset(inner.texts.items()),
            bool(frame.loops),
            bool(self.scouts),
            frame.control,
            frame.gate,
            frame.off,
        )
        if self.walked.get(id(function), 0) > MOST_WALKS:  # of constants alone there are too many
            marks = frozenset((name, each.marks, each.keys) for name, each in inner.names.items())
            key = (id(function), marks, bool(frame.loops), bool(self.scouts), frame.off)
        if (memory := self.known.get(key)) is not None and memory.holds(self.changed):
            return self._again(memory, node, parameters, frame, closed)
        started, first, outer_read = self.time, len(self.events), self.read
        self.read = set()
        self.walked[id(function)] = self.walked.get(id(function), 0) + 1
        self.entered.append(id(function))
        self.block(function.body, inner)
        self.entered.pop()
        self._handed_back(node, parameters, inner, frame, closed)
        if not inner.shared:
            made = frozenset(name for name, time in self.made.items() if time > started)
            depth, events = len(frame.loops), [each for each in self.events[first:] if each.kind != "stop"]
            self.known[key] = _Memory(
                self.version, started, self.time, depth, frozenset(self.read), made, events, inner
            )
        self.read |= outer_read
        return inner.returned

    def _again(
        self, memory: _Memory, node: ast.Call, parameters: Sequence[str], frame: Frame, closed: bool
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


def _aged(roots: frozenset[str]) -> frozenset[str]:
    """Roots of an earlier turn of a loop."""
    return frozenset(root if root == STREAM or root.startswith(BEFORE) else BEFORE + root for root in roots)


def _split(node: ast.expr, value: Value) -> Value:
    """An argument that names a split stands for its tokens: `load("val")`."""
    word = node.value if isinstance(node, ast.Constant) else None
    if isinstance(word, str) and (mark := SPLIT_WORDS.get(word)):
        return Value(frozenset((mark,)), roots=frozenset((STREAM,)) if mark == VAL else NO_NAMES)
    return value


def _text(node: ast.expr | None, frame: Frame) -> str:
    """An index as a text, its names replaced; empty for what is no plain arithmetic."""
    if node is None or not isinstance(node, ast.Name | ast.BinOp | ast.Constant):
        return ""
    inner: list[ast.expr] = [node]
    while inner:
        each = inner.pop()
        if isinstance(each, ast.BinOp) and isinstance(each.op, ast.Add | ast.Sub | ast.Mult | ast.FloorDiv):
            inner += [each.left, each.right]
        elif not isinstance(each, ast.Name) and not (
            isinstance(each, ast.Constant) and isinstance(each.value, int)
        ):
            return ""
    return _replaced(node, frame.texts)


def _replaced(node: ast.expr, texts: Mapping[str, str]) -> str:
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} & texts.keys()
    if not names:
        return _sliced(node)
    if isinstance(node, ast.Name):
        return texts[node.id]
    return _sliced(_Renamed({name: texts[name] for name in names}).visit(copy.deepcopy(node)))


def _sliced(node: ast.expr) -> str:
    """An index as a text; a bare slice does not stand alone."""
    return ast.unparse(ast.Subscript(ast.Name("x"), node))[2:-1]


class _Renamed(ast.NodeTransformer):
    """Names replaced by the expressions that they stand for."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def visit_Name(self, node: ast.Name) -> ast.expr:  # noqa: N802
        """One name."""
        text = self.texts.get(node.id)
        return ast.parse(text, mode="eval").body if text else node


def _is_whole(node: ast.expr) -> bool:
    """`[:]`, `[None]`, `[..., None]`: nothing is left out."""
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return all(
        isinstance(each, ast.Slice)
        and each.lower is each.upper is each.step is None
        or isinstance(each, ast.Constant)
        and each.value in (None, ...)
        for each in parts
    )


def _is_part(node: ast.expr) -> bool:
    """A slice with an end, in any dimension: what stands behind it is padding."""
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(isinstance(each, ast.Slice) and each.upper is not None for each in parts)


def _is_number(left: Value, right: Value) -> bool:
    return left.number is not None or right.number is not None


def _by_piece(left: Value, right: Value) -> bool:
    """A score by the inverse of its bytes."""
    return left.has("per byte") or right.has("per byte")


def _optimized(node: ast.expr) -> str:
    """Of `Optimizer(thing.parameters(), lr=...)` or `Optimizer([thing], lr=...)` the thing; else nothing."""
    if not (isinstance(node, ast.Call) and node.args and any(each.arg == "lr" for each in node.keywords)):
        return ""
    return next((each.id for each in ast.walk(node.args[0]) if isinstance(each, ast.Name)), "")
