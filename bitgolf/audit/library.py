"""What functions of torch, numpy and Python do with marked values; the script's own ones are followed."""

import ast
import builtins
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from bitgolf.audit.indices import meeting
from bitgolf.audit.tree import names_given, nodes
from bitgolf.audit.values import (
    AVERAGED,
    CHOSEN,
    COUNTED,
    COUNTER,
    DRAWN,
    FEW,
    FILED,
    FILES,
    FILLED,
    GOLD,
    HASH,
    HOT,
    ITEMS,
    NOTHING,
    PADDED,
    PIECE,
    PREDICTED,
    RANK,
    SIZE,
    STREAM,
    SUM,
    TIME,
    TRAIN,
    VAL,
    WEIGHTS,
    WIDTH,
    Frame,
    Value,
    base_name,
    dotted,
    last_name,
    optimized_thing,
    whole,
)

if TYPE_CHECKING:
    from bitgolf.audit.expressions import Expressions

COUNTS = {"bincount", "histogram", "histc"}
LOSSES = {"cross_entropy", "nll_loss", "linear_cross_entropy"}
TAKEN = {"gather", "take_along_dim", "take_along_axis"}
RESHAPED = {"view", "reshape", "unfold", "split", "chunk", "tensor_split"}
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
TABLES = {
    "zeros",
    "empty",
    "full",
    "ones",
    "dict",
    "defaultdict",
    "Counter",
    "zeros_like",
    "full_like",
    "OrderedDict",
}
SAME = {
    "to",
    "cuda",
    "cpu",
    "contiguous",
    "reshape",
    "view",
    "clone",
    "detach",
    "long",
    "int",
    "astype",
    "tolist",
}
WALKED = {"list", "tuple", "sorted", "reversed", "enumerate", "iter"}  # the same items
PAIRED = {"minimum", "fmin", "maximum", "fmax"}
BETTER = PAIRED | {"min", "amin", "max", "amax"}
FITTED = {"lstsq", "pinv", "minimize"}
CLOCKS = {"time", "perf_counter", "monotonic", "process_time", "elapsed_time", "time_ns", "perf_counter_ns"}
DRAWS = {"randint", "randperm", "permutation", "choice", "sample", "rand", "linspace"}
BUILTINS = {*dir(builtins)}
LEARNS = {"backward", "grad"}
# Methods of Python's, torch's and files' own objects: of an object that is not known they are no script's.
OTHERS_OWN = frozenset(
    name
    for kind in (str, bytes, dict, list, set, io.BytesIO, Path, torch.Tensor)
    for name in dir(kind)
    if not name.startswith("__")
)


class Call(NamedTuple):
    """A call of a library: what it is called on, what it is given, and all of that together."""

    node: ast.Call
    name: str
    last: str
    held: Value
    given: Sequence[Value]
    everything: Value
    frame: Frame


def called(
    flow: "Expressions", node: ast.Call, held: Value, given: Sequence[Value], everything: Value, frame: Frame
) -> Value:
    """A call of something that is not defined in the script: a library's function, or a model."""
    result = _called(flow, node, held, given, everything, frame)
    if last_name(node.func) in RESHAPED and result.width:  # windows of another width, whatever it is
        result = result._replace(marks=frozenset(m for m in result.marks if not m.startswith(WIDTH)))
    return result.marked(FILED) if last_name(node.func) in READS else result


def _called(
    flow: "Expressions", node: ast.Call, held: Value, given: Sequence[Value], everything: Value, frame: Frame
) -> Value:
    name, last = dotted(node.func), last_name(node.func)
    call = Call(node, name, last, held, given, everything, frame)
    if (simple := _simple(flow, call)) is not None:
        return simple
    _noted(flow, call)
    if last == "add_" and everything.has(GOLD):
        flow.event("score", node, frame, everything)
        if isinstance(node.func, ast.Attribute):
            flow.put(node.func.value, Value(frozenset((SUM,))), frame)
        return Value(frozenset((SUM,)))
    if last in ("append", "extend", "add") and given and isinstance(node.func, ast.Attribute):
        if given[0].has(GOLD, VAL):
            flow.event("kept", node, frame, given[0])
        flow.put(node.func.value, given[0].marked(ITEMS).each(_all_places), frame)
    if (scored := _scored(flow, call)) is not None:
        return scored
    if last in ("get", "setdefault") and given and given[0].has(VAL) and not held.has(GOLD):
        return flow.looked(node, held, given[0], frame)
    if (
        last in ("take", "index_select", "__getitem__")
        and given
        and given[-1].has(HASH, VAL)
        and not held.has(VAL)
    ):
        return flow.looked(node, held, given[-1], frame)
    if last == "one_hot" and everything.has(VAL):
        return everything.plain.marked(HOT)
    if last in HASHED and everything.has(VAL):
        return everything.plain.marked(HASH)
    if last in DIVIDED and len(operands := [held, *given] if held.marks else [*given]) > 1:
        return flow.divided(node, operands[0], operands[1], frame)
    if last in COUNTS and everything.has(VAL):
        counts = flow.table(node).marked(COUNTED)._replace(keys=everything.keys)
        flow.made |= dict.fromkeys(counts.tables, flow.time)  # it is made full
        flow.event("count", node, frame, everything, tables=counts.tables)
        return counts
    if last in TABLES:
        return flow.table(node)
    if last == BUFFER:
        return everything._replace(kind=BUFFER)
    if last in FRESH:
        return NOTHING
    if last in ("pad", "pad_sequence") and everything.has(VAL):
        return everything.plain.marked(PADDED)
    if last in DRAWS and everything.has(SIZE) and STREAM in everything.roots:
        return Value(frozenset((DRAWN,)))
    if last in ("glob", "rglob", "iglob", "listdir") and everything.has(VAL):
        return everything.plain.marked(FILES)
    if everything.has(FILES) and last not in ("sorted", "list", "tuple", "Path"):
        everything = everything._replace(marks=everything.marks - {FILES})
        given = [each._replace(marks=each.marks - {FILES}) for each in given]
    if (shortened := _shortened(flow, call, given)) is not None:
        return shortened
    if last == "stack" and given:
        return everything.plain._replace(parts=given[0].parts)
    if last in ("softmax", "sigmoid") and everything.has(GOLD):
        return everything.plain.marked(CHOSEN)  # a weight that knows the outcome
    if last in ("softmax", "log_softmax") and everything.has(VAL):
        return everything.plain.marked(PREDICTED)
    if last in SAME and isinstance(node.func, ast.Attribute):
        return held._replace(number=None)
    if (
        isinstance(node.func, ast.Attribute)
        and held.marks
        or name.startswith(("torch.", "np.", "F.", "numpy."))
        or name.partition(".")[0] in flow.modules
    ):
        return everything.plain
    is_model = last not in BUILTINS | OTHERS_OWN | flow.classes.keys()
    studied = [each for each in given if each.has(TRAIN)]
    tokens = [each for each in given if each.has(VAL)]
    if is_model and (width := max((each.width for each in studied), default=0)):
        flow.event("train width", node, frame, Value(number=width))
    if is_model and studied:
        flow.event("studied", node, frame, everything)
    if len(tokens) > 1 and last not in flow.classes and not tokens[-1].has(PREDICTED):  # model(x, y)
        return everything.plain.marked(GOLD)._replace(born=flow.time, golds=tokens[-1].keys)
    if tokens and not held.marks and last not in BUILTINS and last not in flow.classes:
        return everything.plain.marked(PREDICTED)  # model(x)
    return everything if len(given) == 1 else everything.plain


def _all_places(value: Value) -> Value:
    """What a list has of each place in turn: of all of them."""
    keys, gates, golds = (frozenset(map(whole, each)) for each in (value.keys, value.gates, value.golds))
    return value._replace(keys=keys, gates=gates, golds=golds)


def _shortened(flow: "Expressions", call: Call, given: Sequence[Value]) -> Value | None:
    """The stream of validation tokens cut to a length; None for other calls."""
    last, held, node, frame = call.last, call.held, call.node, call.frame
    if last == "narrow" and held.has(VAL) and STREAM in held.roots and len(given) > 2 and not frame.loops:
        if given[2].number is not None and given[2].number > 1000:
            flow.event("cut", node, frame, given[2])
        return held
    if last == "islice" and given and STREAM in given[0].roots and len(given) > 1:
        stop = given[1 if len(given) == 2 else 2]
        step = given[3] if len(given) > 3 else NOTHING
        if stop.number is not None:
            flow.event("cut", node, frame, stop, way="turns")
            return given[0].marked(FEW)
        if not step.set and (step.number or 0) > 1:  # that of the processes is set from outside
            flow.event("cut", node, frame, step, way="step")
        return given[0]
    return None


def _simple(flow: "Expressions", call: Call) -> Value | None:
    """What needs no look at the flow; None for others."""
    node, name, last, held, given, everything, _ = call
    if name == "getattr" and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
        flow.read.add(f".{node.args[1].value!s}")
        return flow.attributes.get(str(node.args[1].value), given[0])
    if last == "device":
        return NOTHING
    if last in ("to", "cuda", "cpu") and isinstance(node.func, ast.Attribute):
        return held
    if last in SIZES:
        mark = PIECE if everything.has(PIECE) else SIZE
        return Value(frozenset((mark,)), roots=everything.roots, gates=everything.gates)
    if last in ("state_dict", "named_parameters", "parameters"):
        return Value(frozenset((WEIGHTS,)))
    if last == "get_rank":
        return Value(frozenset((RANK,)))
    if last in CLOCKS and not given or last in CLOCKS and not everything.marks:
        return Value(frozenset((TIME,)))
    if last == "zip" and len(given) > 1:
        return everything.marked(ITEMS)._replace(parts=tuple(each._replace(parts=()) for each in given))
    if last in WALKED and given and given[0].parts:
        return given[0]
    if last in ("float", "int", "bool", "str") and len(given) == 1:
        return given[0]._replace(kind="str" if last == "str" else given[0].kind)
    if last in ("range", "enumerate", "count") and not everything.has(VAL):
        return everything.plain.marked(COUNTER)
    if last in ("min", "max") and any(each.number is not None for each in given):
        known = next(each for each in given if each.number is not None)
        few = last == "min" and everything.has(SIZE)
        marks = everything.marks - {SIZE} | {FEW} if few else everything.marks
        return everything._replace(number=known.number, set=known.set, marks=marks)
    return None


def _noted(flow: "Expressions", call: Call) -> None:
    """The events of a library's call."""
    node, name, last, held, given, everything, frame = call
    if last in COLLECTIVES and name != last and frame.alone:
        flow.event("alone", node, frame, way=str(frame.alone))
    if last in LEARNS or last in FITTED and everything.has(VAL):
        owner = next((each for each in reversed([*frame.owners.values()]) if each), "")
        owner = optimized_thing(node.args[1]) if last == "grad" and len(node.args) > 1 else owner
        if everything.has(VAL) or last in LEARNS:
            flow.event("train" if everything.has(VAL) else "fit", node, frame, everything, owner=owner)
    elif last in REDUCES and name != last and not name.startswith("functools."):
        flow.event("gather", node, frame, everything)
    elif last in WRITES and everything.has(WEIGHTS):
        buffers = [part for part, value in zip(node.args, given) if value.kind == BUFFER]
        if isinstance(node.func, ast.Attribute) and held.kind == BUFFER:
            buffers.append(node.func.value)
        for part in buffers:
            flow.put(part, everything.plain, frame)
        flow.event("write", node, frame, way="memory" if buffers or last == "dumps" else "file")
    elif last in LOADS:
        owner = "" if frame.began_alone and _is_made_here(flow, node, frame) else str(frame.alone or "")
        flow.event("load", node, frame, everything, owner=owner, way=last)
    elif last in ("broadcast", "broadcast_object_list"):
        flow.event("sent", node, frame)
    elif last == "destroy_process_group":
        flow.event("parted", node, frame)
    if (
        last in ("view", "reshape", "unfold")
        and given
        and (held.has(VAL) or held.has(TRAIN))
        and not held.has(GOLD)
    ):
        width = given[0 if last == "unfold" and len(given) > 1 else -1]
        if width.number is not None and width.number > 8:
            kind = "val width" if held.has(VAL) else "train width"
            flow.event(kind, node, frame, Value(number=width.number))
    if any(name.endswith(f".{each}") or last == each for each in SCATTERED) and everything.has(VAL):
        table = node.args[0] if name.endswith("add.at") and node.args else node.func
        owner = base_name(table, SCATTERED)
        tables = given[0].tables if name.endswith("add.at") and given else held.tables
        flow.event("count", node, frame, everything, owner=owner, tables=tables)


def _is_made_here(flow: "Expressions", node: ast.Call, frame: Frame) -> bool:
    """Whether what weights are loaded into was made in the same function, and so is no other's model."""
    function = flow.functions.get(frame.name)
    match node.func:
        case ast.Attribute(value=ast.Name(name)) if function is not None:
            return any(name in names_given(each) for each in nodes(function, ast.Assign))
    return False


def _scored(flow: "Expressions", call: Call) -> Value | None:
    """Scores of tokens, and what is mixed with them; None for other calls."""
    node, _, last, held, given, everything, frame = call
    if last == "logaddexp" and len(given) > 1:
        if put_together(given[0], given[1]):
            flow.event("share", node, frame, everything)
        for part in node.args:
            if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add):
                flow.weighed(node, flow.value(part.left, frame), flow.value(part.right, frame), frame)
    # Where one side is a constant, something is left out, and nothing mixed.
    both_say = len(given) == 3 and all(each.marks or each.keys for each in given[1:])
    if last == "where" and both_say and (given[1].has(GOLD) or given[2].has(GOLD)):
        flow.mixed(node, given[0], given[1] | given[2], frame, way="where")
    if last == "lerp" and len(given) > 1:
        flow.mixed(node, given[-1], everything, frame, way="lerp")
    stacked = next((each.parts for each in (held, *given) if len(each.parts) > 1), tuple(given[:2]))
    golds = [each for each in stacked if each.has(GOLD) and not each.has(SUM)]
    both = len(golds) == len(stacked)
    if (
        golds
        and len(stacked) > 1
        and last in BETTER
        and (both or last in PAIRED and all(each.marks for each in stacked))
    ):
        began = flow.turns[frame.loops[-1]].began if frame.loops else 0
        way = "one" if not both else "at once" if all(each.born > began for each in golds) else "later"
        flow.event("best", node, frame, everything, way=way)
    if last in ("einsum", "mul", "multiply", "sum", "bmm", "matmul") and everything.has(HOT, PREDICTED):
        return flow.picked(node, everything, next(each for each in (held, *given) if each.has(HOT)), frame)
    if last in LOSSES and everything.has(VAL):
        keywords = {each.arg: each.value for each in node.keywords}
        target = (
            flow.value(keywords["target"], frame)
            if "target" in keywords
            else given[1]
            if len(given) > 1
            else NOTHING
        )
        logits = (
            flow.value(keywords["input"], frame) if "input" in keywords else given[0] if given else NOTHING
        )
        leaks = meeting(logits.gates | logits.keys, target.keys)
        if leaks and target.has(VAL):
            way = "counted" if logits.has(COUNTED) else "table" if leaks & logits.gates else "key"
            flow.event("leak", node, frame, logits._replace(keys=leaks), way=way)
        padded = target.has(PADDED) and "ignore_index" not in keywords
        way = "each" if _is_by_token(keywords) else "mean" if "reduction" not in keywords else "sum"
        marks = {GOLD} | ({AVERAGED} if way == "mean" else set())
        gold = everything.plain.marked(*marks, *((FILLED,) if padded else ()))
        return gold._replace(born=flow.time, golds=target.keys, keys=logits.keys | target.keys)
    if last in TAKEN and everything.has(VAL):
        where = next(
            (each for each in (*reversed(given), held) if each.has(VAL) and not each.has(GOLD)), NOTHING
        )
        source = (
            held if isinstance(node.func, ast.Attribute) and held.marks else (given[0] if given else NOTHING)
        )
        return flow.picked(node, source, where, frame) | everything.plain
    return None


def _is_by_token(keywords: dict[str | None, ast.expr]) -> bool:
    given = keywords.get("reduction")
    return isinstance(given, ast.Constant) and given.value == "none"


def put_together(left: Value, right: Value) -> bool:
    """Whether one of both is a score by bytes, and the other something else that is no number."""
    other = right if left.has("share") else left
    return left.has("share") != right.has("share") and other.number is None and not other.has(SUM)
