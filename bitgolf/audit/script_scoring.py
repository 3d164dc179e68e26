"""What a script knows before it scores, by the flow of its values: what it learned, looked up or mixed."""

import ast
import math
import re
from collections.abc import Iterator

from bitgolf.audit.finding import FOUND, SUSPECTED, Finding
from bitgolf.audit.indices import meeting
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import called, calls, calls_of, lines_of, named, nodes
from bitgolf.audit.values import BEFORE, FEW, GOLD, STREAM, VAL, Event, common

# A module or a tensor of one's own.
MADE = re.compile(r"^(?:torch\.)?(?:nn\.)?(?:[A-Z]\w*|zeros|randn|empty)\(")

EARLIER = re.compile(r"\[[^:]* - ")  # tokens from before a chunk's first
NAMED = re.compile("[A-Za-z_]")  # a place that changes in a loop


def learned_first(script: Script) -> Iterator[Finding]:
    """V04, V05, V06, V07: training on validation tokens, by what was scored and written before it."""
    scores = script.of("score")
    for train in script.of("train", VAL):
        roots = {root for root in train.value.roots if root != STREAM and not root.startswith(BEFORE)}
        if train.value.roots and not roots and STREAM not in train.value.roots:
            continue  # an earlier turn of the loop has left these tokens, scored
        later = [event for event in scores if event.value.born > train.time]
        after = [event for event in later if common(event, train)]
        # A sum after it in the same loops is no more than the loss of the training itself, kept for a log.
        before = any(
            common(event, train)
            and event.value.born < train.time
            and (event.loops != train.loops or event.time < train.time)
            for event in scores
        )
        written = [event for event in script.of("write") if event.time > train.time and not event.off]
        fresh = _is_fresh(script, train)
        message = "an optimizer steps on validation tokens"
        begins = min((each.time for each in script.of("fit") if each.time > train.time), default=0)
        put_back = any(train.time < each.time < begins for each in script.of("load"))
        if written and not put_back:
            if not fresh or after:  # of one's own, it is not what the model that is written has
                message += f", and the model is written after it ({script.line(written[0].line)})"
                sure = SUSPECTED if all(each.guessed for each in written) else FOUND
                yield script.finding("V06", train, message, sure=sure)
        elif not before and after:
            same = [event for event in after if roots & event.value.roots]
            model = _is_model(script.tree, train.owner)
            of_window = same and (not model or _made_there(script, train.line, train.owner))
            message += f" that are scored after it ({script.line((same or after)[0].line)})"
            code, sure = "V05" if of_window else "V04", FOUND if same else SUSPECTED
            yield script.finding(code, train, message, sure=sure)
        elif later and not any(common(event, train) for event in scores):
            start = min(event.time for event in later)
            undone = put_back or any(train.time < event.time < start for event in script.of("load"))
            places = train.value.roots - {STREAM}
            walks = not places or any(NAMED.search(root.replace("None", "")) for root in places)
            counted = places and all(script.flow.turns[each].again for each in train.loops)
            rehearsal = fresh or undone or not walks or counted or train.value.has(FEW)
            message += f"{', in a rehearsal,' if rehearsal else ''} before any is scored"
            message += f" ({script.line(later[0].line)})"
            yield script.finding("V07" if rehearsal else "V04", train, message, sure=FOUND)
            first = [event for event in script.of("kept", GOLD) if event.time < train.time]
            if first and not rehearsal:
                message = "a pass over the text decides what the model learns before it is scored again"
                yield script.finding("V03", later[0], f"{message} ({script.line(first[0].line)})")


def _is_model(tree: ast.Module, name: str) -> bool:
    """Whether a name stands for a model whose parameters are asked for, or for the parameters of one."""
    asked = any(called(node).startswith(f"{name}.") for node in calls(tree, "parameters"))
    return asked or name in named(tree, lambda value: "parameters()" in ast.unparse(value))


def _is_fresh(script: Script, train: Event) -> bool:
    """Whether what is optimized is made where it is optimized, and is neither written nor scored."""
    scoring, own = {event.inside for event in script.of("score")}, train.owner
    for function in _around(script, train.line):
        if any(
            called(node) == f"{own}.state_dict"
            or called(node) in scoring
            and any(isinstance(each, ast.Name) and each.id == own for each in node.args)
            for node in nodes(function, ast.Call)
        ):
            continue
        names = [each.arg for each in function.args.args]
        if own in names:
            index = names.index(own)
            handed = [node.args[index : index + 1] for node in calls_of(script.tree, function)]
            if handed and all(each and _is_made(script, each[0]) for each in handed):
                return True
        if _made_there(script, train.line, own):
            return True
    return False


def _around(script: Script, line: int) -> Iterator[ast.FunctionDef]:
    """The functions that a line stands in."""
    return (each for each in functions(script, beside=True) if line in lines_of(each))


def _is_made(script: Script, node: ast.expr) -> bool:
    return called(node) in script.flow.classes or bool(MADE.search(ast.unparse(node)))


def _made_there(script: Script, line: int, name: str) -> bool:
    """Whether something of one's own gets this name in a function around a line."""
    around = _around(script, line)
    return any(name in named(each, lambda value: _is_made(script, value)) for each in around)


def hashed_ratio(script: Script) -> Iterator[Finding]:
    """V01, V02: counts at a hash of context and target by counts at a hash of the context."""
    last = max((score.time for score in script.of("score") if score.value.born), default=0)
    for ratio in script.of("ratio"):
        if ratio.time < last:
            keys = ", ".join(sorted(ratio.value.keys))
            sure = SUSPECTED if ratio.way == "tables" else FOUND  # of two tables, under keys not known
            message = f"a count is looked up under a hash of {keys}: the realised token is in the key"
            yield script.finding("V02", ratio, message, sure=sure)
            message = "the ratio of two hashed counts stands for a probability, for the realised token alone"
            yield script.finding("V01", ratio, message, sure=sure)


def counted_first(script: Script) -> Iterator[Finding]:
    """V03, V04: counts of tokens from before they are scored, of all of them or of the same chunk."""
    scores = script.of("score")
    for look in script.of("look", VAL):
        counts = [each for each in script.of("count", VAL) if look.value.born <= each.time < look.time]
        filled = [each for each in counts if _same_table(each, look)]
        before = [event for event in filled if not common(event, look)]
        if before:
            message = "the table was filled with validation tokens by an earlier pass, at "
            yield script.finding("V03", look, message + script.line(before[0].line))
        for count in filled:
            around = common(count, look)
            told = any(common(count, each) == around and each.value.born < count.time for each in scores)
            old = all(root.startswith(BEFORE) or EARLIER.match(root) for root in count.value.roots)
            if around == count.loops and around and not told and not old:
                message = "the table has counted the tokens that it is asked about next, at "
                yield script.finding("V04", look, message + script.line(count.line))


def _same_table(count: Event, look: Event) -> bool:
    if count.tables and look.tables:
        return bool(count.tables & look.tables)
    return count.owner == look.owner


def scored_again(script: Script) -> Iterator[Finding]:
    """V03, T17: another pass over the text with a model that has learned from the first one."""
    for train in script.of("train", VAL):
        before = any(common(each, train) and each.value.born < train.time for each in script.of("score"))
        later = [
            event
            for event in script.of("score", VAL)
            if (event.value.born or event.time) > train.time and event.loops[:1] != train.loops[:1]
        ]
        written = any(event.time > train.time for event in script.of("write"))
        if not before or not later or written or _is_fresh(script, train):
            continue
        if not any(train.time < event.time < later[0].time for event in script.of("load")):
            where = f"({script.line(train.line)})"
            message = f"the text is scored again after the model has learned from all of it {where}"
            yield script.finding("V03", later[0], message)
            message = f"the adapted model is evaluated again: nothing restores its weights {where}"
            yield script.finding("T17", later[0], message)
    for best in script.of("best"):
        if best.way != "one":
            yield script.finding("V03", best, "of two scores of a token the better one is taken")
        if best.way == "at once":
            yield script.finding(
                "V09", best, "which of two predictions counts is chosen by the realised token"
            )
        message = "the better of two predictions is taken at the realised token: no distribution"
        yield script.finding("V01", best, message)


def passes_again(script: Script) -> Iterator[Finding]:
    """V03, V04: a loop around the whole pass or a chunk, which keeps what was learned or counted."""
    turns = script.flow.turns
    for learned in (each for kind in ("train", "count") for each in script.of(kind, VAL)):
        outer = next((i for i, each in enumerate(learned.loops) if turns[each].again), None)
        if outer is None:
            continue
        around = learned.loops[: outer + 1]
        scores = [each for each in script.of("score", VAL) if each.loops[: outer + 1] == around]
        if any(turns[each].over_tokens for each in around):
            late = [each for each in scores if each.value.golds & learned.value.golds]
            if late and learned.kind == "train" and not _in_first_turn(script, late[0].line):
                message = "the score is of a turn after the model has learned from the same tokens"
                yield script.finding("V04", late[0], f"{message} ({script.line(learned.line)})")
            continue
        inner = [each for each in scores if any(turns[loop].over_tokens for loop in each.loops[outer + 1 :])]
        undone = any(each.loops[: outer + 1] == around for each in script.of("load"))
        made = max((script.flow.made.get(each, 0) for each in learned.tables), default=0)
        kept = learned.kind == "train" or learned.tables and made <= turns[around[-1]].began
        if inner and kept and not undone:
            message = "the text is scored again, by what the pass before has learned from it"
            yield script.finding("V03", inner[0], f"{message} ({script.line(learned.line)})")
            return


def _in_first_turn(script: Script, line: int) -> bool:
    """Whether a line stands where a number is zero."""
    tests = [ast.unparse(node.test) for node in nodes(script.tree, ast.If) if line in lines_of(node)]
    return any(test.startswith("not ") or test.endswith("== 0") for test in tests)


def learned_for_nothing(script: Script) -> Iterator[Finding]:
    """T17: adapted after packing, and nothing is scored with it."""
    scores, written = script.of("score"), min((each.time for each in script.of("write")), default=math.inf)
    for train in script.of("train", VAL):
        used = any(event.time > train.time or common(event, train) for event in scores)
        if scores and not used and train.time > written and not _is_fresh(script, train):
            yield script.finding("T17", train, "the model is adapted, and nothing is scored after it")


def knows_outcome(script: Script) -> Iterator[Finding]:
    """V08, V09, V10: what a score is computed from knows the token that is scored."""
    scores = script.of("score")
    scored = frozenset[str]().union(*(event.value.golds for event in scores))
    for leak in script.of("leak"):
        if leak.way == "picked" and not any(
            each.time >= leak.time and meeting(each.value.golds, leak.value.keys) for each in scores
        ):
            continue  # observed when it had its score
        if leak.way == "chosen":
            message = "whether a prediction is mixed in depends on the realised token: no distribution"
            yield script.finding("V01", leak, message)
        elif not meeting(leak.value.keys, scored):
            continue
        elif leak.way == "counted":
            message = "the prediction of tokens is fitted to counts of the same tokens"
            yield script.finding("V05", leak, message)
        elif leak.way in ("table", "picked"):
            message = (
                "a property of the token that is predicted is looked up, and its prediction depends on it"
            )
            yield script.finding("V08", leak, message)
        else:
            yield script.finding("V02", leak, "the prediction of a token is computed from that token")
    for mix in script.of("mix", GOLD, VAL):
        if meeting(mix.value.golds, scored):
            message = "the weight of a mixture is computed from the probability of the realised token"
            yield script.finding("V09", mix, message)
    for share in script.of("share"):
        message = (
            "a token's log-probability is divided by its bytes and put together with another predictor's"
        )
        yield script.finding("V10", share, message)


CHECKS = (
    learned_first,
    hashed_ratio,
    counted_first,
    scored_again,
    passes_again,
    learned_for_nothing,
    knows_outcome,
)
COVERED = frozenset("V01 V02 V03 V04 V05 V06 V07 V08 V09 V10 T17".split())
