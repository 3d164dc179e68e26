"""How a script rounds: its grid in training against the exported one, scales, statistics, compilation."""

import ast
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bitgolf.audit.finding import Finding
from bitgolf.audit.one_tensor import packed_levels
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import (
    NO_NUMBERS,
    arithmetic,
    attributes_given,
    called,
    calls,
    last_called,
    lines_of,
    methods,
    names_given,
    names_in,
    nodes,
    own_nodes,
    within,
)

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
    constants = _constants(script.tree, script.numbers)
    for function in functions(script):
        if not any(calls(function, *ROUNDS)):
            continue
        text = ast.unparse(function)
        exports = ".char()" in text or any(kind in text for kind in EIGHT_BITS)
        straight = ".detach()" in text or "apply(" in text
        kept = {id(part) for node in nodes(function, ast.Call) for part in _in_eight_bits(node)}
        values = _constants(function, _defaults(function, constants))
        for node in calls(function, "clamp", "clip", "clamp_"):
            keywords = {each.arg: each.value for each in node.keywords}
            bounds = node.args[called(node) in ("torch.clamp", "torch.clip", "np.clip") :]
            bounds += [keywords[name] for name in ("min", "max") if name in keywords]
            numbers = [arithmetic(each, values) for each in bounds]
            low, high = numbers if len(numbers) == 2 else (None, None)
            if low is None or high is None or abs(low) < 1 or high < 1:
                continue
            if exports or straight or id(function) in script.flow.owner:
                levels.append(Grid(low, high, node.lineno, id(node) in kept or (exports and not straight)))
    return levels


EIGHT_BITS = ("torch.int8", "torch.uint8", "np.int8", "np.uint8")


def _in_eight_bits(node: ast.Call) -> Iterator[ast.AST]:
    """What a call turns into 8-bit numbers, part by part: such a clip is exported, whatever is detached."""
    if isinstance(node.func, ast.Attribute) and (
        node.func.attr == "char" or any(ast.unparse(each) in EIGHT_BITS for each in node.args)
    ):
        yield from ast.walk(node.func.value)


def _constants(tree: ast.AST, known: Mapping[str, float] = NO_NUMBERS) -> dict[str, float]:
    """Names that a number is given once, in this scope or in the whole script."""
    values = dict(known)
    inner = own_nodes(tree) if isinstance(tree, ast.Module) else ast.walk(tree)
    for node in (each for each in inner if isinstance(each, ast.Assign)):
        value = arithmetic(node.value, values)
        if len(node.targets) == 1 and isinstance(target := node.targets[0], ast.Name) and value is not None:
            values[target.id] = value
    return values


def _defaults(function: ast.FunctionDef, known: Mapping[str, float]) -> dict[str, float]:
    """Numbers that are known, and what a function's arguments are where they are not given."""
    pairs = zip(reversed(function.args.args), reversed(function.args.defaults))
    numbers = ((argument.arg, arithmetic(default, known)) for argument, default in pairs)
    return {**known, **{name: value for name, value in numbers if value is not None}}


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
    made = attributes_given(script.tree, "Linear")
    kinds = [base for kind in nodes(script.tree, ast.ClassDef) for base in kind.bases]
    asked = [
        each
        for node in nodes(script.tree, ast.Call)
        for each in (*node.args, *(word.value for word in node.keywords))
        if ast.unparse(each) in ("nn.Linear", "torch.nn.Linear")
    ]
    if (
        asked
        and not any(calls(script.tree, "Linear"))
        and not any("Linear" in ast.unparse(each) for each in kinds)
    ):
        yield script.finding("T11", asked[0], "hooks are set on nn.Linear, and the model has none")
    for node in calls(script.tree, "linear"):
        weights = {
            each.value.attr
            for part in node.args[1:2]
            for each in nodes(part, ast.Attribute)
            if each.attr == "weight" and isinstance(each.value, ast.Attribute)
        }
        for name in sorted(weights & made.keys()):
            message = f"F.linear takes the weight of `{name}`, so no hook on it sees its inputs"
            yield script.finding("T11", node, message)


def worse_than_rounding(script: Script) -> Iterator[Finding]:
    """T12: a rounding with error feedback that is never held against the plain one."""
    for function in functions(script):
        text = ast.unparse(function)
        inverse = any(calls(function, "cholesky", "cholesky_inverse", "inv"))
        if not inverse or not any(calls(function, *ROUNDS)):
            continue
        damped = any(word in text for word in ("fill_diagonal", "eye(", "[diag")) or any(
            "diag" in ast.unparse(node) for node in nodes(function, ast.AugAssign, ast.BinOp)
        )
        feedback = "sub_(" in text or any(map(_subtracts, nodes(function, ast.AugAssign, ast.Assign)))
        if not feedback or not damped:
            how = "without damping: its error may grow" if feedback else "that hands no error on"
            yield script.finding("T12", function, f"rounding with an inverse Hessian {how}")


def _subtracts(node: ast.AugAssign | ast.Assign) -> bool:
    """`w[i] -= error`, or `w[i] = w[j] - error`."""
    target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
    done = node if isinstance(node, ast.AugAssign) else node.value
    return (
        isinstance(target, ast.Subscript)
        and isinstance(done, ast.AugAssign | ast.BinOp)
        and isinstance(done.op, ast.Sub)
    )


def recompiled(script: Script) -> Iterator[Finding]:
    """T05: numbers of a module, or lengths, that change while a compiled model runs."""
    compiled = [node for node in calls(script.tree, "compile") if called(node) in COMPILES]
    decorated = [
        node
        for node in nodes(script.tree, ast.FunctionDef)
        if any("torch.compile" in ast.unparse(each) for each in node.decorator_list)
    ]
    if not compiled and not decorated:
        return
    for kind in nodes(script.tree, ast.ClassDef):
        made = [text for each in calls(kind, "register_buffer") for text in nodes(each, ast.Constant)]
        buffers = {each.value for each in made}
        for method in _in_forward(kind):
            for node in nodes(method, ast.AugAssign):
                held = node.target if isinstance(node.value, ast.Constant) else None
                if isinstance(held, ast.Attribute) and held.attr not in buffers:
                    message = f"{ast.unparse(held)} counts up in forward: for a compiled graph a constant"
                    yield script.finding("T05", node, message)
    keywords = [word for word in within([*compiled, *decorated]) if isinstance(word, ast.keyword)]
    dynamic = any(word.arg == "dynamic" and ast.unparse(word.value) == "True" for word in keywords)
    if dynamic or any(calls(script.tree, "mark_dynamic")):
        return
    for loop in nodes(script.tree, ast.For, ast.While):
        for given in nodes(loop, ast.Assign) if any(calls(loop, "backward")) else ():
            length = given.targets[0]
            named = isinstance(length, ast.Name) and _is_length(loop, length.id)
            if named and _follows_steps(given.value, loop):
                what = ast.unparse(given.value)[:60]
                message = f"the length `{what}` changes with the steps of a compiled model"
                yield script.finding("T05", given, message)
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


def _follows_steps(value: ast.expr, loop: ast.For | ast.While) -> bool:
    step = loop.target.id if isinstance(loop, ast.For) and isinstance(loop.target, ast.Name) else "step"
    return step in names_in(value) and isinstance(value, ast.IfExp | ast.BinOp | ast.Call | ast.Subscript)


def _is_length(loop: ast.AST, name: str) -> bool:
    """Whether a name gives a tensor its shape."""
    shapes = calls(loop, "reshape", "view", "unfold")
    return any(name in names_in(part) for call in shapes for part in call.args)


def exported_for_training(script: Script) -> Iterator[Finding]:
    """K06: parts that only training uses, in what is written."""
    called_for = {last_called(node) for node in nodes(script.tree, ast.Call)}
    scoring = _reached(script, {event.inside for event in script.of("score") if event.inside})
    for kind in nodes(script.tree, ast.ClassDef):
        others = (other for other in nodes(script.tree, ast.ClassDef) if other is not kind)
        outside = {node.attr for other in others for node in nodes(other, ast.Attribute)}
        made = attributes_given(kind, "Linear", "ModuleList", "Parameter", "Embedding", "Sequential")
        uses: dict[str, list[bool]] = {}
        for method in (each for each in methods(kind) if each.name not in BUILDS):
            training = {
                id(inner)
                for node in nodes(method, ast.If)
                if re.search(r"(?<!not )self\.training", ast.unparse(node.test))
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


def _reached(script: Script, names: set[str]) -> set[str]:
    """The functions, by name, that are come to from these; a model that is called runs `forward`."""
    waiting, reached = [*names], {*names, "forward", "__call__"} if names else set[str]()
    waiting += [*reached - names]
    while waiting:
        for function in script.flow.called_so.get(waiting.pop(), ()):
            inner = {last_called(node) for node in nodes(function, ast.Call)}
            inner |= {node.attr for node in nodes(function, ast.Attribute)}  # it may be handed on
            new = {each for each in inner if each in script.flow.called_so} - reached
            reached |= new
            waiting += new
    return reached


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
    """K06: the state of optimizers in what is compressed."""
    stepped = {called(node).rpartition(".")[0] for node in calls(script.tree, "zero_grad")}
    stepped |= {
        name
        for loop in nodes(script.tree, ast.For, ast.comprehension)
        if names_in(loop.target) & stepped
        for name in names_in(loop.iter)
    }
    for function in functions(script):
        turned = {
            name
            for loop in nodes(function, ast.comprehension)
            if names_in(loop.iter) & stepped
            for name in names_in(loop.target)
        }
        saves = calls(function, "save", "dump", "dumps")
        saved = {name for node in saves for each in node.args for name in names_in(each)}
        put = [
            node.value
            for node in nodes(function, ast.Assign)
            if isinstance(node.targets[0], ast.Subscript)
            and names_in(node.targets[0].value) & saved
            or isinstance(node.value, ast.Dict)
            and names_given(node) & saved
        ]
        inner = [each for each in nodes(function, ast.FunctionDef) if each is not function]
        others = {line for each in inner for line in lines_of(each)}
        states = [
            node
            for part in put
            for node in calls(part, "state_dict")
            if called(node).partition(".")[0] in stepped | turned and node.lineno not in others
        ]
        if states and any(calls(function, "compress")):
            yield script.finding("K06", states[0], "the state of an optimizer is in what is compressed")


CHECKS = (
    another_grid,
    missed_hooks,
    worse_than_rounding,
    recompiled,
    exported_for_training,
    exported_optimizer,
)
COVERED = frozenset("T05 T07 T11 T12 K06".split())
