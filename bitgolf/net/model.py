"""The network: one forward pass, used by training, scoring and sampling alike."""

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from bitgolf.base.plan import Plan, setting
from bitgolf.net.backend import Backend
from bitgolf.net.embed import EmbedPart
from bitgolf.net.heads import HeadsPart
from bitgolf.net.kernels import (
    AttentionMask,
    CompiledKernels,
    FusedKernels,
    PlainKernels,
    chunk_attend,
    math_attend,
    sdpa_attend,
)
from bitgolf.net.layers import Attention, Block, InputScale, Residual, Serial, Stream, Unscaled
from bitgolf.net.machine import MachineKernels
from bitgolf.net.mlp import Activation, ReluSquared
from bitgolf.net.objective import NextToken, Objective
from bitgolf.net.parts import Attend, Context, Dimensions, Embedding, Linear, Module, Part
from bitgolf.net.position import Position, Rope, Scope
from bitgolf.net.route import LayerCalls, Once, Recurrence, Route, USkips
from bitgolf.net.start import Initialisation, UniformStart
from bitgolf.net.values import ValuePart


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelPlan(Plan):
    """The shape of the network; the defaults are the public baseline's 17,059,912 parameters.

    mlp_hidden: hidden width of the MLP; 0 takes mlp_multiplier times the width.
    embedding_width: of the token table; 0 is the width, another one is projected to it and back (factored).
    embed_std: standard deviation of the initial embedding if it is also the output head; otherwise 1.
    bos_id: the token that starts a document; only parts that separate documents use it.
    """

    vocabulary_size: int = setting(1024, at_least=2, at_most=2**20)
    layers: int = setting(9, at_least=1, at_most=1000)
    width: int = setting(512, at_least=2, at_most=2**16)
    heads: int = setting(8, at_least=1)
    kv_heads: int = setting(4, at_least=1)
    mlp_multiplier: float = setting(2.0, above=0, at_most=1000)
    mlp_hidden: int = setting(0, at_least=0, at_most=2**20)
    embedding_width: int = setting(0, at_least=0, at_most=2**16)
    tied: bool = True
    logit_softcap: float = setting(30.0, above=0)
    qk_gain: float = 1.5
    embed_std: float = setting(0.005, above=0)
    bos_id: int = setting(1, at_least=-1)
    start: Initialisation = UniformStart()
    position: Position = Rope()
    scope: tuple[Scope, ...] = ()
    embed: tuple[EmbedPart, ...] = ()
    input_scale: InputScale = Unscaled()
    values: tuple[ValuePart, ...] = ()
    heads_out: tuple[HeadsPart, ...] = ()
    activation: Activation = ReluSquared()
    residual: Residual = Serial()
    recurrence: Recurrence = Once()
    route: Route = USkips()
    objective: Objective = NextToken()

    def validate(self) -> Iterator[str]:
        if self.width % self.heads:
            yield f"heads: {self.heads} must divide the width {self.width}"
        elif self.width // self.heads % 2:
            yield f"heads: a head must have an even width, found {self.width}/{self.heads}"
        if self.heads % self.kv_heads:
            yield f"kv_heads: {self.kv_heads} must divide the {self.heads} heads"
        if self.hidden_width() < 1:
            yield f"mlp_multiplier: {self.mlp_multiplier} of width {self.width} leaves no hidden unit"
        if self.heads % self.kv_heads or self.width % self.heads:
            return
        for seam in ("position", "residual", "scope", "embed", "values", "heads_out"):
            held = getattr(self, seam)
            for part in held if isinstance(held, tuple) else (held,):
                for text in part.validate_for(self.dimensions):
                    yield f"{seam}: {type(part).__name__}.{text}"
        yield from (f"activation: {text}" for text in self.activation.validate_for(self.width))
        yield from (f"recurrence: {text}" for text in self.recurrence.validate_for(self.layers))
        names = Counter(name for part in self.parts() for name in self.part_tensors(part))
        yield from (f"{n}: two parts have a tensor of this name; keep one" for n in names if names[n] > 1)

    def parts(self) -> list[Part]:
        """Every part that may have tensors once in the model."""
        return [self.position, self.residual, *self.scope, *self.embed, *self.values, *self.heads_out]

    def part_tensors(self, part: Part) -> list[str]:
        """The names of a part's tensors, in the model and in a layer after the first."""
        return [*part.tensors(self.dimensions), *part.layer_tensors(self.dimensions, 1)]

    @property
    def looks_back(self) -> bool:
        """Whether a position needs attention outputs or the stream at other positions."""
        return self.activation.looks_back or any(p.looks_back for p in (self.residual, *self.heads_out))

    @property
    def dimensions(self) -> Dimensions:
        """The sizes that parts are made for."""
        rest = self.embedding_width or self.width, self.heads, self.kv_heads, self.bos_id
        return Dimensions(self.vocabulary_size, self.layers, self.width, *rest)

    @property
    def factored(self) -> bool:
        """Whether the width of the token table differs from that of the stream."""
        return self.embedding_width > 0 and self.embedding_width != self.width

    def hidden_width(self) -> int:
        """Hidden units of each MLP."""
        return self.mlp_hidden or int(self.mlp_multiplier * self.width)

    def layer_calls(self, progress: float = 1.0, training: bool = False) -> LayerCalls:
        """The stops of the route, at this progress of training or outside it."""
        return self.route.layer_calls(self.recurrence.order(self.layers, progress, training))

    def shipped(self) -> Self:
        """The plan of the packed model, without parts that only training needs."""
        return self.replace(objective=NextToken()) if self.objective.in_training_alone else self


class Model(Module):
    """The language model. Weights are float32; the stream is in the backend's number type."""

    kernels: PlainKernels

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.plan = plan
        sizes = plan.dimensions
        std = plan.embed_std if plan.tied else 1.0
        self.tok_emb = Embedding(plan.vocabulary_size, sizes.embedding_width, std)
        self.blocks = nn.ModuleList(
            Block(
                Attention(sizes, layer, plan.qk_gain, plan.values, plan.heads_out),
                plan.recurrence.mlp(layer, plan.width, plan.hidden_width(), plan.activation),
                plan.residual,
                plan.input_scale.factor(layer),
                plan.residual.layer_tensors(sizes, layer),
            )
            for layer in range(plan.layers)
        )
        self.scoring_calls = self.training_calls = plan.layer_calls()
        if plan.recurrence.varies:
            self.training_calls = plan.layer_calls(training=True)
        skips = 1 + max(call.skip for call in (*self.scoring_calls, *self.training_calls))
        self.adopt(plan.route.tensors(skips, plan.width))
        self.lm_head = None if plan.tied else Linear(sizes.embedding_width, plan.vocabulary_size, zero=True)
        self.embed_proj = Linear(sizes.embedding_width, plan.width) if plan.factored else None
        self.head_proj = Linear(plan.width, sizes.embedding_width) if plan.factored else None
        for part in plan.parts():
            self.adopt(part.tensors(sizes))
        self.adopt(plan.objective.tensors(sizes))
        self.window = 0  # tokens of a whole window, if scoring sets it
        self.choose(Backend())

    def at(self, progress: float) -> None:
        """Use the route of this progress of the training."""
        before, self.training_calls = self.training_calls, self.plan.layer_calls(progress, training=True)
        self.plan.recurrence.enter(self, before, self.training_calls)

    def use(self, backend: Backend) -> Self:
        """Move to the backend's device and use its operations from now on."""
        self.choose(backend)
        return self.to(backend.device)

    def choose(self, backend: Backend) -> None:
        """Use the backend's operations, without moving anything."""
        self.backend, self.kernels = backend, choose_kernels(backend)
        self.attend = choose_attention(backend)
        self.compiled_loss = torch.compile(self.eager_loss) if backend.compile else None

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The training loss; the entry point that distributed wrappers call."""
        return self.loss(inputs, targets)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token, plus what the objective adds in training."""
        return (self.compiled_loss or self.eager_loss)(inputs, targets)

    def eager_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """`loss` before compilation."""
        hidden = self.hidden(inputs)
        return self.plan.objective.loss(self.nats_of(hidden, targets), hidden, targets, self, self.nats_of)

    def nats(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each target (batch, time), float32."""
        return self.nats_of(self.hidden(inputs), targets)

    def nats_of(self, hidden: Tensor, targets: Tensor, head: Tensor | None = None) -> Tensor:
        """Cross-entropy of each target given its hidden state; scoring needs only some targets.

        head: a matrix (vocabulary, width) in place of the model's.
        """
        rows, matrix = hidden.flatten(0, 1), self.head() if head is None else head
        nats = self.kernels.nats(rows, matrix.to(rows.dtype), targets.flatten(), self.plan.logit_softcap)
        return nats.view(targets.shape)

    def logits(self, inputs: Tensor) -> Tensor:
        """Softcapped logits (batch, time, vocabulary), float32."""
        return self.logits_of(self.hidden(inputs))

    def logits_of(self, hidden: Tensor, head: Tensor | None = None) -> Tensor:
        """Softcapped logits (..., vocabulary) of final states, float32; head: see `nats_of`."""
        matrix = self.head() if head is None else head
        return self.kernels.logits(hidden, matrix.to(hidden.dtype), self.plan.logit_softcap)

    def head(self) -> Tensor:
        """The matrix that turns hidden states into logits."""
        return self.tok_emb.weight if self.lm_head is None else self.lm_head.weight

    def embedded(self, inputs: Tensor) -> Tensor:
        """The input of the first layer (batch, time, width)."""
        plan, dtype = self.plan, self.backend.compute_dtype(inputs.numel())
        x = self.tok_emb(inputs)
        for part in plan.embed:
            x = x if part.after else part.embed(x, inputs, self, plan.bos_id)
        x = self.kernels.norm(x).to(dtype)
        x = x if self.embed_proj is None else self.embed_proj(x)
        for part in plan.embed:
            x = part.embed(x, inputs, self, plan.bos_id) if part.after else x
        return x

    def context(self, seen: Tensor, start: Tensor, way: Attend | None = None) -> Context:
        """The context of a pass. start: layer input for the last tokens of the window `seen` (batch, time).

        way: an attention in place of the backend's, which has cached the tokens before `start`.
        """
        plan, new = self.plan, start.shape[1]
        mask = plan.position.limit(AttentionMask(), plan.heads, self)
        for scope in plan.scope:
            mask = scope.limit(mask, seen, plan.bos_id, self.training)
        tables = plan.position.tables(seen.shape[1], self.window, plan.width // plan.heads, seen.device)
        cos, sin = (table[-new:] for table in tables)
        calls = self.training_calls if self.training else self.scoring_calls
        return Context(
            seen[:, -new:], start, cos, sin, self.kernels, way or self.attend, mask, self, {}, calls
        )

    def hidden(self, inputs: Tensor, last: int = 0) -> Tensor:
        """Normalised final states (batch, time, embedding width); with `last`, only of the last positions."""
        start = self.embedded(inputs)
        return self.through(start, self.context(inputs, start), last)

    def through(self, start: Tensor, context: Context, last: int = 0) -> Tensor:
        """Normalised final states for the input of the first layer; see `hidden`.

        All other positions stop once the last layer has their keys and values.
        """
        residual, route = self.plan.residual, self.plan.route
        x: Stream = start
        outputs: list[Stream] = []
        for layer, source, row in context.calls:
            if source >= 0:
                skip = outputs[source]
                assert isinstance(skip, Tensor), "a stop whose output a skip takes has one stream"
                join = partial(route.join, skip=skip, row=row, root=self, kernels=context.kernels)
                x = residual.skipped(x, join, layer)
            is_last = len(outputs) + 1 == len(context.calls)
            if 0 < last < start.shape[1] and not self.plan.looks_back and is_last:
                block = self.blocks[layer]
                assert isinstance(block, Block)
                x, read = residual.ended(x, block, context, last)
                context = context._replace(start=start[:, -last:], read=read)
            x = self.blocks[layer](x, context)
            outputs.append(x)
        x = self.kernels.norm(residual.closed(x, self)[:, (-last if last else None) :])
        return x if self.head_proj is None else self.head_proj(x)


def choose_kernels(backend: Backend) -> PlainKernels:
    """The fast operations of a backend, or the plain reference."""
    if not backend.fused:
        return PlainKernels()
    if backend.compile:
        return CompiledKernels()
    return MachineKernels() if backend.attention == "chunk" else FusedKernels()


def choose_attention(backend: Backend) -> Attend:
    """The attention function of a backend."""
    if backend.attention == "chunk":
        return chunk_attend
    return math_attend if backend.attention == "math" else sdpa_attend


def build_model(plan: ModelPlan, seed: int = 1337) -> Model:
    """A model with initial weights. Each tensor has its own random key, so adding one changes no other."""
    model = Model(plan)
    with torch.no_grad():
        for path, module in model.named_modules():
            for local, own in module.starts.items() if isinstance(module, Module) else ():
                name = f"{path}.{local}".lstrip(".")
                start = plan.start.start(name, own, plan.layers)
                getattr(module, local).copy_(start.initialise(start.shape, keyed_generator(seed, name)))
    return model


def keyed_generator(seed: int, name: str) -> torch.Generator:
    """A random generator that depends only on the seed and this name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def parameter_shapes(plan: ModelPlan) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, without allocating any."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Model(plan).named_parameters()}


def count_parameters(plan: ModelPlan) -> int:
    """The number of parameters of a model."""
    return sum(math.prod(shape) for shape in parameter_shapes(plan).values())


def shipped_weights(shipped: ModelPlan, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the packed model, without those that only training needs."""
    return {name: weights[name] for name in parameter_shapes(shipped)}


def model_with(plan: ModelPlan, weights: dict[str, Tensor], backend: Backend) -> Model:
    """A model of this shape with these weights, ready to score."""
    model = Model(plan)
    model.load_state_dict(weights)
    return model.use(backend).eval()
