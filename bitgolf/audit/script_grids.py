"""How a script rounds: its grid in training against the exported one, scales, statistics, compilation."""

import ast
from collections.abc import Iterator
from typing import NamedTuple

from bitgolf.audit.finding import Finding
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import (
    arithmetic,
    attributes_given,
    called,
    calls,
    holds,
    methods,
    names_given,
    names_in,
    nodes,
)

LEAST_FLOOR, MOST_FLOOR = 1 / 64, 0.5  # of a scale; the challenge's own int8 has 1 / 127

ROUNDS = ("round", "round_", "rint")


class Grid(NamedTuple):
    """Levels from low to high, where rounded values are clipped to them. function: where."""

    low: float
    high: float
    line: int
    function: str
    exports: bool


def grids(script: Script) -> list[Grid]:
    """Every clip of rounded values to fixed levels; those that end in 8-bit numbers are exports."""
    found = []
    constants = _constants(script.tree)
    for function in functions(script):
        if not any(calls(function, *ROUNDS)):
            continue
        text = ast.unparse(function)
        exports = any(
            word in text for word in ("torch.int8", "torch.uint8", ".char()", "np.int8", "np.uint8")
        )
        straight = ".detach()" in text or "apply(" in text
        kept = {id(part) for node in ast.walk(function) for part in _in_eight_bits(node)}
        own = _constants(function) | {
            name: value
            for name, value in zip(
                reversed([each.arg for each in function.args.args]),
                reversed([arithmetic(each, constants) for each in function.args.defaults]),
            )
            if value is not None
        }
        for node in calls(function, "clamp", "clip", "clamp_"):
            words = {each.arg: each.value for each in node.keywords}
            bounds = [*node.args]
            if called(node) in ("torch.clamp", "torch.clip", "np.clip"):
                bounds = bounds[1:]
            bounds += [words[name] for name in ("min", "max") if name in words]
            numbers = [arithmetic(each, constants | own) for each in bounds]
            if (
                len(numbers) == 2
                and None not in numbers
                and abs(numbers[0] or 0) >= 1
                and (numbers[1] or 0) >= 1
            ):
                low, high = (float(each or 0) for each in numbers)
                if exports or straight or id(function) in script.flow.owner:
                    written = id(node) in kept or (exports and not straight)
                    found.append(Grid(low, high, node.lineno, function.name, written))
    return found


def _in_eight_bits(node: ast.AST) -> Iterator[ast.AST]:
    """What a call turns into 8-bit numbers, part by part: such a clip is exported, whatever is detached."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        kinds = {ast.unparse(each) for each in node.args}
        if node.func.attr == "char" or kinds & {"torch.int8", "torch.uint8", "np.int8", "np.uint8"}:
            yield from ast.walk(node.func.value)


def _constants(tree: ast.AST) -> dict[str, float]:
    """Names that a number is given once, in this scope or in the whole script."""
    found: dict[str, float] = {}
    for node in nodes(tree, ast.Assign):
        if len(node.targets) != 1:
            continue
        target, value = node.targets[0], arithmetic(node.value, found)
        if isinstance(target, ast.Name) and value is not None:
            found[target.id] = value
    return found


def another_grid(script: Script) -> Iterator[Finding]:
    """T07."""
    found = grids(script)
    exported = [each for each in found if each.exports]
    for grid in found:
        if grid.exports or not exported:
            continue
        if not any((each.low, each.high) == (grid.low, grid.high) for each in exported):
            other = min(exported, key=lambda each: abs(each.high - grid.high) + abs(each.low - grid.low))
            yield script.finding(
                "T07",
                grid.line,
                f"trained on levels {grid.low:g} to {grid.high:g}",
                f"those of the export, {other.low:g} to {other.high:g} ({script.line(other.line)})",
            )
            return


def high_floor(script: Script) -> Iterator[Finding]:
    """T08: a floor of scales that small rows fall below."""
    constants = _constants(script.tree)
    for node in calls(script.tree, "clamp_min", "clamp_min_", "clamp", "maximum", "clip", "max"):
        words = {each.arg: each.value for each in node.keywords}
        floors = [words["min"]] if "min" in words else [*node.args]
        numbers = [value for each in floors if (value := arithmetic(each, constants)) is not None]
        if not numbers or not LEAST_FLOOR <= numbers[0] <= MOST_FLOOR:
            continue
        function = next((each for each in functions(script) if holds(each, node)), None)
        if function is not None and _is_scale(function, node) and any(calls(function, *ROUNDS)):
            yield script.finding(
                "T08",
                node,
                f"scales are at least {numbers[0]:.3g}: rows whose values are below half of it become zero",
            )


def _is_scale(function: ast.FunctionDef, node: ast.Call) -> bool:
    """Whether what has the floor is made of absolute values: a scale."""
    text = ast.unparse(node)
    if "amax" in text or "quantile" in text or "abs(" in text:
        return True
    return any(
        names_in(node) & names_given(each)
        and any(word in ast.unparse(each.value) for word in ("abs(", "amax", "quantile"))
        for each in nodes(function, ast.Assign)
    )


def missed_hooks(script: Script) -> Iterator[Finding]:
    """T11: statistics by hooks on layers whose forward is passed by."""
    tree = script.tree
    if not any(calls(tree, "register_forward_hook", "register_forward_pre_hook")):
        return
    made = attributes_given(tree, "Linear")
    for node in calls(tree, "linear"):
        weights = {
            each.value.attr
            for part in node.args[1:2]
            for each in nodes(part, ast.Attribute)
            if each.attr == "weight" and isinstance(each.value, ast.Attribute)
        }
        for name in sorted(weights & made.keys()):
            yield script.finding(
                "T11", node, f"F.linear takes the weight of `{name}`, so no hook on it sees its inputs"
            )


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
            yield script.finding(
                "T12",
                function,
                "rounding with an inverse Hessian "
                + ("that hands no error on" if not feedback else "without damping: its error may grow"),
            )


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
    tree = script.tree
    compiled = [
        node
        for node in ast.walk(tree)
        if called(node) in ("torch.compile", "compile")
        or "torch.compile" in ast.unparse(node)
        and isinstance(node, ast.FunctionDef)
        and any("torch.compile" in ast.unparse(each) for each in node.decorator_list)
    ]
    if not compiled:
        return
    for kind in nodes(tree, ast.ClassDef):
        for method in (each for each in methods(kind) if each.name == "forward"):
            for node in nodes(method, ast.AugAssign):
                if isinstance(node.target, ast.Attribute) and isinstance(node.value, ast.Constant):
                    yield script.finding(
                        "T05",
                        node,
                        f"{ast.unparse(node.target)} counts up in forward: for a compiled graph a constant",
                    )
    dynamic = any(
        isinstance(word, ast.keyword) and word.arg == "dynamic" and ast.unparse(word.value) == "True"
        for node in compiled
        for word in ast.walk(node)
    ) or any(calls(tree, "mark_dynamic"))
    if dynamic:
        return
    for loop in nodes(tree, ast.For, ast.While):
        if not any(calls(loop, "backward")):
            continue
        for given in nodes(loop, ast.Assign):
            if (
                isinstance(given.targets[0], ast.Name)
                and _follows_steps(given.value, loop)
                and _is_length(loop, given.targets[0].id)
            ):
                yield script.finding(
                    "T05",
                    given,
                    f"the length `{ast.unparse(given.value)[:60]}` "
                    "changes with the steps of a compiled model",
                )
                return


def _follows_steps(value: ast.expr, loop: ast.For | ast.While) -> bool:
    step = loop.target.id if isinstance(loop, ast.For) and isinstance(loop.target, ast.Name) else "step"
    return step in names_in(value) and isinstance(value, ast.IfExp | ast.BinOp | ast.Call | ast.Subscript)


def _is_length(loop: ast.AST, name: str) -> bool:
    """Whether a name gives a tensor its shape."""
    shapes = calls(loop, "reshape", "view", "unfold")
    return any(name in names_in(part) for call in shapes for part in call.args)


def exported_for_training(script: Script) -> Iterator[Finding]:
    """K06: parts that only training uses, in what is written."""
    tree = script.tree
    for kind in nodes(tree, ast.ClassDef):
        made = attributes_given(kind, "Linear", "ModuleList", "Parameter", "Embedding", "Sequential")
        uses: dict[str, list[bool]] = {}
        for method in (each for each in methods(kind) if each.name != "__init__"):
            training = {
                id(inner)
                for node in nodes(method, ast.If)
                if "self.training" in ast.unparse(node.test)
                and "not self.training" not in ast.unparse(node.test)
                for part in node.body
                for inner in ast.walk(part)
            }
            for node in nodes(method, ast.Attribute):
                if node.attr in made and isinstance(node.ctx, ast.Load):
                    uses.setdefault(node.attr, []).append(id(node) in training)
        for name, places in uses.items():
            if all(places) and not _left_out(tree, name):
                yield script.finding(
                    "K06",
                    made[name],
                    f"`{name}` is used only in training, and nothing leaves it out of what is written",
                )


def _left_out(tree: ast.Module, name: str) -> bool:
    """Whether a text with the part's name stands in a condition, or it is deleted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and name in node.value:
            return True
        if isinstance(node, ast.Delete) and any(name in ast.unparse(each) for each in node.targets):
            return True
        emptied = isinstance(node, ast.Assign) and ast.unparse(node.value) == "None"
        if emptied and any(isinstance(each, ast.Attribute) and each.attr == name for each in node.targets):  # type: ignore[attr-defined]
            return True
    return False


CHECKS = (another_grid, high_floor, missed_hooks, worse_than_rounding, recompiled, exported_for_training)
COVERED = frozenset("T05 T07 T08 T11 T12 K06".split())
