"""What a script does with one tensor of its model: branches by its name and shape are taken, as it would."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeGuard

from bitgolf.audit.interpreter import UNKNOWN, Interpreter, Known, Names, Seen, Unknown
from bitgolf.audit.parameters import Part, parameters_of
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import calls, last_called, nodes, own_nodes

LARGE, SMALL = 10**6, 384  # how many numbers a matrix has, and a vector
Loop = ast.For | ast.comprehension
REDUCED = {*"max amax min amin mean std quantile sum item norm tolist kthvalue".split()}
ROUNDS = ("round", "round_", "rint")


@dataclass(frozen=True)
class Tensor(Unknown):
    """A stand-in: what is known of a tensor."""

    dims: int | None


class Tensors(Interpreter):
    """Follows statements with tensors in them, which stay tensors in most that is done to them."""

    @cached_property
    def over_tensors(self) -> list[tuple[ast.AST, Loop]]:
        """The loops over a state dict or named parameters, each with what it stands in."""
        return [
            (scope, loop)
            for scope in [*functions(self.script), self.script.tree]
            for loop in own_nodes(scope)
            if is_of_pairs(loop) and last_called(loop.iter) in ("items", "named_parameters")
        ]

    def attribute(self, node: ast.Attribute, held: Known, names: Names) -> Known:
        """Also how many dimensions one has."""
        if isinstance(held, Tensor):
            return held.dims if node.attr == "ndim" and held.dims is not None else UNKNOWN
        return super().attribute(node, held, names)

    def item(self, held: Known, where: Known) -> Known:
        """A part of one is one."""
        return held if isinstance(held, Tensor) else super().item(held, where)

    def operation(self, node: ast.BinOp, left: Known, right: Known) -> Known:
        """Also with one on a side."""
        result = super().operation(node, left, right)
        return next((each for each in (left, right) if isinstance(each, Tensor)), result)

    def answer(self, call: Seen, names: Names) -> Known:
        """Also of what keeps a tensor one."""
        held, last = call.held, call.last
        if isinstance(held, Tensor):
            self.seen.append(call)
            if last == "dim":
                return UNKNOWN if held.dims is None else held.dims
            if last == "numel":
                return SMALL if held.dims is not None and held.dims < 2 else LARGE
            return True if last == "is_floating_point" else UNKNOWN if last in REDUCED else held
        result = super().answer(call, names)
        if result is UNKNOWN and last not in REDUCED and self.own(call.node) is None:
            return next((each for each in call.given if isinstance(each, Tensor)), UNKNOWN)
        return result

    def turn(self, scope: ast.AST, loop: Loop, name: str, dims: int | None) -> bool | None:
        """One turn of a loop over parameters; whether it keeps this one: None where that is not known."""
        names = {**self.given(scope)}
        self.seen, self.steps = [], 0
        self.assign(loop.target, (name, Tensor(dims)) if is_of_pairs(loop) else Tensor(dims), names)
        if isinstance(loop, ast.For):
            self.block(loop.body, names)
            return None
        kept = [self.truth(test, names) for test in loop.ifs]
        if False in kept:
            return False
        for owner in nodes(scope, ast.ListComp, ast.DictComp, ast.GeneratorExp):
            if loop in getattr(owner, "generators", ()):
                for each in ("elt", "key", "value"):
                    self.value(getattr(owner, each, None), names)
        return None if None in kept else True


def packed(tensors: Tensors, part: Part) -> Iterator[list[Seen]]:
    """The calls that each loop over a state dict comes to for a parameter, where such a loop rounds."""
    for scope, loop in tensors.over_tensors:
        tensors.turn(scope, loop, part.name, part.dims)
        if any(each.last in ROUNDS for each in tensors.seen):
            yield tensors.seen


def rounded(tensors: Tensors) -> Iterator[list[Seen]]:
    """The calls that each function comes to, given a matrix, where it rounds."""
    for function in functions(tensors.script):
        if any(calls(function, *ROUNDS)):
            names = {**tensors.given(function)}
            tensors.seen, tensors.steps = [], 0
            for name in [each.arg for each in function.args.args][:1]:
                names[name] = Tensor(2)
            tensors.block(function.body, names)
            yield tensors.seen


def is_of_pairs(node: ast.AST) -> TypeGuard[Loop]:
    """A loop over pairs of a name and something."""
    return isinstance(node, Loop) and isinstance(node.target, ast.Tuple) and len(node.target.elts) == 2


def packed_levels(script: Script) -> set[tuple[float, float, int]]:
    """The levels, low and high, that layers are packed on, and the line."""
    tensors = Tensors(script)
    layers = [each for each in parameters_of(script.flow.classes) if each.kind == "Linear"]
    traces = [seen for part in layers for seen in packed(tensors, part)]
    return {each for seen in traces for each in clips(seen)}


def clips(seen: Sequence[Seen]) -> Iterator[tuple[float, float, int]]:
    """Clips to levels: low, high, and the line."""
    for each in seen:
        bounds = [value for value in (*each.given, *each.named.values()) if isinstance(value, int | float)]
        clips = each.last in ("clamp", "clip", "clamp_") and len(bounds) == 2
        if clips and bounds[0] <= -1 <= 1 <= bounds[1]:
            yield bounds[0], bounds[1], each.node.lineno
