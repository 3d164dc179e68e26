"""The order in which a token passes the layers, and the skips between them."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bitgolf.base.plan import Plan, setting
from bitgolf.net.kernels import PlainKernels
from bitgolf.net.mlp import Activation, Mlp
from bitgolf.net.parts import Context, Linear, Module, Start, start_constant

MOST_LOOPS = 256  # keeps a route within memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recurrence(Plan):
    """The slot of which layers are passed, and how often. varies: whether the route changes."""

    abstract: ClassVar[bool] = True
    varies: ClassVar[bool] = True

    def validate_for(self, layers: int) -> list[str]:
        """Why it does not fit a model of `layers` layers, as sentences."""
        return []

    def order(self, layers: int, progress: float, training: bool) -> tuple[int, ...]:
        """The layers in their order, at this progress of training or outside it."""
        return tuple(range(layers))

    def mlp(self, layer: int, width: int, hidden: int, activation: Activation) -> Mlp:
        """The MLP of a layer, with the parameters of its further passes."""
        return Mlp(width, hidden, activation)

    def enter(self, model: Module, before: "LayerCalls", after: "LayerCalls") -> None:
        """Prepare the model when the route of the training changes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Once(Recurrence):
    """Every layer once.

    What: layers in their order.
    Source: the public baseline.
    Cost: nothing.
    Not for: nothing known.
    Neutral: this is the neutral one.
    """

    varies: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looped(Recurrence):
    """Some layers passed several times (depth recurrence).

    What: layers `first` to `last` are passed `loops` more times in a row, from the progress `enable_at` on
        (the second further pass and later ones from `more_at` on); outside training always. `untied`: each
        further pass has its own MLP, a copy of the layer's when training first reaches it; `untied_down`:
        only its own second matrix.
    Source: records from 2026-04-05 (NUM_LOOPS=2, layers 4 to 5, then 3 to 5; ENABLE_LOOPING_AT 0.5, then
        0.35); untied in records 2026-03-31 and 2026-04-03 (layers 4 and 5 once more, from step 3,000 on, no
        isolated gain; REPEAT_UNTIE_MLP=full or down).
    Cost: no bytes, but the MLPs of `untied`; the seconds of the layers passed again.
    Not for: small models: PR #212 reports 4.3 to 5.6 bpb with three shared blocks, PR #1449 +0.036.
    Neutral: loops=0
    """

    first: int = setting(3, at_least=0)
    last: int = setting(5, at_least=0)
    loops: int = setting(2, at_least=0, at_most=MOST_LOOPS)
    enable_at: float = setting(0.0, at_least=0.0, at_most=1.0)
    more_at: float = setting(0.0, at_least=0.0, at_most=1.0)
    untied: bool = False
    untied_down: bool = False

    def validate(self) -> Iterator[str]:
        if self.untied and self.untied_down:
            yield "untied_down: the whole MLP is untied already, choose one of both"

    def validate_for(self, layers: int) -> list[str]:
        return loop_problems(self.first, self.last, layers)

    def order(self, layers: int, progress: float, training: bool) -> tuple[int, ...]:
        loops = self.loops
        if training and progress < self.enable_at:
            loops = 0
        elif training and progress < self.more_at:
            loops = min(loops, 1)
        return looped_order(self.first, self.last, layers, 1 + loops)

    def mlp(self, layer: int, width: int, hidden: int, activation: Activation) -> Mlp:
        if (self.untied or self.untied_down) and self.first <= layer <= self.last:
            kind = UntiedMlp if self.untied else UntiedDown
            return kind(layer, self.loops, width, hidden, activation)
        return super().mlp(layer, width, hidden, activation)

    @torch.no_grad()
    def enter(self, model: Module, before: "LayerCalls", after: "LayerCalls") -> None:
        was, now = (sum(stop.layer == self.first for stop in calls) - 1 for calls in (before, after))
        for mlp in model.modules() if self.untied or self.untied_down else ():
            if isinstance(mlp, UntiedMlp):
                mlp.part(was, now)


class UntiedMlp(Mlp):
    """The MLP of a layer that is passed again, and one more for each further pass."""

    def __init__(self, layer: int, further: int, width: int, hidden: int, activation: Activation) -> None:
        super().__init__(width, hidden, activation)
        self.layer = layer
        self.again = nn.ModuleList(self.further(width, hidden, activation) for _ in range(further))

    def further(self, width: int, hidden: int, activation: Activation) -> Module:
        """The own parameters of a further pass."""
        return Mlp(width, hidden, activation)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        key = f"passes of layer {self.layer}"
        passed = context.memory[key] = context.memory.get(key, -1) + 1
        if not passed:
            return super().forward(x, context)
        return self.activation.mlp(x, self.passed(self.again[passed - 1]), context.kernels)

    def passed(self, own: nn.Module) -> Mlp:
        """The MLP of a further pass."""
        assert isinstance(own, Mlp), "a whole one"
        return own

    def part(self, first: int, end: int) -> None:
        """Copy the first MLP to those of these further passes."""
        own = dict(self.named_parameters())
        for number in range(first, end):
            for name, tensor in self.again[number].named_parameters():
                tensor.copy_(own[name])


class UntiedDown(UntiedMlp):
    """The MLP of a layer that is passed again, with one more second matrix for each further pass."""

    def further(self, width: int, hidden: int, activation: Activation) -> Module:
        own = Module()
        own.add_module("proj", Linear(hidden, width, zero=True))
        return own

    def passed(self, own: nn.Module) -> Mlp:
        mlp = copy.copy(self)  # shares everything except the table of its parts
        mlp._modules = {**self._modules, "proj": own.get_submodule("proj")}
        return mlp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Huginn(Recurrence):
    """Layers iterated, more often outside training than in it (evaluation-time scaling).

    What: layers `first` to `last` are passed `loops` times in training and `evaluation_loops` times
        elsewhere; each mixes in the start of the stream.
    Source: Geiping et al. 2025; PR #212 (3 shared blocks, 7.6M parameters; 3 loops trained, 6 scored).
    Cost: no bytes; the seconds of every pass.
    Not for: small models (PR #212: 4.34 to 5.58 bpb), which have not learnt further passes.
    Neutral: loops=1 and evaluation_loops=1
    """

    first: int = setting(0, at_least=0)
    last: int = setting(2, at_least=0)
    loops: int = setting(3, at_least=1, at_most=MOST_LOOPS)
    evaluation_loops: int = setting(6, at_least=1, at_most=MOST_LOOPS)

    def validate_for(self, layers: int) -> list[str]:
        return loop_problems(self.first, self.last, layers)

    def order(self, layers: int, progress: float, training: bool) -> tuple[int, ...]:
        loops = self.loops if training else self.evaluation_loops
        return looped_order(self.first, self.last, layers, loops)


def loop_problems(first: int, last: int, layers: int) -> list[str]:
    """Why layers first to last cannot be passed again."""
    if first > last:
        return [f"last: {last} comes before the first, {first}"]
    return [f"last: the layers are 0 to {layers - 1}, found {last}"] * (last >= layers)


def looped_order(first: int, last: int, layers: int, passes: int) -> tuple[int, ...]:
    """All layers in order, with `first` to `last` passed `passes` times in a row."""
    return (*range(first), *(passes * tuple(range(first, last + 1))), *range(last + 1, layers))


class LayerCall(NamedTuple):
    """One stop on the route: a layer, and the earlier stop and skip row whose output is first added."""

    layer: int
    source: int = -1
    skip: int = -1


LayerCalls = tuple[LayerCall, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route(Plan):
    """The slot of the skips between the stops of a route."""

    abstract: ClassVar[bool] = True

    def layer_calls(self, order: tuple[int, ...]) -> LayerCalls:
        """The stops for layers in this order."""
        raise NotImplementedError

    def tensors(self, skips: int, width: int) -> dict[str, Start]:
        """The tensors that `skips` skips need, by name."""
        return {"skip_weights": start_constant(1.0, skips, width)} if skips else {}

    def join(self, x: Tensor, skip: Tensor, row: int, root: Module, kernels: PlainKernels) -> Tensor:
        """The stream after a skip has joined it."""
        return kernels.add_scaled(x, skip, root.own("skip_weights")[row].to(x.dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(Route):
    """No skips.

    What: the ordinary residual stack.
    Source: common practice
    Cost: nothing
    Not for: the public baseline, which has skips
    Neutral: this is the neutral route
    """

    def layer_calls(self, order: tuple[int, ...]) -> LayerCalls:
        return tuple(LayerCall(layer) for layer in order)


@dataclasses.dataclass(frozen=True, kw_only=True)
class USkips(Route):
    """Outputs of the first half are added before the layers of the second half, last one first.

    What: x + w * skip with a learned weight per channel, starting at one.
    Source: the public baseline (catalogue A3)
    Cost: width weights for each skip, stored in high precision; two passes over the stream each
    Not for: fewer than two layers
    Neutral: skip weights of zero equal the plain route

    paired_stops: only this many stops, from the first, have skips between them; 0 is all. Later stops, such
        as PR #212's loops beyond the trained ones, have none.
    """

    paired_stops: int = setting(0, at_least=0)

    def layer_calls(self, order: tuple[int, ...]) -> LayerCalls:
        if self.paired_stops == 0:
            return paired_calls(order)
        rest = (LayerCall(layer) for layer in order[self.paired_stops :])
        return (*paired_calls(order[: self.paired_stops]), *rest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedSkips(Route):
    """The skips of USkips, blended with the stream instead of added.

    What: g * x + (1 - g) * (w * skip) with g = sigmoid(gate) per channel; it starts with half of each.
    Source: SKIP_GATES_ENABLED in the records from 2026-04-01 on
    Cost: 2 * width weights for each skip; three passes over the stream each
    Not for: parity with earlier records: it equals the additive form for no gate
    Neutral: none in its weights; choose USkips

    rows: only this many skips have their own weights, 0 is all. Later ones use the last weights
        (`later="shared"`, record 2026-04-03) or are omitted ("none", record 2026-04-04).
    """

    rows: int = setting(0, at_least=0)
    later: str = setting("shared", one_of=("shared", "none"))

    def layer_calls(self, order: tuple[int, ...]) -> LayerCalls:
        return tuple(self.with_row(call) for call in paired_calls(order))

    def with_row(self, call: LayerCall) -> LayerCall:
        """The stop with a weight row for its skip, or without the skip."""
        if not 0 < self.rows <= call.skip:
            return call
        return call._replace(skip=self.rows - 1) if self.later == "shared" else LayerCall(call.layer)

    def tensors(self, skips: int, width: int) -> dict[str, Start]:
        names = {"skip_weights": 1.0, "skip_gates": 0.0}
        return {name: start_constant(value, skips, width) for name, value in names.items() if skips}

    def join(self, x: Tensor, skip: Tensor, row: int, root: Module, kernels: PlainKernels) -> Tensor:
        share = root.own("skip_gates")[row].sigmoid().to(x.dtype)
        return (root.own("skip_weights")[row].to(x.dtype) * skip).lerp(x, share)


def paired_calls(order: tuple[int, ...]) -> LayerCalls:
    """Stops where the second half use the outputs of the first half, last one first."""
    first = len(order) // 2
    pairs = ((first - 1 - i, i) if i < first else (-1, -1) for i in range(len(order) - first))
    second = (LayerCall(layer, *pair) for layer, pair in zip(order[first:], pairs))
    return (*(LayerCall(layer) for layer in order[:first]), *second)
