"""What a value of a followed script carries, what happens to values, and where the walk is.

A value is the set of marks that its parts carry: validation tokens, scores of them, hashes of them, the rank
of the process. Where tokens were cut from is kept as a path of slices, so that two names for the same tokens
are the same tokens.
"""

import ast
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bitgolf.audit.tree import walked

VAL, GOLD, HASH, READ, RANK, SIZE, SUM = "val gold hash read rank size sum".split()
PIECE, SHARE, WEIGHTS = "piece share weights".split()  # what a table says of a token; a score by its bytes
TRAIN, TIME, COUNTER, CHOSEN = "train time counter chosen".split()
MASK, FILES, DRAWN, PREDICTED = "mask files drawn predicted".split()
FROZEN, INFERENCE = "frozen inference".split()  # made where no gradients, or no versions, are kept
STORED = "stored"  # numbers that stand in a file
EITHER = "either"  # or something else, where a file is not there
GRAD = "grad"  # a gradient, or made of one
LIVE = "live"  # made where gradients are
CLOCK = "clock"  # what a clock says, as it is read
SEEN = "seen "  # of marks that say for which token alone something is given back
FEW = "few"  # a counted number of parts
ITEMS = "items"  # many things, whose parts are those of each
WIDTH = "width "  # of tokens, how many of them a slice takes at once
FILED = "filed"  # read from a file, or unpacked
GUESS = "guess"  # whether the token that came is the one that something names
HOT = "hot"  # one at the place of a token
COUNTED = "counted"  # how often each token, or each hash, came
BEFORE = "before "  # of roots that an earlier turn of a loop has left
MOST_PATHS, MOST_PATH = 12, 160  # paths of tokens in a value, characters of one
TABLE = "table "  # of roots that say which counts were read
LAMBDA = "lambda"  # the kind of what is made by one
STREAM = "stream"  # the root of what is not a part of the validation tokens
# A pattern or path of shards; no word of a message.
VALIDATION = re.compile(
    r"(?:^|[_/\-*])val(?:id|idation)?[_/\-*.0-9][^ :]*"
    r"(?:\*|\.bin|\.npy|\.parquet)|_val_[^ :]*\*"
)
TRAINING = re.compile(
    r"(?:^|[_/\-*])train(?:ing)?[_/\-*.0-9][^ :]*(?:\*|\.bin|\.npy|\.parquet)|_train_[^ :]*\*"
)
SIDECAR = re.compile(r"val(?:id|idation)?[_-](?:bytes|sizes|widths|lengths)")  # of the tokens, beside them
SPLIT_WORDS = {"val": VAL, "valid": VAL, "validation": VAL, "train": TRAIN, "training": TRAIN}
NO_NAMES: frozenset[str] = frozenset()


class Value(NamedTuple):
    """marks: what it carries. born: when its score was computed. roots: which tokens.

    keys: tokens that are in it, as paths of slices; gates: tokens that decided it through a table or a
    condition; golds: tokens whose score it is; tables: what was allocated. number: of a constant; set: it
    stands in an environment variable with this default. kind: the class of the script it is an object of.
    parts: of a tuple, or of each tuple in a list, what each place carries.
    """

    marks: frozenset[str] = NO_NAMES
    born: int = 0
    roots: frozenset[str] = NO_NAMES
    keys: frozenset[str] = NO_NAMES
    gates: frozenset[str] = NO_NAMES
    golds: frozenset[str] = NO_NAMES
    tables: frozenset[str] = NO_NAMES
    number: float | None = None
    set: bool = False
    kind: str = ""
    parts: tuple["Value", ...] = ()

    def __or__(self, other: "Value") -> "Value":
        """What carries what either of both carries."""
        if other is NOTHING or other == self:
            return self if self.number is None else self._replace(number=None, set=False)
        return Value(
            self.marks | other.marks,
            max(self.born, other.born),
            self.roots | other.roots,
            few(self.keys | other.keys),
            few(self.gates | other.gates),
            few(self.golds | other.golds),
            self.tables | other.tables,
            kind=self.kind or other.kind,
            parts=self._both(other),
        )

    def _both(self, other: "Value") -> tuple["Value", ...]:
        if len(self.parts) == len(other.parts):
            return tuple(one | another for one, another in zip(self.parts, other.parts))
        return other.parts if not self.marks else self.parts if not other.marks else ()

    def each(self, change: Callable[["Value"], "Value"]) -> "Value":
        """The same with a change made to it and to its parts."""
        return change(self)._replace(parts=tuple(change(part) for part in self.parts))

    def has(self, *marks: str) -> bool:
        """Whether it carries all of these."""
        return self.marks.issuperset(marks)

    def marked(self, *marks: str) -> "Value":
        """The same with these marks too."""
        return self._replace(marks=self.marks.union(marks))

    @property
    def width(self) -> int:
        """How many tokens a slice took at once, the most of several; 0 where that is not known."""
        return max(
            (int(mark.removeprefix(WIDTH)) for mark in self.marks if mark.startswith(WIDTH)), default=0
        )

    @property
    def plain(self) -> "Value":
        """What is computed from it: another thing, of the same marks."""
        return self._replace(tables=NO_NAMES, kind="", number=None, set=False, parts=())


def few(paths: frozenset[str]) -> frozenset[str]:
    """Paths of tokens, the shortest of too many: loops around loops would make them without end."""
    if len(paths) <= MOST_PATHS and all(len(path) <= MOST_PATH for path in paths):
        return paths
    return frozenset(sorted((path for path in paths if len(path) <= MOST_PATH), key=len)[:MOST_PATHS])


def places(paths: frozenset[str]) -> frozenset[str]:
    """The same, and for one token after the other all of them: `ids[1:]` for `ids[1:][t]`."""
    return paths | frozenset(map(whole, paths))


def whole(path: str) -> str:
    """`ids[1:]` for `ids[1:][t]`."""
    return ONE_PLACE.sub("", path)


def all_places(value: Value) -> Value:
    """What a list has of each place in turn: of all of them."""
    keys, gates, golds = (frozenset(map(whole, each)) for each in (value.keys, value.gates, value.golds))
    return value._replace(keys=keys, gates=gates, golds=golds)


ONE_PLACE = re.compile(r"\[[A-Za-z_]\w*\]$")
NOTHING = Value()


class Event(NamedTuple):
    """What happens. kind: train, fit, score, write, load, count, look, ratio, mix, share, cut, leak...

    time: its place in the order; loops: numbers of the loops around it. owner: of training, the name that is
    optimized; tables: of counts and looks. off: the lines of a branch around it that the script's own
    settings do not take. way: how, in a word. guessed: in a function that was entered by its name alone.
    """

    kind: str
    line: int
    time: int
    loops: tuple[int, ...]
    value: Value = NOTHING
    owner: str = ""
    inside: str = ""
    off: tuple[int, int] | None = None
    tables: frozenset[str] = NO_NAMES
    way: str = ""
    guessed: bool = False


@dataclass
class Taker:
    """A loop over what a function of the script yields; its body runs at each yield. ran: whether one did."""

    call: ast.Call
    target: ast.expr
    body: Sequence[ast.stmt]
    frame: "Frame"
    ran: bool = False


@dataclass
class Frame:
    """Where the walk is: a function's names, the loops around it, its depth.

    gate: what the branches around were chosen by. one_way: tokens whose entry in a table decided a branch
    without another way; equal: tokens that a branch compared with something. called_in: how many of the loops
    are those around its call. texts: names that stand for other names. mutated: names whose contents were
    changed in place. alone: the line of a test by which some processes are not here. began_alone: whether the
    function was called where they are not. taker: what takes its yields.
    modes: FROZEN where no gradients are kept, INFERENCE where not even versions of tensors are. guessed:
    whether the function, or one around its call, was entered by its name alone. scope: the function.
    """

    name: str
    names: dict[str, Value] = field(default_factory=dict)
    loops: tuple[int, ...] = ()
    called_in: int = 0
    depth: int = 0
    control: Value = NOTHING
    gate: Value = NOTHING
    one_way: frozenset[str] = NO_NAMES
    equal: frozenset[str] = NO_NAMES
    returned: Value = NOTHING
    owners: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    mutated: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)
    off: tuple[int, int] | None = None
    kind: str = ""
    alone: int = 0
    began_alone: bool = False
    taker: "Taker | None" = None
    modes: frozenset[str] = NO_NAMES
    guessed: bool = False
    scope: int = 0


def modes_of(text: str, before: frozenset[str]) -> frozenset[str]:
    """What holds for gradients under a context or a decorator of this text."""
    if re.search(r"\b(?:enable_grad\b|set_grad_enabled\(True|inference_mode\(False)", text):
        return NO_NAMES
    if re.search(r"\binference_mode\b", text):
        return frozenset((FROZEN, INFERENCE))
    return frozenset((FROZEN,)) if re.search(r"\bno_grad\b|\bset_grad_enabled\(False", text) else before


def constant(value: object) -> Value:
    """What a literal is: a path of shards, or a number."""
    if isinstance(value, str):
        if VALIDATION.search(value):
            marks = (VAL, STORED) if SIDECAR.search(value) else (VAL,)
            return Value(frozenset(marks), roots=frozenset((STREAM,)))
        if TRAINING.search(value):
            return Value(frozenset((TRAIN,)))
        if len(value) < 18 and value.strip().lstrip("-").isdigit():
            return Value(number=float(value), kind="str")
        return Value(kind="str")
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18:
        return Value(number=float(value))
    return NOTHING


def dotted(node: ast.expr) -> str:
    """A dotted name; of a call in it only what stands behind."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "")
    return ".".join(reversed(parts))


def last_name(node: ast.expr) -> str:
    """The last part of a dotted name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def base_name(node: ast.expr, scattered: Iterable[str] = ()) -> str:
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
                elif not isinstance(node.value, ast.Name) or node.value.id == "self":
                    return node.attr
                else:
                    return node.value.id if node.attr in scattered else node.attr
            case ast.Name():
                return node.id
            case _:
                return ""


def common(one: Event, other: Event) -> tuple[int, ...]:
    """The loops around both."""
    shared = []
    for left, right in zip(one.loops, other.loops):
        if left != right:
            break
        shared.append(left)
    return tuple(shared)


def optimized_thing(node: ast.expr) -> str:
    """Of `thing.parameters()`, `[*thing.parameters()]` or `[thing]` the thing."""
    called = {id(each.func) for each in walked(node) if isinstance(each, ast.Call)}
    return next(
        (each.id for each in walked(node) if isinstance(each, ast.Name) and id(each) not in called), ""
    )


def put_together(left: Value, right: Value) -> bool:
    """Whether one of both is a score by bytes, and the other something else that is no number."""
    other = right if left.has(SHARE) else left
    return left.has(SHARE) != right.has(SHARE) and other.number is None and not other.has(SUM)
