"""The stages of a script and their order: clocks, schedules, averages, saving, loading, evaluation."""

import ast
import itertools
import math
from collections.abc import Collection, Iterator, Mapping

from bitgolf.audit.finding import FOUND, SUSPECTED, Finding
from bitgolf.audit.library import COLLECTIVES
from bitgolf.audit.one_tensor import Interpreter
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import (
    arithmetic,
    called,
    calls,
    contexts,
    imported,
    last_called,
    lines_of,
    names_given,
    names_in,
    nodes,
    own_nodes,
    within,
)
from bitgolf.audit.values import COUNTER, FILED, RANK, TIME, TRAIN, VAL, WEIGHTS, Event, common

GIVES = (ast.Return, ast.Assign)
BY_STEPS = (
    "LambdaLR",
    "LinearLR",
    "CosineAnnealingLR",
    "OneCycleLR",
    "PolynomialLR",
    "CosineAnnealingWarmRestarts",
)
RUNS = ("subprocess.run", "subprocess.call", "os.system")
MOST_TURNS = 10**9  # of a loop, that anybody would wait for
LEAST_LEFT = 0.1  # of the start in an average, that is worth a word
KERNELS = {"flash_attn", "flash_attn_interface", "flash_attn_3", "xformers", "transformer_engine"}
KERNELS |= {"cut_cross_entropy"}
Place = tuple[int, int]


def _place(node: ast.AST) -> Place:
    """Line and column: packed scripts have many statements on a line."""
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def _end(node: ast.stmt) -> Place:
    return node.end_lineno or 0, node.end_col_offset or 0


def clock_set_back(script: Script) -> Iterator[Finding]:
    """K08: what was trained before is not on the clock, and its weights are kept."""
    adapting = {event.inside for event in script.of("train", VAL)}
    for function in [*functions(script), script.tree]:
        own = [*own_nodes(function)]
        starts: dict[str, list[ast.stmt]] = {}
        for node in (each for each in own if isinstance(each, ast.stmt)):
            for name in _starts_clock(script, node):
                starts.setdefault(name, []).append(node)
        steps = sorted(_place(node) for node in own if _trains(script, node, adapting))
        undone = [_place(node) for node in own if last_called(node) in ("load_state_dict", "copy_")]
        loops = [node for node in own if isinstance(node, ast.For | ast.While)]
        for name, nodes_of in starts.items():
            for first, again in [
                *itertools.pairwise(sorted(nodes_of, key=_place)),
                *_set_in_turn(nodes_of, loops),
            ]:
                begin, end = _place(first), _place(again)
                turns = [
                    (_place(loop), _end(loop))
                    for loop in loops
                    if (begin < _place(loop) or first is again) and _place(loop) <= end <= _end(loop)
                ]
                between = [
                    line
                    for line in steps
                    if begin < line < end or any(low <= line <= high for low, high in turns)
                ]
                lows = [begin, *(low for low, _ in turns)]
                used = any(
                    min(lows) < _place(node) < end and name in ast.unparse(node.value)
                    for node in own
                    if isinstance(node, ast.AugAssign if first is again else ast.AugAssign | ast.Assign)
                    and not _is_clock(node.value)
                    and not (
                        isinstance(node, ast.AugAssign) and ast.unparse(node.target) in _zeroed(own, again)
                    )
                )
                goes_on = any(line > end for line in steps) or bool(turns)
                others = any(_is_counted(own, other) for other in starts if other != name)
                if not between or used or not goes_on or others and not _is_counted(own, name):
                    continue  # the time of some steps may be printed beside the whole
                if not any(between[0] < line for line in undone if line[0] <= end[0] + 1):
                    message = f"the clock starts again after training (line {between[0][0]})"
                    yield script.finding("K08", end[0], f"{message}; its weights are kept")


def _zeroed(own: list[ast.AST], beside: ast.stmt) -> set[str]:
    """What begins at a number again, in a statement or one beside it: sums of times with their clock."""
    pairs: list[tuple[ast.expr, ast.expr]] = []
    for node in (
        each for each in own if isinstance(each, ast.Assign) and abs(each.lineno - beside.lineno) < 3
    ):
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=given)):
                pairs += zip(names, given)
            case _:
                pairs += ((target, node.value) for target in node.targets)
    return {ast.unparse(name) for name, given in pairs if arithmetic(given) is not None}


def _is_counted(own: list[ast.AST], name: str) -> bool:
    """Whether a clock is read for more than a line that is printed."""
    kept = [
        node.value
        for node in own
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Return)
        and node.value
        and not _is_clock(node.value)
    ]
    tests = [node.test for node in own if isinstance(node, ast.If | ast.While | ast.IfExp)]
    return any(name in ast.unparse(each) for each in (*kept, *tests))


def _set_in_turn(starts: list[ast.stmt], loops: list[ast.For | ast.While]) -> list[tuple[ast.stmt, ast.stmt]]:
    """Starts under a condition in a loop: they come again and again, or late."""
    return [
        (start, start)
        for start in starts
        for loop in loops
        for branch in nodes(loop, ast.If)
        if any(start is each for each in branch.body)
    ]


def _starts_clock(script: Script, node: ast.AST) -> list[str]:
    """What is given the time of a clock: by name, or an object whose method notes it."""
    match node:
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=given)):
            return [ast.unparse(name) for name, each in zip(names, given) if _is_clock(each)]
        case ast.Assign():
            inner = script.flow.methods.get((last_called(node.value), "__init__"))
            if _is_clock(node.value) or inner is not None and _notes_clock(script, inner):
                return [ast.unparse(target) for target in node.targets]
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=held, attr=name))):
            if any(
                _notes_clock(script, each)
                for each in script.flow.called_so.get(name, ())
                if name != "__init__"
            ):
                return [ast.unparse(held)]
    return []


def _notes_clock(script: Script, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a method keeps the time of a clock as an attribute, itself or by another method."""
    for node in function.body:
        match node:
            case ast.Assign(targets=[ast.Attribute()], value=value) if _is_clock(value):
                return True
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name("self"), attr=name))):
                inner = script.flow.methods.get((script.flow.owner.get(id(function), ""), name))
                if inner is not None and inner is not function and _notes_clock(script, inner):
                    return True
    return False


def _is_clock(node: ast.AST) -> bool:
    return last_called(node) in ("time", "perf_counter", "monotonic") and not getattr(node, "args", ())


def _trains(script: Script, node: ast.AST, adapting: Collection[str] = ()) -> bool:
    """An optimizer's step, here or in a function that is called; adapting: those that do not count."""
    inner = script.flow.functions.get(last_called(node))
    if inner is not None and inner.name in adapting:
        return False
    parts = [node] if inner is None else [node, *ast.walk(inner)]
    return any(last_called(each) == "step" and not getattr(each, "args", ()) for each in parts)


def no_clock_ends_it(script: Script) -> Iterator[Finding]:
    """K07: a clock is read while training, and the number of steps alone ends it."""
    fits = [event for event in script.of("fit") if event.loops]
    stops = [each for each in script.of("stop") if any(common(each, fit) for fit in fits)]
    rates = [each for each in script.of("lr", TIME) if any(common(each, fit) for fit in fits)]
    turned = {id(each) for loop in nodes(script.tree, ast.While) for each in ast.walk(loop.test)}
    tested = any(
        last_called(each) in ("time", "perf_counter", "monotonic")
        for each in nodes(script.tree, ast.Call)
        if id(each) in turned
    )
    if fits and rates and not stops and not tested and script.of("score", VAL):
        message = "the rate follows the clock, and the number of steps alone ends the training"
        yield script.finding("K07", rates[0], message)


def late_calibration(script: Script) -> Iterator[Finding]:
    """K09: training data is read for the packing after a training that took the whole budget."""
    fits, writes = script.of("fit"), [event.time for event in script.of("write")]
    if not fits or not writes or not script.of("stop"):
        return
    last = fits[-1]
    after = [
        event
        for event in script.of("studied", TRAIN)
        if last.time < event.time < max(writes) and not common(event, last) and not event.off
    ]
    known = Interpreter(script)
    scopes = [*functions(script), script.tree]
    lowered = {  # by what is kept for it
        ast.unparse(node.target) for node in nodes(script.tree, ast.AugAssign) if isinstance(node.op, ast.Sub)
    }
    limits = [
        value
        for scope in scopes
        if any(event.line in lines_of(scope) for event in script.of("stop")) or scope is script.tree
        for test in own_nodes(scope)
        if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Gt | ast.GtE)
        if ast.unparse(test.comparators[0]) not in lowered
        if isinstance(value := known.value(test.comparators[0], known.given(scope)), int | float)
    ]
    if after and any(low <= value <= 1.1 * low for value in limits for low in (ALL_OF_IT, 1000 * ALL_OF_IT)):
        message = "training data is read again after the training, which has the whole budget"
        yield script.finding("K09", after[0], message, "time kept for it inside the budget")


ALL_OF_IT = 597.0  # seconds of training that leave nothing of the challenge's 600


def schedule_by_steps(script: Script) -> Iterator[Finding]:
    """T15: the rate falls by planned steps, while the clock ends the training."""
    rates = script.of("lr", COUNTER)
    stops = [each for each in script.of("stop") if any(common(each, rate) for rate in rates)]
    plans = [*calls(script.tree, *BY_STEPS)]
    if plans and script.of("stop") and not script.of("lr") and any(calls(script.tree, "backward")):
        message = f"{last_called(plans[0])} follows planned steps, and the clock ends the training"
        yield script.finding("T15", plans[0], f"{message} ({script.line(script.of('stop')[0].line)})")
    if stops and not script.of("lr", TIME):
        message = "the rate follows planned steps, and the clock ends the training"
        yield script.finding("T15", rates[0], f"{message} ({script.line(stops[0].line)})")


def not_loaded_again(script: Script) -> Iterator[Finding]:
    """T13: what is scored at the end was not read from what was packed."""
    writes = [event for event in script.of("write") if not event.off]
    scores = script.of("score", VAL)
    if not writes or not scores or not (script.of("fit") or script.of("train")):
        return
    last = max(event.time for event in writes)
    after = [event for event in scores if event.time > last]
    if not after:
        if not any(common(event, each) for event in writes for each in scores):
            yield script.finding("T13", writes[-1], "what was packed is never scored")
    elif not any(last < event.time <= after[-1].time and _from_file(event) for event in script.of("load")):
        message = "scored are the weights in memory, not those that were written"
        yield script.finding("T13", after[-1], f"{message} ({script.line(writes[-1].line)})")


def _from_file(load: Event) -> bool:
    """Whether what is loaded may come out of a file: not, if it is a state dict of this process alone."""
    return FILED in load.value.marks or WEIGHTS not in load.value.marks


def scored_before_saved(script: Script) -> Iterator[Finding]:
    """T19: a long evaluation stands between the training and the first save."""
    fits = [event for event in script.of("fit") if event.loops]
    writes = [event for event in script.of("write") if not event.off]
    writes = [event for event in writes if event.way == "file"] or writes  # what is packed may be lost
    if not fits or not writes:
        return
    trained = max(fits, key=lambda event: event.time)
    saved = min(writes, key=lambda event: event.time)
    turns = script.flow.turns
    function = script.flow.functions.get(turns[trained.loops[0]].inside)
    by_turns = function is not None and any(nodes(function, ast.Yield))
    for score in script.of("score", VAL):
        between = trained.time < score.time < saved.time and score.loops[:1] != trained.loops[:1]
        # Of a generator the steps are made one by one in the loop around a score, which is over no tokens.
        in_turn = by_turns and score.loops and not turns[score.loops[0]].over_tokens
        if between and not in_turn and not score.off:
            message = f"the model is scored before it is saved ({script.line(saved.line)})"
            yield script.finding("T19", score, message)
            return


def average_of_the_start(script: Script) -> Iterator[Finding]:
    """T02: averages that still hold their start."""
    numbers = script.numbers
    for function in [*functions(script), script.tree]:
        for loop in nodes(function, ast.For, ast.While):
            steps = _count_of(loop, numbers)
            if not steps or _corrects(function) or not any(_trains(script, node) for node in ast.walk(loop)):
                continue
            late = {id(each) for node in nodes(loop, ast.If) for each in within(node.body)}
            own = [node for node in ast.walk(loop) if id(node) not in late]
            helpers = [script.flow.functions.get(last_called(node)) for node in own]
            updates = [
                each for helper in helpers if helper and helper.name != "step" for each in ast.walk(helper)
            ]
            for node in [*ast.walk(loop), *updates]:
                if (left := (decay := _decay(node, numbers)) ** steps) > LEAST_LEFT:
                    message = f"after {steps:,} steps an average of decay {decay:g} still holds "
                    yield script.finding("T02", node, f"{message}{100 * left:.0f}% of its start")
                    break


def _count_of(loop: ast.For | ast.While, numbers: Mapping[str, float]) -> int:
    """How many turns a loop has at most, where it says so: by its range, or by a test that leaves it."""
    ends: list[ast.expr] = []
    if isinstance(loop, ast.For):
        match loop.iter:
            case ast.Call(func=ast.Name("range"), args=[last] | [_, last, *_]):
                ends.append(last)
    else:
        leaves = [each.test for each in nodes(loop, ast.If) if isinstance(each.body[-1], ast.Break)]
        goes_on = [each.comparators[0] for each in nodes(loop.test, ast.Compare) if _is_less(each, True)]
        ends += [
            each.comparators[0]
            for test in leaves
            for each in nodes(test, ast.Compare)
            if _is_less(each, False)
        ]
        ends += goes_on
    turns = [each for last in ends if (each := arithmetic(last, numbers) or 0) > 1]
    return int(min(*turns, MOST_TURNS)) if turns else 0


def _is_less(test: ast.Compare, wanted: bool) -> bool:
    return isinstance(test.ops[0], ast.Lt | ast.LtE if wanted else ast.Gt | ast.GtE | ast.Eq)


def _decay(node: ast.AST, known: Mapping[str, float]) -> float:
    """The decay of `average * d + weights * (1 - d)` in its usual forms; 0 for anything else."""
    numbers: list[float] = []
    if isinstance(node, ast.Call) and last_called(node) in ("lerp_", "lerp", "mul_"):
        given = _known(known, *node.args, *(word.value for word in node.keywords))
        numbers = given if last_called(node) == "mul_" else [1 - each for each in given]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for side in (node.left, node.right):
            if isinstance(side, ast.BinOp) and isinstance(side.op, ast.Mult):
                numbers += _known(known, side.left, side.right)
        if len(numbers) != 2 or not math.isclose(sum(numbers), 1, abs_tol=1e-6):
            return 0.0
    return max((each for each in numbers if 0.9 <= each < 1), default=0.0)


def _known(known: Mapping[str, float], *parts: ast.expr) -> list[float]:
    return [value for each in parts if (value := arithmetic(each, known)) is not None]


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
    averaging, falling = [], []
    for node in nodes(script.tree, ast.If, ast.IfExp):
        if (share := _share(node.test)) is None:
            continue
        if isinstance(node, ast.If) and any(_sums_weights(script, each) for each in within(node.body)):
            if (begin := _share(node.test, from_it_on=True)) is not None:
                averaging.append((begin, node))
        elif isinstance(node, ast.IfExp) or any(isinstance(each, GIVES) for each in node.body):
            falling.append(share)
    known = Interpreter(script)
    falling += [1 - width for node in nodes(script.tree, ast.BinOp) if (width := _cool_down(node, known))]
    for share, node in averaging:
        begins = f"averaging begins at {100 * share:.0f}% of the steps"
        if falling and min(falling) > share + 0.05:
            yield script.finding("T03", node, f"{begins}, the rate at {100 * min(falling):.0f}%")
        elif not falling and share < HALF:
            yield script.finding("T03", node, f"{begins}; nothing says that the rate falls so early")


HALF = 0.5  # of the steps: public rates fall in the last part


def _cool_down(node: ast.BinOp, known: Interpreter) -> float:
    """The width w of `(1 - share) / w`, by which the rate falls at the end; 0 of anything else."""
    match node:
        case ast.BinOp(op=ast.Div(), left=ast.BinOp(left=ast.Constant(1 | 1.0), op=ast.Sub()), right=width):
            value = known.value(width, {})
            return value if isinstance(value, float) and 0 < value < 1 else 0.0
    return 0.0


def _share(test: ast.expr, from_it_on: bool = False) -> float | None:
    """The number s of a test like `step >= s * steps` or `step / steps > s`, alone or among others.

    from_it_on: only of one that holds from there on.
    """
    match test:
        case ast.BoolOp():
            shares = (_share(each, from_it_on) for each in test.values)
            return next((share for share in shares if share is not None), None)
        case ast.Compare(left=left, ops=[ast.Gt() | ast.GtE() | ast.Lt() | ast.LtE()], comparators=[right]):
            sides = [(left, right), (right, left)]
            if from_it_on:
                sides = sides[1:] if isinstance(test.ops[0], ast.Gt | ast.GtE) else sides[:1]
            for side, other in sides:
                for each in nodes(side, ast.Constant):
                    if isinstance(each.value, float) and 0 < each.value < 1:
                        scaled = isinstance(side, ast.BinOp) or isinstance(other, ast.BinOp | ast.Name)
                        return each.value if scaled else None
    return None


def _sums_weights(script: Script, node: ast.AST) -> bool:
    """Whether weights are added into an average here, or in a function that is called."""
    if _adds_in_place(node) or last_called(node) == "update_parameters":
        return True
    inner = script.flow.functions.get(last_called(node))
    if inner is None or not any(map(_adds_in_place, ast.walk(inner))):
        return False
    return any("state_dict" in called(each) or "parameters" in called(each) for each in ast.walk(inner))


def _adds_in_place(node: ast.AST) -> bool:
    """Into a place, as one of many: of an average with a decay it does not matter when it begins."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        sums = [each for each in nodes(node.value, ast.BinOp) if isinstance(each.op, ast.Add)]
        place = ast.unparse(node.targets[0])
        return any(place in (ast.unparse(each.left), ast.unparse(each.right)) for each in sums)
    if isinstance(node, ast.AugAssign):
        named = bool(names_in(node.value))  # a count goes up by a number
        return named and isinstance(node.op, ast.Add) and isinstance(node.target, ast.Subscript)
    return last_called(node) in ("add_", "lerp_")


def frozen_training(script: Script) -> Iterator[Finding]:
    """T16: training where no gradient is kept."""
    for node in nodes(script.tree, ast.With, ast.FunctionDef):
        off = [each for each in node.body if ast.unparse(each).endswith("set_grad_enabled(False)")]
        on = any("enabled(True)" in ast.unparse(each) for each in node.body)
        if not _has(node, "no_grad", "inference_mode") and (not off or on):
            continue
        enabled = _given_enabled(node)
        for each in (inner for statement in node.body for inner in _outside_enabled(statement)):
            of_graph = last_called(each) == "backward" and not names_in(each) & enabled
            if of_graph or _learns(script, each):
                sure = FOUND if last_called(each) == "backward" else SUSPECTED
                message = "a backward pass where no gradients are kept"
                yield script.finding("T16", each, message, sure=sure)
                break


def _given_enabled(node: ast.With | ast.FunctionDef) -> set[str]:
    """The names that are given a value where gradients are kept again: a backward pass of those is none."""
    return {
        name
        for block in nodes(node, ast.With)
        if "enable_grad" in " ".join(map(ast.unparse, contexts(block)))
        for each in nodes(block, ast.Assign)
        for name in names_given(each)
    }


def _has(node: ast.With | ast.FunctionDef, *phrases: str) -> bool:
    """Whether one of these is around a block, as a context or a decorator, and not turned off."""
    kept = node.decorator_list if isinstance(node, ast.FunctionDef) else contexts(node)
    texts = [text for each in kept if "False" not in (text := ast.unparse(each))]
    return any(word in text for text in texts for word in phrases)


def _outside_enabled(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that no `enable_grad` is around."""
    if isinstance(node, ast.With):
        kept = " ".join(map(ast.unparse, contexts(node)))
        if "enable_grad" in kept or "inference_mode(False)" in kept:
            return
    if not isinstance(node, ast.FunctionDef | ast.Lambda):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _outside_enabled(child)


def _learns(script: Script, node: ast.AST) -> bool:
    """A call of an own function or method, the only one of its name, that runs a backward pass."""
    own = script.flow.called_so.get(last_called(node), []) if called(node).count(".") < 2 else []
    inner = own[0] if len(own) == 1 else None
    return (
        isinstance(inner, ast.FunctionDef)
        and not _has(inner, "enable_grad")
        and any(last_called(each) == "backward" for part in inner.body for each in _outside_enabled(part))
    )


def unaveraged_gradients(script: Script) -> Iterator[Finding]:
    """T18: each process learns from its own share, and nobody averages."""
    if any(calls(script.tree, "DistributedDataParallel", "DDP", "fully_shard")):
        return
    for train in script.of("train", RANK):
        averaged = any(common(each, train) for each in script.of("gather"))
        # A copy for each document is no shared model.
        restored = any(each.time < train.time and common(each, train) for each in script.of("load"))
        if not averaged and not restored:
            message = "each process adapts its own copy of the model to its own share"
            yield script.finding("T18", train, message)
            return
    kinds = [node for node in nodes(script.tree, ast.ClassDef) if any(calls(node, *COLLECTIVES))]
    optimizers = [node for node in kinds if any("Optimizer" in ast.unparse(base) for base in node.bases)]
    fits = script.of("fit", RANK, TRAIN)
    for fit in fits:
        averaged = any(common(each, fit) for each in script.of("gather"))
        # A warm-up whose weights are put back does no harm.
        undone = any(each.time > fit.time for each in script.of("load")) and fit is not fits[-1]
        if not optimizers and fit.loops and not averaged and not undone:
            yield script.finding("T18", fit, "each process learns from its own share, and nobody averages")
            return


def unchecked_runs(script: Script) -> Iterator[Finding]:
    """T21: options that nobody knows are swallowed; a program that fails is not noticed."""
    tests = [*nodes(script.tree, ast.If, ast.Raise, ast.Assert)]
    for node in calls(script.tree, "parse_known_args"):
        others = {
            ast.unparse(each.targets[0].elts[-1])
            for each in nodes(script.tree, ast.Assign)
            if each.value is node and isinstance(each.targets[0], ast.Tuple)
        } - {"_"}
        if not any(others & names_in(each) for each in tests):
            yield script.finding("T21", node, "options that nobody knows are passed over")
    for each in nodes(script.tree, ast.Expr):  # what it gives back is not kept
        text = ast.unparse(each) if called(each.value) in RUNS else "check=True"
        starts = any(word in text for word in ("torchrun", "train", "sys.executable", ".py"))
        if starts and "check=True" not in text:
            message = f"{called(each.value)} starts a run, and nobody looks whether it failed"
            yield script.finding("T21", each, message)


def own_card_only(script: Script) -> Iterator[Finding]:
    """T20: kernels that a card or a version may not have, without another way."""
    branches = [*nodes(script.tree, ast.If, ast.IfExp)]
    guarded = {id(inner) for node in (*branches, *nodes(script.tree, ast.Try)) for inner in ast.walk(node)}
    tests = [node.test for node in (*branches, *nodes(script.tree, ast.Assert))]
    asks_version = any("version" in ast.unparse(test) for test in tests)
    for node in nodes(script.tree, ast.Import, ast.ImportFrom):
        needed = [name for name in imported(node) if name.partition(".")[0] in KERNELS]
        if needed and id(node) not in guarded:
            message = f"{needed[0]} is needed, and nothing stands in where it is missing"
            yield script.finding("T20", node, message)
    for word in nodes(script.tree, ast.keyword):
        needs_card = word.arg == "enable_gqa" and ast.unparse(word.value) != "False"
        if needs_card and id(word) not in guarded and not asks_version:
            yield script.finding("T20", word.value, "enable_gqa is not there before torch 2.5")


CHECKS = (
    clock_set_back,
    no_clock_ends_it,
    late_calibration,
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
COVERED = frozenset("K07 K08 K09 T02 T03 T13 T15 T16 T18 T19 T20 T21".split())
