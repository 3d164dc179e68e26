"""What a script scores: all tokens or some, in which windows, over documents, by how many processes."""

import ast
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from itertools import permutations
from operator import itemgetter
from pathlib import Path

from bitgolf.audit.finding import FOUND, SUSPECTED, Finding
from bitgolf.audit.script import Script
from bitgolf.audit.tree import (
    Branch,
    last_called,
    methods,
    named,
    names_in,
    nodes,
    number,
    spread,
    walked,
    ways,
)
from bitgolf.audit.values import FEW, GOLD, RANK, SIZE, SUM, TRAIN, TRAINING, VAL, VALIDATION, Event

CUTS = {
    "step": "one validation token of {} is taken",
    "drawn": "validation tokens are drawn at random",
    "least": "no more than {} validation tokens are taken",
    "turns": "only {} turns are taken through the validation tokens",
    "documents": "only the first {} documents of the validation text are taken",
    "files": "only the first {} files of validation tokens are read",
}
LONGER = 1.5  # windows that are this much longer than those of training reach places that it never saw
MASKS = {"attn_mask", "window_size", "is_causal", "block_mask"}
TRAINING_TESTS = ("self.training", "not self.training", "self.training is True", "self.training is False")


def cut_validation(script: Script) -> Iterator[Finding]:
    """V11: tokens that are left out, or a loop that scores and ends after so many."""
    one_by_one = {each.owner for each in script.of("file")}  # other files are read in turn
    scores = sorted(script.of("score"), key=lambda each: each.time) or [Event("score", 0, 0, ())]
    for cut in script.of("cut"):
        aside = cut.way == "least" and not scores[-1].value.has(FEW)  # another score than the last one
        if cut.owner not in one_by_one and not aside:
            sure = SUSPECTED if cut.value.set or cut.way or cut.time >= scores[-1].time else FOUND
            message = CUTS.get(cut.way, "validation tokens are cut at {}").format(
                f"{cut.value.number or 0:,.0f}"
            )
            yield script.finding("V11", cut, message, sure=sure)
    for end in [*script.of("limit"), *(each for each in script.of("stop") if each.way == "left")]:
        inside = [each for each in script.of("score", VAL) if each.inside == end.inside]
        if any(end.loops == each.loops[: len(end.loops)] for each in inside):
            after = "a time" if end.kind == "stop" else f"{end.value.number:,.0f}"
            yield script.finding("V11", end, f"the pass over the validation tokens ends after {after}")


def scores_training(script: Script) -> Iterator[Finding]:
    """V14: what is scored comes from the files that are trained on."""
    for score in script.of("score", VAL, TRAIN)[:1]:
        message = "what is scored has tokens in it that the model is trained on"
        yield script.finding("V14", score, message)


def trains_on_all_files(script: Script) -> Iterator[Finding]:
    """V14: the pattern of files to train on takes those of validation too."""
    texts = [(node, node.value) for node, _ in script.reach.all(ast.Constant) if isinstance(node.value, str)]
    held_out = {Path(text.replace("*", "0")) for _, text in texts if VALIDATION.search(text)}
    told = any(
        isinstance(node.ops[0], ast.In | ast.NotIn) and "val" in ast.unparse(node)
        for node, _ in script.reach.all(ast.Compare)
    )
    if told or script.of("fit", TRAIN) or not script.of("fit"):
        return
    for node, text in texts:
        wide = Path(text)
        taken = [each for each in held_out if each.suffix == wide.suffix and fnmatch(each.name, wide.name)]
        if "*" in wide.name and taken and not VALIDATION.search(text) and not TRAINING.search(text):
            yield script.finding("V14", node, f"{wide.name} takes the files of validation tokens too")
            return


def one_process(script: Script) -> Iterator[Finding]:
    """V18: scores by rank that nobody adds up; weights that one process alone has read, and none after it."""
    last = {each.inside: each for each in script.of("score", RANK)}
    for score in last.values():
        if not any(
            event.time > (score.value.born or score.time)
            and event.value.marks & {SUM, GOLD, SIZE, VAL}
            and (event.inside == score.inside or event.inside not in last)
            for event in script.of("gather")
        ):
            message = "each process scores its share, and no sum over processes follows"
            yield script.finding("V18", score, message)
    loads = list(script.of("load"))
    for load in loads:
        later = [
            event.time for event in script.of("score", VAL) if event.time > load.time and not event.owner
        ]
        shared = [*script.of("sent"), *(each for each in loads if not each.owner)]
        if load.owner and later and not any(load.time < each.time < min(later) for each in shared):
            message = (
                f"one process loads the weights ({script.line(int(load.owner))}), and the others score too"
            )
            yield script.finding("V18", load, message)


def unseen_places(script: Script) -> Iterator[Finding]:
    """V16: evaluated with longer contexts than trained, or with another attention."""
    trained = max((event.value.number or 0 for event in script.of("train width")), default=0)
    widths = [(event.value.number or 0, event) for event in script.of("val width")]
    scores = script.of("score", VAL)
    for inside in {event.inside for event in scores}:  # bytes that are added there have no window
        widths.append(
            min(((each.value.width, each) for each in scores if each.inside == inside), key=itemgetter(0))
        )
    width, widest = max(widths, key=itemgetter(0), default=(0, None))
    if widest and 0 < LONGER * trained < width:
        message = f"scored in windows of {width:,.0f} tokens, trained in {trained:,.0f}"
        yield script.finding("V16", widest, message)
    for node, scope in script.reach.all(ast.AST):
        if isinstance(node, ast.If | ast.IfExp) and ast.unparse(node.test) in TRAINING_TESTS:
            one, two = map(_attention, ways(node))
            if one != two or _decides_mask(script, node, scope):
                message = "attention looks elsewhere while it trains than while it scores"
                yield script.finding("V16", node, message)


def _decides_mask(script: Script, branch: Branch, scope: int) -> bool:
    """Whether what a branch chooses gets to where attention looks."""
    chosen = [branch] if isinstance(branch, ast.IfExp) else [each.value for each in nodes(branch, ast.Assign)]
    carried = script.reach.carries(*chosen)
    return any(
        word.arg in MASKS and carried.by(word.value, around)
        for call, around in script.reach.all(ast.Call)
        for word in call.keywords
    )


def _attention(body: Sequence[ast.AST]) -> frozenset[str]:
    """Masks and windows in some statements."""
    texts = set()
    for node in (inner for each in body for inner in walked(each)):
        if isinstance(node, ast.keyword):
            if node.arg in MASKS:
                texts.add(ast.unparse(node.value))
        elif last_called(node) in ("tril", "triu", "band_mask", "create_block_mask"):
            texts.add(ast.unparse(node))
    return frozenset(texts)


def across_documents(script: Script) -> Iterator[Finding]:
    """V15: a layer mixes in the position before, where documents are said to be kept apart."""
    if not any(map(_keeps_apart, nodes(script.tree, ast.Call))):
        return
    for kind in nodes(script.tree, ast.ClassDef):
        if not any(method.name.startswith("forward") for method in methods(kind)):
            continue
        for method in methods(kind):
            shifted = [node for node in nodes(method, ast.Call, ast.Subscript) if _is_shift(node)]
            if shifted and not _masked(script, method, shifted) and not _over_ids(method, shifted):
                message = "the position before is mixed in, across the start of a document too"
                yield script.finding("V15", shifted[0], message)


def wrong_side(script: Script) -> Iterator[Finding]:
    """V15: what is mixed in from before is held back behind the start of a document, and not at it."""
    for method in nodes(script.tree, ast.FunctionDef):
        before = [node for node in nodes(method, ast.Subscript) if _is_before(node)]
        for test in nodes(method, ast.Compare) if method.name == "forward" and len(before) > 1 else ():
            of_one = not any(nodes(test.comparators[0], ast.Subscript))
            if of_one and isinstance(test.ops[0], ast.Eq | ast.NotEq) and test.left in before:
                message = (
                    "the token before is compared with the start of a document, not the one it is mixed into"
                )
                yield script.finding("V15", test, message)


def _masked(script: Script, method: ast.FunctionDef, shifted: Sequence[ast.expr]) -> bool:
    """Whether a comparison decides where the shifted vectors are taken, and not elsewhere alone."""
    vectors = {name for each in shifted for name in names_in(each)}
    tests, scope = script.reach.carries(*script.comparisons), script.reach.scopes[id(method)]
    handed = {each.arg for each in method.args.args} - vectors
    masks = {name for name in handed if tests.by(ast.Name(name), scope)}
    masks = spread(method, _is_mask, masks)
    vectors |= named(method, lambda value: any(node in shifted for node in walked(value)))
    for node in nodes(method, ast.Call, ast.BinOp, ast.Assign):
        match node:
            case ast.Call(args=[test, *rest]) if last_called(node) == "where":
                sides = [(test, each) for each in rest]
            case ast.Call(func=ast.Attribute(value=held), args=[test, *_]) if last_called(node) in FILLS:
                sides = [(test, held)]
            case ast.BinOp(op=ast.Mult()):
                sides = [*permutations(_factors(node), 2)]
            case ast.Assign(targets=[ast.Subscript(slice=test, value=held)]):
                sides = [(test, held)]
            case _:
                continue
        if any(_is_mask(test, masks) and vectors & names_in(other) for test, other in sides):
            return True
    return False


def _factors(node: ast.expr) -> list[ast.expr]:
    """The factors of a product of products."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return [*_factors(node.left), *_factors(node.right)]
    return [node]


def _is_mask(node: ast.expr, masks: set[str]) -> bool:
    """A comparison of equals, or what is made of one without a product."""
    equal = any(isinstance(each.ops[0], ast.Eq | ast.NotEq) for each in nodes(node, ast.Compare))
    product = any(isinstance(each.op, ast.Mult | ast.MatMult | ast.Add) for each in nodes(node, ast.BinOp))
    return (equal or bool(masks & names_in(node))) and not product


FILLS = ("masked_fill", "masked_fill_")


def _keeps_apart(node: ast.Call) -> bool:
    """Attention of varying lengths, documents as an argument, or starts that are counted."""
    return (
        last_called(node).endswith(("varlen_func", "create_block_mask"))
        or any((word.arg or "").startswith(("cu_seqlens", "document")) for word in node.keywords)
        or last_called(node) == "cumsum"
        and any(nodes(node, ast.Compare))
    )


def _is_shift(node: ast.Call | ast.Subscript) -> bool:
    """`x[:, :-1]` that is put behind something, or of what something was put before, or rolled by one."""
    if isinstance(node, ast.Subscript):
        ends = [each.upper for each in nodes(node.slice, ast.Slice) if each.upper is not None]
        return last_called(node.value) in ("pad", "cat") and "-1" in map(ast.unparse, ends)
    if last_called(node) == "roll":
        return any(number(each) == 1 for each in node.args[:2])
    if last_called(node) not in ("cat", "pad", "concat", "concatenate"):
        return False
    return any(
        each.lower is None and each.upper is not None and ast.unparse(each.upper) == "-1"
        for each in nodes(node, ast.Slice)
    )


def _is_before(node: ast.Subscript) -> bool:
    """`x[:, :-1]`: what stands before each position."""
    last = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) else node.slice
    return isinstance(last, ast.Slice) and last.lower is None and ast.unparse(last).endswith(":-1")


def _over_ids(method: ast.FunctionDef, shifted: Sequence[ast.expr]) -> bool:
    """Whether what is shifted are token numbers that are hashed or looked up, not vectors."""
    names = {name for node in shifted for name in names_in(node)} - {"torch", "F"}
    return any(
        isinstance(node.op, ast.Mod | ast.BitXor) and names & names_in(node)
        for node in nodes(method, ast.BinOp)
    )


CHECKS = (
    cut_validation,
    scores_training,
    trains_on_all_files,
    one_process,
    unseen_places,
    across_documents,
    wrong_side,
)
COVERED = frozenset("V11 V14 V15 V16 V18".split())
