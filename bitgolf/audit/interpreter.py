"""A small interpreter of a script's syntax tree, over texts, numbers and lists that are written out.

What it does not know stays unknown; both ways of a branch are followed then. Nothing of the script is
executed. What stands in for tensors, tokenizers or texts is added by those who ask.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from bitgolf.audit.script import Script
from bitgolf.audit.tree import Definition, called, contexts, last_called, own
from bitgolf.public.constants import folded

MOST_STEPS, MOST_DEPTH, MOST_TURNS, MOST_TEXT = 20_000, 8, 32, 1_000
MOST_BITS = 128  # of a whole number, which a foreign script may square again and again
PYTHON_FAULTS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)


class Unknown:
    """Whatever it is; a kind of it is something of which little is known."""

    def __add__(self, other: object) -> "Unknown":
        return UNKNOWN

    __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __add__


UNKNOWN = Unknown()
Known = Any  # a text, a number, a list, a stand-in: what a foreign script computes with; or UNKNOWN
Names = dict[str, Known]
Comprehension = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp


class Seen(NamedTuple):
    """A call that was come to, or a division. given: its arguments; held: what it is a method of."""

    node: ast.Call | ast.BinOp
    last: str
    given: Sequence[Known]
    named: Mapping[str, Known]
    held: Known


TEXT_METHODS = "startswith endswith split rsplit lower upper strip lstrip rstrip replace encode".split()
TEXT_METHODS += ["removeprefix", "removesuffix"]
BUILT_IN: dict[str, Callable[..., Known]] = {
    each.__name__: each
    for each in (int, float, bool, str, abs, len, max, min, round, set, tuple, list, sorted, any, all, dict)
} | {"frozenset": frozenset}
COMPARED: dict[type[ast.cmpop], Callable[[Known, Known], bool]] = {
    ast.Eq: lambda a, b: bool(a == b),
    ast.NotEq: lambda a, b: bool(a != b),
    ast.Lt: lambda a, b: bool(a < b),
    ast.LtE: lambda a, b: bool(a <= b),
    ast.Gt: lambda a, b: bool(a > b),
    ast.GtE: lambda a, b: bool(a >= b),
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
}


LISTED = (list, tuple, set, dict, range, Iterator)


class Interpreter:
    """Follows statements with what is known of names; seen: the calls that were come to, in order."""

    built_in = BUILT_IN
    most_steps, most_depth, most_turns, most_listed = MOST_STEPS, MOST_DEPTH, MOST_TURNS, MOST_TEXT

    def __init__(self, script: Script) -> None:
        self.script, self.flow, self.written = script, script.flow, script.written
        self.seen: list[Seen] = []
        self.steps, self.depth = 0, 0
        self.changed: list[tuple[Any, Any]] = []  # things and lists, with the field that was given a value
        self.asked: set[str] = set()  # constants that are being looked up
        self.numbers = script.numbers
        self.known: dict[ast.AST, Names] = {}  # of functions, what they are given

    def constant(self, table: Mapping[str, list[ast.expr]], name: str) -> Known:
        """What a name of the whole script, or an attribute of its settings, stands for."""
        given = table.get(name, [])
        if len(given) == 1 and name not in self.asked:
            self.asked.add(name)
            value = self.value(given[0], {})
            self.asked.discard(name)
            if value is not UNKNOWN:
                return value
        return self.numbers.get(name, UNKNOWN)

    def value(self, node: ast.expr | None, names: Names) -> Known:
        """What an expression is, as far as known."""
        self.steps += 1
        if node is None or self.steps > self.most_steps:
            return UNKNOWN
        try:
            value = self._value(node, names)
        except PYTHON_FAULTS:
            return UNKNOWN
        most = MOST_TEXT if isinstance(value, str) else self.most_listed
        large = isinstance(value, str | list | tuple) and len(value) > most
        return UNKNOWN if large or isinstance(value, int) and value.bit_length() > MOST_BITS else value

    def _value(self, node: ast.expr, names: Names) -> Known:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return names[node.id] if node.id in names else self.constant(self.written.constants, node.id)
            case ast.Attribute():
                return self.attribute(node, self.value(node.value, names), names)
            case ast.Call():
                return self.call(node, names)
            case ast.IfExp():
                test = self.truth(node.test, names)
                if test is None:
                    ways = self.value(node.body, names), self.value(node.orelse, names)
                    return ways[0] if same(*ways) else UNKNOWN
                return self.value(node.body if test else node.orelse, names)
            case ast.BoolOp():
                for each in node.values:
                    value = self.value(each, names)
                    truth = self.true(value)
                    if truth is None or truth is isinstance(node.op, ast.Or):
                        break
                return UNKNOWN if truth is None else value
            case ast.Compare(ops=[op], comparators=[other]):
                return self.compared(op, self.value(node.left, names), self.value(other, names))
            case ast.UnaryOp():
                if isinstance(node.op, ast.Not):
                    truth = self.truth(node.operand, names)
                    return UNKNOWN if truth is None else not truth
                inner = self.value(node.operand, names)
                return -inner if isinstance(node.op, ast.USub) and inner is not UNKNOWN else inner
            case ast.BinOp():
                return self.operation(node, self.value(node.left, names), self.value(node.right, names))
            case ast.NamedExpr():
                self.assign(node.target, self.value(node.value, names), names)
                return names[node.target.id]
            case ast.Tuple() | ast.List() | ast.Set():
                kind = {ast.Tuple: tuple, ast.List: list, ast.Set: set}[type(node)]
                return kind(self.value(each, names) for each in node.elts)
            case ast.Dict():
                keys = [self.value(each, names) for each in node.keys]
                return dict(zip(keys, [self.value(each, names) for each in node.values]))
            case ast.Subscript():
                return self.item(self.value(node.value, names), self.value(node.slice, names))
            case ast.JoinedStr():
                parts = [
                    each.value if isinstance(each, ast.Constant) else self.value(each.value, names)
                    for each in node.values
                    if isinstance(each, ast.Constant | ast.FormattedValue)
                ]
                return UNKNOWN if UNKNOWN in parts else "".join(map(str, parts))
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return self.each(node, names)
            case ast.DictComp():
                pairs = self.each(node, names)
                return UNKNOWN if pairs is UNKNOWN else dict(pairs)
            case ast.Slice():
                bounds = [each and self.value(each, names) for each in (node.lower, node.upper, node.step)]
                return UNKNOWN if UNKNOWN in bounds else slice(*bounds)
        return UNKNOWN

    def attribute(self, node: ast.Attribute, held: Known, names: Names) -> Known:
        """What an attribute is of something."""
        return self.constant(self.written.attributes, node.attr)

    def item(self, held: Known, where: Known) -> Known:
        """What stands at a place."""
        return UNKNOWN if isinstance(held, Unknown) else held[where]

    def operation(self, node: ast.BinOp, left: Known, right: Known) -> Known:
        """What an operator makes of two values."""
        if isinstance(node.op, ast.Div):
            self.seen.append(Seen(node, "/", (left, right), {}, UNKNOWN))
        if isinstance(left, str) and isinstance(right, str) and isinstance(node.op, ast.Add):
            return left + right
        if isinstance(left, int | float) and isinstance(right, int | float):
            result = folded(node.op, left, right)
            return UNKNOWN if result is None else result
        return UNKNOWN

    def truth(self, node: ast.expr, names: Names) -> bool | None:
        """Whether a condition holds; None where that is not known."""
        if isinstance(node, ast.BoolOp):
            truths = [self.truth(each, names) for each in node.values]
            ends = isinstance(node.op, ast.Or)
            return ends if ends in truths else None if None in truths else not ends
        return self.true(self.value(node, names))

    def true(self, value: Known) -> bool | None:
        """Whether a value is true."""
        return None if isinstance(value, Unknown) else bool(value)

    def compared(self, op: ast.cmpop, left: Known, right: Known) -> Known:
        """Whether two values compare so."""
        if isinstance(left, Unknown) or isinstance(right, Unknown):
            return UNKNOWN
        return COMPARED[type(op)](left, right)

    def each(self, node: Comprehension, names: Names) -> Known:
        """What a comprehension makes of each of something, pairs for a dict."""
        element = ast.Tuple([node.key, node.value]) if isinstance(node, ast.DictComp) else node.elt
        result: list[Known] = []
        if not self._each(node.generators, element, dict(names), result):
            return UNKNOWN
        if isinstance(node, ast.GeneratorExp):
            return self.generated(result)
        return set(result) if isinstance(node, ast.SetComp) else result

    def generated(self, items: list[Known]) -> Known:
        """What a generator expression stands for."""
        return items if UNKNOWN not in items else [True] if True in items else UNKNOWN  # for any()

    def _each(
        self, over: list[ast.comprehension], element: ast.expr, names: Names, result: list[Known]
    ) -> bool:
        if not over:
            result.append(self.value(element, names))
            return True
        turns = self.value(over[0].iter, names)
        if not isinstance(turns, (*LISTED, str, bytes)) and not hasattr(turns, "shape"):
            return False
        for each in islice(turns, self.most_turns):
            self.assign(over[0].target, each, names)
            kept = [self.truth(test, names) for test in over[0].ifs]
            if None in kept or all(kept) and not self._each(over[1:], element, names, result):
                return False
        return True

    def call(self, node: ast.Call, names: Names) -> Known:
        """What a call gives back."""
        given = [self.value(each, names) for each in node.args]
        named = {each.arg: self.value(each.value, names) for each in node.keywords if each.arg}
        return self.apply(node, given, named, names)

    def apply(
        self, node: ast.Call, given: Sequence[Known], named: Mapping[str, Known], names: Names
    ) -> Known:
        """What a call gives back for these values, whatever stands in its parentheses."""
        held = self.value(node.func.value, names) if isinstance(node.func, ast.Attribute) else UNKNOWN
        return self.answer(Seen(node, last_called(node), given, named, held), names)

    def answer(self, call: Seen, names: Names) -> Known:
        """The same: of Python's and the script's own functions, of texts and dicts."""
        self.seen.append(call)
        node, last, given, named, held = call
        name = called(node)
        if last in ("get", "getenv") and "environ" in name or name == "os.getenv":
            return given[1] if len(given) > 1 else UNKNOWN
        if isinstance(held, str) and last in TEXT_METHODS and UNKNOWN not in given:
            return getattr(held, last)(*given)
        if isinstance(held, dict) and last in ("get", "keys", "values", "items"):
            return getattr(held, last)(*given) if UNKNOWN not in given else UNKNOWN
        if name in self.built_in and not any(isinstance(each, Unknown) for each in given):
            return self.built_in[name](*given, **named)
        function = self.own(node)
        if function is not None and self.depth < self.most_depth:
            return self.enter(function, given, named)
        if last in FILLED and given and isinstance(given[-1], int | float):
            return given[-1]
        return UNKNOWN

    def own(self, node: ast.Call | ast.BinOp) -> Definition | None:
        """The only function of the script that a call may enter."""
        others = own(node)
        return others[0] if len(others) == 1 else None

    def enter(self, function: Definition, given: Sequence[Known], named: Mapping[str, Known]) -> Known:
        """What a function gives back for what it is given."""
        names = self.handed(function, given, named)
        self.depth += 1
        self.block(function.body, names)
        self.depth -= 1
        returned = names.get("return", [])
        one = returned and all(same(each, returned[0]) for each in returned)
        return returned[0] if one else UNKNOWN

    def handed(self, function: Definition, given: Sequence[Known], named: Mapping[str, Known]) -> Names:
        """A function's parameters, but for the object that it is a method of."""
        names = self.defaults(function)
        taken = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
        taken = taken[1:] if taken[:1] in (["self"], ["cls"]) else taken
        if function.args.vararg:
            names[function.args.vararg.arg] = (*given[len(taken) :],)
        if function.args.kwarg:
            names[function.args.kwarg.arg] = {name: named[name] for name in named.keys() - names.keys()}
        return names | dict(zip(taken, given)) | {name: named[name] for name in named.keys() & names.keys()}

    def defaults(self, function: Definition) -> Names:
        """A function's parameters where nothing is given."""
        parameters = [*function.args.posonlyargs, *function.args.args]
        names: Names = {each.arg: UNKNOWN for each in (*parameters, *function.args.kwonlyargs)}
        for each, default in zip(reversed(parameters), reversed(function.args.defaults)):
            names[each.arg] = self.value(default, {})
        for each, given in zip(function.args.kwonlyargs, function.args.kw_defaults):
            names[each.arg] = self.value(given, {})
        return names

    def assign(self, target: ast.expr, value: Known, names: Names) -> None:
        """Give a value to a name, or to the names of a tuple."""
        match target:
            case ast.Name():
                names[target.id] = value
            case ast.Tuple() | ast.List():
                parts = [*value] if isinstance(value, LISTED) or hasattr(value, "shape") else []
                starred = [i for i, each in enumerate(target.elts) if isinstance(each, ast.Starred)]
                if starred and parts:
                    end = len(parts) - len(target.elts) + starred[0] + 1
                    parts[starred[0] : end] = [parts[starred[0] : end]]
                known = len(parts) == len(target.elts)
                for i, each in enumerate(target.elts):
                    self.assign(each, parts[i] if known else UNKNOWN, names)
            case ast.Starred():
                self.assign(target.value, value, names)

    def block(self, body: Sequence[ast.stmt], names: Names) -> str:
        """Statements in order; how they end: return, break, continue, or nothing."""
        for node in body:
            self.steps += 1
            if self.steps > self.most_steps:
                return ""
            if end := self.statement(node, names):
                return end
        return ""

    def statement(self, node: ast.stmt, names: Names) -> str:
        """One statement."""
        match node:
            case ast.Assign():
                value = self.value(node.value, names)
                for target in node.targets:
                    self.assign(target, value, names)
            case ast.AnnAssign():
                self.assign(node.target, self.value(node.value, names), names)
            case ast.AugAssign():
                held = self.value(node.target, names)
                self.assign(node.target, self.changed_by(node, held, self.value(node.value, names)), names)
            case ast.Return():
                names.setdefault("return", []).append(self.value(node.value, names))
                return "return"
            case ast.Raise():
                return "return"
            case ast.Break():
                return "break"
            case ast.Continue():
                return "continue"
            case ast.If():
                return self.branched(node, names)
            case ast.For():
                over = self.value(node.iter, names)
                turns = [*over][: self.most_turns] if isinstance(over, list | tuple | set) else [UNKNOWN]
                for each in turns:
                    self.assign(node.target, each, names)
                    end = self.block(node.body, names)
                    if end in ("return", "break"):
                        return "return" if end == "return" and len(turns) > 1 else ""
            case ast.While():
                self.value(node.test, names)
                self.block(node.body, names)  # once: what comes after a training is to be come to
            case ast.With():
                for each in contexts(node):
                    self.value(each, names)
                return self.block(node.body, names)
            case ast.Try():
                return self.block([*node.body, *node.orelse, *node.finalbody], names)
            case ast.Expr():
                self.value(node.value, names)
        return ""

    def changed_by(self, node: ast.AugAssign, held: Known, value: Known) -> Known:
        """What stands there after `+=`."""
        return self.operation(
            ast.copy_location(ast.BinOp(node.target, node.op, node.value), node), held, value
        )

    def branched(self, node: ast.If, names: Names) -> str:
        """Of a branch whose condition is not known both ways, and what they changed is not known."""
        mark, known = len(self.changed), self.truth(node.test, names)
        if known is not None:
            return self.block(node.body if known else node.orelse, names)
        names.setdefault("return", [])  # one list for both ways
        one, other = {**names}, {**names}
        ends = self.block(node.body, one), self.block(node.orelse, other)
        gone = [bool(end) for end in ends]  # what goes on took the other way
        for name in {*one, *other}:
            left, right = one.get(name, UNKNOWN), other.get(name, UNKNOWN)
            left, right = (right if gone[0] else left), (left if gone[1] else right)
            names[name] = left if same(left, right) else UNKNOWN
        self.spoil(mark)
        return ends[0] if ends[0] == ends[1] else ""

    def spoil(self, mark: int) -> None:
        """What was changed since then is not known."""

    def given(self, scope: ast.AST) -> Names:
        """What a function's parameters are where it is called, with what it sets itself at its top."""
        if not isinstance(scope, ast.FunctionDef):
            return {}
        if scope not in self.known:
            names = self.known[scope] = self.defaults(scope)
            if (node := self.written.called.get(id(scope))) is not None:
                words = {each.arg: self.value(each.value, {}) for each in node.keywords if each.arg}
                handed = self.handed(scope, [self.value(each, {}) for each in node.args], words)
                names |= {name: each for name, each in handed.items() if each is not UNKNOWN}
            for each in scope.body:
                if isinstance(each, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.If):
                    self.statement(each, names)
        return self.known[scope]


FILLED = ("tensor", "full", "full_like")  # of one number


def same(one: Known, other: Known) -> bool:
    """Whether two values are the same."""
    return one is other or type(one) is type(other) and not hasattr(one, "shape") and bool(one == other)
