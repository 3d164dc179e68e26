"""How a script scores, by the flow of its values: what it learned, looked up or mixed before a score."""

import ast
import re
from collections.abc import Iterator, Sequence

from bitgolf.audit.finding import FOUND, SUSPECTED, Finding
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import called, last_called, lines_of, methods, names_given, names_in, nodes, ways
from bitgolf.audit.values import (
    AVERAGED,
    BEFORE,
    FILLED,
    GOLD,
    HASH,
    RANK,
    SIZE,
    STREAM,
    SUM,
    VAL,
    Event,
    common,
    kinds,
)

# A module or a tensor of one's own.
MADE = re.compile(r"^(?:torch\.)?(?:nn\.)?(?:[A-Z]\w*|zeros|randn|empty)\(")


def learned_first(script: Script) -> Iterator[Finding]:
    """V04, V05, V06, V07: training on validation tokens, by what was scored and written before it."""
    events = script.events
    scores = [*kinds(events, "score")]
    writes = [event for event in kinds(events, "write") if not event.off]
    for train in kinds(events, "train"):
        if not train.value.has(VAL):
            continue
        roots = {root for root in train.value.roots if root != STREAM and not root.startswith(BEFORE)}
        beside = [event for event in scores if common(event, train)]
        before = [
            event for event in beside if event.value.born < train.time and not _is_loss_of(event, train)
        ]
        after = [event for event in beside if event.value.born > train.time]
        written = [event for event in writes if event.time > train.time]
        if train.value.roots and not roots and STREAM not in train.value.roots:
            continue  # an earlier turn of the loop has left these tokens, scored
        fresh = _is_fresh(script, train)
        if written and fresh and not after:
            continue  # something of its own is fitted; the model that is written does not have it
        said = "an optimizer steps on validation tokens"
        if written:
            yield script.finding(
                "V06",
                train,
                f"{said}, and the model is written after it ({script.line(written[0].line)})",
                sure=FOUND,
            )
        elif not before and after:
            same = [event for event in after if roots & event.value.roots]
            model = any(called(each) == f"{train.owner}.parameters" for each in ast.walk(script.inner.tree))
            of_window = same and (not model or _made_there(script, train.line, train.owner))
            yield script.finding(
                "V05" if of_window else "V04",
                train,
                f"{said} that are scored after it ({script.line((same or after)[0].line)})",
                sure=FOUND if same else SUSPECTED,
            )
        elif not beside and any(event.value.born > train.time for event in scores):
            first = next(event for event in scores if event.value.born > train.time)
            code = "V07" if fresh else "V04"
            yield script.finding(
                code,
                train,
                f"{said}{', in a rehearsal,' if fresh else ''} before any is scored"
                f" ({script.line(first.line)})",
                sure=FOUND,
            )


def _is_loss_of(score: Event, train: Event) -> bool:
    """Whether a sum is no more than the loss of the training itself, kept for a log."""
    return score.loops == train.loops and score.time > train.time


def _is_fresh(script: Script, train: Event) -> bool:
    """Whether what is optimized is made where it is optimized, and is neither written nor scored."""
    scoring = {event.inside for event in kinds(script.events, "score")}
    for function in _around(script, train.line):
        given = [
            node
            for node in nodes(function, ast.Call)
            if called(node) == f"{train.owner}.state_dict"
            or called(node) in scoring
            and any(isinstance(each, ast.Name) and each.id == train.owner for each in node.args)
        ]
        names = [each.arg for each in function.args.args]
        if train.owner in names and not given:
            place = names.index(train.owner)
            entered = [each for each in nodes(script.inner.tree, ast.Call) if called(each) == function.name]
            handed = [each.args[place : place + 1] for each in entered]
            if handed and all(each and _is_made(script, each[0]) for each in handed):
                return True
        if not given and _made_there(script, train.line, train.owner):
            return True
    return False


def _around(script: Script, line: int) -> Iterator[ast.FunctionDef]:
    """The functions that a line stands in."""
    return (each for each in functions(script, beside=True) if line in lines_of(each))


def _is_made(script: Script, node: ast.expr) -> bool:
    return called(node) in script.flow.classes or bool(MADE.search(ast.unparse(node)))


def _made_there(script: Script, line: int, name: str) -> bool:
    """Whether something of one's own gets this name in a function around a line."""
    return any(
        name in names_given(node) and _is_made(script, node.value)
        for function in _around(script, line)
        for node in nodes(function, ast.Assign)
    )


def hashed_ratio(script: Script) -> Iterator[Finding]:
    """V01, V02: counts at a hash of context and target by counts at a hash of the context."""
    for ratio in kinds(script.events, "ratio"):
        if not any(score.value.born and score.time > ratio.time for score in kinds(script.events, "score")):
            continue
        keys = ", ".join(sorted(ratio.value.keys))
        sure = SUSPECTED if ratio.way == "tables" else FOUND  # of two tables, under keys that are not known
        yield script.finding(
            "V02",
            ratio,
            f"a count is looked up under a hash of {keys}: the realised token is in the key",
            sure=sure,
        )
        yield script.finding(
            "V01",
            ratio,
            "the ratio of two hashed counts stands for a probability, for the realised token alone",
            sure=sure,
        )


def counted_first(script: Script) -> Iterator[Finding]:
    """V03: counts of validation tokens that are complete before the tokens are scored."""
    counts = [event for event in kinds(script.events, "count") if event.value.has(VAL)]
    for look in kinds(script.events, "look"):
        filled = [
            event
            for event in counts
            if look.value.born <= event.time < look.time and _same_table(event, look)
        ]
        again = [event for event in filled if common(event, look)]
        if filled and not again and look.value.has(HASH):
            yield script.finding(
                "V03",
                look,
                "the table was filled with validation tokens by an earlier pass, at "
                f"{script.line(filled[0].line)}",
            )


def _same_table(count: Event, look: Event) -> bool:
    if count.tables and look.tables:
        return bool(count.tables & look.tables)
    return count.owner == look.owner


def gate_by_outcome(script: Script) -> Iterator[Finding]:
    """V09."""
    scored = _golds(script)
    for mix in kinds(script.events, "mix"):
        if mix.value.has(GOLD) and mix.value.has(VAL) and mix.value.golds & scored:
            yield script.finding(
                "V09", mix, "the weight of a mixture is computed from the probability of the realised token"
            )


def spread_over_bytes(script: Script) -> Iterator[Finding]:
    """V10."""
    for share in kinds(script.events, "share"):
        yield script.finding(
            "V10",
            share,
            "a token's log-probability is divided by its bytes and put together with another predictor's",
        )


def _is_sum(gather: Event) -> bool:
    return bool(gather.value.marks & {SUM, GOLD, SIZE, VAL})


CUTS = {
    "step": "one validation token of {} is taken",
    "drawn": "validation tokens are drawn at random",
    "turns": "only {} turns are taken through the validation tokens",
    "files": "only the first {} files of validation tokens are read",
}


def cut_validation(script: Script) -> Iterator[Finding]:
    """V11."""
    one_by_one = {each.owner for each in kinds(script.events, "file")}  # other files are read in turn
    for cut in kinds(script.events, "cut"):
        if cut.owner in one_by_one:
            continue
        number = cut.value.number or 0
        sure = SUSPECTED if cut.value.set or cut.way or not _is_final(script, cut) else FOUND
        yield script.finding(
            "V11",
            cut,
            CUTS.get(cut.way, "validation tokens are cut at {}").format(f"{number:,.0f}"),
            sure=sure,
        )


def stopped_early(script: Script) -> Iterator[Finding]:
    """V11: a loop that scores ends after so many tokens."""
    for limit in kinds(script.events, "limit"):
        scores = [each for each in kinds(script.events, "score") if each.inside == limit.inside]
        if any(limit.loops == each.loops[: len(limit.loops)] and each.value.has(VAL) for each in scores):
            yield script.finding(
                "V11", limit, f"the pass over the validation tokens ends after {limit.value.number:,.0f}"
            )


def _is_final(script: Script, cut: Event) -> bool:
    return any(score.time > cut.time for score in kinds(script.events, "score"))


def one_process(script: Script) -> Iterator[Finding]:
    """V18: scores by rank that nobody adds up."""
    scores = [event for event in kinds(script.events, "score") if event.value.has(RANK)]
    if not scores:
        return
    last = max(scores, key=lambda event: event.time)
    sums = [event for event in kinds(script.events, "gather") if event.time > last.time and _is_sum(event)]
    if not sums:
        yield script.finding("V18", last, "each process scores its share, and no sum over processes follows")


def _golds(script: Script) -> frozenset[str]:
    """The tokens whose scores are summed."""
    return frozenset[str]().union(*(event.value.golds for event in kinds(script.events, "score")))


def knows_target(script: Script) -> Iterator[Finding]:
    """V08: what a table or a condition says of the target goes into its own prediction."""
    scored = _golds(script)
    for leak in kinds(script.events, "leak"):
        if not leak.value.keys & scored:
            continue
        by_table = leak.way == "table"
        yield script.finding(
            "V08" if by_table else "V02",
            leak,
            "a property of the token that is predicted is looked up, and its prediction depends on it"
            if by_table
            else "the prediction of a token is computed from that token",
        )


def scored_again(script: Script) -> Iterator[Finding]:
    """V03, T17: another pass over the text with a model that has learned from the first one."""
    events = script.events
    for train in kinds(events, "train"):
        if not train.value.has(VAL) or _is_fresh(script, train):
            continue
        before = [
            event
            for event in kinds(events, "score")
            if common(event, train) and event.value.born < train.time
        ]
        later = [
            event
            for event in kinds(events, "score")
            if event.time > train.time and event.loops[:1] != train.loops[:1] and event.value.has(VAL)
        ]
        restored = [event for event in kinds(events, "load") if event.time > train.time]
        written = [event for event in kinds(events, "write") if event.time > train.time]
        if not before or not later or written:
            continue
        if any(event.time < later[0].time for event in restored):
            continue
        for code, said in (
            ("V03", "the text is scored again after the model has learned from all of it"),
            ("T17", "the adapted model is evaluated again: nothing restores its weights"),
        ):
            yield script.finding(code, later[0], f"{said} ({script.line(train.line)})")
    for best in kinds(events, "best"):
        yield script.finding("V03", best, "of two scores of a token the better one is taken")


def learned_for_nothing(script: Script) -> Iterator[Finding]:
    """T17: adapted after packing, and nothing is scored with it."""
    events = script.events
    writes = [event.time for event in kinds(events, "write")]
    for train in kinds(events, "train"):
        if (
            not train.value.has(VAL)
            or not any(time < train.time for time in writes)
            or _is_fresh(script, train)
        ):
            continue
        scores = [*kinds(events, "score")]
        if scores and not any(event.time > train.time or common(event, train) for event in scores):
            yield script.finding("T17", train, "the model is adapted, and nothing is scored after it")


def drops_windows(script: Script) -> Iterator[Finding]:
    """V17: windows that are left out, or means that are added as if all windows were equal."""
    for score in kinds(script.events, "score"):
        if score.value.has(VAL, AVERAGED):
            yield script.finding("V17", score, "means of windows are added without their numbers of tokens")
    for function in functions(script):
        for loop in nodes(function, ast.For):
            if (said := _leaves_tail(loop)) and _scores_in(script, loop):
                yield script.finding("V17", said, "the last window is left out where it is not whole")


def _scores_in(script: Script, loop: ast.For) -> bool:
    lines = lines_of(loop)
    return any(event.line in lines and event.value.has(VAL) for event in kinds(script.events, "score"))


def _leaves_tail(loop: ast.For) -> ast.AST | None:
    """`range(0, n - length, stride)`, or `if len(window) < length: continue`."""
    node = loop.iter
    if isinstance(node, ast.Call) and called(node) == "range" and len(node.args) == 3:
        stop = node.args[1]
        if isinstance(stop, ast.BinOp) and isinstance(stop.op, ast.Sub):
            taken = stop.right.value if isinstance(stop.right, ast.Constant) else 2
            if isinstance(taken, int) and taken > 1:
                return node
    for statement in loop.body:
        if not (isinstance(statement, ast.If) and isinstance(statement.test, ast.Compare)):
            continue
        sides = [statement.test.left, *statement.test.comparators]
        sized = any(
            called(each) == "len" or ".numel" in ast.unparse(each) or ".shape" in ast.unparse(each)
            for each in sides
        )
        ends = isinstance(statement.body[-1], ast.Continue | ast.Break)
        other = sides[1]
        small = isinstance(other, ast.Constant) and isinstance(other.value, int) and other.value <= 2
        if sized and ends and not small and isinstance(statement.test.ops[0], ast.Lt | ast.NotEq):
            return statement
    return None


def scores_padding(script: Script) -> Iterator[Finding]:
    """B11."""
    for each in kinds(script.events, "score"):
        if not each.value.has(VAL, FILLED):
            continue
        yield script.finding("B11", each, "the loss is taken over a padded batch, padding included")


def unseen_places(script: Script) -> Iterator[Finding]:
    """V16: evaluated with longer contexts than trained, or with another attention."""
    widths = {
        kind: {event.value.number for event in kinds(script.events, kind) if event.value.number}
        for kind in ("train width", "val width")
    }
    trained, scored = widths["train width"], widths["val width"]
    if trained and scored and max(scored) > max(trained):
        line = next(event for event in kinds(script.events, "val width") if event.value.number == max(scored))
        yield script.finding(
            "V16", line, f"scored in windows of {max(scored):,.0f} tokens, trained in {max(trained):,.0f}"
        )
    for kind in nodes(script.inner.tree, ast.ClassDef):
        for node in nodes(kind, ast.If, ast.IfExp):
            if ast.unparse(node.test) in TRAINING_TESTS:
                one, two = map(_attention, ways(node))
                if one != two and (one or two):
                    yield script.finding(
                        "V16", node, "attention looks elsewhere while it trains than while it scores"
                    )


TRAINING_TESTS = ("self.training", "not self.training", "self.training is True", "self.training is False")


def _attention(body: Sequence[ast.AST]) -> frozenset[str]:
    """Masks, windows and lengths in some statements."""
    texts = set()
    for node in (inner for each in body for inner in ast.walk(each)):
        if isinstance(node, ast.keyword) and node.arg in (
            "attn_mask",
            "window_size",
            "is_causal",
            "block_mask",
        ):
            texts.add(ast.unparse(node.value))
        elif last_called(node) in ("tril", "triu", "band_mask", "create_block_mask"):
            texts.add(ast.unparse(node))
        elif isinstance(node, ast.Assign) and any(
            "window" in ast.unparse(each) or "mask" in ast.unparse(each) for each in node.targets
        ):
            texts.add(ast.unparse(node.value))
    return frozenset(texts)


def across_documents(script: Script) -> Iterator[Finding]:
    """V15: a layer mixes in the position before, where documents are said to be kept apart."""
    tree = script.inner.tree
    if not any(_keeps_apart(node) for node in nodes(tree, ast.Call)):
        return
    for kind in nodes(tree, ast.ClassDef):
        if not any(method.name.startswith("forward") for method in methods(kind)):
            continue
        for method in methods(kind):
            shifted = [node for node in ast.walk(method) if _is_shift(node)]
            masked = any(
                isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq)
                for node in ast.walk(method)
            )
            if shifted and not masked and not _over_ids(method, shifted):
                yield script.finding(
                    "V15", shifted[0], "the position before is mixed in, across the start of a document too"
                )


def _keeps_apart(node: ast.Call) -> bool:
    """Attention of varying lengths, documents as an argument, or starts that are counted."""
    return (
        last_called(node).endswith(("varlen_func", "create_block_mask"))
        or any((word.arg or "").startswith(("cu_seqlens", "document")) for word in node.keywords)
        or last_called(node) == "cumsum"
        and any(nodes(node, ast.Compare))
    )


def _is_shift(node: ast.AST) -> bool:
    """`x[:, :-1]` that is put behind something, or rolled by one."""
    if not isinstance(node, ast.Call):
        return False
    name = last_called(node)
    if name == "roll":
        return any(isinstance(each, ast.Constant) and each.value == 1 for each in node.args[:2])
    if name not in ("cat", "pad", "concat", "concatenate"):
        return False
    return any(
        isinstance(each, ast.Slice)
        and each.upper is not None
        and ast.unparse(each.upper) == "-1"
        and each.lower is None
        for each in ast.walk(node)
    )


def _over_ids(method: ast.FunctionDef, shifted: list[ast.AST]) -> bool:
    """Whether what is shifted are token numbers that are hashed or looked up, not vectors."""
    names = {name for node in shifted for name in names_in(node)} - {"torch", "F"}
    return any(
        isinstance(node.op, ast.Mod | ast.BitXor) and names & names_in(node)
        for node in nodes(method, ast.BinOp)
    )


CHECKS = (
    learned_first,
    hashed_ratio,
    counted_first,
    scored_again,
    learned_for_nothing,
    gate_by_outcome,
    knows_target,
    spread_over_bytes,
    cut_validation,
    stopped_early,
    one_process,
    drops_windows,
    scores_padding,
    unseen_places,
    across_documents,
)
COVERED = frozenset("V01 V02 V03 V04 V05 V06 V07 V08 V09 V10 V11 V15 V16 V17 V18 B11 T17".split())
