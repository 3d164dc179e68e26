"""One token's pass through a packed model, as plain lists of operations for any language.

torch.export records the model's own forward pass with the keys and values of earlier tokens kept, and breaks
it into core ATen operations. What the engine of the page has no operation for is refused by name.
"""

import logging
import math
import operator
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event
from bitgolf.net.kernels import AttentionMask, split_heads
from bitgolf.net.model import Model
from bitgolf.net.position import AttentionWindow

# A number, the place of an earlier value in the list as {"v": place}, or a list of these.
Argument = None | bool | int | float | str | dict[str, int] | list["Argument"]
# The engine's operations (engine.js), by their ATen names.
KNOWN = frozenset(
    """
    abs add addmm alias amax amin any arange argmax bitwise_and bitwise_not bitwise_or bitwise_xor bmm cat
    ceil clamp clamp_max clamp_min clone constant_pad_nd copy cos cummax cumsum div embedding eq erf exp
    expand floor floordiv full full_like gather ge gelu getitem gt index index_select le leaky_relu
    lift_fresh_copy linalg_vector_norm linear log logical_and logical_not logical_or lt masked_fill
    maximum mean minimum mm mul ne neg permute pow reciprocal relu remainder repeat rsqrt rsub
    scalar_tensor select sigmoid sign silu sin slice softmax split_with_sizes sqrt squeeze sub sum sym_max
    sym_min sym_size tanh to_copy transpose tril triu unsqueeze view where
    """.split()
)
NAMES = {
    "_softmax": "softmax", "_to_copy": "to_copy", "detach": "alias", "_unsafe_view": "view",
    "reshape": "view", "lift_fresh": "alias", "_assert_scalar": "", "_assert_tensor_metadata": "",
    "sym_constrain_range_for_size": "",
}  # fmt: skip


class Graph(NamedTuple):
    """What is computed for a token that is the `first`th to the `last`th of its window, counted from 1.

    takes: the names of the values that stand first: "ids", "kept/0" ..., names of weights, and "constant/0"
    ... for numbers of the graph. nodes: operation and arguments of each later value. gives: the places of the
    logits (1, vocabulary) and of all keys and values (key heads, tokens, head width).
    """

    first: int
    last: int
    takes: list[str]
    nodes: list[tuple[str, list[Argument], dict[str, Argument]]]
    gives: list[int]


class Step(nn.Module):
    """The logits of what follows a window of tokens, of which all but the last have been passed."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """ids (1, tokens); kept: keys and values (key heads, tokens - 1, head width) of each attention."""
        model, earlier = self.model, iter(kept)
        passed: list[Tensor] = []

        def attend(heads: Tensor, queries: int, mask: AttentionMask) -> Tensor:
            q, k, v = split_heads(heads, queries)  # q: (key heads, group, 1, 1, head width)
            keys, values = (torch.cat((next(earlier), new), 1) for new in (k, v))
            passed.extend((keys, values))
            scores = torch.bmm(q[:, :, 0, 0], keys.transpose(1, 2))[:, None, :, None, :]
            if mask.window:
                places = torch.arange(keys.shape[1])
                scores = scores.masked_fill(places < keys.shape[1] - mask.window, -math.inf)
            scores = mask.modify(scores, 0, keys.shape[1] - 1)[:, 0, :, 0]
            return torch.bmm(scores.softmax(-1), values).flatten().view(1, 1, -1)

        looked_at = len(model.plan.embed) + 1  # each of these parts looks one token back
        start = model.embedded(ids if ids.shape[1] <= looked_at else ids[:, -looked_at:])[:, -1:]
        hidden = model.through(start, model.context(ids, start, attend))
        return model.logits_of(hidden[:, -1]), passed


def graphs_of(model: Model, window: int) -> Generator[Event, None, tuple[list[Graph], dict[str, Tensor]]]:
    """The passes for every place in a window, and the numbers that are constants of them, by name.

    Yields how many are recorded. Raises BitgolfError for a model whose layers look back but by attention,
    and for unknown operations.
    """
    if model.plan.looks_back:
        raise BitgolfError(
            "a part of the model looks at other positions than its own, whose states no step keeps",
            way_out="use `bitgolf sample`",
        )
    graphs: list[Graph] = []
    constants: dict[str, Tensor] = {}
    model.window = window
    runs = [*stretches(model, window - 1)]  # below the window, places turn alike
    for done, (first, last) in enumerate(runs):
        yield Event("record", done, len(runs), {})
        graphs.append(_traced(model, first, last, constants))
    return graphs, constants


def stretches(model: Model, window: int) -> Iterator[tuple[int, int]]:
    """Runs of places that are computed alike: the first few alone, then up to each attention window."""
    alone = min(len(model.plan.embed) + 2, window)
    yield from ((position, position) for position in range(1, alone + 1))
    widths = [s.evaluation_tokens if s.evaluation_tokens >= 0 else s.tokens
              for s in model.plan.scope if isinstance(s, AttentionWindow)]  # fmt: skip
    ends = sorted({min(width, window) for width in widths if width > alone} | {window})
    for end in ends:
        if alone < end:
            yield alone + 1, end
            alone = end


def _traced(model: Model, first: int, last: int, constants: dict[str, Tensor]) -> Graph:
    plan, middle = model.plan, (first + last) // 2
    calls = len(model.scoring_calls)
    kept_shape = plan.kv_heads, middle - 1, plan.width // plan.heads
    example = torch.zeros(1, middle, dtype=torch.int64), [torch.zeros(kept_shape) for _ in range(2 * calls)]
    shapes = None
    if first < last:
        past = torch.export.Dim("past", min=first - 1, max=last - 1)
        shapes = {"ids": {1: past + 1}, "kept": [{1: past} for _ in range(2 * calls)]}
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(Step(model).eval(), example, dynamic_shapes=shapes, strict=False)
            decompositions = torch.export.default_decompositions()
            for kept in (torch.ops.aten.linear.default, torch.ops.aten.silu.default):
                decompositions.pop(kept, None)
            program = program.run_decompositions(decompositions)
    except Exception as error:  # of many kinds, by what the network has
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BitgolfError(
            f"torch cannot record this network: {text}", way_out="use `bitgolf sample`"
        ) from error
    return _written(program, first, last, constants)


def _written(
    program: torch.export.ExportedProgram, first: int, last: int, constants: dict[str, Tensor]
) -> Graph:
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    own = signature.inputs_to_lifted_tensor_constants
    places: dict[Node, int] = {}
    takes: list[str] = []
    nodes: list[tuple[str, list[Argument], dict[str, Argument]]] = []
    given = iter(["ids", *(f"kept/{number}" for number in range(len(program.graph.nodes)))])
    gives: list[int] = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in named:
                takes.append(named[node.name].removeprefix("model."))
            elif node.name in own:
                value = program.constants[own[node.name]]
                takes.append(f"constant/{len(constants)}")
                constants[takes[-1]] = value
            else:
                takes.append(next(given))
            places[node] = len(places)
        elif node.op == "call_function":
            name = operation(node.target)
            if not name:
                continue
            arguments = [_argument(each, places) for each in node.args]
            keywords = {key: _argument(each, places) for key, each in node.kwargs.items()}
            nodes.append((name, arguments, keywords))
            places[node] = len(places)
        elif node.op == "output":
            gives = [places[each] for each in node.args[0]]
    return Graph(first, last, takes, nodes, gives)


def operation(target: Callable[..., object] | str) -> str:
    """The engine's name of an operation; "" for what computes nothing. Raises BitgolfError for none."""
    packet = getattr(target, "overloadpacket", None)
    name = packet.__name__ if packet else getattr(target, "__name__", str(target))
    name = NAMES.get(name, name)
    if target is operator.mul or target is operator.add or target is operator.sub:
        name = target.__name__
    if name and name not in KNOWN:
        raise BitgolfError(
            "the page's engine has no operation of this model", value=name, way_out="use `bitgolf sample`"
        )
    return name


def _argument(value: object, places: dict[Node, int]) -> Argument:
    if isinstance(value, Node):
        return {"v": places[value]}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_argument(each, places) for each in value]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, torch.device | torch.layout | torch.memory_format):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "-inf" if value < 0 else "inf"
    assert value is None or isinstance(value, bool | int | float | str)
    return value
