"""The stages of a script and their order: clocks, schedules, averages, saving, loading, evaluation."""

import ast
import math
from collections.abc import Iterator

from bitgolf.audit.finding import FOUND, SUSPECTED, Finding
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import called, calls, last_called, names_in, nodes, number
from bitgolf.audit.values import COUNTER, TIME, VAL, Event, common, kinds

LEAST_LEFT = 0.1  # of the start in an average, that is worth a word


def _names(node: ast.AST) -> set[str]:
    return names_in(node) | {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}


def _place(node: ast.AST) -> tuple[int, int]:
    """Line and column: packed scripts have many statements on a line."""
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def _end(node: ast.stmt) -> tuple[int, int]:
    return node.end_lineno or 0, node.end_col_offset or 0


def clock_set_back(script: Script) -> Iterator[Finding]:
    """K08: what was trained before is not on the clock, and its weights are kept."""
    for function in [*functions(script), script.inner.tree]:
        own = [*_own_nodes(function)]
        starts: dict[str, list[tuple[int, int]]] = {}
        for node in own:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _is_clock(node.value):
                for target in node.targets:
                    starts.setdefault(ast.unparse(target), []).append(_place(node))
        steps = sorted(_place(node) for node in own if _trains(script, node))
        undone = [_place(node) for node in own if last_called(node) in ("load_state_dict", "copy_")]
        for name, places in starts.items():
            for first, again in zip(sorted(places), sorted(places)[1:]):
                turns = [
                    (_place(node), _end(node))
                    for node in own
                    if isinstance(node, ast.For | ast.While) and first < _place(node) <= again <= _end(node)
                ]
                between = [
                    place
                    for place in steps
                    if first < place < again or any(begin <= place <= end for begin, end in turns)
                ]
                used = [
                    node
                    for node in own
                    if isinstance(node, ast.AugAssign | ast.Assign)
                    and first < _place(node) < again
                    and name in ast.unparse(node.value)
                    and not _is_clock(node.value)
                ]
                if (
                    between
                    and not used
                    and not any(between[0] < place for place in undone if place[0] <= again[0] + 1)
                ):
                    yield script.finding(
                        "K08",
                        again[0],
                        f"the clock starts again after training (line {between[0][0]}); its weights are kept",
                    )


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions inside it."""
    waiting = [*ast.iter_child_nodes(function)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def _is_clock(node: ast.AST) -> bool:
    return (
        last_called(node) in ("time", "perf_counter", "monotonic")
        and isinstance(node, ast.Call)
        and not node.args
    )


def _trains(script: Script, node: ast.AST) -> bool:
    """An optimizer's step, here or in a function that is called."""
    if not isinstance(node, ast.Call):
        return False
    if last_called(node) == "step" and not node.args:
        return True
    inner = script.flow.functions.get(last_called(node))
    return inner is not None and any(
        last_called(each) == "step" and isinstance(each, ast.Call) and not each.args
        for each in ast.walk(inner)
    )


def schedule_by_steps(script: Script) -> Iterator[Finding]:
    """T15: the rate falls by planned steps, while the clock ends the training."""
    rates = [event for event in kinds(script.events, "lr") if event.value.has(COUNTER)]
    stops = [each for each in kinds(script.events, "stop") if any(common(each, rate) for rate in rates)]
    if stops and rates and not any(event.value.has(TIME) for event in kinds(script.events, "lr")):
        yield script.finding(
            "T15",
            rates[0],
            f"the rate follows planned steps, and the clock ends the training ({script.line(stops[0].line)})",
        )


def not_loaded_again(script: Script) -> Iterator[Finding]:
    """T13: what is scored at the end was not read from what was packed."""
    events = script.events
    writes = [event for event in kinds(events, "write") if not event.off]
    if not writes:
        return
    fitted = [event for event in events if event.kind in ("fit", "train")]
    scores = [event for event in kinds(events, "score") if event.value.has(VAL)]
    last = max((event.time for event in writes), default=0)
    if not scores or not fitted:
        return
    after = [event for event in scores if event.time > last]
    loads = [event for event in kinds(events, "load") if event.time > last]
    if after and not any(event.time <= after[-1].time for event in loads):
        yield script.finding(
            "T13",
            after[-1],
            f"scored are the weights in memory, not those that were written ({script.line(writes[-1].line)})",
        )
    elif not after and not any(common(event, each) for event in writes for each in scores):
        yield script.finding("T13", writes[-1], "what was packed is never scored")


def scored_before_saved(script: Script) -> Iterator[Finding]:
    """T19: a long evaluation stands between the training and the first save."""
    events = script.events
    fits = [event for event in kinds(events, "fit") if event.loops]
    writes = [event for event in kinds(events, "write") if not event.off]
    if not fits or not writes:
        return
    trained = max(fits, key=lambda event: event.time)
    saved = min(writes, key=lambda event: event.time)
    between = [
        event
        for event in kinds(events, "score")
        if trained.time < event.time < saved.time
        and event.loops[:1] != trained.loops[:1]
        and event.value.has(VAL)
        and not event.off
    ]
    if between:
        yield script.finding(
            "T19", between[0], f"the model is scored before it is saved ({script.line(saved.line)})"
        )


def average_of_the_start(script: Script) -> Iterator[Finding]:
    """T02, T03: averages that still hold their start, or begin while the rate is high."""
    for function in [*functions(script), script.inner.tree]:
        for loop in nodes(function, ast.For):
            steps = _count_of(loop)
            if not steps or not any(_trains(script, node) for node in ast.walk(loop)):
                continue
            for node in ast.walk(loop):
                decay = _decay(node)
                if decay and decay**steps > LEAST_LEFT and not _corrects(function):
                    yield script.finding(
                        "T02",
                        node,
                        f"after {steps:,} steps an average of decay {decay:g} still holds "
                        f"{100 * decay**steps:.0f}% of its start",
                    )
                    break


def _count_of(loop: ast.For) -> int:
    """How many turns a loop has, where it says so."""
    node = loop.iter
    if isinstance(node, ast.Call) and called(node) == "range" and node.args:
        end = node.args[0] if len(node.args) == 1 else node.args[1]
        if isinstance(end, ast.Constant) and isinstance(end.value, int):
            return end.value
    return 0


def _decay(node: ast.AST) -> float:
    """The decay of `average * d + weights * (1 - d)` in its usual forms; 0 for anything else."""
    numbers: list[float] = []
    if isinstance(node, ast.Call) and last_called(node) in ("lerp_", "lerp", "mul_"):
        for each in (*node.args, *(word.value for word in node.keywords)):
            found = _number(each)
            if found is not None:
                numbers.append(1 - found if last_called(node).startswith("lerp") else found)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for side in (node.left, node.right):
            if isinstance(side, ast.BinOp) and isinstance(side.op, ast.Mult):
                numbers += [found for each in (side.left, side.right) if (found := _number(each)) is not None]
        if len(numbers) != 2 or not math.isclose(sum(numbers), 1, abs_tol=1e-6):
            numbers = []
    found = max((each for each in numbers if 0.9 <= each < 1), default=0.0)
    return found


def _number(node: ast.expr) -> float | None:
    """A number that is written out, `1 - 0.997` too."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        left, right = _number(node.left), _number(node.right)
        return left - right if left is not None and right is not None else None
    return number(node)


def _corrects(function: ast.AST) -> bool:
    """Whether a power of the decay is taken somewhere: the usual correction."""
    return any(
        isinstance(node.op, ast.Sub)
        and isinstance(node.right, ast.BinOp)
        and isinstance(node.right.op, ast.Pow)
        for node in nodes(function, ast.BinOp)
    )


def averaged_too_early(script: Script) -> Iterator[Finding]:
    """T03: the share of steps at which averaging begins against that at which the rate begins to fall."""
    tree = script.inner.tree
    averaging, falling = [], []
    for node in nodes(tree, ast.If):
        if (share := _share(node)) is None:
            continue
        inside = [each for statement in node.body for each in ast.walk(statement)]
        if any(_sums_weights(script, each) for each in inside):
            averaging.append((share, node))
        elif any(isinstance(each, ast.Return | ast.Assign) for each in node.body):
            falling.append(share)
    falling += [share for node in nodes(tree, ast.IfExp) if (share := _share(node)) is not None]
    for share, node in averaging:
        later = [each for each in falling if each > share + 0.05]
        if later and not any(each <= share + 0.05 for each in falling):
            yield script.finding(
                "T03",
                node,
                f"averaging begins at {100 * share:.0f}% of the steps, the rate at {100 * min(later):.0f}%",
            )


def _share(node: ast.If | ast.IfExp) -> float | None:
    """The number s of a test like `step >= s * steps` or `step / steps > s`."""
    test = node.test
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1):
        return None
    if not isinstance(test.ops[0], ast.Gt | ast.GtE | ast.Lt | ast.LtE):
        return None
    for side in (test.left, *test.comparators):
        for each in ast.walk(side):
            if isinstance(each, ast.Constant) and isinstance(each.value, float) and 0 < each.value < 1:
                other = test.comparators[0] if side is test.left else test.left
                scaled = isinstance(side, ast.BinOp) or isinstance(other, ast.BinOp | ast.Name)
                return each.value if scaled else None
    return None


def _sums_weights(script: Script, node: ast.AST) -> bool:
    """Whether weights are added into an average here, or in a function that is called."""
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        return isinstance(node.target, ast.Subscript) and (bool(_names(node.value)))
    if last_called(node) in ("add_", "lerp_", "update_parameters") and isinstance(node, ast.Call):
        return True
    inner = script.flow.functions.get(last_called(node)) if isinstance(node, ast.Call) else None
    return (
        inner is not None
        and any(
            isinstance(each, ast.AugAssign)
            and isinstance(each.op, ast.Add)
            and isinstance(each.target, ast.Subscript)
            or last_called(each) in ("add_", "lerp_")
            for each in ast.walk(inner)
        )
        and any("state_dict" in called(each) or "parameters" in called(each) for each in ast.walk(inner))
    )


def frozen_training(script: Script) -> Iterator[Finding]:
    """T16: training where no gradient is kept."""
    for node in ast.walk(script.inner.tree):
        without = _without_gradient(node)
        if without is None:
            continue
        for each in without:
            inside = [*_outside_enabled(each)]
            trained = [one for one in inside if last_called(one) == "backward" or _learns(script, one)]
            if trained:
                yield script.finding(
                    "T16",
                    trained[0],
                    "a backward pass where no gradients are kept",
                    sure=FOUND if last_called(trained[0]) == "backward" else SUSPECTED,
                )
                break


def _without_gradient(node: ast.AST) -> list[ast.stmt] | None:
    """The statements under `no_grad` or `inference_mode`."""
    if isinstance(node, ast.With):
        texts = [ast.unparse(item.context_expr) for item in node.items]
    elif isinstance(node, ast.FunctionDef):
        texts = [ast.unparse(each) for each in node.decorator_list]
    else:
        return None
    hit = any("no_grad" in text or "inference_mode" in text and "False" not in text for text in texts)
    return node.body if hit else None


def _outside_enabled(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that no `enable_grad` is around."""
    if isinstance(node, ast.With) and any(
        "enable_grad" in ast.unparse(item.context_expr)
        or "inference_mode(False)" in ast.unparse(item.context_expr)
        for item in node.items
    ):
        return
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _outside_enabled(child)


def _learns(script: Script, node: ast.AST) -> bool:
    """A call of an own function, plainly by its name, that runs a backward pass."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return False
    inner = script.flow.functions.get(node.func.id)
    if inner is None:
        return False
    return any(
        last_called(each) == "backward" for statement in inner.body for each in _outside_enabled(statement)
    ) and not any("enable_grad" in ast.unparse(each) for each in inner.decorator_list)


def unaveraged_gradients(script: Script) -> Iterator[Finding]:
    """T18: each process adapts to its own share, and nobody averages."""
    gathers = [*kinds(script.events, "gather")]
    wrapped = any(calls(script.inner.tree, "DistributedDataParallel", "DDP", "fully_shard"))
    for train in kinds(script.events, "train"):
        ranked = "rank" in train.value.marks
        if (
            ranked
            and not wrapped
            and not any(common(each, train) for each in gathers)
            and _shared(script, train)
        ):
            yield script.finding(
                "T18", train, "each process adapts its own copy of the model to its own share"
            )
            return


def _shared(script: Script, train: Event) -> bool:
    """Whether later chunks are scored with what was learned: a copy for each document is no shared model."""
    return not any(event.time < train.time and common(event, train) for event in kinds(script.events, "load"))


def unchecked_runs(script: Script) -> Iterator[Finding]:
    """T21: options that nobody knows are swallowed; a program that fails is not noticed."""
    tree = script.inner.tree
    for node in ast.walk(tree):
        if last_called(node) == "parse_known_args":
            uses = [each for each in ast.walk(tree) if isinstance(each, ast.If | ast.Raise | ast.Assert)]
            taken = _second_name(tree, node)
            if not taken or taken == "_" or not any(taken in _names(each) for each in uses):
                yield script.finding("T21", node, "options that nobody knows are passed over")
        elif called(node) in ("subprocess.run", "subprocess.call", "os.system") and isinstance(
            node, ast.Call
        ):
            words = {each.arg: each.value for each in node.keywords}
            checked = "check" in words and ast.unparse(words["check"]) == "True"
            text = ast.unparse(node)
            starts = any(word in text for word in ("torchrun", "train", "sys.executable", ".py"))
            if starts and not checked and _is_dropped(tree, node):
                yield script.finding(
                    "T21", node, f"{called(node)} starts a run, and nobody looks whether it failed"
                )


def _second_name(tree: ast.Module, node: ast.AST) -> str:
    for each in nodes(tree, ast.Assign):
        if each.value is node and isinstance(each.targets[0], ast.Tuple):
            return ast.unparse(each.targets[0].elts[-1])
    return ""


def _is_dropped(tree: ast.Module, node: ast.Call) -> bool:
    """Whether what a call gives back is not kept."""
    return any(each.value is node for each in nodes(tree, ast.Expr))


def own_card_only(script: Script) -> Iterator[Finding]:
    """T20: kernels that a card or a version may not have, without another way."""
    guarded = {
        id(inner)
        for node in ast.walk(script.inner.tree)
        if isinstance(node, ast.Try | ast.If | ast.IfExp)
        for inner in ast.walk(node)
    }
    for node in ast.walk(script.inner.tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [each.name for each in node.names]
            )
            hit = next((name for name in names if name.partition(".")[0] in KERNELS), "")
            if hit:
                yield script.finding(
                    "T20", node, f"{hit} is needed, and nothing stands in where it is missing"
                )
        elif (
            isinstance(node, ast.keyword)
            and node.arg == "enable_gqa"
            and not (isinstance(node.value, ast.Constant) and node.value.value is False)
            and not _asks_version(script)
        ):
            yield script.finding("T20", node.value, "enable_gqa is not there before torch 2.5")


def _asks_version(script: Script) -> bool:
    return any(
        "version" in ast.unparse(node.test)
        for node in [*nodes(script.inner.tree, ast.If, ast.IfExp), *nodes(script.inner.tree, ast.Assert)]
    )


KERNELS = {
    "flash_attn",
    "flash_attn_interface",
    "flash_attn_3",
    "xformers",
    "transformer_engine",
    "cut_cross_entropy",
}

CHECKS = (
    clock_set_back,
    schedule_by_steps,
    not_loaded_again,
    scored_before_saved,
    average_of_the_start,
    averaged_too_early,
    frozen_training,
    unaveraged_gradients,
    unchecked_runs,
    own_card_only,
)
COVERED = frozenset("K08 T02 T03 T13 T15 T16 T18 T19 T20 T21".split())
