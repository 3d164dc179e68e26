"""The stages of a script against its clock and in their order: training, saving, loading, evaluation."""

import ast
import itertools
from collections.abc import Collection, Iterator

from bitgolf.audit.finding import Finding
from bitgolf.audit.interpreter import Interpreter
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import (
    arithmetic,
    calls,
    last_called,
    lines_of,
    nodes,
    own_nodes,
    within,
)
from bitgolf.audit.values import COUNTER, FILED, TIME, TRAIN, VAL, WEIGHTS, Event, common

BY_STEPS = (
    "LambdaLR",
    "LinearLR",
    "CosineAnnealingLR",
    "OneCycleLR",
    "PolynomialLR",
    "CosineAnnealingWarmRestarts",
)
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
        steps = sorted(_place(node) for node in own if trains(script, node, adapting))
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
            name = last_called(node.value)
            inner, made = script.flow.methods.get((name, "__init__")), script.flow.functions.get(name)
            noted = (inner is not None and _notes_clock(script, inner)) or (made and _makes_clock(made))
            if noted or _is_clock(node.value):
                return [ast.unparse(target) for target in node.targets]
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=held, attr=name))):
            if any(
                _notes_clock(script, each)
                for each in script.flow.called_so.get(name, ())
                if name != "__init__"
            ):
                return [ast.unparse(held)]
    return []


def _makes_clock(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function reads a clock and gives back a function that tells the time since."""
    inner = {each.name for each in function.body if isinstance(each, ast.FunctionDef)}
    given = [each.value for each in function.body if isinstance(each, ast.Return)]
    read = any(isinstance(each, ast.Assign) and _is_clock(each.value) for each in function.body)
    return read and any(
        isinstance(each, ast.Lambda) or isinstance(each, ast.Name) and each.id in inner for each in given
    )


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


def trains(script: Script, node: ast.AST, adapting: Collection[str] = ()) -> bool:
    """An optimizer's step, here or in a function that is called; adapting: those that do not count."""
    inner = script.flow.functions.get(last_called(node))
    if inner is not None and inner.name in adapting:
        return False
    parts = [node] if inner is None else [node, *ast.walk(inner)]
    return any(last_called(each) == "step" and not getattr(each, "args", ()) for each in parts)


def no_clock_ends_it(script: Script) -> Iterator[Finding]:
    """K07: a budget of seconds is named and a clock read in the training, and neither ends it."""
    fits = [event for event in script.of("fit") if event.loops]
    stops = [each for each in script.of("stop") if any(common(each, fit) for fit in fits)]
    turned = {id(each) for loop in nodes(script.tree, ast.While) for each in ast.walk(loop.test)}
    tested = any(_is_clock(each) and id(each) in turned for each in nodes(script.tree, ast.Call))
    rates = [each for each in script.of("lr") if any(common(each, fit) for fit in fits)]
    if not fits or stops or tested or not script.of("score", VAL):
        return
    if any(TIME in each.value.marks for each in rates) or _names_a_budget(script, fits[-1]):
        message = "a clock is read while it trains, and the number of steps alone ends the training"
        yield script.finding("K07", (rates or fits)[0], message)


def _names_a_budget(script: Script, fit: Event) -> bool:
    """Whether a script has a number that is the challenge's ten minutes, and reads a clock around a step."""
    around = [scope for scope in [*functions(script), script.tree] if fit.line in lines_of(scope)]
    read = any(map(_is_clock, within(around or [script.tree])))
    return read and any(each.value in BUDGETS for each in nodes(script.tree, ast.Constant))


BUDGETS = (600, 600_000, 599, 598, 595, 590, 585, 580)


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


CHECKS = (
    clock_set_back,
    no_clock_ends_it,
    late_calibration,
    schedule_by_steps,
    not_loaded_again,
    scored_before_saved,
)
COVERED = frozenset("K07 K08 K09 T13 T15 T19".split())
