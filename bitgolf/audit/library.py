"""What functions of torch, numpy and Python do with marked values; the script's own ones are followed."""

import ast
import builtins
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bitgolf.audit.indices import meeting
from bitgolf.audit.objects import OTHERS_OWN
from bitgolf.audit.values import (
    CHOSEN,
    CLOCK,
    COUNTED,
    COUNTER,
    DRAWN,
    FEW,
    FILED,
    FILES,
    FROZEN,
    GOLD,
    GRAD,
    GUESS,
    HASH,
    HOT,
    INFERENCE,
    ITEMS,
    LIVE,
    NOTHING,
    PIECE,
    PREDICTED,
    RANK,
    SIZE,
    STORED,
    STREAM,
    SUM,
    TIME,
    TRAIN,
    VAL,
    WEIGHTS,
    WIDTH,
    Frame,
    Value,
    all_places,
    base_name,
    dotted,
    last_name,
    optimized_thing,
    put_together,
)

if TYPE_CHECKING:
    from bitgolf.audit.expressions import Expressions

COUNTS = {"bincount", "histogram", "histc"}
LOSSES = {"cross_entropy", "nll_loss", "linear_cross_entropy"}
TAKEN = {"gather", "take_along_dim", "take_along_axis"}
RESHAPED = {"view", "reshape", "unfold", "split", "chunk", "tensor_split"}
ITSELF = ("eval", "train", "bfloat16", "half", "requires_grad_")  # a module gives itself back
SIZES = {"numel", "size", "len", "shape", "nelement", "ndim", "dim"}
SCATTERED = {"add.at", "scatter_add_", "index_add_", "scatter_add", "index_put_", "update"}
REDUCES = {"all_reduce", "all_gather", "reduce", "all_gather_object", "gather", "all_gather_into_tensor"}
COLLECTIVES = REDUCES - {"gather", "reduce"} | {"barrier", "broadcast", "reduce_scatter_tensor"}
WRITES = {"save", "savez", "save_file", "dump", "dumps", "write", "write_bytes"}
READS = {"read", "read_bytes", "load", "loads", "load_file", "safe_open", "decompress"}
BUFFER = "BytesIO"
LOADS = {"load_state_dict", "load_file", "copy_", "load_model"}
HASHED = {"bitwise_xor", "bitwise_and", "remainder", "fmod", "mod", "hash", "xor", "__xor__", "crc32"}
DIVIDED = {"div", "divide", "true_divide", "truediv"}
FRESH = {"zeros", "ones", "empty", "full", "arange", "zeros_like", "ones_like", "empty_like", "full_like"}
TABLES = {*"zeros empty full ones zeros_like full_like dict defaultdict Counter OrderedDict".split()}
SAME = {*"to cuda cpu contiguous reshape view clone detach long int astype tolist".split()}
WALKED = {"list", "tuple", "sorted", "reversed", "enumerate", "iter"}  # the same items
PAIRED = {"minimum", "fmin", "maximum", "fmax"}
BETTER = PAIRED | {"min", "amin", "max", "amax"}
FITTED = {"lstsq", "pinv", "minimize"}
CLOCKS = {"time", "perf_counter", "monotonic", "process_time", "elapsed_time", "time_ns", "perf_counter_ns"}
DRAWS = {"randint", "randperm", "permutation", "choice", "sample", "rand", "linspace"}
SUMMED = {"item", "sum", "mean", "norm", "log_softmax"}  # of all weights, so none of them
LEARNS = {"backward", "grad"}
MAKES_PLAIN = {*"clone item tolist float int len deepcopy numpy tensor size".split()}
MADE = dict.fromkeys(READS, (FILED,)) | {"grad": (GRAD,), "load": (FILED, STORED)}
MADE |= dict.fromkeys(("fromfile", "memmap", "from_file", "frombuffer", "open_memmap"), (STORED,))


class Call(NamedTuple):
    """A call of a library: what it is called on, what it is given, and all of that together."""

    flow: "Expressions"
    node: ast.Call
    name: str
    last: str
    held: Value
    given: Sequence[Value]
    everything: Value
    frame: Frame

    def event(self, kind: str, value: Value = NOTHING, **more: Any) -> None:
        """Note that something happens here."""
        self.flow.event(kind, self.node, self.frame, value, **more)

    @property
    def on(self) -> ast.expr | None:
        """What it is a method of."""
        return self.node.func.value if isinstance(self.node.func, ast.Attribute) else None

    @property
    def of_unknown(self) -> bool:
        """Whether it is a method of an object of which nothing is known: its name alone says what it does."""
        known = self.held.marks & {VAL, TRAIN, GOLD} or self.name.partition(".")[0] in self.flow.imported
        return bool(self.on and not known)


def called(
    flow: "Expressions", node: ast.Call, held: Value, given: Sequence[Value], everything: Value, frame: Frame
) -> Value:
    """A call of something that is not defined in the script: a library's function, or a model."""
    call = Call(flow, node, dotted(node.func), last_name(node.func), held, given, everything, frame)
    result = _first(SIMPLE, call)
    frozen = FROZEN in everything.marks and LIVE not in everything.marks or INFERENCE in everything.marks
    if frozen and (call.last in LEARNS or call.last == "Parameter" and INFERENCE in everything.marks):
        way = "here" if FROZEN in frame.modes else ""
        call.event("frozen", everything, way=way, guessed=call.of_unknown)
    if result is None:
        _noted(call)
        result = _first(FOLLOWED, call)
    if result is None:
        call = _without_files(call)
        result = _first(CHANGED, call)
    if result is None:
        result = call.everything.plain if _is_of_library(call) else _modelled(call)
    if call.last in RESHAPED and result.width:  # windows of another width, whatever it is
        result = result._replace(marks=frozenset(m for m in result.marks if not m.startswith(WIDTH)))
    if call.last in MAKES_PLAIN:
        result = result._replace(marks=result.marks - {INFERENCE})
    elif result.marks & {TRAIN, VAL} and (call.last in LOSSES or not _is_of_library(call)):
        # What gradients would go through begins here.
        result = result._replace(marks=result.marks - {FROZEN, LIVE} | (frame.modes or {LIVE}))
    elif INFERENCE in frame.modes:
        result = result.marked(INFERENCE)
    if call.last in SUMMED | LOSSES:
        lost = {WEIGHTS, STORED} if call.last in LOSSES else {WEIGHTS}
        result = result._replace(marks=result.marks - lost)
    made = {*MADE.get(call.last, ())} - ({STORED} if result.marks & {VAL, TRAIN} else set())
    return result.marked(*made) if made else result


Answer = Callable[[Call], Value | None]  # None where the call is something else
Answers = Mapping[str, Sequence[Answer]]


def _first(answers: Answers, call: Call) -> Value | None:
    """What the first of the answers under a call's name says that says anything."""
    said = (answer(call) for answer in answers.get(call.last, ()))
    return next((value for value in said if value is not None), None)


def _by_name(*rows: tuple[Collection[str], Answer]) -> Answers:
    """Rows of names and an answer as a table by name, in their order."""
    names = {name for names, _ in rows for name in names}
    return {name: [answer for named, answer in rows if name in named] for name in names}


def _is_of_library(call: Call) -> bool:
    named = call.name.startswith(("torch.", "np.", "F.", "numpy."))
    known = named or call.name.partition(".")[0] in call.flow.imported
    return known or bool(call.on and call.held.marks)


def _modelled(call: Call) -> Value:
    """What a model makes of tokens, or whatever else is called."""
    flow, _, _, last, held, given, everything, _ = call
    is_own = hasattr(builtins, last) or last in flow.classes
    studied = [each for each in given if each.has(TRAIN)]
    tokens = [each for each in given if each.has(VAL)]
    if studied and not is_own and last not in OTHERS_OWN:
        if width := max(each.width for each in studied):
            call.event("train width", Value(number=width))
        call.event("studied", everything)
        parts = [*call.node.args, *(word.value for word in call.node.keywords)]
        numbers = [each for part, each in zip(parts, given) if not isinstance(part, ast.Compare)]
        if any(each.marks & {COUNTER, TIME} and not each.has(TRAIN) for each in numbers):
            call.event("length", everything)
    kind = (flow.value(call.node.func, call.frame) if call.name == last else flow.attribute(last, held)).kind
    pair = len(tokens) > 1 and not is_own and not tokens[-1].has(PREDICTED) and not held.has(STORED)
    if pair and (kind not in flow.classes or flow.reaches(kind, LOSSES | TAKEN)):  # model(x, y)
        return everything.plain.marked(GOLD)._replace(born=flow.time, golds=tokens[-1].keys)
    if tokens and not held.marks and not is_own:
        return everything.plain.marked(PREDICTED)  # model(x)
    return everything if len(given) == 1 else everything.plain


def _without_files(call: Call) -> Call:
    """What is made of files is none any more, unless it is a list of them."""
    if not call.everything.has(FILES) or call.last in ("sorted", "list", "tuple", "Path"):
        return call
    everything, *given = (
        each._replace(marks=each.marks - {FILES}) for each in (call.everything, *call.given)
    )
    return call._replace(everything=everything, given=given)


def _size(call: Call) -> Value:
    everything = call.everything
    mark = PIECE if everything.has(PIECE) else SIZE
    return Value(frozenset((mark,)), roots=everything.roots, gates=everything.gates)


def _zipped(call: Call) -> Value | None:
    parts = tuple(each._replace(parts=()) for each in call.given)
    return call.everything.marked(ITEMS)._replace(parts=parts) if len(parts) > 1 else None


def _drawn(call: Call) -> Value | None:
    of_all = call.everything.has(SIZE) and STREAM in call.everything.roots
    return Value(frozenset((DRAWN,))) if of_all else None


def _lerp(call: Call) -> None:
    if len(call.given) > 1:
        call.flow.mixed(call.node, call.given[-1], call.everything, call.frame, way="lerp")


def _narrowed(call: Call) -> Value | None:
    """The stream of validation tokens cut to a length."""
    held, given = call.held, call.given
    if not held.has(VAL) or STREAM not in held.roots or len(given) < 3 or call.frame.loops:
        return None
    if given[2].number is not None and given[2].number > 1000:
        call.event("cut", given[2])
    return held


def _sliced(call: Call) -> Value | None:
    """Some turns of what the stream is cut into."""
    given = call.given
    if len(given) < 2 or STREAM not in given[0].roots:
        return None
    stop, step = given[1 if len(given) == 2 else 2], given[3] if len(given) > 3 else NOTHING
    if stop.number is not None:
        call.event("cut", stop, way="turns")
        return given[0].marked(FEW)
    if not step.set and (step.number or 0) > 1:  # that of the processes is set from outside
        call.event("cut", step, way="step")
    return given[0]


def _attribute(call: Call) -> Value | None:
    """`getattr` of a name that is written out."""
    if call.name != "getattr" or len(call.given) < 2 or not isinstance(call.node.args[1], ast.Constant):
        return None
    name = str(call.node.args[1].value)
    call.flow.read.add(f".{name}")
    return call.flow.attributes.get(name, call.given[0])


def _limited(call: Call) -> Value | None:
    """`min` and `max` with a number that is known."""
    everything = call.everything
    known = next((each for each in call.given if each.number is not None), None)
    if known is None:
        return None
    few = call.last == "min" and everything.has(SIZE)
    marks = everything.marks - {SIZE} | {FEW} if few else everything.marks
    return everything._replace(number=known.number, set=known.set, marks=marks)


def _noted(call: Call) -> None:
    """The events of a library's call."""
    flow, node, name, last, held, given, everything, frame = call
    if last in COLLECTIVES and name != last and frame.alone:
        call.event("alone", way=str(frame.alone))
    if last in LEARNS or last in FITTED and everything.has(VAL):
        owner = next((each for each in reversed([*frame.owners.values()]) if each), "")
        owner = optimized_thing(node.args[1]) if last == "grad" and len(node.args) > 1 else owner
        kind = "train" if everything.has(VAL) else "fit"
        call.event(kind, everything, owner=owner, guessed=call.of_unknown)
    elif last.endswith("_") and everything.has(GRAD):
        if call.on:
            flow.put(call.on, Value(frozenset((GRAD,))), frame)
        for word in node.keywords:
            if word.arg in ("alpha", "value"):
                call.event("lr", flow.value(word.value, frame))
    elif last in REDUCES and name != last and not name.startswith("functools.") and not held.marks:
        call.event("gather", everything)
    elif last in WRITES and everything.has(WEIGHTS):
        buffers = [part for part, value in zip(node.args, given) if value.kind == BUFFER]
        buffers += [call.on] if call.on and held.kind == BUFFER else []
        for part in buffers:
            flow.put(part, everything.plain, frame)
        way = "memory" if buffers or last == "dumps" else "file"
        call.event("write", way=way, guessed=call.of_unknown and last not in OTHERS_OWN)
    elif last in LOADS:
        own = frame.began_alone and flow.made_here(call.on, frame)
        owner = "" if own else str(frame.alone or "")
        call.event("load", everything, owner=owner, way=last)
    elif last in ("broadcast", "broadcast_object_list"):
        call.event("sent")
    elif last == "destroy_process_group":
        call.event("parted")
    if last in ("view", "reshape", "unfold") and given and held.marks & {VAL, TRAIN} and not held.has(GOLD):
        width = given[0 if last == "unfold" and len(given) > 1 else -1].number
        if width is not None and width > 8:
            call.event("val width" if held.has(VAL) else "train width", Value(number=width))
        if any(each.marks & {COUNTER, TIME} for each in given):
            call.event("length", held)
    if any(name.endswith(f".{each}") or last == each for each in SCATTERED) and everything.has(VAL):
        at = name.endswith("add.at") and given
        owner = base_name(node.args[0] if at and node.args else node.func, SCATTERED)
        call.event("count", everything, owner=owner, tables=(given[0] if at else held).tables)


def _added_in_place(call: Call) -> Value | None:
    if not call.everything.has(GOLD):
        return None
    call.event("score", call.everything)
    if call.on:
        call.flow.put(call.on, Value(frozenset((SUM,))), call.frame)
    return Value(frozenset((SUM,)))


def _kept(call: Call) -> None:
    """Something is put into a list."""
    if call.given and call.on:
        if call.given[0].has(GOLD, VAL):
            call.event("kept", call.given[0])
        call.flow.put(call.on, call.given[0].marked(ITEMS).each(all_places), call.frame)


def _log_sum(call: Call) -> None:
    """`logaddexp` of a mixture's parts."""
    if len(call.given) > 1:
        if put_together(call.given[0], call.given[1]):
            call.event("share", call.everything)
        for part in call.node.args:
            if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add):
                one, other = call.flow.value(part.left, call.frame), call.flow.value(part.right, call.frame)
                call.flow.weighed(call.node, one, other, call.frame)


def _either(call: Call) -> None:
    """`where`; of a side that is a constant something is left out, and nothing mixed."""
    given = call.given
    both_say = len(given) == 3 and all(each.marks or each.keys for each in given[1:])
    if both_say and given[0].has(GUESS) and given[1].has(GOLD) and given[2].has(GOLD):
        if isinstance(call.node.args[2], ast.Name):  # wrong, it costs nothing
            call.event("leak", given[1], way="chosen")
    elif both_say and (given[1].has(GOLD) or given[2].has(GOLD)):
        call.flow.mixed(call.node, given[0], given[1] | given[2], call.frame, way="where")


def _better(call: Call) -> None:
    """The better of several scores."""
    several = next((each.parts for each in (call.held, *call.given) if len(each.parts) > 1), call.given[:2])
    golds = [each for each in several if each.has(GOLD) and not each.has(SUM)]
    both = len(golds) == len(several)
    if not golds or len(several) < 2:
        return
    paired = call.last in PAIRED or len(call.given) == 2 and not call.held.marks
    if both or paired and all(each.marks for each in several):
        began = call.flow.turns[call.frame.loops[-1]].began if call.frame.loops else 0
        way = "one" if not both else "at once" if all(each.born > began for each in golds) else "later"
        call.event("best", call.everything, way=way)


def _picked_by_product(call: Call) -> Value | None:
    """Probabilities times what is one at the place of a token."""
    if not call.everything.has(HOT, PREDICTED):
        return None
    hot = next(each for each in (call.held, *call.given) if each.has(HOT))
    return call.flow.picked(call.node, call.everything, hot, call.frame)


def _loss(call: Call) -> Value | None:
    """A loss of logits and the tokens that came."""
    if not call.everything.has(VAL):
        return None
    keywords = {each.arg: each.value for each in call.node.keywords}
    logits, target = (
        call.flow.value(keywords[name], call.frame)
        if name in keywords
        else call.given[place]
        if len(call.given) > place
        else NOTHING
        for place, name in enumerate(("input", "target"))
    )
    leaks = meeting(logits.gates | logits.keys, target.keys)
    if leaks and target.has(VAL):
        way = "counted" if logits.has(COUNTED) else "table" if leaks & logits.gates else "key"
        call.event("leak", logits._replace(keys=leaks), way=way)
    gold = call.everything.plain.marked(GOLD)
    return gold._replace(born=call.flow.time, golds=target.keys, keys=logits.keys | target.keys)


def _gathered(call: Call) -> Value | None:
    """Of the probabilities of all tokens those of the ones that came."""
    held, given = call.held, call.given
    if not call.everything.has(VAL):
        return None
    places = (each for each in (*reversed(given), held) if each.has(VAL) and not each.has(GOLD))
    source = held if call.on and held.marks else given[0] if given else NOTHING
    return call.flow.picked(call.node, source, next(places, NOTHING), call.frame) | call.everything.plain


def _got(call: Call) -> Value | None:
    """A look into a dict by tokens."""
    found = call.given and call.given[0].has(VAL) and not call.held.has(GOLD)
    return call.flow.looked(call.node, call.held, call.given[0], call.frame) if found else None


def _taken(call: Call) -> Value | None:
    """A look into a table by hashes of tokens."""
    found = call.given and call.given[-1].has(HASH, VAL) and not call.held.has(VAL)
    return call.flow.looked(call.node, call.held, call.given[-1], call.frame) if found else None


def _divided(call: Call) -> Value | None:
    operands = [call.held, *call.given] if call.held.marks else [*call.given]
    return call.flow.divided(call.node, operands[0], operands[1], call.frame) if len(operands) > 1 else None


def _counted(call: Call) -> Value | None:
    """A histogram of tokens, a table that is made full."""
    if not call.everything.has(VAL):
        return None
    counts = call.flow.table(call.node).marked(COUNTED)._replace(keys=call.everything.keys)
    call.flow.made |= dict.fromkeys(counts.tables, call.flow.time)
    call.event("count", call.everything, tables=counts.tables)
    return counts


def _marking(mark: str, where: str = VAL) -> Answer:
    """The answer that marks what carries something."""
    return lambda call: call.everything.plain.marked(mark) if call.everything.has(where) else None


def _always(value: Value) -> Answer:
    return lambda call: value


def _wrapped(call: Call) -> Value | None:
    """A model in a wrapper is the model, and so are texts."""
    return call.given[0] if call.given and call.given[0].kind else None


# What needs no look at the flow.
SIMPLE = _by_name(
    (("getattr",), _attribute),
    (("device",), _always(NOTHING)),
    (("to", "cuda", "cpu"), lambda call: call.held if call.on else None),
    (("requires_grad_",), lambda call: None if call.held.kind else call.held.marked(WEIGHTS)),
    (ITSELF, lambda call: call.held if call.held.kind else None),
    (("compile", "DistributedDataParallel", "DDP", "DataLoader"), _wrapped),
    (SIZES, _size),
    (("state_dict", "named_parameters", "parameters"), _always(Value(frozenset((WEIGHTS,))))),
    (("get_rank",), _always(Value(frozenset((RANK,))))),
    (CLOCKS, lambda call: None if call.given and call.everything.marks else Value(frozenset((TIME, CLOCK)))),
    (("zip",), _zipped),
    (WALKED, lambda call: call.given[0] if call.given and call.given[0].parts else None),
    (("float", "int", "bool"), lambda call: call.given[0] if len(call.given) == 1 else None),
    (("str",), lambda call: call.given[0]._replace(kind="str") if len(call.given) == 1 else None),
    (
        ("range", "count"),
        lambda call: None if call.everything.has(VAL) else call.everything.plain.marked(COUNTER),
    ),
    (("min", "max"), _limited),
)
# What tokens, scores and counts come to.
FOLLOWED = _by_name(
    (("add_",), _added_in_place),
    (("append", "extend", "add"), _kept),
    (("logaddexp",), _log_sum),
    (("where",), _either),
    (("lerp",), _lerp),
    (BETTER, _better),
    (("einsum", "mul", "multiply", "sum", "bmm", "matmul"), _picked_by_product),
    (LOSSES, _loss),
    (TAKEN, _gathered),
    (("get", "setdefault"), _got),
    (("take", "index_select", "__getitem__"), _taken),
    (("one_hot",), _marking(HOT)),
    (("id_to_piece", "IdToPiece", "id_to_token", "decode_single_token_bytes"), _marking(PIECE)),
    (HASHED, _marking(HASH)),
    (DIVIDED, _divided),
    (COUNTS, _counted),
    (TABLES, lambda call: call.flow.table(call.node)),
    ((BUFFER,), lambda call: call.everything._replace(kind=BUFFER)),
    (FRESH, _always(NOTHING)),
    (DRAWS, _drawn),
    (("glob", "rglob", "iglob", "listdir"), _marking(FILES)),
)
# What stays as it was in another form.
CHANGED = _by_name(
    (("narrow",), _narrowed),
    (("islice",), _sliced),
    (
        ("stack",),
        lambda call: call.everything.plain._replace(parts=call.given[0].parts) if call.given else None,
    ),
    (("softmax", "sigmoid"), _marking(CHOSEN, GOLD)),  # a weight that knows the outcome
    (("softmax", "log_softmax"), _marking(PREDICTED)),
    (SAME, lambda call: call.held._replace(number=None) if call.on else None),
)
