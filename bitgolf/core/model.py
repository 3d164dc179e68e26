"""The network: a route through layers and one forward pass, used by training, scoring and sampling alike."""

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from bitgolf.core.backend import Backend
from bitgolf.core.kernels import capped_logits
from bitgolf.core.parts import (
    Attention,
    Context,
    Embedding,
    Linear,
    Part,
    SquaredReluMlp,
    choose_kernels,
    rotation_tables,
)
from bitgolf.core.plan import Plan, setting


class Visit(NamedTuple):
    """One stop on the route: a layer, and which earlier stop's output is first added with which skip row."""

    layer: int
    source: int = -1
    skip: int = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route(Plan):
    """Slot: the order in which layers are visited, and the skips between visits."""

    abstract: ClassVar[bool] = True

    def visits(self, layers: int) -> tuple[Visit, ...]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(Route):
    """Every layer once, no skips.

    What: the ordinary residual stack.
    Source: common practice
    Cost: nothing
    Not for: the public baseline, which has skips
    Neutral: this is the neutral route
    """

    def visits(self, layers: int) -> tuple[Visit, ...]:
        return tuple(Visit(layer) for layer in range(layers))


@dataclasses.dataclass(frozen=True, kw_only=True)
class USkips(Route):
    """Outputs of the first half are added before the layers of the second half, last one first.

    What: x + w * skip with a learned weight per channel, starting at one.
    Source: the public baseline (catalogue A3)
    Cost: width weights for each skip, stored in high precision; two passes over the stream each
    Not for: fewer than two layers
    Neutral: skip weights of zero equal the plain route
    """

    def visits(self, layers: int) -> tuple[Visit, ...]:
        first = layers // 2
        second = tuple(
            Visit(first + i, first - 1 - i, i) if i < first else Visit(first + i)
            for i in range(layers - first)
        )
        return Plain().visits(first) + second


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelPlan(Plan):
    """The shape of the network; the defaults are the public baseline's 17,059,912 parameters.

    mlp_hidden: hidden width of the MLP; 0 takes mlp_multiplier times the width.
    rope_frequencies: what they are rounded to; models of the public script were trained with bfloat16.
    embed_std: spread of the initial embedding where it is also the output head; a separate one starts at 1.
    """

    vocabulary_size: int = setting(1024, at_least=2)
    layers: int = setting(9, at_least=1)
    width: int = setting(512, at_least=2)
    heads: int = setting(8, at_least=1)
    kv_heads: int = setting(4, at_least=1)
    mlp_multiplier: float = setting(2.0, above=0)
    mlp_hidden: int = setting(0, at_least=0)
    tied: bool = True
    logit_softcap: float = setting(30.0, above=0)
    qk_gain: float = 1.5
    rope_base: float = setting(10000.0, above=1)
    rope_frequencies: str = setting("float32", one_of=("float32", "bfloat16"))
    embed_std: float = setting(0.005, above=0)
    route: Route = USkips()

    def problems(self) -> Iterator[str]:
        if self.width % self.heads:
            yield f"heads: {self.heads} must divide the width {self.width}"
        elif self.width // self.heads % 2:
            yield f"heads: a head must have an even width, found {self.width}/{self.heads}"
        if self.heads % self.kv_heads:
            yield f"kv_heads: {self.kv_heads} must divide the {self.heads} heads"
        if self.hidden_width() < 1:
            yield f"mlp_multiplier: {self.mlp_multiplier} of width {self.width} leaves no hidden unit"

    def hidden_width(self) -> int:
        """Hidden units of each MLP."""
        return self.mlp_hidden or int(self.mlp_multiplier * self.width)


class Block(Part):
    """One layer: the stream is mixed with its start, then attention and MLP are added to it."""

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.attn = Attention(plan.width, plan.heads, plan.kv_heads, plan.qk_gain)
        self.mlp = SquaredReluMlp(plan.width, plan.hidden_width())
        self.attn_scale = nn.Parameter(torch.empty(plan.width))
        self.mlp_scale = nn.Parameter(torch.empty(plan.width))
        self.resid_mix = nn.Parameter(torch.empty(2, plan.width))

    def initial(self, name: str, shape: torch.Size, draw: torch.Generator) -> Tensor:
        values = torch.ones(shape)
        if name == "resid_mix":
            values[1] = 0
        return values

    def forward(self, x: Tensor, context: Context) -> Tensor:
        kernels, dtype = context.kernels, x.dtype
        # residual_in: what enters the layer
        x = kernels.mix(x, context.start, self.resid_mix.to(dtype))
        # qkv, heads_out: inside the attention
        update = self.attn(kernels.norm(x), context)
        # residual_out: how an update joins the stream
        x = kernels.add_scaled(x, update, self.attn_scale.to(dtype))
        update = self.mlp(kernels.norm(x), kernels)
        return kernels.add_scaled(x, update, self.mlp_scale.to(dtype))


class Model(Part):
    """The language model. Weights are float32; the stream is in the backend's number type."""

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.plan = plan
        self.visits = plan.route.visits(plan.layers)
        self.tok_emb = Embedding(plan.vocabulary_size, plan.width, plan.embed_std if plan.tied else 1.0)
        self.blocks = nn.ModuleList(Block(plan) for _ in range(plan.layers))
        skips = 1 + max(visit.skip for visit in self.visits)
        self.skip_weights = nn.Parameter(torch.empty(skips, plan.width)) if skips else None
        self.lm_head = None if plan.tied else Linear(plan.width, plan.vocabulary_size, zero=True)
        self.choose(Backend())

    def use(self, backend: Backend) -> Self:
        """Move to the backend's device and compute as it says from now on."""
        self.choose(backend)
        return self.to(backend.device)

    def choose(self, backend: Backend) -> None:
        """Take the backend's operations, without moving anything."""
        self.backend, self.kernels = backend, choose_kernels(backend)
        self.compiled_nats = torch.compile(self.eager_nats) if backend.compile else None

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The training loss; the entry point that distributed wrappers call."""
        return self.loss(inputs, targets)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token."""
        return self.nats(inputs, targets).mean()

    def nats(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each target (batch, time), float32."""
        return (self.compiled_nats or self.eager_nats)(inputs, targets)

    def eager_nats(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """`nats` before compilation."""
        return self.nats_of(self.hidden(inputs), targets)

    def nats_of(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each target under the state that predicts it; scoring asks for a few only."""
        rows = hidden.flatten(0, 1)
        head = self.head(rows.dtype)
        return self.kernels.nats(rows, head, targets.flatten(), self.plan.logit_softcap).view(targets.shape)

    def logits(self, inputs: Tensor) -> Tensor:
        """Softcapped logits (batch, time, vocabulary), float32."""
        hidden = self.hidden(inputs)
        return capped_logits(hidden, self.head(hidden.dtype), self.plan.logit_softcap)

    def head(self, dtype: torch.dtype) -> Tensor:
        """The matrix that turns hidden states into logits."""
        return self.tok_emb.weight.to(dtype) if self.lm_head is None else self.lm_head.matrix(dtype)

    def hidden(self, inputs: Tensor) -> Tensor:
        """Normalised final states (batch, time, width)."""
        kernels = self.kernels
        dtype = self.backend.compute_dtype(inputs.numel())
        start = kernels.norm(self.tok_emb(inputs)).to(dtype)
        plan, time = self.plan, inputs.shape[1]
        rounding = getattr(torch, plan.rope_frequencies)
        tables = rotation_tables(time, plan.width // plan.heads, plan.rope_base, rounding, inputs.device)
        context = Context(inputs, start, *tables, kernels, self.backend.attention)
        x = start
        outputs: list[Tensor] = []
        for visit in self.visits:
            if visit.source >= 0 and self.skip_weights is not None:
                x = kernels.add_scaled(x, outputs[visit.source], self.skip_weights[visit.skip].to(dtype))
            x = self.blocks[visit.layer](x, context)
            outputs.append(x)
        return kernels.norm(x)


def build_model(plan: ModelPlan, seed: int = 1337) -> Model:
    """A model with initial weights. Each tensor is drawn under its own key, so adding one moves no other."""
    model = Model(plan)
    with torch.no_grad():
        for path, module in model.named_modules():
            for name, tensor in module.named_parameters(prefix=path, recurse=False):
                local = name.rpartition(".")[2]
                tensor.copy_(module.initial(local, tensor.shape, keyed_generator(seed, name)))
    return model


def keyed_generator(seed: int, name: str) -> torch.Generator:
    """Random numbers that depend on the seed and this name alone."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def parameter_shapes(plan: ModelPlan) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, without allocating any."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Model(plan).named_parameters()}


def count_parameters(plan: ModelPlan) -> int:
    """How many numbers the model has."""
    return sum(math.prod(shape) for shape in parameter_shapes(plan).values())
