"""The bytes that a script counts by token: what its function makes of a small vocabulary that stands in.

A tokenizer of 13 pieces stands in for the script's own, and the interpreter of one_tensor follows whatever
asks it for pieces. What comes out by token says what the script counts, however it is written.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bitgolf.audit.one_tensor import MOST_TURNS, PYTHON_FAULTS, UNKNOWN, Interpreter, Known, Names
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import called, last_called, within
from bitgolf.audit.values import Definition, dotted
from bitgolf.public.constants import folded

NORMAL, UNKNOWN_KIND, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6  # as SentencePiece numbers them
SPACE = "\u2581"


class Piece(NamedTuple):
    """A token that stands in, with the fields of SentencePiece's model."""

    piece: str
    type: int = NORMAL
    score: float = 0.0


VOCABULARY = (
    Piece("<unk>", UNKNOWN_KIND),
    Piece("<s>", CONTROL),
    Piece("</s>", CONTROL),
    Piece("<unused0>", UNUSED),
    Piece("<0x41>", BYTE),
    Piece("<0xE2>", BYTE),
    Piece(SPACE),
    Piece(f"{SPACE}the"),
    Piece("ing"),
    Piece("\u00e9"),
    Piece(f"{SPACE}\u00e9t\u00e9"),
    Piece("\u65e5"),
    Piece("a"),
)
SIZE = len(VOCABULARY)
WITHOUT_TEXT = 4  # the first ones
KINDS = {"NORMAL": NORMAL, "UNKNOWN": UNKNOWN_KIND, "CONTROL": CONTROL, "UNUSED": UNUSED, "BYTE": BYTE}
ASKS = {
    "iscontrol": CONTROL,
    "isunknown": UNKNOWN_KIND,
    "isunused": UNUSED,
    "isbyte": BYTE,
}
SIZES = {"getpiecesize", "piecesize", "vocabsize", "getvocabsize"}
SPECIAL = {"unkid": 0, "bosid": 1, "eosid": 2, "padid": -1}
MAKES = {"zeros": 0, "ones": 1, "empty": 0, "zeros_like": 0, "ones_like": 1}
SAME = {"array", "asarray", "tensor", "as_tensor", "from_numpy", "fromiter", "stack", "Tensor", "frombuffer"}
MORE: dict[str, Callable[..., Known]] = {"bytes": bytes, "sum": sum, "ord": ord}
TEXT_METHODS = {"encode", "lstrip", "rstrip", "strip", "startswith", "endswith", "replace", "removeprefix"}


class Method(NamedTuple):
    """A method of the tokenizer that is handed on."""

    name: str


class Column(list[Known]):
    """A number for each token. line: where it is made."""

    def __init__(self, values: Sequence[Known], line: int) -> None:
        super().__init__(values)
        self.line = line


class Tokens(Interpreter):
    """Follows functions that ask a tokenizer for its pieces; columns: what they made by token."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.columns: list[Column] = []
        self.kind = ""  # the class whose method is followed
        self.unsure = False  # what is counted hangs on something that is not known

    def enter(self, function: Definition, given: Sequence[Known], named: Mapping[str, Known]) -> Known:
        """What a function gives back; a method calls those of its class."""
        outer, self.kind = self.kind, self.flow.owner.get(id(function), "")
        result = super().enter(function, given, named)
        self.kind = outer
        return result

    def _own(self, node: ast.Call, last: str) -> Definition | None:
        held = dotted(node.func).rpartition(".")[0]
        if held and held in ("self", "cls", self.kind):
            return self.flow.methods.get((self.kind, last))
        return super()._own(node, last)

    def column(self, values: Sequence[Known], line: int) -> Column:
        """Something by token that is kept an eye on."""
        self.columns.append(Column(values, line))
        return self.columns[-1]

    def _value(self, node: ast.expr, names: Names) -> Known:
        match node:
            case ast.Attribute():
                held = self.value(node.value, names)
                if isinstance(held, Piece):
                    return held._asdict().get(node.attr, UNKNOWN)
                if held is UNKNOWN and node.attr == "pieces":
                    return [*VOCABULARY]
                if held is UNKNOWN and _plain(node.attr) in (*ASKS, "idtopiece"):
                    return Method(node.attr)
                if dotted(node) in names:
                    return names[dotted(node)]
                return KINDS.get(node.attr, super()._value(node, names))
            case ast.BinOp():
                left, right = self.value(node.left, names), self.value(node.right, names)
                if isinstance(left, list | tuple) and isinstance(node.op, ast.Mult):
                    return self.column([left[0]] * SIZE, node.lineno) if len(left) == 1 else UNKNOWN
                if Column in (type(left), type(right)):
                    values = [_computed(node.op, *pair) for pair in _pairs(left, right)]
                    return self.column(values, node.lineno)
                if isinstance(left, bool | int) and isinstance(right, bool | int):
                    return _computed(node.op, left, right)
                return super()._value(node, names)
            case ast.NamedExpr():
                self.assign(node.target, self.value(node.value, names), names)
                return self.value(node.target, names)
            case ast.List():
                return [self.value(each, names) for each in node.elts]
            case ast.Slice():
                parts = (node.lower, node.upper, node.step)
                bounds = [None if each is None else self.value(each, names) for each in parts]
                return UNKNOWN if UNKNOWN in bounds else slice(*bounds)
            case ast.ListComp() | ast.GeneratorExp():
                made = self._each(node, names)
                return self.column(made, node.lineno) if made is not UNKNOWN and len(made) == SIZE else made
            case ast.DictComp():
                pair = ast.Tuple([node.key, node.value])
                made = self._each(ast.copy_location(ast.ListComp(pair, node.generators), node), names)
                if made is UNKNOWN:
                    return UNKNOWN
                self.column([each[1] for each in made], node.lineno)
                return dict(made)
        return super()._value(node, names)

    def call(self, node: ast.Call, names: Names) -> Known:
        """Also what the tokenizer that stands in answers, and arrays by token."""
        last = last_called(node)
        given = [self.value(each, names) for each in node.args]
        held = self.value(node.func.value, names) if isinstance(node.func, ast.Attribute) else UNKNOWN
        func = names.get(node.func.id) if isinstance(node.func, ast.Name) else None
        asked = func.name if isinstance(func, Method) else last
        if held is UNKNOWN and (answer := _answered(_plain(asked), given)) is not UNKNOWN:
            return answer
        if last == "fromhex" and isinstance(given[0], str):
            return bytes.fromhex(given[0])
        if last == "range" and given:
            first = given[0] if len(given) > 1 else 0
            most = given[min(1, len(given) - 1)]
            return [*range(max(0, first), min(most, SIZE) if isinstance(most, int) else SIZE)]
        if last in MAKES or last == "full":
            value = MAKES.get(last, given[1] if len(given) > 1 else UNKNOWN)
            return self.column([value] * SIZE, node.lineno)
        if last in ("enumerate", "zip") and UNKNOWN not in given:
            return [*enumerate(given[0])] if last == "enumerate" else [*zip(*given)]
        if last == "map" and len(node.args) == 2 and given[1] is not UNKNOWN:
            turns = (ast.Call(node.args[0], [ast.Constant(each)], []) for each in given[1])
            return self.column([self.call(each, names) for each in turns], node.lineno)
        if isinstance(held, str) and last in TEXT_METHODS and UNKNOWN not in given:
            return getattr(held, last)(*given)
        if last == "append" and isinstance(held, list):
            held.append(given[0])
            if len(held) == SIZE:
                self.columns.append(Column(held, node.lineno))
            return None
        if last == "where" and len(given) == 3:
            ways = zip(_pairs(given[0], given[1]), _pairs(given[0], given[2]))
            return self.column([one if test else other for (test, one), (_, other) in ways], node.lineno)
        if last in SAME and given and isinstance(given[0], list):
            return given[0]
        if isinstance(held, list):
            return held  # .to(device), .long(), .numpy()
        if called(node) in MORE and UNKNOWN not in given and not isinstance(given[0], int):
            return MORE[called(node)](*given)
        if isinstance(node.func, ast.Lambda):
            return self.value(node.func.body, {**names, node.func.args.args[0].arg: given[0]})
        return super().call(node, names)

    def assign(self, target: ast.expr, value: Known, names: Names) -> None:
        """Also to an attribute of an object, and to places in a column."""
        match target:
            case ast.Attribute():
                names[dotted(target)] = value
            case ast.Subscript():
                held, where = self.value(target.value, names), self.value(target.slice, names)
                if isinstance(held, list):
                    _put(held, where, value)
                elif isinstance(held, dict) and isinstance(where, int | str):
                    held[where] = value
            case _:
                super().assign(target, value, names)

    def statement(self, node: ast.stmt, names: Names) -> str:
        """Also loops that count by themselves, and cases of a value."""
        if isinstance(node, ast.If) and self.truth(node.test, names) is None:
            self.unsure |= any(
                isinstance(each, ast.Continue | ast.Break | ast.Subscript) for each in within(node.body)
            )
        if isinstance(node, ast.Match):
            subject = self.value(node.subject, names)
            for case in node.cases:
                if self._fits(case, subject, names):
                    return self.block(case.body, names)
            return ""
        if isinstance(node, ast.While):
            for _ in range(MOST_TURNS):
                if not self.truth(node.test, names):
                    break
                if (end := self.block(node.body, names)) in ("return", "break"):
                    return "return" if end == "return" else ""
            return ""
        return super().statement(node, names)

    def _fits(self, case: ast.match_case, subject: Known, names: Names) -> bool:
        held = True
        if isinstance(case.pattern, ast.MatchValue):
            held = self.value(case.pattern.value, names) == subject
        elif isinstance(case.pattern, ast.MatchAs) and case.pattern.name:
            names[case.pattern.name] = subject
        return held and (case.guard is None or bool(self.truth(case.guard, names)))


def _plain(name: str) -> str:
    """`id_to_piece` and `IdToPiece` are one."""
    return name.replace("_", "").lower()


def _answered(asked: str, given: Sequence[Known]) -> Known:
    """What the tokenizer that stands in says; UNKNOWN where it is not asked."""
    if asked in SIZES:
        return SIZE
    if asked in SPECIAL:
        return SPECIAL[asked]
    if asked == "piecetoid" and given and isinstance(given[0], str):
        return next((i for i, each in enumerate(VOCABULARY) if each.piece == given[0]), 0)
    first = given[0] if given else UNKNOWN
    if asked in ("decode", "decodeids") and isinstance(first, list | tuple) and len(first) == 1:
        first = first[0]
    if not isinstance(first, int) or not 0 <= first < SIZE:
        return UNKNOWN
    piece = VOCABULARY[first]
    if asked in ASKS:
        return piece.type == ASKS[asked]
    if asked == "idtopiece":
        return piece.piece
    if asked in ("decode", "decodeids"):
        broken = {"<0x41>": "A", "<0xE2>": "\ufffd"}
        text = broken.get(piece.piece, piece.piece.replace(SPACE, " ").lstrip())
        return "" if piece.type in (CONTROL, UNUSED) else text
    return UNKNOWN


def _put(held: list[Known], where: Known, value: Known) -> None:
    """Values, or one for all, at some places: one, several, or those where something is true."""
    places = where if isinstance(where, list) else [where]
    if len(places) == SIZE and all(isinstance(each, bool) for each in places):
        places = [place for place, chosen in enumerate(places) if chosen]
    if not all(isinstance(each, int) and 0 <= each < len(held) for each in places):
        held[:] = [UNKNOWN] * len(held)  # whatever is written there
        return
    values = value if isinstance(value, list) and len(value) == len(places) else [value] * len(places)
    for place, each in zip(places, values):
        held[place] = each


def _pairs(left: Known, right: Known) -> Iterator[tuple[Known, Known]]:
    """Two things by token, where one may be a number for all."""
    one, other = (each if isinstance(each, list) else [each] * SIZE for each in (left, right))
    return zip(one, other)


def _computed(op: ast.operator, left: Known, right: Known) -> Known:
    match op:
        case ast.BitAnd() | ast.BitOr() | ast.BitXor():
            return {ast.BitAnd: left & right, ast.BitOr: left | right, ast.BitXor: left ^ right}[type(op)]
    result = folded(op, left, right)
    return UNKNOWN if result is None else result


class Table(NamedTuple):
    """What a script counts by token. line: where; counts: bytes by token; flags: what is true by token."""

    line: int
    counts: Sequence[Known]
    flags: Sequence[Sequence[Known]]

    def of(self, piece: str) -> Known:
        """The bytes of one piece."""
        return self.counts[_place(piece)]

    @property
    def spaces(self) -> Sequence[Known] | None:
        """The column that tells which pieces begin with a space."""
        word, letter = _place(f"{SPACE}the"), _place("a")
        return next((each for each in self.flags if each[word] and not each[letter]), None)

    @property
    def without_edges(self) -> bool:
        """Whether a column for boundaries is there that is true of no token."""
        others = [each for each in self.flags if each is not self.spaces]
        return any(not any(each) for each in others) and not any(each[1] for each in others)


def _place(piece: str) -> int:
    return next(i for i, each in enumerate(VOCABULARY) if each.piece == piece)


def tables(script: Script) -> Iterator[Table]:
    """What each function that asks for pieces counts by token, where all of it is known."""
    asking = {each.name for each in functions(script) if any(map(_asks, ast.walk(each)))}
    if not asking:
        return
    tokens = Tokens(script)
    for function in functions(script):
        if not any(_asks(node) or last_called(node) in asking for node in ast.walk(function)):
            continue
        tokens.columns, tokens.unsure, tokens.steps = [], False, 0
        try:
            tokens.enter(function, [], {})
        except PYTHON_FAULTS:  # as it would in Python, with what stands in
            continue
        if tokens.unsure:
            continue
        known = [each for each in tokens.columns if len(each) >= SIZE and UNKNOWN not in each]
        flags = [each for each in known if all(value in (0, 1) for value in each)]
        for column in known:
            numbers = all(isinstance(value, int | float) for value in column)
            if numbers and column[_place("ing")] - column[_place("a")] == 2:  # by length, whatever else
                yield Table(column.line, column, flags)


def _asks(node: ast.AST) -> bool:
    return _plain(last_called(node)) == "idtopiece" or (
        isinstance(node, ast.Attribute) and node.attr == "pieces"
    )
