"""The stages of a script against its clock and in their order: training, saving, loading, evaluation."""

import ast
import itertools
import re
from collections import Counter
from collections.abc import Iterator

from bitgolf.audit.finding import Finding
from bitgolf.audit.interpreter import Interpreter
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import (
    arithmetic,
    base_of,
    calls,
    last_called,
    lines_of,
    nodes,
    own,
    own_nodes,
    values_given,
    walked,
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


def clock_set_back(script: Script) -> Iterator[Finding]:
    """K08: what was trained before is not on the clock, and its weights are kept."""
    fits, clocks = script.of("fit"), Counter(each.owner for each in script.of("clock"))
    once = {name for name, times in clocks.items() if times == 1}
    pairs = [*_started_again(script)]
    names = once | {each.owner for each, _ in pairs}
    text = _counting(script) if pairs else ""
    counted = {name for name in names if name in text}
    for first, again in pairs:
        turning = first is again
        between = [
            each
            for kind in ("fit", "timed")
            for each in script.of(kind)
            if (common(each, again) if turning else first.time < each.time < again.time)
        ]
        trained = [each for each in between if each.kind == "fit"]
        sums = {each.owner for each in between if each.kind == "timed" and (each.way == "sum" or not turning)}
        around = script.flow.functions.get(again.inside, script.tree)
        steps = [each for each in calls(around, "step") if each.lineno > again.line]
        goes_on = turning or steps or any(each.time > again.time or common(each, again) for each in fits)
        beside = counted and again.owner not in counted  # of some steps, printed beside the whole
        if not trained or sums - _zeroed(script.tree, again.line) or not goes_on or beside:
            continue
        if not any(trained[0].time < each.time < again.time + SOON for each in script.of("load")):
            message = f"the clock starts again after training ({script.line(trained[0].line)})"
            yield script.finding("K08", again, f"{message}; its weights are kept")


def _started_again(script: Script) -> Iterator[tuple[Event, Event]]:
    """Starts of one clock, each with the one before; one under a condition in a loop with itself."""
    branches = [each for tree in script.flow.trees for each in nodes(tree, ast.If)]
    late = {part.lineno for each in branches for part in each.body}
    starts: dict[tuple[str, str], list[Event]] = {}
    for each in script.of("clock"):  # an attribute is one everywhere, a name in its function
        starts.setdefault((each.owner, "" if "." in each.owner else each.inside), []).append(each)
    for (_, inside), events in starts.items():
        again = itertools.pairwise(events)  # of another call names are others
        yield from (pair for pair in again if not inside or pair[0].line != pair[1].line)
        yield from ((each, each) for each in events if each.loops and each.line in late)


SOON = 3  # statements behind which weights may be put back


def _zeroed(tree: ast.Module, line: int) -> set[str]:
    """What begins at a number again beside a line: sums of times with their clock."""
    pairs: list[tuple[ast.expr, ast.expr]] = []
    for node in (each for each in nodes(tree, ast.Assign) if abs(each.lineno - line) < 3):
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=given)):
                pairs += zip(names, given)
            case _:
                pairs += ((target, node.value) for target in node.targets)
    return {ast.unparse(name) for name, given in pairs if arithmetic(given) is not None}


def _counting(script: Script) -> str:
    """All that is read for more than a line that is printed."""
    parts: list[ast.expr] = []
    for node in (each for tree in script.flow.trees for each in walked(tree)):
        match node:
            case ast.Assign(value=part) | ast.AugAssign(value=part) | ast.Return(value=ast.expr() as part):
                parts += [] if _is_clock(part) else [part]
            case ast.If(test=part) | ast.While(test=part) | ast.IfExp(test=part):
                parts.append(part)
    return "\n".join(map(ast.unparse, parts))


def _is_clock(node: ast.AST) -> bool:
    return last_called(node) in ("time", "perf_counter", "monotonic") and not getattr(node, "args", ())


def trains(script: Script, node: ast.AST) -> bool:
    """An optimizer's step or a backward pass, here or in a function that is called."""
    steps = [
        each for part in (node, *within(own(node))) if (each := last_called(part)) in ("step", "backward")
    ]
    return bool(steps) and not (last_called(node) == "step" and isinstance(node, ast.Call) and node.args)


def no_clock_ends_it(script: Script) -> Iterator[Finding]:
    """K07: a budget of seconds is named and a clock read in the training, and neither ends it."""
    fits = [event for event in script.of("fit") if event.loops]
    stops = [each for each in script.of("stop") if any(common(each, fit) for fit in fits)]
    turned = {id(each) for loop in nodes(script.tree, ast.While) for each in walked(loop.test)}
    tested = any(_is_clock(each) and id(each) in turned for each in nodes(script.tree, ast.Call))
    rates = [each for each in script.of("lr") if any(common(each, fit) for fit in fits)]
    if not fits or stops or tested or not script.of("score", VAL):
        return
    if any(TIME in each.value.marks for each in rates) or _names_a_budget(script, fits[-1]):
        message = "a clock is read while it trains, and the number of steps alone ends the training"
        yield script.finding("K07", (rates or fits)[0], message)


def _names_a_budget(script: Script, fit: Event) -> bool:
    """Whether a script has a number that is the challenge's ten minutes, by its name or with a clock that is
    read around a step.
    """
    around = [scope for scope in [*functions(script), script.tree] if fit.line in lines_of(scope)]
    read = any(map(_is_clock, within(around or [script.tree])))
    by_name = (arithmetic(value) for name, value in values_given(script.tree) if BUDGET.search(name))
    minutes = any(value and (300 <= value <= 610 or 3e5 <= value <= 6.1e5) for value in by_name)
    return minutes or read and any(each.value in BUDGETS for each in nodes(script.tree, ast.Constant))


BUDGETS = (600, 600_000, 599, 598, 595, 590, 585, 580)
BUDGET = re.compile(
    r"^(?!.*(?:eval|val_|ttt|adapt)).*(?:second|wall|budget|max_time|time_limit)", re.IGNORECASE
)


def kept_until_the_end(script: Script) -> Iterator[Finding]:
    """K13: what a training tells of its steps is kept in memory, and written when all is over."""
    lines = {each.line for each in script.of("fit") if each.loops}
    inner = [(scope, node) for scope in functions(script) for node in own_nodes(scope)]
    for scope, loop in ((scope, each) for scope, each in inner if isinstance(each, ast.For | ast.While)):
        silent = not any(last_called(each) in TELLS for each in within(script.within_reach(loop)))
        if not lines & {*lines_of(loop)} or any(nodes(scope, ast.Yield)) or not silent:
            continue
        near = [loop, *(each for call in nodes(loop, ast.Call) for each in own(call))]
        kept = {
            base_of(each)[: -len(".append")].rpartition(".")[2]: each
            for part in near
            for each in calls(part, "append")
        }
        for told in calls(script.tree, *TELLS, "dumps"):
            names = {each.id for each in nodes(told, ast.Name)} | {
                each.attr for each in nodes(told, ast.Attribute)
            }
            for name in (kept.keys() & names) - script.flow.imported.keys():
                message = f"`{name}` is written at the end alone: a machine that is lost takes it along"
                yield script.finding("K13", kept[name], message)
                return


TELLS = {
    *"print write info warning debug error log writelines write_text dump add_scalar set_postfix".split()
}


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
    limits = _limits(script) if after else []
    if any(low <= value <= 1.1 * low for value in limits for low in (ALL_OF_IT, 1000 * ALL_OF_IT)):
        message = "training data is read again after the training, which has the whole budget"
        yield script.finding("K09", after[0], message, "time kept for it inside the budget")


def _limits(script: Script) -> list[float]:
    """What a time is compared with, or a share of, where a clock ends a loop."""
    known, stops = Interpreter(script), script.of("stop")
    lowered = {  # by what is kept for it
        ast.unparse(node.target) for node in nodes(script.tree, ast.AugAssign) if isinstance(node.op, ast.Sub)
    }
    around = [each for each in functions(script) if any(stop.line in lines_of(each) for stop in stops)]
    scopes = {id(each): each for scope in around for each in script.within_reach(scope)} | {0: script.tree}
    clocks = script.reach.carries(*(node for node, _ in script.reach.all(ast.Call) if _is_clock(node)))
    found = []
    for scope in scopes.values():
        outer = script.reach.scopes.get(id(scope), 0)
        for node in own_nodes(scope):
            match node:
                case (
                    ast.BinOp(left=time, op=ast.Div(), right=limit)
                    | ast.Compare(left=time, ops=[ast.Gt() | ast.GtE()], comparators=[limit])
                ) if ast.unparse(limit) not in lowered and clocks.by(time, outer):
                    found.append(known.value(limit, known.given(scope)))
    return [each for each in found if isinstance(each, int | float)]


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
        return
    if not script.of("load") and after[-1].value.has(FILED):
        return  # weights that no module holds
    # A state dict of this process alone comes out of no file.
    loads = [each for each in script.of("load") if each.value.has(FILED) or not each.value.has(WEIGHTS)]
    if not any(last < each.time <= after[-1].time for each in loads):
        message = "scored are the weights in memory, not those that were written"
        yield script.finding("T13", after[-1], f"{message} ({script.line(writes[-1].line)})")


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
    kept_until_the_end,
    late_calibration,
    schedule_by_steps,
    not_loaded_again,
    scored_before_saved,
)
COVERED = frozenset("K07 K08 K09 K13 T13 T15 T19".split())
