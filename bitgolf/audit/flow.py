"""What reaches what in a script: its statements are followed in order, calls into its own functions too.

Nothing is executed. A value is the set of marks that its parts carry: validation tokens, scores of them,
hashes of them, the rank of the process. What happens to such values becomes a list of events in the order in
which the script would do it, each with the loops around it. Names mean nothing here, data paths and
operations do; names of libraries' own functions are as they are.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

VAL, GOLD, HASH, READ, RANK, SIZE, SUM = "val gold hash read rank size sum".split()
PIECE, SHARE, WEIGHTS = "piece share weights".split()  # what a table says of a token; a score by its bytes
BEFORE = "before "  # of roots that an earlier turn of a loop has left
STREAM = "stream"  # the root of what is not a part of the validation tokens
MOST_STEPS = 400_000  # statements and expressions that are followed
MOST_DEPTH = 12  # of calls
# A pattern or path of validation shards; no word of a message.
VALIDATION = re.compile(
    r"(?:^|[_/\-])val(?:id|idation)?[_/\-*.0-9][^ :]*(?:\*|\.bin|\.npy|\.parquet)|_val_[^ :]*\*"
)
LOSSES = {"cross_entropy", "nll_loss"}
REDUCED = {"sum", "mean", "item", "nansum"}
SIZES = {"numel", "size", "len", "shape", "nelement", "ndim", "dim"}
SCATTERED = {"add.at", "bincount", "scatter_add_", "index_add_", "scatter_add", "index_put_", "update"}
REDUCES = {"all_reduce", "all_gather", "reduce", "all_gather_object", "gather", "all_gather_into_tensor"}
WRITES = {"save", "savez", "save_file", "dump", "dumps", "write", "write_bytes"}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
TORCH_OWN = {"forward", "backward", "step", "sum", "mean", "add_", "all_reduce"}
HASHED = {"bitwise_xor", "bitwise_and", "remainder", "fmod", "mod", "hash"}


class Value(NamedTuple):
    """marks: what it carries. born: when its score was computed. roots: which tokens. keys: names of the
    tokens in a hash. number: of a constant; set: it stands in an environment variable with this default.
    """

    marks: frozenset[str] = frozenset()
    born: int = 0
    roots: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    number: float | None = None
    set: bool = False

    def __or__(self, other: "Value") -> "Value":
        """What carries what either of both carries."""
        return Value(
            self.marks | other.marks,
            max(self.born, other.born),
            self.roots | other.roots,
            self.keys | other.keys,
        )

    def has(self, *marks: str) -> bool:
        """Whether it carries all of these."""
        return self.marks.issuperset(marks)


NOTHING = Value()


class Event(NamedTuple):
    """What happens. kind: train, score, write, count, look, ratio, mix, share, cut, gather.

    time: its place in the order; loops: numbers of the loops around it. owner: of training, the name that is
    optimized; of counts and looks, the table. off: the lines of a branch around it that the script's own
    settings do not take.
    """

    kind: str
    line: int
    time: int
    loops: tuple[int, ...]
    value: Value = NOTHING
    owner: str = ""
    inside: str = ""
    off: tuple[int, int] | None = None


@dataclass
class Frame:
    """Where the walk is: a function's names, the loops around it, its depth."""

    name: str
    names: dict[str, Value] = field(default_factory=dict)
    loops: tuple[int, ...] = ()
    depth: int = 0
    control: Value = NOTHING
    returned: Value = NOTHING
    owners: dict[str, str] = field(default_factory=dict)
    off: tuple[int, int] | None = None


class Flow:
    """A walk through a script and the modules beside it that it imports."""

    def __init__(self, trees: Sequence[ast.Module]) -> None:
        self.functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self.methods: dict[tuple[str, str], ast.FunctionDef | ast.AsyncFunctionDef] = {}
        self.attributes: dict[str, Value] = {}
        self.globals: dict[str, Value] = {}
        self.made: dict[str, int] = {}  # tables, by when they were made last
        self.events: list[Event] = []
        self.time, self.loop, self.steps = 0, 0, 0
        self.entered: list[str] = []
        for tree in trees:
            for node in ast.walk(tree):
                self._define(node)
        self.trees = trees

    def _define(self, node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self.functions.setdefault(node.name, node)
        elif isinstance(node, ast.ClassDef):
            self.classes.setdefault(node.name, node)
            for item in node.body:
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                    self.methods[node.name, item.name] = item

    @property
    def whole(self) -> bool:
        """Whether everything was followed to its end."""
        return self.steps < MOST_STEPS

    def run(self) -> list[Event]:
        """The events of the script; walked until attributes of objects carry what they ever carry."""
        for _ in range(3):
            before = {name: value.marks for name, value in self.attributes.items()}
            self.events, self.time, self.loop, self.entered = [], 0, 0, []
            self.made = {}
            for tree in self.trees:
                frame = Frame("", self.globals)
                self.block(tree.body, frame)
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
                frame.returned |= self.value(node.value, frame)
            case ast.For() | ast.AsyncFor():
                over = self.value(node.iter, frame)
                self.assign(node.target, over, frame, node.iter)
                self.looped(node.body, over, frame)
                self.block(node.orelse, frame)
            case ast.While():
                self.looped(node.body, self.value(node.test, frame), frame)
            case ast.If():
                self.value(node.test, frame)
                outer = frame.off
                if not outer and self.truth(node.test, frame) is False:
                    frame.off = (node.lineno, node.body[-1].end_lineno or node.lineno)
                self.block(node.body, frame)
                frame.off = outer
                self.block(node.orelse, frame)
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
                self.block([each for each in node.body if not isinstance(each, DEFINITIONS)], inner)
                for name, value in inner.names.items():
                    self.remember(name, value)
                if (made := self.methods.get((node.name, "__post_init__"))) is not None:
                    self.block(made.body, Frame(made.name, {}, depth=frame.depth + 1))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                pass  # followed where it is called
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.value(child, frame)

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
        """A loop: once to see what its end hands to its start, then once for its events."""
        self.loop += 1
        before, control = frame.loops, frame.control
        frame.loops, frame.control = (*before, self.loop), control | over
        events, time = self.events, self.time
        known = dict(frame.names)
        self.events = []
        self.block(body, frame)
        self.events, self.time = events, time
        for name, value in frame.names.items():
            if value != known.get(name) and value.roots:
                aged = frozenset(
                    root if root == STREAM or root.startswith(BEFORE) else BEFORE + root
                    for root in value.roots
                )
                frame.names[name] = value._replace(roots=aged)
        self.block(body, frame)
        frame.loops, frame.control = before, control

    def assign(self, target: ast.expr, value: Value, frame: Frame, source: ast.expr | None = None) -> None:
        """Give a value to a name, an attribute, or a place in something."""
        match target:
            case ast.Name():
                if value.has(VAL) and not value.has(HASH):
                    value = value._replace(keys=frozenset((target.id,)))
                frame.names[target.id] = value
                self.made[target.id] = self.time
                if source is not None:
                    frame.owners[target.id] = _optimized(source)
            case ast.Attribute():
                self.remember(target.attr, value)
                self.made[target.attr] = self.time
                if source is not None:
                    frame.owners[target.attr] = _optimized(source)
            case ast.Tuple() | ast.List():
                parts = source.elts if isinstance(source, ast.Tuple | ast.List) else []
                for i, each in enumerate(target.elts):
                    own = self.value(parts[i], frame) if len(parts) == len(target.elts) else value
                    self.assign(each, own, frame, None)
            case ast.Starred():
                self.assign(target.value, value, frame)
            case ast.Subscript():
                self.value(target.slice, frame)
                base = _base(target)
                if base:
                    frame.names[base] = frame.names.get(base, NOTHING) | value

    def augment(self, node: ast.AugAssign, frame: Frame) -> None:
        """`+=`: a score, if a loss is added; counts, if tokens say where."""
        value = self.value(node.value, frame)
        if isinstance(node.target, ast.Subscript):
            where = self.value(node.target.slice, frame)
            if where.has(VAL):
                self.event("count", node, frame, where, owner=self.table(_base(node.target)))
            self.assign(node.target, value, frame)
            return
        if isinstance(node.op, ast.BitXor | ast.BitAnd | ast.Mod) and value.has(VAL):
            value = value._replace(marks=value.marks | {HASH})
        if isinstance(node.op, ast.Add) and value.has(GOLD):
            self.event("score", node, frame, value)
            value = Value(frozenset((SUM,)))
        name = _base(node.target)
        if isinstance(node.target, ast.Attribute):
            self.remember(name, value)
        elif name:
            frame.names[name] = frame.names.get(name, NOTHING) | value

    def table(self, name: str) -> str:
        """A table by its name and when it was made: a new one is another."""
        return f"{name} made at {self.made.get(name, 0)}"

    def remember(self, name: str, value: Value) -> None:
        """What an attribute of this name carries in any object."""
        old = self.attributes.get(name)
        roots = frozenset((STREAM,)) if value.has(VAL) else value.roots
        new = value._replace(roots=roots)
        self.attributes[name] = new if old is None else (old | new)._replace(number=new.number, set=new.set)

    def event(self, kind: str, node: ast.AST, frame: Frame, value: Value = NOTHING, owner: str = "") -> None:
        """Note something that happens here."""
        line = getattr(node, "lineno", 0)
        marks = value.marks | (frame.control.marks & {RANK})
        self.events.append(
            Event(
                kind, line, self.time, frame.loops, value._replace(marks=marks), owner, frame.name, frame.off
            )
        )

    # Expressions.

    def value(self, node: ast.expr | None, frame: Frame) -> Value:
        """What an expression carries."""
        self.steps += 1
        if node is None or self.steps >= MOST_STEPS:
            return NOTHING
        match node:
            case ast.Constant():
                return _constant(node.value)
            case ast.Name():
                found = frame.names.get(node.id)
                return self.globals.get(node.id, NOTHING) if found is None else found
            case ast.Attribute():
                inner = self.value(node.value, frame)
                if node.attr in SIZES:
                    return Value(frozenset((SIZE,)))
                own = self.attributes.get(node.attr, NOTHING)
                return own if not inner.marks else inner | own
            case ast.Subscript():
                return self.part(node, frame)
            case ast.BinOp():
                return self.operation(node, frame)
            case ast.Call():
                return self.call(node, frame)
            case ast.Compare():
                value = self.union([node.left, *node.comparators], frame)
                return value._replace(number=None)
            case ast.Lambda():
                return self.value(node.body, frame)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                for each in node.generators:
                    self.assign(each.target, self.value(each.iter, frame), frame)
                parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
                return self.union(parts, frame)
            case ast.JoinedStr():
                text = "".join(
                    str(each.value) if isinstance(each, ast.Constant) else "*" for each in node.values
                )
                return _constant(text) | self.union(
                    [each.value for each in node.values if isinstance(each, ast.FormattedValue)], frame
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
            bound = node.slice.upper if isinstance(node.slice, ast.Slice) else None
            if bound is not None and STREAM in held.roots and not frame.loops:
                limit = self.value(bound, frame)
                if limit.number is not None and limit.number > 1000 and not limit.has(SIZE):
                    self.event("cut", node, frame, limit)
            if STREAM in held.roots and frame.loops:
                held = held._replace(roots=frozenset((ast.unparse(node),)))
            return held._replace(number=None) | where._replace(roots=frozenset())
        if where.has(VAL) and not held.has(GOLD):
            self.event("look", node, frame, where, owner=self.table(_base(node)))
            if where.has(HASH):
                return Value(frozenset((READ,)), keys=where.keys) | held
            return Value(frozenset((PIECE,)), roots=where.roots) | held
        return held | where._replace(roots=frozenset(), keys=frozenset())

    def operation(self, node: ast.BinOp, frame: Frame) -> Value:
        """Arithmetic: hashes, ratios of counts, mixtures, logarithms spread over bytes."""
        left, right = self.value(node.left, frame), self.value(node.right, frame)
        value = left | right
        if isinstance(node.op, ast.BitXor | ast.BitAnd | ast.Mod) and value.has(VAL) and not value.has(GOLD):
            return value._replace(marks=value.marks | {HASH})
        if isinstance(node.op, ast.Div):
            if left.has(READ) and right.has(READ) and left.keys > right.keys:
                self.event("ratio", node, frame, value)
            if left.has(GOLD) and right.has(PIECE) and not (left.has(SUM) or right.has(SUM)):
                return value._replace(marks=value.marks | {SHARE})
        if isinstance(node.op, ast.Add) and (weight := _mixing_weight(node)) is not None:
            by = self.value(weight, frame)
            if by.has(GOLD) and not by.has(SUM):
                self.event("mix", node, frame, by)
        if isinstance(node.op, ast.Add) and _is_put_together(left, right):
            self.event("share", node, frame, value)
        if left.number is not None and right.number is not None:
            return value._replace(
                number=_folded(node.op, left.number, right.number), set=left.set or right.set
            )
        return value

    def call(self, node: ast.Call, frame: Frame) -> Value:
        """A call: into the script's own functions, or of a library's."""
        name, last = _dotted(node.func), _last(node.func)
        if last in ("getenv", "get") and "environ" in name or name.endswith("getenv"):
            default = self.value(node.args[1], frame) if len(node.args) > 1 else NOTHING
            words = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            rank = frozenset((RANK,)) if words in ("RANK", "LOCAL_RANK") else frozenset()
            return Value(default.marks | rank, number=default.number, set=True)
        held = self.value(node.func.value, frame) if isinstance(node.func, ast.Attribute) else NOTHING
        given = [self.value(each, frame) for each in node.args]
        named = {each.arg or "": self.value(each.value, frame) for each in node.keywords}
        everything = held
        for each in (*given, *named.values()):
            everything |= each
        if (own := self.own(last, isinstance(node.func, ast.Name), given, named, frame)) is not None:
            for i, part in enumerate(node.args):  # a function that is handed over is called with what follows
                if isinstance(part, ast.Name) and part.id in self.functions and part.id not in frame.names:
                    own |= self.own(part.id, True, given[i + 1 :], named, frame) or NOTHING
            return own
        return self.foreign(node, name, last, held, [*given, *named.values()], everything, frame)

    def foreign(
        self,
        node: ast.Call,
        name: str,
        last: str,
        held: Value,
        given: Sequence[Value],
        everything: Value,
        frame: Frame,
    ) -> Value:
        """A call of something that is not defined in the script: a library's function, or a model."""
        if name == "getattr" and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            return self.attributes.get(str(node.args[1].value), given[0])
        if last == "device":
            return NOTHING
        if last in ("to", "cuda", "cpu") and isinstance(node.func, ast.Attribute):
            return held
        if last in SIZES:
            return Value(frozenset((PIECE if everything.has(PIECE) else SIZE,)), roots=everything.roots)
        if last in ("state_dict", "named_parameters", "parameters"):
            return Value(frozenset((WEIGHTS,)))
        if last == "get_rank":
            return Value(frozenset((RANK,)))
        if last in ("backward", "grad") and everything.has(VAL):
            owner = next((each for each in reversed([*frame.owners.values()]) if each), "")
            self.event("train", node, frame, everything, owner=owner)
        elif last in REDUCES and name != last:
            self.event("gather", node, frame, everything)
        elif last in WRITES and everything.has(WEIGHTS):
            self.event("write", node, frame)
        elif last in ("float", "int", "bool", "str") and len(given) == 1:
            return given[0]
        elif last in ("min", "max") and any(each.number is not None for each in given):
            numbers = [each for each in given if each.number is not None]
            return everything._replace(number=numbers[0].number, set=numbers[0].set)
        if any(name.endswith(f".{each}") or last == each for each in SCATTERED) and everything.has(VAL):
            table = _base(node.args[0]) if name.endswith("add.at") and node.args else _base(node.func)
            self.event("count", node, frame, everything, owner=self.table(table))
        if last == "add_" and everything.has(GOLD):
            self.event("score", node, frame, everything)
            return Value(frozenset((SUM,)))
        if last in ("append", "extend") and given and (base := _base(node.func.value)):  # type: ignore[attr-defined]
            frame.names[base] = frame.names.get(base, NOTHING) | given[0]
        if last == "logaddexp" and len(given) > 1 and _is_put_together(given[0], given[1]):
            self.event("share", node, frame, everything)
        if last in LOSSES and everything.has(VAL):
            return Value(everything.marks | {GOLD}, born=self.time, roots=everything.roots)
        if last in ("gather", "take_along_dim", "take_along_axis") and everything.has(VAL):
            return Value(everything.marks | {GOLD}, born=self.time, roots=everything.roots)
        if last in HASHED and everything.has(VAL):
            return everything._replace(marks=everything.marks | {HASH})
        if last in ("zeros", "ones", "empty", "full", "arange", "zeros_like", "ones_like", "empty_like"):
            return NOTHING
        if isinstance(node.func, ast.Attribute) and held.marks or name.startswith(("torch.", "np.", "F.")):
            return everything._replace(number=None)
        if sum(each.has(VAL) for each in given) > 1 and last not in self.classes:
            return Value(everything.marks | {GOLD}, born=self.time, roots=everything.roots)  # model(x, y)
        return everything if len(given) == 1 else everything._replace(number=None)

    def own(
        self, last: str, plain: bool, given: Sequence[Value], named: Mapping[str, Value], frame: Frame
    ) -> Value | None:
        """A call of a function or class of the script, plainly by its name or not; None for others."""
        made = plain and last in self.classes
        function = self.methods.get((last, "__init__")) if made else self.functions.get(last)
        if function is None or frame.depth >= MOST_DEPTH or self.entered.count(function.name) > 1:
            return None
        if function.name in TORCH_OWN:
            return None  # torch calls these, with what it likes
        parameters = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
        if parameters[:1] in (["self"], ["cls"]):
            parameters = parameters[1:]
        names: dict[str, Value] = {}
        for parameter, default in zip(reversed(parameters), reversed(function.args.defaults)):
            names[parameter] = self.value(default, frame)
        names |= dict(zip(parameters, given))
        names |= {name: value for name, value in named.items() if name}
        inner = Frame(function.name, names, frame.loops, frame.depth + 1, frame.control, off=frame.off)
        outer = {name: value for name, value in frame.names.items() if name not in names}
        if frame.name:  # functions inside functions see the names around them
            inner.names = (
                {**outer, **names} if _is_inside(function, self.functions.get(frame.name)) else names
            )
        self.entered.append(function.name)
        self.block(function.body, inner)
        self.entered.pop()
        return inner.returned


def _is_inside(function: ast.AST, outer: ast.AST | None) -> bool:
    return outer is not None and any(node is function for node in ast.walk(outer))


def _constant(value: object) -> Value:
    if isinstance(value, str) and VALIDATION.search(value):
        return Value(frozenset((VAL,)), roots=frozenset((STREAM,)))
    if isinstance(value, str) and value.strip().lstrip("-").isdigit() and len(value) < 18:
        return Value(number=float(value))
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18:
        return Value(number=float(value))
    return NOTHING


def _folded(operator: ast.operator, left: float, right: float) -> float | None:
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
    return None


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return f"{_dotted(node.value)}.{node.attr}"
    return ""


def _last(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _base(node: ast.expr) -> str:
    """The name that an expression hangs on: of `self.tables[i][key]`, `tables`."""
    while True:
        match node:
            case ast.Subscript() | ast.Starred():
                node = node.value
            case ast.Call():
                node = node.func
            case ast.Attribute():
                if isinstance(node.value, ast.Subscript | ast.Call):
                    node = node.value
                else:
                    return (
                        node.attr
                        if not isinstance(node.value, ast.Name) or _is_self(node.value)
                        else (node.value.id if node.attr in SCATTERED else node.attr)
                    )
            case ast.Name():
                return node.id
            case _:
                return ""


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _optimized(node: ast.expr) -> str:
    """Of `Optimizer(thing.parameters(), lr=...)` or `Optimizer([thing], lr=...)` the thing; else nothing."""
    if not (isinstance(node, ast.Call) and node.args and any(each.arg == "lr" for each in node.keywords)):
        return ""
    return next((each.id for each in ast.walk(node.args[0]) if isinstance(each, ast.Name)), "")


def _is_put_together(left: Value, right: Value) -> bool:
    """Whether one of both is a score by bytes, and the other something else that is no number."""
    other = right if left.has(SHARE) else left
    return left.has(SHARE) != right.has(SHARE) and other.number is None and not other.has(SUM)


def _mixing_weight(node: ast.BinOp) -> ast.expr | None:
    """Of `a * x + (1 - a) * y` the weight a."""
    sides = [side for side in (node.left, node.right) if isinstance(side, ast.BinOp)]
    if len(sides) != 2 or not all(isinstance(side.op, ast.Mult) for side in sides):
        return None
    factors = [(side.left, side.right) for side in sides]
    for one, other in ((factors[0], factors[1]), (factors[1], factors[0])):
        for weight in one:
            for rest in other:
                if (
                    isinstance(rest, ast.BinOp)
                    and isinstance(rest.op, ast.Sub)
                    and isinstance(rest.left, ast.Constant)
                    and rest.left.value in (1, 1.0)
                    and ast.dump(rest.right) == ast.dump(weight)
                ):
                    return weight
    return None


def together(one: Event, other: Event) -> bool:
    """Whether both stand in one loop."""
    return bool(one.loops and other.loops and one.loops[0] == other.loops[0] and common(one, other))


def common(one: Event, other: Event) -> tuple[int, ...]:
    """The loops around both."""
    shared = []
    for left, right in zip(one.loops, other.loops):
        if left != right:
            break
        shared.append(left)
    return tuple(shared)


def kinds(events: Iterable[Event], kind: str) -> Iterator[Event]:
    """The events of one kind."""
    return (event for event in events if event.kind == kind)
