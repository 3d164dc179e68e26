"""What expressions of a script carry: parts of tokens, look-ups, hashes, mixtures, quotients."""

import ast
import math
from collections.abc import Iterable, Sequence

from bitgolf.audit import library
from bitgolf.audit.indices import length, meeting, shifted, with_texts
from bitgolf.audit.tree import number
from bitgolf.audit.values import (
    CHOSEN,
    CLOCK,
    COUNTED,
    COUNTER,
    DRAWN,
    FEW,
    FILES,
    GOLD,
    GRAD,
    GUESS,
    HASH,
    HOT,
    ITEMS,
    LAMBDA,
    MASK,
    NO_NAMES,
    NOTHING,
    PIECE,
    PREDICTED,
    RANK,
    READ,
    SHARE,
    SIZE,
    STORED,
    STREAM,
    SUM,
    TABLE,
    TIME,
    TRAIN,
    VAL,
    WIDTH,
    Frame,
    Value,
    all_places,
    base_name,
    constant,
    few,
    last_name,
    places,
    put_together,
)
from bitgolf.audit.walk import MOST_STEPS, Walk
from bitgolf.public.constants import folded

SAID = {PIECE, PREDICTED, READ}  # by a table or a model


class Expressions(Walk):
    """What expressions carry."""

    def value(self, node: ast.expr | None, frame: Frame) -> Value:
        """What an expression carries."""
        self.steps += 1
        if node is None or self.steps >= MOST_STEPS:
            return NOTHING
        match node:
            case ast.Constant():
                return constant(node.value)
            case ast.Name():
                local = frame.names.get(node.id)
                if local is None:
                    self.read.add(node.id)
                    local = self.globals.get(node.id, NOTHING)
                return self._known(node, local)
            case ast.Attribute():
                return self.attribute_of(node, frame)
            case ast.Subscript():
                return self.part(node, frame)
            case ast.BinOp():
                return self.operation(node, frame)
            case ast.Call():
                return self.call(node, frame)
            case ast.UnaryOp():
                inner = self.value(node.operand, frame)
                if inner.number is None:
                    return inner
                kept = -inner.number if isinstance(node.op, ast.USub) else None
                return inner._replace(number=kept)
            case ast.Compare():
                return self.comparison(node, frame)
            case ast.Lambda():
                return self.value(node.body, frame)._replace(kind=LAMBDA)
            case ast.IfExp():
                return self.either(node, frame)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self._comprehension(node, frame)
            case ast.Tuple() | ast.List() if len(node.elts) > 1:
                return self.written_out(node, frame)
            case ast.Dict() if not node.keys:
                return self.table(node)
            case ast.JoinedStr():
                return self._formatted(node, frame)
            case ast.Yield() | ast.YieldFrom():
                value = self.chosen(self.value(node.value, frame), frame)
                if frame.taker is not None:
                    self.handed_over(value, frame.taker, frame)
                frame.returned |= value
                return NOTHING
            case ast.NamedExpr():
                value = self.value(node.value, frame)
                self.assign(node.target, value, frame, node.value)
                return value
            case _:
                return self.union(
                    [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)], frame
                )

    def attribute_of(self, node: ast.Attribute, frame: Frame) -> Value:
        """What an attribute of something carries; of `self` that of the class that is followed."""
        held = self.value(node.value, frame)
        if node.attr in library.SIZES:
            return Value(frozenset((SIZE,)))
        if node.attr == "grad":
            return held.plain.marked(GRAD)
        if isinstance(node.value, ast.Name) and node.value.id == "self" and not held.kind:
            held = held._replace(kind=frame.kind)
        return self._known(node, self.attribute(node.attr, held))

    def comparison(self, node: ast.Compare, frame: Frame) -> Value:
        """What a condition knows; one of tokens is a mask."""
        value = self.union([node.left, *node.comparators], frame).plain
        equal = all(isinstance(each, ast.Eq | ast.NotEq) for each in node.ops)
        if not equal or any(isinstance(each, ast.UnaryOp | ast.List) for each in node.comparators):
            value = value._replace(marks=value.marks - {RANK})  # `!= -1` asks whether there are others
        if not value.has(VAL):
            return value
        sides = [self.again(each, frame).marks & {VAL, *SAID} for each in (node.left, node.comparators[0])]
        guessed = equal and {VAL} in sides and any(each & SAID for each in sides)
        return value._replace(gates=value.gates | value.keys).marked(MASK, *([GUESS] if guessed else []))

    def either(self, node: ast.IfExp, frame: Frame) -> Value:
        """One of two, chosen by a condition."""
        test, holds = self.value(node.test, frame), self.truth(node.test, frame)
        ways = [self.value(each, frame) for each in (node.orelse, node.body)]
        value = joined(ways)
        if holds is not None and not ways[holds].has(TIME):
            value = value._replace(marks=value.marks - {TIME})  # a clock that nobody asks
        marks = value.marks | ({CHOSEN} if test.has(GOLD) else NO_NAMES)
        return value._replace(marks=marks, gates=value.gates | test.gates)

    def written_out(self, node: ast.Tuple | ast.List, frame: Frame) -> Value:
        """A tuple or a list, with what each of its places carries."""
        parts = [self.value(each, frame) for each in node.elts]
        whole = joined(parts)
        if isinstance(node, ast.List) and whole.parts:
            return whole.marked(ITEMS)
        return whole._replace(
            parts=tuple(one._replace(parts=()) for one in parts), marks=whole.marks - {ITEMS}
        )

    def _known(self, node: ast.expr, value: Value) -> Value:
        """A value, and its class noted if it is an object of the script."""
        if value.kind in self.classes:
            self.kinds.setdefault(id(node), set()).add(value.kind)
        return value

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, frame: Frame
    ) -> Value:
        """What is made of each of something, its conditions looked at too."""
        for each in node.generators:
            over = self.value(each.iter, frame)
            self.taken(each.target, each.iter, over, frame)
            for condition in each.ifs:
                self.value(condition, frame)
                if STREAM in over.roots:
                    self._every_nth(condition, frame)
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        return self.union(parts, frame).marked(ITEMS).each(all_places)

    def _every_nth(self, test: ast.expr, frame: Frame) -> None:
        """`k % 16 == 0`, which takes one of so many."""
        match test:
            case ast.Compare(left=ast.BinOp(op=ast.Mod(), left=place, right=every), ops=[ast.Eq()]):
                step = self.value(every, frame)
                if self.value(place, frame).has(COUNTER) and not step.set and (step.number or 0) > 1:
                    self.event("cut", test, frame, step, way="step")

    def _formatted(self, node: ast.JoinedStr, frame: Frame) -> Value:
        """A text with values in it: its constant parts, and what any value carries."""
        parts_of = [each.value for each in node.values if isinstance(each, ast.FormattedValue)]
        text = "".join(str(each.value) if isinstance(each, ast.Constant) else "*" for each in node.values)
        return (constant(text)._replace(number=None) | self.union(parts_of, frame))._replace(kind="str")

    def union(self, nodes: Iterable[ast.expr | None], frame: Frame) -> Value:
        """What any of several expressions carries."""
        return joined([self.value(node, frame) for node in nodes])

    def part(self, node: ast.Subscript, frame: Frame) -> Value:
        """A look into a table by tokens, or some of the tokens."""
        held, where = self.value(node.value, frame), self.value(node.slice, frame)._replace(parts=())
        if held.parts and not where.has(VAL) and not isinstance(node.slice, ast.Slice | ast.Tuple):
            place = number(node.slice)
            if isinstance(place, int) and not held.has(ITEMS) and place < len(held.parts):
                return held.parts[place]
            return held  # a tuple of a list of them
        held = held._replace(parts=())
        if held.has(ITEMS):  # there are no more of them
            where = where._replace(marks=where.marks - {COUNTER, TIME})
        if held.has(VAL) or held.has(TRAIN):
            held = self._window(node, held, frame)
        if held.has(VAL) and not held.has(GOLD):
            picks = held.has(PREDICTED) and where.has(VAL) and where.keys and not where.has(MASK)
            if picks and base_name(node) not in self.tallied and not isinstance(node.slice, ast.Slice):
                return self.picked(node, held, where, frame)
            return self.cut_out(node, held, where, frame)
        if where.has(VAL) and not held.has(GOLD):
            return self.looked(node, held, where, frame)
        if held.gates and not held.has(GOLD):  # a table over all tokens, at some of them
            path = self.path(node, frame)
            held = held._replace(gates=few(frozenset(f"{gate}{path}" for gate in held.gates)))
        if where.has(VAL) and not where.has(GOLD) and held.has(GOLD):
            held = held._replace(golds=held.golds | where.keys)
        elif held.golds and not where.has(VAL):  # of the scores of all tokens some
            path = self.path(node, frame)
            held = held._replace(golds=few(held.golds | {f"{gold}{path}" for gold in held.golds}))
        return held._replace(tables=held.tables) | where._replace(
            roots=NO_NAMES, keys=NO_NAMES, tables=NO_NAMES
        )

    def _window(self, node: ast.Subscript, held: Value, frame: Frame) -> Value:
        """Tokens, marked with how many a slice takes at once where its numbers are known."""
        cut = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) else node.slice
        ends = [each for each in (cut.lower, cut.upper) if each] if isinstance(cut, ast.Slice) else []
        if len(ends) == 1 and self.again(ends[0], frame).marks & {COUNTER, TIME}:
            self.event("length", node, frame, held)
        width = 0.0
        for term, count in (
            length(node.slice, frame.texts).items() if frame.loops and not held.has(GOLD) else ()
        ):
            known = 1.0 if not term else self.value(ast.parse(term, mode="eval").body, frame).number
            width += math.nan if known is None else known * count
        # The last one is a target alone.
        return held.marked(f"{WIDTH}{width - 1:.0f}") if width > 8 else held

    def cut_out(self, node: ast.Subscript, held: Value, where: Value, frame: Frame) -> Value:
        """Some of the tokens, by the path of slices that leads to them."""
        bounds = node.slice if isinstance(node.slice, ast.Slice) else None
        if STREAM in held.roots and not frame.loops:
            limit = self.value(bounds.upper, frame) if bounds and bounds.upper is not None else NOTHING
            if limit.number is not None and limit.number > 1000 and not limit.has(SIZE):
                self.event("cut", node, frame, limit, way="least" if limit.has(FEW) else "")
            if limit.has(MASK) and bounds and isinstance(bounds.upper, ast.Subscript):
                nth = self.value(bounds.upper.slice, frame)
                if nth.number is not None and nth.number > 1 and not nth.has(SIZE):
                    self.event("cut", node, frame, nth, way="documents")
            step = self.value(bounds.step, frame).number if bounds and bounds.step is not None else None
            if step is not None and step > 1:
                self.event("cut", node, frame, Value(number=step), way="step")
            if held.has(FILES) and not held.has(SIZE):  # sizes of all files are no files
                if bounds and bounds.upper is not None:
                    self.event("cut", node, frame, limit, way="files")
                elif bounds is None:
                    kind = "cut" if where.number is not None else "file"
                    self.event(kind, node, frame, Value(number=1), ast.unparse(node.value), way="files")
            if bounds is None and where.has(DRAWN):  # a slice may begin where a document does
                self.event("cut", node, frame, where, way="drawn")
        path = self.path(node, frame)
        keys = few(frozenset(map(shifted, (f"{key}{path}" for key in held.keys or ("",)))))
        roots = frozenset((path,)) if STREAM in held.roots and frame.loops else held.roots
        gates = few(held.gates | {f"{gate}{path}" for gate in held.gates})
        held = held._replace(number=None, keys=keys, gates=gates, roots=roots, set=False)
        return held | where._replace(roots=NO_NAMES, keys=NO_NAMES, gates=NO_NAMES, tables=NO_NAMES)

    def picked(self, node: ast.AST, source: Value, where: Value, frame: Frame) -> Value:
        """The probability of the realised token, out of those of all tokens."""
        if leaks := meeting(source.gates, where.keys):
            self.event("leak", node, frame, source._replace(keys=leaks), way="picked")
        value = (source | where).plain.marked(GOLD)
        return value._replace(born=self.time, golds=where.keys)

    def path(self, node: ast.Subscript, frame: Frame) -> str:
        """A slice as a text in which names stand for what they were given."""
        if _is_whole(node.slice):
            return ""
        if isinstance(node.slice, ast.Name) and node.slice.id in frame.texts:
            return f"[{frame.texts[node.slice.id]}]"
        return f"[{with_texts(node.slice, frame.texts)}]"

    def looked(self, node: ast.AST, held: Value, where: Value, frame: Frame) -> Value:
        """What a table says of tokens, or of a hash of them."""
        owner = base_name(node) if isinstance(node, ast.expr) else ""
        made = max((self.made.get(each, 0) for each in held.tables), default=0)
        self.event("look", node, frame, where._replace(born=made), owner=owner, tables=held.tables)
        tables = held.tables
        held = held._replace(marks=held.marks - {COUNTED, STORED}, tables=NO_NAMES, number=None)
        if where.has(HASH):
            places = frozenset(f"{TABLE}{each}" for each in tables or (owner,))
            return Value(frozenset((READ,)), keys=where.keys, roots=places) | held
        return Value(frozenset((PIECE,)), roots=where.roots, gates=where.keys) | held

    def operation(self, node: ast.BinOp, frame: Frame) -> Value:
        """Arithmetic: hashes, ratios of counts, mixtures, logarithms spread over bytes."""
        left, right = self.value(node.left, frame), self.value(node.right, frame)
        value = (left | right).plain
        value = value._replace(marks=value.marks - {CLOCK})
        for one, other in ((left, right), (right, left)):
            if not one.has(GOLD) or one.has(SUM) or other.has(GOLD):
                continue
            if other.has(READ) and (known := meeting(one.golds, places(other.keys))):
                self.event("leak", node, frame, value._replace(keys=known), way="key")
        match node.op:
            case ast.Mult() if value.has(HOT, PREDICTED) and not value.has(GOLD):
                return self.picked(node, value, left if left.has(HOT) else right, frame)
            case ast.BitXor() | ast.BitAnd() | ast.Mod() if value.has(VAL) and not value.has(GOLD):
                return value.marked(HASH)
            case ast.Div():
                value = self.divided(node, left, right, frame)
            case ast.Sub() if left.has(READ) and right.has(READ) and left.keys > right.keys:
                self.event("ratio", node, frame, value)
            case ast.Pow() if left.has(GOLD) and right.has(PIECE) and not left.has(SUM):
                value = value.marked(SHARE)
            case ast.Mult() if value.has(GOLD, "per byte"):
                value = value.marked(SHARE)
            case ast.Mult() if left.has(GOLD) and right.has(GOLD) and CHOSEN in left.marks ^ right.marks:
                self.mixed(node, *((left, right) if left.has(CHOSEN) else (right, left)), frame, way="weight")
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
        if put_together(left, right):
            self.event("share", node, frame, value)

    def weighed(self, node: ast.AST, one: Value, other: Value, frame: Frame) -> None:
        """A part of a mixture: a probability and its weight, in no known order."""
        if one.has(GOLD) and other.has(GOLD) and SUM not in one.marks | other.marks:
            self.event("mix", node, frame, one | other, way="weight")
        for weight, part in ((one, other), (other, one)):
            if part.marks & {GOLD, READ, PREDICTED}:
                self.mixed(node, weight, part, frame, way="weight")

    def mixed(self, node: ast.AST, weight: Value, parts: Value, frame: Frame, way: str) -> None:
        """A weight of a mixture that knows the outcome."""
        if weight.has(SUM) or parts.has(SUM):
            return
        if weight.has(CHOSEN) or weight.has(GOLD) and way != "weight":
            self.event("mix", node, frame, (weight | parts).marked(GOLD, VAL), way=way)
        elif (known := meeting(weight.gates, parts.golds)) and not weight.has(GOLD):
            self.event("leak", node, frame, weight._replace(keys=known), way="table")

    def divided(self, node: ast.AST, left: Value, right: Value, frame: Frame) -> Value:
        """A quotient: of counts, or of a score by bytes."""
        value = (left | right).plain
        if right.has(PIECE, STORED):
            self.event("weighed", node, frame, right)
        if left.has(READ) and right.has(READ) and left.keys != right.keys:
            if left.keys > right.keys:
                self.event("ratio", node, frame, value)
            elif _tables(left) - _tables(right):
                self.event("ratio", node, frame, value, way="tables")
        of_token = right.marks & {PIECE, VAL} and not right.has(GOLD)
        if left.has(GOLD) and of_token and not (left.has(SUM) or right.has(SUM)):
            return value.marked(SHARE)
        if right.has(PIECE) and not right.has(GOLD) and left.number == 1:
            return value.marked("per byte")
        return value

    def again(self, node: ast.expr, frame: Frame) -> Value:
        """What an expression carries that was followed before: what happens in it has happened."""
        before = len(self.events)
        value = self.value(node, frame)
        del self.events[before:]
        return value

    def truth(self, node: ast.expr, frame: Frame) -> bool | None:
        """Whether a condition holds at the script's own settings; None where that is not known."""
        match node:
            case ast.Constant(value=bool()):
                return bool(node.value)
            case ast.UnaryOp(op=ast.Not()):
                inner = self.truth(node.operand, frame)
                return None if inner is None else not inner
            case ast.BoolOp():
                truths = [self.truth(each, frame) for each in node.values]
                if isinstance(node.op, ast.And):
                    return False if False in truths else None
                return False if all(each is False for each in truths) else None
            case ast.Compare(ops=[ast.Gt() | ast.Eq() | ast.NotEq()], comparators=[other]):
                left, right = self.again(node.left, frame).number, self.again(other, frame).number
                if left is None or right is None:
                    return None
                if isinstance(node.ops[0], ast.Gt):
                    return left > right
                return (left == right) == isinstance(node.ops[0], ast.Eq)
            case ast.Name() | ast.Attribute():
                number = self.again(node, frame).number
                return None if number is None else number != 0
        return None


def joined(values: Sequence[Value]) -> Value:
    """What any of several values carries."""
    if len(values) == 1:
        return values[0]
    result = NOTHING
    for value in values:
        result |= value
    return result


def _is_whole(node: ast.expr) -> bool:
    """`[:]`, `[None]`, `[..., None]`: nothing is left out."""
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return all(ast.unparse(each) in (":", "None", "...") for each in parts)


def _tables(value: Value) -> frozenset[str]:
    """The tables that counts were read from."""
    return frozenset(root for root in value.roots if root.startswith(TABLE))
