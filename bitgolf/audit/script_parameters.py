"""What a script does with each parameter of its model: which optimizer takes it, how it is packed."""

import ast
import itertools
from collections.abc import Iterator

from bitgolf.audit.finding import Finding
from bitgolf.audit.interpreter import Seen
from bitgolf.audit.one_tensor import Loop, Tensor, Tensors, clips, packed, rounded
from bitgolf.audit.parameters import Part, parameters_of
from bitgolf.audit.script import Script, functions
from bitgolf.audit.script_grids import grids
from bitgolf.audit.tree import (
    attributes_given,
    calls,
    last_called,
    lines_of,
    names_given,
    nodes,
    number,
    own,
    own_nodes,
    walked,
)

EIGHT = (127, 128)  # levels on a side of 8 bits
LOW = 63  # levels on a side that are fewer than those of 8 bits, or of 7
EMBEDDED = 31  # the least that a table of tokens is packed with
LEAST_FLOOR, MOST_FLOOR = 1 / 64, 0.5  # of a scale; the challenge's own int8 has 1 / 127
ASKED = ("parameters", "named_parameters")


def coarse_packing(script: Script) -> Iterator[Finding]:
    """T09, T10: one scale for a matrix, few levels for the tokens."""
    parts = [each for each in parameters_of(script.flow.classes) if each.dims == 2]
    table = next((each for each in parts if each.kind == "Embedding"), None)
    tensors = Tensors(script)
    traces = [(part, seen) for part in parts for seen in packed(tensors, part)]
    most_of_table = max(
        (grid[0] for part, seen in traces if part is table and (grid := _grid(seen))), default=0
    )
    least_of_others = min(
        (grid[0] for part, seen in traces if part.kind == "Linear" and (grid := _grid(seen))), default=0
    )
    meant = (number(each) or 0 for node in nodes(script.tree, ast.IfExp) for each in (node.body, node.orelse))
    clipped = (high for _, seen in traces for _, high, _ in clips(seen))
    most = max(
        (*(each.high for each in grids(script)), *clipped, *(each for each in meant if each in EIGHT)),
        default=0,
    )
    found: dict[str, Finding] = {}
    for part, seen in traces:
        levels, line = _grid(seen) or (LOW, 0)
        if levels >= LOW:
            continue
        if part is table and (most_of_table <= EMBEDDED < most or most_of_table < least_of_others):
            message = f"`{part.name}`, the table of tokens, is packed on {levels:g} levels a side"
            found.setdefault("T10", script.finding("T10", line, message, f"{most:g}, as others"))
        one = [each for each in seen if _is_largest(each)]
        by_row = [each for each in seen if each.last in ROWS and (each.given or each.named)]
        if part.kind == "Linear" and one and not by_row:
            message = f"one scale for all of `{part.name}`, by its largest value, on {levels:g} levels"
            found.setdefault(
                "T09", script.finding("T09", one[0].node, message, "a scale for each row, clipped")
            )
    yield from found.values()


ROWS = ("max", "amax", "quantile", "std", "mean", "kthvalue", "norm", "var", "percentile", "topk", "median")


def _grid(seen: list[Seen]) -> tuple[float, int] | None:
    """The levels on a side that rounded values are clipped to, the fewest of some, and the line."""
    grids = [(high, line) for _, high, line in clips(seen)]
    for each in seen if not grids else ():
        if each.last == "/" and isinstance(each.given[1], int | float) and 3 <= each.given[1] <= 255:
            grids.append((each.given[1], each.node.lineno))
    return min(grids, default=None)


def _is_largest(seen: Seen) -> bool:
    """The largest absolute value of a whole tensor."""
    over = [value for value in seen.given if not isinstance(value, Tensor)]
    of_whole = seen.last in ("max", "amax") and not over and not seen.named
    return of_whole and "abs" in ast.unparse(seen.node)


def high_floor(script: Script) -> Iterator[Finding]:
    """T08: a floor of scales that small rows fall below."""
    tensors = Tensors(script)
    layers = [each for each in parameters_of(script.flow.classes) if each.kind == "Linear"]
    traces = (seen for part in layers for seen in packed(tensors, part))
    for seen in itertools.chain(rounded(tensors), traces):
        grid = _grid(seen)
        least = LEAST_FLOOR / 2 if grid is not None and grid[0] < LOW else LEAST_FLOOR
        of_scale = any(each.last in ("abs", "amax", "quantile", "std") for each in seen)
        floors = [(each, floor) for each in seen if (floor := _floor(each)) and floor >= least]
        if of_scale and floors:
            node, floor = floors[0][0].node, floors[0][1]
            message = f"scales are at least {floor:.3g}: rows below half of it become zero"
            yield script.finding("T08", node, message)
            return


def _floor(seen: Seen) -> float | None:
    """What a scale is at least."""
    if seen.last not in ("clamp_min", "clamp_min_", "clamp", "maximum", "clip", "max"):
        return None
    least = seen.named.get("min", next((each for each in seen.given if isinstance(each, int | float)), None))
    return least if isinstance(least, float) and least <= MOST_FLOOR else None


def in_no_group(script: Script) -> Iterator[Finding]:
    """T14: a parameter that no group of an optimizer takes, by its name and its dimensions."""
    adapting = {event.inside for event in script.of("train")}
    scopes: list[ast.AST] = [*functions(script), script.tree]
    scopes = [each for each in scopes if getattr(each, "name", "") not in adapting]
    inner_of = [(scope, node) for scope in scopes for node in _inner_nodes(scope)]
    makers = [(scope, node) for scope, node in inner_of if script.flow.makes_optimizer(node)]
    builders = [*dict.fromkeys(scope for scope, _ in makers)]
    helpers = [each for _, node in makers for call in nodes(node, ast.Call) for each in own(call)]
    builders += [each for each in helpers if each not in builders]
    parts = parameters_of(script.flow.classes)
    modules = {each.name.partition(".")[0] for each in parts}
    loops = [(scope, loop, over) for scope in builders for loop, over in _selections(scope)]
    looped = {id(over) for _, _, over in loops}
    whole = {_module(call, modules) for scope in builders for call in _taken_whole(script, scope, looped)}
    if "" in whole or not (loops or whole):
        return
    tensors = Tensors(script)
    inner = [each for scope in builders for each in _inner_nodes(scope)]
    walked = (each.iter for each in inner if isinstance(each, Loop))
    whole |= {each.attr for each in walked if isinstance(each, ast.Attribute)}  # a list of modules
    told = {each.attr for each in inner if isinstance(each, ast.Attribute)}
    places = [each.slice for each in inner if isinstance(each, ast.Subscript)]
    told |= {word for each in places if isinstance(each, ast.Constant) for word in str(each.value).split(".")}
    left: list[Part] = []
    taken: set[str] = set()
    for part in parts:
        whole_or_told = part.name.partition(".")[0] in whole or bool(told & {*_own_words(part)})
        if whole_or_told or any(_may_take(tensors, *each, part, modules) for each in loops):
            taken.add(part.kind)
        else:
            left.append(part)
    # Matrices may be chosen elsewhere, where none is taken here, or be there for other settings alone.
    branches = (each for node in nodes(script.tree, ast.If) for each in node.body)
    maybe = {line for each in branches for line in lines_of(each)}
    chosen = bool(taken & {"Linear", "Embedding"})
    for part in [each for each in left if each.kind == "Parameter" or chosen and each.line not in maybe][:1]:
        of = "" if part.dims is None else f", of {part.dims} dimensions,"
        yield script.finding("T14", part.line, f"`{part.name}`{of} is in no group of an optimizer")


def cut_off(script: Script) -> Iterator[Finding]:
    """T14: a parameter that is detached wherever it is used, so that no gradient comes to it."""
    for kind in nodes(script.tree, ast.ClassDef):
        made = attributes_given(kind, "Parameter")
        uses = [
            each
            for each in nodes(kind, ast.Attribute)
            if each.attr in made and isinstance(each.ctx, ast.Load)
        ]
        detached = {id(each.value) for each in nodes(kind, ast.Attribute) if each.attr in ("detach", "data")}
        for name in {each.attr for each in uses}:
            if all(id(each) in detached for each in uses if each.attr == name):
                yield script.finding("T14", made[name], f"`{name}` is detached wherever it is used")


def _module(call: ast.Call, modules: set[str]) -> str:
    """The module of the model whose parameters are asked for; nothing for those of the whole model."""
    match call.func:
        case ast.Attribute(value=ast.Attribute(attr=name)) if name in modules:
            return name
    return ""


def _taken_whole(script: Script, scope: ast.AST, looped: set[int]) -> Iterator[ast.Call]:
    """Calls for parameters that are handed to an optimizer, or kept and not looped over."""
    for node in _inner_nodes(scope):
        makes = script.flow.makes_optimizer(node)
        for call in nodes(node, ast.Call) if makes or isinstance(node, ast.Assign | ast.AugAssign) else ():
            kept = id(call) not in looped and not any(calls(node, "numel"))  # those are counted alone
            if last_called(call) in ASKED and (makes or kept):
                yield call


def _inner_nodes(scope: ast.AST) -> list[ast.AST]:
    """The nodes of a function with those of functions inside it; of a file only its own."""
    return own_nodes(scope) if isinstance(scope, ast.Module) else walked(scope)


def _own_words(part: Part) -> Iterator[str]:
    """The words of a name that are no list's."""
    words = part.name.split(".")
    for word, following in zip(words, [*words[1:], ""]):
        if not word.isdigit() and not following.isdigit() and word not in ("weight", "bias"):
            yield word


def _selections(scope: ast.AST) -> Iterator[tuple[Loop, ast.Call]]:
    """Loops over parameters, with the call that asks for them."""
    kept = {
        name: call
        for node in nodes(scope, ast.Assign)
        for call in nodes(node.value, ast.Call)
        if last_called(call) in ASKED and not any(nodes(node.value, ast.ListComp))
        for name in names_given(node)
    }
    counted = {
        id(each)
        for node in nodes(scope, ast.ListComp, ast.GeneratorExp)
        for each in node.generators
        if last_called(node.elt) == "numel"
    }
    for node in own_nodes(scope):
        if isinstance(node, Loop) and id(node) not in counted:
            asked = [each for each in nodes(node.iter, ast.Call) if last_called(each) in ASKED]
            asked += [kept[each.id] for each in nodes(node.iter, ast.Name) if each.id in kept]
            if asked:
                yield node, asked[0]


def _may_take(
    tensors: Tensors, scope: ast.AST, loop: Loop, over: ast.Call, part: Part, modules: set[str]
) -> bool:
    """Whether a loop over parameters, of the whole model or of one of its modules, may take this one."""
    name = part.name
    if module := _module(over, modules):
        first, _, name = name.partition(".")
        if first != module:
            return False
    taken = tensors.turn(scope, loop, name, part.dims)
    if isinstance(loop, ast.comprehension):
        return taken is not False
    return any(
        each.last in ("append", "add") and any(isinstance(value, Tensor) for value in each.given)
        for each in tensors.seen
    )


CHECKS = (coarse_packing, high_floor, in_no_group, cut_off)
COVERED = frozenset("T08 T09 T10 T14".split())
