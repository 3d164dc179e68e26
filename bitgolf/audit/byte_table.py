"""The bytes that a script counts by token: what its function makes of a small vocabulary that stands in.

A tokenizer of 13 pieces stands in for the script's own, and the interpreter follows whatever
asks it for pieces. What comes out by token says what the script counts, however it is written.
"""

import ast
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bitgolf.audit.interpreter import (
    BUILT_IN,
    MOST_TURNS,
    PYTHON_FAULTS,
    UNKNOWN,
    Comprehension,
    Interpreter,
    Known,
    Names,
    Seen,
)
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import last_called, own, walked, within
from bitgolf.audit.values import dotted
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
PLACES = {each.piece: place for place, each in enumerate(VOCABULARY)}
WITHOUT_TEXT = [each.piece for each in VOCABULARY if each.type in (UNKNOWN_KIND, CONTROL, UNUSED)]
KINDS = {"NORMAL": NORMAL, "UNKNOWN": UNKNOWN_KIND, "CONTROL": CONTROL, "UNUSED": UNUSED, "BYTE": BYTE}
ASKS = {"iscontrol": CONTROL, "isunknown": UNKNOWN_KIND, "isunused": UNUSED, "isbyte": BYTE}
COUNTS = dict.fromkeys(("getpiecesize", "piecesize", "vocabsize", "getvocabsize"), SIZE)
COUNTS |= {"unkid": PLACES["<unk>"], "bosid": PLACES["<s>"], "eosid": PLACES["</s>"], "padid": -1}
DECODED = {"<0x41>": "A", "<0xE2>": "\ufffd"}  # others without their first space


class Method(NamedTuple):
    """A method of the tokenizer that is handed on."""

    name: str


class Column(list[Known]):
    """A number for each token. line: where it is made."""

    def __init__(self, values: Sequence[Known], line: int) -> None:
        super().__init__(values)
        self.line = line


def _bytes(value: Known, *encoding: str) -> Known:
    return UNKNOWN if isinstance(value, int) else bytes(value, *encoding)


class Tokens(Interpreter):
    """Follows functions that ask a tokenizer for its pieces; columns: what they made by token."""

    built_in = BUILT_IN | {"bytes": _bytes, "sum": sum, "ord": ord}

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.columns: list[Column] = []
        self.chosen_pieces: list[tuple[int, list[Known]]] = []  # lists of pieces, and where they were made
        self.unsure = False  # what is counted hangs on something that is not known

    def column(self, values: Sequence[Known], line: int) -> Column:
        """Something by token that is kept an eye on."""
        self.columns.append(Column(values, line))
        return self.columns[-1]

    def attribute(self, node: ast.Attribute, held: Known, names: Names) -> Known:
        """Also the fields of a piece, the methods of the tokenizer that are handed on, and what was given."""
        if isinstance(held, Piece):
            return held._asdict().get(node.attr, UNKNOWN)
        if held is UNKNOWN and node.attr == "pieces":
            return [*VOCABULARY]
        if held is UNKNOWN and _plain(node.attr) in (*ASKS, "idtopiece"):
            return Method(node.attr)
        if dotted(node) in names:
            return names[dotted(node)]
        return KINDS.get(node.attr, super().attribute(node, held, names))

    def operation(self, node: ast.BinOp, left: Known, right: Known) -> Known:
        """Also of columns."""
        if isinstance(left, list | tuple) and isinstance(node.op, ast.Mult):
            return self.column([left[0]] * SIZE, node.lineno) if len(left) == 1 else UNKNOWN
        if Column in (type(left), type(right)):
            return self.column([_computed(node.op, *pair) for pair in _pairs(left, right)], node.lineno)
        if isinstance(left, bool | int) and isinstance(right, bool | int):
            return _computed(node.op, left, right)
        return super().operation(node, left, right)

    def each(self, node: Comprehension, names: Names) -> Known:
        """What is made of each token is a column."""
        made = super().each(node, names)
        if isinstance(node, ast.DictComp) and made is not UNKNOWN:
            self.column([value for _, value in made], node.lineno)
        if isinstance(made, list) and made and all(isinstance(one, Piece) for one in made):
            self.chosen_pieces.append((node.lineno, made))
        return self.column(made, node.lineno) if isinstance(made, list) and len(made) == SIZE else made

    def answer(self, call: Seen, names: Names) -> Known:
        """Also what the tokenizer that stands in answers, and arrays by token."""
        func = call.node.func if isinstance(call.node, ast.Call) else None
        asked = names.get(func.id) if isinstance(func, ast.Name) else None
        name = asked.name if isinstance(asked, Method) else call.last
        if call.held is UNKNOWN and (answer := _answered(_plain(name), call.given)) is not UNKNOWN:
            return answer
        if call.last in CALLS and (made := CALLS[call.last](self, call, names)) is not UNKNOWN:
            return made
        if isinstance(call.held, list):
            return call.held  # .to(device), .long(), .numpy()
        if isinstance(func, ast.Lambda):
            return self.value(func.body, {**names, func.args.args[0].arg: call.given[0]})
        return super().answer(call, names)

    def filled(self, call: Seen, names: Names) -> Known:
        """`zeros`, `full`: one number for each token."""
        value = FILLS.get(call.last, call.given[1] if len(call.given) > 1 else UNKNOWN)
        return self.column([value] * SIZE, call.node.lineno)

    def applied(self, call: Seen, names: Names) -> Known:
        """`map`."""
        if len(call.given) != 2 or call.given[1] is UNKNOWN or not isinstance(call.node, ast.Call):
            return UNKNOWN
        one = ast.Call(call.node.args[0], [], [])
        return self.column([self.apply(one, [each], {}, names) for each in call.given[1]], call.node.lineno)

    def appended(self, call: Seen, names: Names) -> Known:
        """`append`."""
        if not isinstance(call.held, list):
            return UNKNOWN
        call.held.append(call.given[0])
        if isinstance(call.given[0], Piece):
            self.chosen_pieces = [each for each in self.chosen_pieces if each[1] is not call.held]
            self.chosen_pieces.append((call.node.lineno, call.held))
        if len(call.held) == SIZE:
            self.columns.append(Column(call.held, call.node.lineno))
        return None

    def chosen(self, call: Seen, names: Names) -> Known:
        """`where`."""
        if len(call.given) != 3:
            return UNKNOWN
        test, *ways = call.given
        pairs = zip(*(_pairs(test, way) for way in ways))
        return self.column([one if test else other for (test, one), (_, other) in pairs], call.node.lineno)

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


def _counted(tokens: Tokens, call: Seen, names: Names) -> Known:
    """`range`, no further than there are tokens."""
    first = call.given[0] if len(call.given) > 1 else 0
    end = call.given[min(1, len(call.given) - 1)]
    return [*range(max(0, first), min(end, SIZE) if isinstance(end, int) else SIZE)]


def _same(tokens: Tokens, call: Seen, names: Names) -> Known:
    return call.given[0] if call.given and isinstance(call.given[0], list) else UNKNOWN


FILLS = {"zeros": 0, "ones": 1, "empty": 0, "zeros_like": 0, "ones_like": 1}
ARRAYS = "array asarray tensor as_tensor from_numpy fromiter stack Tensor frombuffer".split()
CALLS: dict[str, Callable[[Tokens, Seen, Names], Known]] = {
    **dict.fromkeys((*FILLS, "full"), Tokens.filled),
    **dict.fromkeys(ARRAYS, _same),
    "append": Tokens.appended,
    "enumerate": lambda tokens, call, names: [*enumerate(call.given[0])],
    "fromhex": lambda tokens, call, names: bytes.fromhex(call.given[0]),
    "map": Tokens.applied,
    "range": _counted,
    "where": Tokens.chosen,
    "zip": lambda tokens, call, names: [*zip(*call.given)],
}


def _plain(name: str) -> str:
    """`id_to_piece` and `IdToPiece` are one."""
    return name.replace("_", "").lower()


def _answered(asked: str, given: Sequence[Known]) -> Known:
    """What the tokenizer that stands in says; UNKNOWN where it is not asked."""
    if asked in COUNTS:
        return COUNTS[asked]
    first = given[0] if given else UNKNOWN
    if asked == "piecetoid" and isinstance(first, str):
        return PLACES.get(first, PLACES["<unk>"])
    decodes = asked in ("decode", "decodeids")
    if decodes and isinstance(first, list | tuple) and len(first) == 1:
        first = first[0]
    if not isinstance(first, int) or not 0 <= first < SIZE:
        return UNKNOWN
    piece = VOCABULARY[first]
    if asked in ASKS:
        return piece.type == ASKS[asked]
    if asked == "idtopiece":
        return piece.piece
    if not decodes:
        return UNKNOWN
    text = DECODED.get(piece.piece, piece.piece.replace(SPACE, " ").lstrip())
    return "" if piece.type in (CONTROL, UNUSED) else text


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
        return self.counts[PLACES[piece]]

    @property
    def spaces(self) -> Sequence[Known] | None:
        """The column that tells which pieces begin with a space."""
        word, letter = PLACES[f"{SPACE}the"], PLACES["a"]
        return next((each for each in self.flags if each[word] and not each[letter]), None)

    @property
    def without_edges(self) -> bool:
        """Whether a column for boundaries is there that is true of no token."""
        others = [each for each in self.flags if each is not self.spaces]
        return any(not any(each) for each in others) and not any(each[PLACES["<s>"]] for each in others)


def tables(script: Script) -> Iterator[Table]:
    """What each function that asks for pieces counts by token, where all of it is known."""
    for tokens in followed(script):
        if tokens.unsure:
            continue
        known = [each for each in tokens.columns if len(each) >= SIZE and UNKNOWN not in each]
        flags = [each for each in known if all(value in (0, 1) for value in each)]
        for column in known:
            numbers = all(isinstance(value, int | float) for value in column)
            if numbers and column[PLACES["ing"]] - column[PLACES["a"]] == 2:  # by length, whatever else
                yield Table(column.line, column, flags)


def without_lone_space(script: Script) -> list[int]:
    """Lines that choose pieces, where all words that stand in are among them and the lone space is not."""
    words = {each for each in VOCABULARY if each.type == NORMAL}
    return [
        line
        for tokens in followed(script)
        for line, pieces in tokens.chosen_pieces
        if words - {*pieces} == {VOCABULARY[PLACES[SPACE]]}
    ]


def followed(script: Script) -> Iterator[Tokens]:
    """What is known after each function that asks for pieces."""
    every = [*functions(script, beside=True), script.flow.outside]
    asking = {id(each) for each in every if any(map(_asks, walked(each)))}
    if not asking:
        return
    tokens = Tokens(script)
    for function in every:
        if not any(_asks(node) or asking & {*map(id, own(node))} for node in walked(function)):
            continue
        tokens.columns, tokens.chosen_pieces, tokens.unsure, tokens.steps = [], [], False, 0
        try:
            tokens.enter(function, [], {})
        except PYTHON_FAULTS:  # as it would in Python, with what stands in
            continue
        yield tokens


def _asks(node: ast.AST) -> bool:
    return _plain(last_called(node)) == "idtopiece" or (
        isinstance(node, ast.Attribute) and node.attr == "pieces"
    )
