"""How often a script scores each validation token: its evaluation followed on a small text that stands in.

The text is a numpy array of which each token says where it stands. A loss is a sum of targets with weights:
what is added up in the end says which targets were scored how often. Nothing of the script is executed.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bitgolf.audit.arrays import IN_PLACE, MADE, METHODS, PUT, SAME, UNNEEDED, Nats, fits, summed
from bitgolf.audit.finding import Finding
from bitgolf.audit.interpreter import PYTHON_FAULTS, UNKNOWN, Known, Names, Seen, Unknown
from bitgolf.audit.library import COLLECTIVES, LOSSES
from bitgolf.audit.program import LostError, Program, Thing, Turns
from bitgolf.audit.script import Script
from bitgolf.audit.tree import Definition, last_called
from bitgolf.audit.values import VALIDATION

TOKENS = 20_011  # of the text: some windows of any script, and a rest
FIRST = 2**20  # what the first token is; others count from it, and what is less is no token of the text
MAGIC, VERSION, HEADER = 20240520, 1, 256  # of a shard's header, in numbers of 32 bits
BEHIND_HEADER = (slice(HEADER, None), slice(2 * HEADER, None))  # in numbers of 32 or of 16 bits
SAME_WEIGHT = 0.02  # how far the weights of two tokens may differ
MOST_SUMS = 8  # in an array of them
MOST_SIZES = 2**25  # of all arrays that are made
PADDING = 0  # no target: the first token has no prediction
FILE = "fineweb_val_000000.bin"


OF_NOTHING = Unknown()  # the mean loss of no token


class Pass(NamedTuple):
    """What was divided. text: the first token behind the text; line: where; turns: in which loops."""

    nats: Nats
    text: int
    line: int
    turns: Sequence[Turns]

    @property
    def whole(self) -> bool:
        """Whether it is no part of another sum, nor of what the loops around have scored."""
        scored = (each - FIRST for turns in self.turns for each in turns.tokens)
        return not self.nats.used[0] and self.nats.of.keys() >= {each for each in scored if 0 < each < TOKENS}


class Inside(NamedTuple):
    """A function that is followed, and where it divides losses, or a zero."""

    function: Definition
    divided: list[ast.AST]
    zeros: list[ast.AST]


class Passes(Program):
    """Follows what a script scores."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.text = np.arange(FIRST, FIRST + TOKENS)
        self.end, self.certain = TOKENS, True
        self.of_one = np.array([Nats({each: 1.0}, [True]) for each in range(TOKENS)], dtype=object)
        self.made = 0  # numbers in arrays
        self.passes: list[Pass] = []
        self.zeros: list[ast.AST] = []
        self.scoring: set[Definition] = set()
        self.inside: list[Inside] = []

    def enter(self, function: Definition, given: Sequence[Known], named: Mapping[str, Known]) -> Known:
        """Also notes what is divided in functions that score."""
        self.inside.append(Inside(function, [], []))
        try:
            result = super().enter(function, given, named)
        finally:
            inside = self.inside.pop()
        if not inside.divided and not any(isinstance(each, Nats) for each in _leaves([result])):
            self.zeros += inside.zeros
        asked = any(isinstance(each, str) and VALIDATION.search(each) for each in _leaves(given))
        if isinstance(result, Unknown) and asked:
            self.certain = False
            return self.text
        return result

    def call(self, node: ast.Call, names: Names) -> Known:
        """What a call that is not known is given, it may change."""
        result = super().call(node, names)
        if result is UNKNOWN and self.seen and last_called(node) not in COLLECTIVES:
            for each in (self.value(part, names) for part in node.args if isinstance(part, ast.Name)):
                if isinstance(each, np.ndarray) and each.dtype == object and each.size <= MOST_SUMS:
                    each[...] = UNKNOWN
        return result

    def opaque(self, call: Seen, function: Known) -> Known:
        """Files of the text, losses, and arrays."""
        last, given, named, held = call[1:]
        texts = [
            each for each in (*_leaves(given), held) if isinstance(each, str) and VALIDATION.search(each)
        ]
        if last in ("glob", "iglob", "rglob", "listdir"):
            return [FILE] if texts else UNKNOWN
        if texts and last in ("fromfile", "memmap", "from_file", "load"):
            header = np.array([MAGIC, VERSION, TOKENS, *[0] * (HEADER - 3)])
            return header if named.get("count") == HEADER else self.text
        if last in LOSSES:
            return self.losses(call)
        if last in ("gather", "take_along_dim") and isinstance(held, Unknown):
            where = named.get("index", given[-1] if given else UNKNOWN)
            return self.each_loss(where) if isinstance(where, np.ndarray) else UNKNOWN
        if isinstance(function, Thing) and self.flow.method(function.kind, "forward") is not None:
            arrays = [each for each in given if isinstance(each, np.ndarray)]
            return UNKNOWN if len(arrays) > 1 else Unknown()
        if last == "backward":
            if isinstance(held, Nats):
                held.used[0] = True
            elif held is not OF_NOTHING:
                self.trained += 1
            return None
        try:
            result = self.of_array(call)
        except PYTHON_FAULTS:
            return UNKNOWN
        self.made += result.size if isinstance(result, np.ndarray) else 0
        if self.made > MOST_SIZES:
            raise LostError
        return result

    def of_array(self, call: Seen) -> Known:
        """What numpy answers."""
        node, last, given, named, held = call
        named = {name: each for name, each in named.items() if name not in UNNEEDED}
        if isinstance(held, np.ndarray) and last.endswith("_") and held.dtype == object:
            if last in PUT:
                return self.kept(held, given[0] if given else 0.0)
            work = ast.copy_location(ast.BinOp(node, IN_PLACE.get(last, ast.MatMult()), node), node)
            return self.kept(held, UNKNOWN if named else self.operation(work, held, given[0]))
        held = held.item() if isinstance(held, np.ndarray) and held.ndim == 0 else held
        if isinstance(held, Nats):
            return held if last in METHODS else UNKNOWN
        if isinstance(held, float) and last in SAME:
            return held
        if isinstance(held, np.ndarray) and last in METHODS:
            return METHODS[last](held, *given, **named)
        if isinstance(held, Unknown) and last in MADE:
            return MADE[last](*given, **named)
        first = given[0] if given else UNKNOWN
        if isinstance(first, list) and last in ("mean", "sum"):
            first = np.array(first, dtype=object)
        if isinstance(first, np.ndarray) and last == "len":
            return len(first)
        first = first.item() if isinstance(first, np.ndarray) and first.ndim == 0 else first
        if isinstance(first, np.ndarray) and isinstance(held, Unknown) and last in METHODS:
            return METHODS[last](first, *given[1:], **named)
        return first if isinstance(first, Nats) and last in METHODS else UNKNOWN

    def losses(self, call: Seen) -> Known:
        """Of a call for the losses of targets."""
        targets = call.named.get("target", call.given[1] if len(call.given) > 1 else UNKNOWN)
        if not isinstance(targets, np.ndarray):
            return UNKNOWN
        each = self.each_loss(targets, call.named.get("ignore_index", -100))
        how = call.named.get("reduction", "mean")
        if how == "none" or isinstance(how, Unknown):
            return each if how == "none" else UNKNOWN
        total = summed(each)
        taken = sum(isinstance(one, Nats) for one in each.flat)
        return total if how == "sum" else total / taken if taken else OF_NOTHING

    def each_loss(self, targets: np.ndarray, ignored: int = -100) -> np.ndarray:
        """A loss for each target, nothing for those that are ignored."""
        self.scoring |= {each.function for each in self.inside}
        targets = targets.astype(int)
        self.get_done(targets.ravel().tolist())
        places = targets - FIRST
        of_text = (places > 0) & (places < TOKENS)
        return np.where(targets == ignored, 0.0, self.of_one[np.where(of_text, places, PADDING)])

    def operation(self, node: ast.BinOp, left: Known, right: Known) -> Known:
        """Also of arrays and losses; what is divided may be a score."""
        left, right = (
            each.item() if isinstance(each, np.ndarray) and each.ndim == 0 else each for each in (left, right)
        )
        if isinstance(node.op, ast.Div):
            if isinstance(left, Nats):
                if self.inside:
                    self.inside[-1].divided.append(node)
                self.passes.append(Pass(left, self.end, node.lineno, [*self.turns]))
            elif isinstance(left, float) and left == 0:
                for inside in self.inside[-1:]:
                    inside.zeros.extend([node] if inside.function in self.scoring else [])
        arrays = [each for each in (left, right) if isinstance(each, np.ndarray | Nats)]
        if arrays and (work := WORK.get(type(node.op))):
            fits(np.shape(left), np.shape(right))
            return UNKNOWN if isinstance(left, Unknown) or isinstance(right, Unknown) else work(left, right)
        whole = isinstance(left, int) and isinstance(right, int)
        if whole and isinstance(node.op, ast.Mod | ast.BitAnd | ast.BitOr):
            return WORK[type(node.op)](left, right)
        if isinstance(left, list) and isinstance(right, list) and isinstance(node.op, ast.Add):
            return left + right
        if isinstance(left, list) and isinstance(right, int) and isinstance(node.op, ast.Mult):
            return left * right if len(left) * right < TOKENS else UNKNOWN
        return super().operation(node, left, right)

    def item(self, held: Known, where: Known) -> Known:
        """Also of arrays. What begins with the text's first token, and holds most of it, is the text."""
        if isinstance(held, np.ndarray):
            if held is self.text and isinstance(where, slice) and where in BEHIND_HEADER:
                return held
            part = held[_index(where)]
            most = isinstance(part, np.ndarray) and part.ndim == 1 and TOKENS / 2 < len(part) < TOKENS - 1
            if most and part[0] == FIRST and part[-1] - FIRST + 1 == len(part):
                self.end = min(self.end, len(part))
            return part
        if isinstance(held, int | float | Nats) and where in ((), ...):
            return held
        return super().item(held, where)

    def attribute(self, node: ast.Attribute, held: Known, names: Names) -> Known:
        """Also of arrays."""
        if isinstance(held, np.ndarray):
            return getattr(held, node.attr) if node.attr in ("shape", "ndim", "size", "T") else UNKNOWN
        return super().attribute(node, held, names)

    def _value(self, node: ast.expr, names: Names) -> Known:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
            inner = self.value(node.operand, names)
            return np.logical_not(inner) if isinstance(inner, np.ndarray) else UNKNOWN
        return super()._value(node, names)

    def compared(self, op: ast.cmpop, left: Known, right: Known) -> Known:
        """Also of arrays place by place; what a token is, is not known."""
        if not (isinstance(left, np.ndarray) or isinstance(right, np.ndarray)):
            return super().compared(op, left, right)
        if isinstance(left, Unknown) or isinstance(right, Unknown):
            return UNKNOWN
        for one, other in ((left, right), (right, left)):
            if isinstance(one, int) and 0 <= one < FIRST and (other >= FIRST).any():
                return UNKNOWN
        fits(np.shape(left), np.shape(right))
        return BY_PLACE[type(op)](left, right) if type(op) in BY_PLACE else UNKNOWN

    def true(self, value: Known) -> bool | None:
        """Arrays of more than one have no truth."""
        if isinstance(value, Nats) or isinstance(value, np.ndarray) and value.size != 1:
            return None
        return super().true(value.item() if isinstance(value, np.ndarray) else value)

    def changed_by(self, node: ast.AugAssign, held: Known, value: Known) -> Known:
        """An array itself is changed, whatever else has it."""
        result = super().changed_by(node, held, value)
        return self.kept(held, result) if isinstance(held, np.ndarray) else result

    def kept(self, held: np.ndarray, value: Known) -> np.ndarray:
        """Values put into an array."""
        self.changed.append((held, None))
        if held.dtype == object:
            held[...] = value
            return held
        return value

    def put(self, held: Known, where: Known, value: Known) -> None:
        """Also at places of an array."""
        if isinstance(held, np.ndarray):
            held[_index(where)] = value
        else:
            super().put(held, where, value)

    def emptied(self, held: Known) -> None:
        """Also an array."""
        if isinstance(held, np.ndarray):
            held[...] = UNKNOWN
        else:
            super().emptied(held)


def _index(where: Known) -> Known:
    """Places of an array. Raises TypeError where they are not known."""
    if isinstance(where, tuple | list):
        return type(where)(map(_index, where))
    if isinstance(where, np.ndarray) and where.dtype == object:
        return where.astype(bool if all(isinstance(each, bool) for each in where.flat) else int)
    if isinstance(where, Unknown):
        raise TypeError
    return where


def _leaves(given: Sequence[Known]) -> Iterator[Known]:
    for each in given:
        yield from each if isinstance(each, list | tuple) else [each]


BY_PLACE = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}
WORK: dict[type[ast.operator], Callable[[Known, Known], Known]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.BitAnd: lambda a, b: a & b,
    ast.BitOr: lambda a, b: a | b,
}


def followed(script: Script) -> Passes | None:
    """A script that was followed; None of one that is too long."""
    passes = Passes(script)
    try:
        passes.run()
    except (LostError, RecursionError):
        return None
    return passes


def scored_once(script: Script) -> Iterator[Finding]:
    """V11, V17, V19, B11: tokens that are scored never, again, or with another weight than others."""
    passes = followed(script)
    if passes is None:
        return
    totals = {id(each.nats.used): each for each in reversed(passes.passes) if each.whole}
    found: dict[tuple[str, int], Finding] = {}
    for each in totals.values():
        for code, message in _faults(each, passes.certain):
            found.setdefault((code, each.line), script.finding(code, each.line, message))
    for node in passes.zeros:
        message = f"`{ast.unparse(node)}` divides zero: nothing of what is computed is added to it"
        found.setdefault(("V19", 0), script.finding("V19", node, message))
    yield from found.values()


def _faults(total: Pass, certain: bool) -> Iterator[tuple[str, str]]:
    weights = np.zeros(TOKENS)
    weights[[*total.nats.of]] = np.abs([*total.nats.of.values()])
    end = total.text + bool(weights[total.text : total.text + 1].any())  # inputs end a token before targets
    end = TOKENS if weights[end:].any() else end
    usual = np.median(weights[weights > 0])
    if usual < 1 - SAME_WEIGHT or (np.abs(weights - weights.round()) > SAME_WEIGHT).any():
        weights /= usual
    if weights[PADDING]:
        yield "B11", "padding is scored as if it were text"
    text = weights[1:end]
    never, again = np.flatnonzero(text < SAME_WEIGHT) + 1, np.flatnonzero(text > 2 - SAME_WEIGHT) + 1
    odd = np.flatnonzero(np.abs(text - text.round()) > SAME_WEIGHT)
    if len(odd):
        # What differs alone is the rest, in a window that is not whole.
        if odd[0] + len(odd) < len(text) or abs(usual - 1) >= SAME_WEIGHT:
            yield "V17", "means of windows are added without their numbers of tokens"
    elif len(again):
        code = "B11" if _code(again, end) == "B11" else "V17"
        yield code, f"{_places(again)} of {end - 1:,} tokens that stand in are scored again"
    if len(never) and (certain or never[0] + len(never) < end):
        yield _code(never, end), f"{_places(never)} of {end - 1:,} tokens that stand in are never scored"


def _code(places: np.ndarray, end: int) -> str:
    """At borders of windows, at an end of the text, or anywhere."""
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    if all(len(each) == 1 for each in runs):
        return "B11"
    at_end = len(runs) == 1 and (places[0] == 1 or places[-1] == end - 1) and len(places) < end / 2
    return "V17" if at_end else "V11"


def _places(places: np.ndarray) -> str:
    return f"{len(places):,} (from number {places[0]:,} to {places[-1]:,})"


CHECKS = (scored_once,)
COVERED = frozenset("V11 V17 B11".split())
