"""How a script rounds: its grid in training against the exported one, scales, statistics, compilation."""

import ast
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bitgolf.audit.finding import Finding
from bitgolf.audit.interpreter import Interpreter
from bitgolf.audit.library import COLLECTIVES
from bitgolf.audit.one_tensor import packed_levels
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import (
    Definition,
    arithmetic,
    attributes_given,
    called,
    calls,
    decorated,
    last_called,
    methods,
    names_in,
    nodes,
    numbers_given,
    own,
    spread,
    walked,
    within,
)
from bitgolf.audit.values import RANK, TRAIN, common

ROUNDS = ("round", "round_", "rint")


class Grid(NamedTuple):
    """Levels from low to high, where rounded values are clipped to them."""

    low: float
    high: float
    line: int
    exports: bool


def grids(script: Script) -> list[Grid]:
    """Every clip of rounded values to fixed levels; those that end in 8-bit numbers are exports."""
    levels = []
    known = Interpreter(script)
    calls_of = [*script.reach.all(ast.Call)]
    stored = [(part, scope) for node, scope in calls_of for part in _in_eight_bits(node)]
    for function in functions(script):
        if not any(calls(function, *ROUNDS)):
            continue
        text = ast.unparse(function)
        exports = ".char()" in text or any(kind in text for kind in EIGHT_BITS)
        straight = ".detach()" in text or "apply(" in text
        kept = {id(inner) for part, _ in stored for inner in walked(part)}
        names, known.steps = known.given(function), 0
        for node in calls(function, "clamp", "clip", "clamp_"):
            keywords = {each.arg: each.value for each in node.keywords}
            bounds = node.args[called(node) in ("torch.clamp", "torch.clip", "np.clip") :]
            bounds += [keywords[name] for name in ("min", "max") if name in keywords]
            numbers = [known.value(each, names) for each in bounds]
            low, high = numbers if len(numbers) == 2 else (0, 0)
            if not all(isinstance(each, int | float) and abs(each) >= 1 for each in (low, high)):
                continue
            ends = id(node) in kept or exports and not straight
            if not ends and not straight:
                carried = script.reach.carries(node)
                ends = any(carried.by(part, scope) for part, scope in stored)
            if ends or straight or id(function) in script.flow.owner:
                levels.append(Grid(low, high, node.lineno, ends))
    return levels


EIGHT_BITS = ("torch.int8", "torch.uint8", "np.int8", "np.uint8")


def _in_eight_bits(node: ast.Call) -> Iterator[ast.expr]:
    """What a call turns into 8-bit numbers: such a clip is exported, whatever is detached."""
    if isinstance(node.func, ast.Attribute) and (
        node.func.attr == "char" or any(ast.unparse(each) in EIGHT_BITS for each in node.args)
    ):
        yield node.func.value


def another_grid(script: Script) -> Iterator[Finding]:
    """T07."""
    all_grids = grids(script)
    exported = [each for each in all_grids if each.exports]
    exported = exported or [Grid(*each, True) for each in packed_levels(script)]
    levels = {(each.low, each.high) for each in exported}
    for grid in all_grids:
        if exported and not grid.exports and (grid.low, grid.high) not in levels:
            other = min(exported, key=lambda each: abs(each.high - grid.high) + abs(each.low - grid.low))
            message = f"trained on levels {grid.low:g} to {grid.high:g}"
            those = f"those of the export, {other.low:g} to {other.high:g} ({script.line(other.line)})"
            yield script.finding("T07", grid.line, message, those)
            return


def missed_hooks(script: Script) -> Iterator[Finding]:
    """T11: statistics by hooks on layers whose forward is passed by."""
    if not any(calls(script.tree, "register_forward_hook", "register_forward_pre_hook")):
        return
    made = attributes_given(script.tree, *_matrices(script))
    kinds = [base for kind in nodes(script.tree, ast.ClassDef) for base in kind.bases]
    asked = [
        each
        for node in nodes(script.tree, ast.Call, ast.Compare)
        for each in ast.iter_child_nodes(node)
        if isinstance(each, ast.Attribute) and ast.unparse(each) in ("nn.Linear", "torch.nn.Linear")
        if not isinstance(node, ast.Call) or each is not node.func
    ]
    if (
        asked
        and not any(calls(script.tree, "Linear"))
        and not any("Linear" in ast.unparse(each) for each in kinds)
    ):
        yield script.finding("T11", asked[0], "hooks are set on nn.Linear, and the model has none")
    uses = [each for each in script.reach.all(ast.Call) if last_called(each[0]) == "linear"]
    for name in sorted(made) if uses else ():
        layer = script.reach.carries(
            *(each for each in nodes(script.tree, ast.Attribute) if each.attr == name)
        )
        for node, scope in uses:
            weights = [each for part in node.args[1:2] for each in nodes(part, ast.Attribute)]
            if any(each.attr == "weight" and layer.by(each.value, scope) for each in weights):
                message = f"F.linear takes the weight of `{name}`, so no hook on it sees its inputs"
                yield script.finding("T11", node, message)


def own_statistics(script: Script) -> Iterator[Finding]:
    """T11: what hooks have seen of a process's share of the training data comes to no collective call."""
    trained = max((each.time for each in script.of("fit")), default=math.inf)
    studied = [each for each in script.of("studied", RANK, TRAIN) if each.time > trained and not each.owner]
    hooks = [*calls(script.tree, "register_forward_hook", "register_forward_pre_hook")] if studied else []
    handed = [each for hook in hooks for node in walked(hook) for each in own(node)]
    taken = {
        each.arg
        for function in within(handed)
        if isinstance(function, Definition)
        for each in function.args.args
    }
    seen = [
        each
        for each in within([*handed, *hooks])
        if isinstance(each, ast.Name) and each.id in taken - {"self"}
    ]
    if not seen:
        return
    carried = script.reach.carries(*seen)
    if not any(carried.by(part, scope) for part, scope in script.reach.handed(*COLLECTIVES)):
        message = "each process takes statistics of its own share, and nobody adds them up"
        yield script.finding("T11", studied[0], message)


def _matrices(script: Script) -> tuple[str, ...]:
    """The classes of a matrix: torch's, and one's own that are such or have a parameter `weight`."""
    like_it = [
        kind.name
        for kind in nodes(script.tree, ast.ClassDef)
        if any("Linear" in ast.unparse(base) for base in kind.bases)
        or "weight" in attributes_given(kind, "Parameter")
    ]
    return "Linear", *like_it


def worse_than_rounding(script: Script) -> Iterator[Finding]:
    """T12: error feedback by another matrix than the inverse, without damping, or of values rounded down."""
    numbers = numbers_given(script.tree)
    for function in functions(script):
        text = ast.unparse(function)
        if not any(calls(function, *INVERTS)):
            continue
        called_in = script.within_reach(function)
        rounds = any(any(calls(each, *ROUNDS)) for each in called_in)
        if not rounds and not any(any(calls(each, "floor", "trunc")) for each in called_in):
            continue
        damped = any(word in text for word in ("fill_diagonal", "eye(", "[diag")) or any(
            "diag" in ast.unparse(node) for node in nodes(function, ast.AugAssign, ast.BinOp)
        )
        handed = [each for node in walked(function) if (each := _subtracted(node, numbers)) is not None]
        inverses = spread(function, _is_part_of, set())
        if not handed:
            how = "that hands no error on"
        elif not damped:
            how = "without damping: its error may grow"
        elif inverses and not all(inverses & names_in(each) for each in handed):
            how = "that hands errors on by another matrix"
        elif not rounds and "0.5" not in text:
            how = "that rounds down"
        else:
            continue
        yield script.finding("T12", function, f"rounding with an inverse Hessian {how}")


INVERTS = ("cholesky", "cholesky_inverse", "inv", "inverse", "pinv")


def _is_part_of(node: ast.expr, inverses: set[str]) -> bool:
    """An inverse, or a factor or a part of one."""
    while isinstance(node, ast.Subscript | ast.Attribute | ast.Call) and last_called(node) not in INVERTS:
        node = node.func if isinstance(node, ast.Call) else node.value
    return last_called(node) in INVERTS or isinstance(node, ast.Name) and node.id in inverses


def _subtracted(node: ast.AST, numbers: Mapping[str, float]) -> ast.expr | None:
    """The error in `w[i] -= error`, `w[i] = w[j] - error`, `w[i].sub_(error)`, `w[i].add_(error, alpha=-1)`.

    numbers: what names stand for.
    """
    match node:
        case ast.AugAssign(target=ast.Subscript(), op=ast.Sub(), value=value):
            return value
        case ast.Assign(targets=[ast.Subscript()], value=ast.BinOp(op=ast.Sub(), right=value)):
            return value
        case ast.Call(func=ast.Attribute(value=ast.Subscript(), attr="sub_" | "sub"), args=[value, *_]):
            return value
        case ast.Call(
            func=ast.Attribute(value=ast.Subscript(), attr="add_"),
            args=[value, *_],
            keywords=[ast.keyword("alpha", alpha)],
        ):
            return value if (arithmetic(alpha, numbers) or 0) < 0 else None
    return None


def recompiled(script: Script) -> Iterator[Finding]:
    """T05: numbers of a module, or lengths, that change while a compiled model runs."""
    compiled = [node for node in calls(script.tree, "compile") if called(node) in COMPILES]
    marked = decorated(script.tree, "torch.compile")
    if not compiled and not marked:
        return
    made = [text for each in calls(script.tree, "register_buffer") for text in nodes(each, ast.Constant)]
    buffers = {each.value for each in made}
    inner = [method for kind in nodes(script.tree, ast.ClassDef) for method in _in_forward(kind)]
    for node in (each for method in inner for each in nodes(method, ast.AugAssign)):
        held = node.target if isinstance(node.value, ast.Constant) else None
        if isinstance(held, ast.Attribute) and held.attr not in buffers:
            message = f"{ast.unparse(held)} counts up in forward: for a compiled graph a constant"
            yield script.finding("T05", node, message)
    read = {each.attr for method in inner for each in nodes(method, ast.Attribute)} - buffers
    fits = script.of("fit")
    for each in script.of("setting"):
        if each.owner in read and any(common(each, fit) for fit in fits):
            message = f"`{each.owner}` changes with the steps: for a compiled graph a constant"
            yield script.finding("T05", each, message)
    keywords = [word for word in within([*compiled, *marked]) if isinstance(word, ast.keyword)]
    dynamic = any(word.arg == "dynamic" and ast.unparse(word.value) == "True" for word in keywords)
    if dynamic or any(calls(script.tree, "mark_dynamic")):
        return
    for each in script.of("length"):
        if any(common(each, fit) for fit in fits):
            message = "a length changes with the steps, and with it what a compiled model is given"
            yield script.finding("T05", each, message)
            return


def _in_forward(kind: ast.ClassDef) -> list[ast.FunctionDef]:
    """The method `forward` of a class, and those of its own that it calls."""
    by_name = {each.name: each for each in methods(kind)}
    names = ["forward"] if "forward" in by_name else []
    for name in names:
        inner = {called(node) for node in nodes(by_name[name], ast.Call)}
        names += [each for each in by_name if f"self.{each}" in inner and each not in names]
    return [by_name[name] for name in names]


COMPILES = ("torch.compile", "compile")


def exported_for_training(script: Script) -> Iterator[Finding]:
    """K06: parts that only training uses, in what is written."""
    called_for = {each.name for node in nodes(script.tree, ast.Call) for each in own(node)}
    inside = {event.inside for event in script.of("score") if event.inside}
    names = inside | {"forward", "__call__"} if inside else inside
    begins = [each for name in names for each in script.flow.called_so.get(name, ())]
    of_scores = script.within_reach(*begins)
    scoring = {each.name for each in of_scores if isinstance(each, Definition)}
    turned_on = {word.arg for each in of_scores for word in nodes(each, ast.keyword)}
    kinds = [*nodes(script.tree, ast.ClassDef)]
    asked = [{node.attr for node in nodes(kind, ast.Attribute)} for kind in kinds]
    for kind, here in zip(kinds, asked):
        outside = set().union(*(each for each in asked if each is not here))
        made = attributes_given(
            kind, *_matrices(script), "ModuleList", "Parameter", "Embedding", "Sequential"
        )
        uses: dict[str, list[bool]] = {}
        for method in (each for each in methods(kind) if each.name not in BUILDS):
            off = [
                each.arg
                for each, given in zip(reversed(method.args.args), reversed(method.args.defaults))
                if ast.unparse(given) == "False"
            ]
            training = {
                id(inner)
                for node in nodes(method, ast.If)
                if re.search(r"(?<!not )self\.training", ast.unparse(node.test))
                or ast.unparse(node.test) in {*off} - turned_on
                for inner in within(node.body)
            }
            for node in nodes(method, ast.Attribute):
                if node.attr in made and isinstance(node.ctx, ast.Load):
                    only = method.name in called_for and method.name not in scoring
                    uses.setdefault(node.attr, []).append(id(node) in training or only)
        for name, places in uses.items():
            if scoring and all(places) and name not in outside and not _left_out(script.tree, name):
                message = f"`{name}` is used only in training, and nothing leaves it out of what is written"
                yield script.finding("K06", made[name], message)


BUILDS = {"__init__", "reset_parameters", "init_weights", "_init_weights"}


def _left_out(tree: ast.Module, name: str) -> bool:
    """Whether the part's name stands in a text, or it is deleted or emptied."""
    gone = [inner for node in nodes(tree, ast.Delete) for inner in within(node.targets)]
    emptied = (node for node in nodes(tree, ast.Assign) if ast.unparse(node.value) == "None")
    gone += [target for node in emptied for target in node.targets]
    return any(isinstance(each, ast.Attribute) and each.attr == name for each in gone) or any(
        isinstance(node.value, str) and re.search(rf"\b{name}\b", node.value)
        for node in nodes(tree, ast.Constant)
    )


def exported_optimizer(script: Script) -> Iterator[Finding]:
    """K06: the state of an optimizer comes to what is compressed."""
    made = [call for call, _ in script.reach.all(ast.Call) if script.flow.makes_optimizer(call)]
    optimizers = script.reach.carries(*made)
    states = [
        node
        for node, scope in script.reach.all(ast.Attribute)
        if node.attr in ("state", "state_dict") and optimizers.by(node.value, scope)
    ]
    packed = script.reach.handed("compress") if states else []
    buffers = {name for part, _ in packed for name in names_in(part)}
    saves = [(each, scope) for each, scope in script.reach.all(ast.Call) if last_called(each) in SAVES]
    packed += [
        (each.args[0], scope) for each, scope in saves if each.args and names_in(each.args[-1]) & buffers
    ]
    carried = script.reach.carries(*states) if packed else None
    if carried and any(carried.by(part, scope) for part, scope in packed):
        yield script.finding("K06", states[0], "the state of an optimizer is in what is compressed")


SAVES = ("save", "dump")
CHECKS = (
    another_grid,
    missed_hooks,
    own_statistics,
    worse_than_rounding,
    recompiled,
    exported_for_training,
    exported_optimizer,
)
COVERED = frozenset("T05 T07 T11 T12 K06".split())
