"""Averages of weights in a script: of too few bits, of too few steps, begun too early."""

import ast
import math
from collections.abc import Iterator, Mapping

from bitgolf.audit.finding import FOUND, Finding
from bitgolf.audit.one_tensor import Interpreter
from bitgolf.audit.script import Script, functions
from bitgolf.audit.script_stages import trains
from bitgolf.audit.tree import arithmetic, base_of, called, last_called, names_in, nodes, within

GIVES = (ast.Return, ast.Assign)
MOST_TURNS = 10**9  # of a loop, that anybody would wait for
LEAST_LEFT = 0.1  # of the start in an average, that is worth a word


def narrow_average(script: Script) -> Iterator[Finding]:
    """T01: sums of weights in a 16-bit type."""
    for part in [*nodes(script.tree, ast.ClassDef), *functions(script)]:
        weights = {
            name
            for loop in nodes(part, ast.For, ast.comprehension)
            if any(word in ast.unparse(loop.iter) for word in OF_WEIGHTS)
            for name in names_in(loop.target)
        }
        given = [*nodes(part, ast.Assign)]
        kept: set[str] = set()
        for _ in range(3):  # from a copy to what is made of it
            kept |= {
                base
                for node in given
                if _is_narrow(node.value, weights, kept)
                for target in node.targets
                if (base := base_of(target)).partition(".")[0] not in weights
            }
        for node in ast.walk(part):
            held: ast.expr | None = None
            if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
                held = node.target
            elif isinstance(node, ast.Call) and last_called(node) in ("add_", "lerp_"):
                held = node.func
            elif last_called(node) in ("_foreach_add_", "_foreach_lerp_") and isinstance(node, ast.Call):
                held = node.args[0]
            elif isinstance(node, ast.Assign) and len(node.targets) == 1:
                sums = [each for each in nodes(node.value, ast.BinOp) if isinstance(each.op, ast.Add)]
                own = base_of(node.targets[0])
                if any(own in (base_of(each.left), base_of(each.right)) for each in sums):
                    held = node.targets[0]
            if held is not None and base_of(held) in kept:
                yield script.finding("T01", node, "weights are summed in a 16-bit type", sure=FOUND)
                return


OF_WEIGHTS = ("state_dict()", "parameters()")
NARROW = (".bfloat16()", ".half()", "bfloat16", "float16")
WIDE = (".float()", ".double()", "float32", "float64")


def _is_narrow(node: ast.expr, weights: set[str], kept: set[str]) -> bool:
    """Whether weights become 16-bit numbers here, or copies of such are kept as they are."""
    text = ast.unparse(node)
    if any(word in text for word in WIDE):
        return False
    over = weights & names_in(node) or any(word in text for word in OF_WEIGHTS)
    copies = {base_of(each) for each in nodes(node, ast.Name, ast.Attribute)} & kept
    return bool(
        over and any(word in text for word in NARROW) or copies and ("clone" in text or "copy" in text)
    )


def average_of_the_start(script: Script) -> Iterator[Finding]:
    """T02: averages that still hold their start."""
    numbers = script.numbers
    for function in [*functions(script), script.tree]:
        for loop in nodes(function, ast.For, ast.While):
            steps = _count_of(loop, numbers)
            if not steps or _corrects(function) or not any(trains(script, node) for node in ast.walk(loop)):
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


CHECKS = (narrow_average, average_of_the_start, averaged_too_early)
COVERED = frozenset("T01 T02 T03".split())
