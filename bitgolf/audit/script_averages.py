"""Averages of weights in a script: of too few bits, of too few steps, begun too early."""

import ast
import itertools
import math
from collections.abc import Iterator, Mapping

from bitgolf.audit.finding import FOUND, Finding
from bitgolf.audit.interpreter import Interpreter
from bitgolf.audit.script import Script, functions
from bitgolf.audit.script_stages import trains
from bitgolf.audit.tree import (
    arithmetic,
    base_of,
    called,
    calls,
    last_called,
    named,
    names_given,
    names_in,
    nodes,
    own,
    values_given,
    walked,
    ways,
    within,
)
from bitgolf.audit.values import common, dotted

GIVES = (ast.Return, ast.Assign)
MOST_TURNS = 10**9  # of a loop, that anybody would wait for
LEAST_LEFT = 0.1  # of the start in an average, that is worth a word


def narrow_average(script: Script) -> Iterator[Finding]:
    """T01: sums of weights in a 16-bit type."""
    types = dict(_named_types(script))
    trained = {  # what holds the weights where no module does
        name
        for loop in nodes(script.tree, ast.For)
        if any(
            each.attr == "grad" and names_in(each) & names_in(loop.target)
            for each in nodes(loop, ast.Attribute)
        )
        for name in names_in(loop.iter)
    }
    for part in [*nodes(script.tree, ast.ClassDef), *functions(script)]:
        weights = {
            name
            for loop in nodes(part, ast.For, ast.comprehension)
            if any(word in ast.unparse(loop.iter) for word in OF_WEIGHTS) or names_in(loop.iter) & trained
            for name in names_in(loop.target)
        }
        given = [*nodes(part, ast.Assign)]
        kept: set[str] = set()
        for _ in range(3):  # from a copy to what is made of it
            kept |= {
                base
                for node in given
                if _is_narrow(node.value, weights, kept, types)
                for target in node.targets
                if (base := base_of(target)).partition(".")[0] not in weights
            }
        for node in walked(part):
            held = _added_to(node)
            if held is not None and base_of(held) in kept:
                yield script.finding("T01", node, "weights are summed in a 16-bit type", sure=FOUND)
                return


OF_WEIGHTS = ("state_dict()", "parameters()")
NARROW = (".bfloat16()", ".half()", "bfloat16", "float16")
WIDE = (".float()", ".double()", "float32", "float64")


def _named_types(script: Script) -> Iterator[tuple[str, str]]:
    """Names, fields and parameters that stand for a number type."""
    for name, value in values_given(script.tree):
        if dotted(value) in NUMBER_TYPES:
            yield name.rpartition(".")[2], dotted(value)


NUMBER_TYPES = {f"torch.{name}" for name in ("bfloat16", "float16", "half", "float32", "float64", "double")}


def _is_narrow(node: ast.expr, weights: set[str], kept: set[str], types: Mapping[str, str]) -> bool:
    """Whether weights become 16-bit numbers here, or copies of such are kept as they are."""
    named = [dotted(each).rpartition(".")[2] for each in nodes(node, ast.Name, ast.Attribute)]
    text = " ".join([ast.unparse(node), *(types[name] for name in named if name in types)])
    if any(word in text for word in WIDE):
        return False
    over = weights & names_in(node) or any(word in text for word in OF_WEIGHTS)
    copies = {base_of(each) for each in nodes(node, ast.Name, ast.Attribute)} & kept
    ways = {ast.unparse(each) for each in (node.body, node.orelse)} if isinstance(node, ast.IfExp) else set()
    same = "clone" in text or "copy" in text or ways & copies
    return bool(over and any(word in text for word in NARROW) or copies and same)


def average_of_the_start(script: Script) -> Iterator[Finding]:
    """T02: averages that still hold their start."""
    numbers = script.numbers
    for function in [*functions(script), script.tree]:
        for loop in nodes(function, ast.For, ast.While):
            steps = _count_of(loop, numbers)
            if not steps or _corrects(function) or not any(trains(script, node) for node in walked(loop)):
                continue
            given = [(name, each.value) for each in nodes(loop, ast.Assign) for name in names_given(each)]
            once = {name: value for name, value in given if [one for one, _ in given].count(name) == 1}
            own_numbers = {name: each for name, value in once.items() if (each := arithmetic(value, numbers))}
            known = {**numbers, **own_numbers}
            late = {id(each) for node in nodes(loop, ast.If) for each in within(node.body)}
            early = [node for node in walked(loop) if id(node) not in late]
            helpers = [each for node in early for each in own(node)]
            for part, node in ((held, each) for held in (loop, *helpers) for each in walked(held)):
                left = (decay := _decay(node, known)) ** steps
                if left > LEAST_LEFT and not _learns(part, node):
                    message = f"after {steps:,} steps an average of decay {decay:g} still holds "
                    yield script.finding("T02", node, f"{message}{100 * left:.0f}% of its start")
                    break


def _learns(part: ast.AST, node: ast.AST) -> bool:
    """Whether what decays here are the weights themselves, or a momentum that is given a gradient."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    asked = [each for each in nodes(part, ast.Attribute) if each.attr == "grad"]
    owners = {name for each in asked for name in names_in(each.value)}
    made = named(part, lambda value: any(inner in asked for inner in walked(value)))
    return bool(
        names_in(node.func) & owners or {name for each in node.args for name in names_in(each)} & made
    )


def _count_of(loop: ast.For | ast.While, numbers: Mapping[str, float]) -> int:
    """How many turns a loop has at most, where it says so: by its range, or by a test that leaves it."""
    ends: list[ast.expr] = []
    if isinstance(loop, ast.For):
        match loop.iter:
            case ast.Call(func=ast.Name("range"), args=[last] | [_, last, *_]):
                ends.append(last)
    else:
        leaves = [each.test for each in nodes(loop, ast.If) if isinstance(each.body[-1], ast.Break)]
        asked = {name for each in leaves for name in names_in(each)}
        decided = [each.value for each in nodes(loop, ast.Assign) if names_given(each) & asked]
        equal = [each for each in within(decided) if isinstance(each, ast.Compare)]
        leaves += [each for each in equal if isinstance(each.ops[0], ast.Eq)]
        goes_on = [
            each for each in nodes(loop.test, ast.Compare) if isinstance(each.ops[0], ast.Lt | ast.LtE)
        ]
        left = [each for test in leaves for each in nodes(test, ast.Compare)]
        left = [each for each in left if isinstance(each.ops[0], ast.Gt | ast.GtE | ast.Eq)]
        ends += [each.comparators[0] for each in (*left, *goes_on)]
    turns = [each for last in ends if (each := arithmetic(last, numbers) or 0) > 1]
    return int(min(*turns, MOST_TURNS)) if turns else 0


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


def overwritten(script: Script) -> Iterator[Finding]:
    """T02: weights that are loaded after training, and replaced by others before they are used."""
    nodes_of = {each.lineno: each for each in calls(script.tree, "load_state_dict", "copy_")}
    loads = [each for each in script.of("load") if each.line in nodes_of and not each.off]
    used = [each.time for kind in ("write", "score", "kept", "train") for each in script.of(kind)]
    trained = max((each.time for each in script.of("fit")), default=math.inf)
    for first, then in itertools.pairwise(loads):
        one, other = nodes_of[first.line], nodes_of[then.line]
        at_once = trained < first.time and not any(first.time < each < then.time for each in used)
        if not at_once or first.line >= then.line or first.inside != then.inside or common(first, then):
            continue
        partly = "strict=False" in ast.unparse(one) + ast.unparse(other)
        always = _branches(script, other) <= _branches(script, one)
        if always and not partly and _receiver(script, one) == _receiver(script, other):
            message = f"these weights are replaced at once ({script.line(then.line)})"
            yield script.finding("T02", first, message, "what was loaded is packed or scored first")
            return


def _receiver(script: Script, node: ast.Call) -> str:
    """What a load is into: the model's name, also where its parameters are gone through one by one."""
    held = node.func.value if isinstance(node.func, ast.Attribute) else node.func
    for loop in nodes(script.tree, ast.For):
        if node in walked(loop) and names_in(held) & names_in(loop.target):
            asked = [each for each in nodes(loop.iter, ast.Call) if last_called(each) in ASKED]
            return called(asked[0]).rpartition(".")[0] if asked else ""
    return ast.unparse(held)


def _branches(script: Script, node: ast.AST) -> set[tuple[int, int]]:
    """The ways of branches that a node stands in."""
    branches = [(id(each), ways(each)) for each in nodes(script.tree, ast.If, ast.IfExp)]
    return {(branch, i) for branch, both in branches for i in (0, 1) if node in within(both[i])}


def unread_average(script: Script) -> Iterator[Finding]:
    """T02: a copy of weights that nothing reads but the average that it becomes."""
    updates = [
        node
        for node in nodes(script.tree, ast.For, ast.Expr, ast.Assign)
        if any(_decay(each, script.numbers) > 0 for each in walked(node)) and not any(calls(node, "backward"))
    ]
    inside = {id(each) for each in within(updates)}
    for node in nodes(script.tree, ast.Assign) if updates else ():
        text = ast.unparse(node.value)
        copied = any(word in text for word in OF_WEIGHTS) and any(word in text for word in COPIED)
        for name in names_given(node) if copied else ():
            loads = [
                each
                for each in nodes(script.tree, ast.Name)
                if each.id == name and each is not node.targets[0]
            ]
            if loads and all(id(each) in inside for each in loads):
                yield script.finding("T02", loads[0], f"`{name}` is an average, and nothing reads it")


COPIED = ("clone()", "copy(", "float()")
ASKED = ("parameters", "named_parameters", "state_dict")


def averaged_too_early(script: Script) -> Iterator[Finding]:
    """T03: the share of steps at which averaging begins against that at which the rate begins to fall."""
    averaging, falling = [], []
    known = Interpreter(script)
    for node in nodes(script.tree, ast.If, ast.IfExp):
        if (share := _share(node.test, known)) is None:
            continue
        if isinstance(node, ast.If) and any(_sums_weights(script, each) for each in within(node.body)):
            if (begin := _share(node.test, known, from_it_on=True)) is not None:
                averaging.append((begin, node))
        elif isinstance(node, ast.IfExp) or any(isinstance(each, GIVES) for each in node.body):
            falling.append(share)
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


def _share(test: ast.expr, known: Interpreter, from_it_on: bool = False) -> float | None:
    """The number s of a test like `step >= s * steps` or `step / steps > s`, alone or among others.

    from_it_on: only of one that holds from there on.
    """
    match test:
        case ast.BoolOp():
            shares = (_share(each, known, from_it_on) for each in test.values)
            return next((share for share in shares if share is not None), None)
        case ast.Compare(left=left, ops=[ast.Gt() | ast.GtE() | ast.Lt() | ast.LtE()], comparators=[right]):
            sides = [(left, right), (right, left)]
            if from_it_on:
                sides = sides[1:] if isinstance(test.ops[0], ast.Gt | ast.GtE) else sides[:1]
            for side, other in sides:
                for each in _parts_of(side):
                    known.steps = 0
                    share = known.value(each, {})
                    if isinstance(share, float) and 0 < share < 1:
                        scaled = isinstance(side, ast.BinOp) or isinstance(other, ast.BinOp | ast.Name)
                        return share if scaled else None
    return None


def _parts_of(node: ast.expr) -> Iterator[ast.expr]:
    """The factors of a product, or the one thing that it is."""
    match node:
        case ast.BinOp(op=ast.Mult() | ast.Div()):
            yield from (*_parts_of(node.left), *_parts_of(node.right))
        case ast.Call(args=[inner]) if called(node) in ("int", "float", "round"):
            yield from _parts_of(inner)
        case _:
            yield node


def _sums_weights(script: Script, node: ast.AST) -> bool:
    """Whether weights are added into an average here, or in a function that is called."""
    if _adds_in_place(node) or last_called(node) == "update_parameters":
        return True
    over = [each for each in own(node) if any(calls(each, *ASKED))]
    return any(any(map(_adds_in_place, walked(each))) for each in over)


def _adds_in_place(node: ast.AST) -> bool:
    """Into a place, as one of many: of an average with a decay it does not matter when it begins."""
    held = _added_to(node)
    if isinstance(node, ast.Assign | ast.AugAssign):
        of_many = isinstance(held, ast.Subscript) or held is not None and any(nodes(node.value, ast.DictComp))
        return of_many and bool(names_in(node.value))  # a count goes up by a number
    return last_called(node) in ("add_", "lerp_")


def _added_to(node: ast.AST) -> ast.expr | None:
    """What something is added to here."""
    match node:
        case (
            ast.AugAssign(target=held, op=ast.Add())
            | ast.Call(func=ast.Attribute(value=held, attr="add_" | "lerp_"))
        ):
            return held
        case ast.Call(args=[held, *_]) if last_called(node) in ("_foreach_add_", "_foreach_lerp_"):
            return held
        case ast.Assign(targets=[held], value=value):
            sums = [each for each in nodes(value, ast.BinOp) if isinstance(each.op, ast.Add)]
            name = base_of(held)
            return held if any(name in (_whole(each.left), _whole(each.right)) for each in sums) else None
    return None


def _whole(node: ast.expr) -> str:
    """What an entry is of: `sums` of `sums[name]` and of `sums.get(name, 0)`."""
    match node:
        case ast.Call(func=ast.Attribute(value=held, attr="get")):
            return ast.unparse(held)
    return base_of(node)


CHECKS = (narrow_average, average_of_the_start, overwritten, unread_average, averaged_too_early)
COVERED = frozenset("T01 T02 T03".split())
