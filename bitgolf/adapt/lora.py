"""Low-rank adaptation (LoRA) with separate factors for each row of a batch."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from bitgolf.net.layers import Attention, Block
from bitgolf.net.model import Model, keyed_generator
from bitgolf.net.parts import Linear, Module

LORA_TARGETS = ("q", "k", "v", "o", "mlp", "head")


class Lora:
    """Factors down (rows, rank, inputs) and up (rows, outputs, rank): a product y of x becomes
    y + alpha / rank (x down^T) up^T.

    They are hooked into the existing modules, so the model's forward pass stays the only one. A layer that is
    passed again has factors for each pass. `o` and `mlp` lead from the inputs of attention and MLP to their
    outputs. At the start the model is unchanged: up is zero, down is uniform within 1 / sqrt(inputs), equal
    for all rows.
    """

    def __init__(self, model: Model, targets: Sequence[str], rank: int, alpha: float, seed: int) -> None:
        self.model, self.rank, self.scale, self.seed = model, rank, alpha / rank, seed
        self.shapes = dict(lora_shapes(model, targets))
        self.factors: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        self.rows: Tensor | None = None  # rows of the factors, for each row of the batch; None: no factors
        self.passes: Counter[str] = Counter()

    def parameters(self) -> list[nn.Parameter]:
        """Every factor."""
        return [factor for pair in self.factors.values() for factor in pair]

    @torch.inference_mode(False)  # tensors made in that mode can never be trained
    def begin(self, rows: int, warm: bool = False) -> None:
        """Start new factors for `rows` rows; warm: keep `down` if there were as many rows before."""
        for name, (inputs, outputs) in self.shapes.items():
            before = self.factors.get(name)
            if warm and before is not None and len(before[0]) == rows:
                down = before[0].detach()
            else:
                down = self.drawn(name, rows, inputs).to(self.model.backend.device)
            up = down.new_zeros(rows, outputs, self.rank)
            self.factors[name] = nn.Parameter(down), nn.Parameter(up)

    def drawn(self, name: str, rows: int, inputs: int) -> Tensor:
        """The initial values of a factor `down`."""
        generator = keyed_generator(self.seed, f"lora {name}")
        one = (2 * torch.rand(self.rank, inputs, generator=generator) - 1) / math.sqrt(inputs)
        return one.repeat(rows, 1, 1)

    @contextmanager
    def looking_at(self, rows: Sequence[int]) -> Iterator[None]:
        """A context with the factors of these rows, one for each row of the batch."""
        self.rows = torch.tensor(rows, device=self.model.backend.device)
        self.passes.clear()
        try:
            yield
        finally:
            self.rows = None

    def plus(self, target: str, x: Tensor, y: Tensor) -> Tensor:
        """y (batch, time, outputs), a product of x, plus the low-rank product of x."""
        number = self.passes[target]
        pair = self.factors.get(f"{target}/{number}")
        if self.rows is None or pair is None:
            return y
        self.passes[target] += 1
        down, up = (factor[self.rows].to(x.dtype) for factor in pair)
        return y + (x @ down.mT) @ up.mT * self.scale

    def heads_of(self, target: str, attention: Attention, x: Tensor, *parts: Linear) -> Tensor:
        """`Attention.heads_of` plus the low-rank products."""
        own = Attention.heads_of(attention, x, *parts)
        names = {attention.c_q: "q", attention.c_k: "k", attention.c_v: "v"}
        pieces = own.flatten(2).split([len(part.weight) for part in parts], 2)
        added = [self.plus(f"{target}.{names[part]}", x, y) for part, y in zip(parts, pieces)]
        return torch.cat(added, 2).view_as(own) if self.rows is not None else own

    def after(self, target: str, module: Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The output of a module plus the low-rank product, for the positions of the output."""
        return self.plus(target, given[0][:, -output.shape[1] :], output)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """A context in which the model uses the factors, for the rows of `looking_at`."""
        blocks = [block for block in self.model.blocks if isinstance(block, Block)]
        hooks = []
        try:
            for layer, block in enumerate(blocks):
                vars(block.attn)["heads_of"] = partial(self.heads_of, f"{layer}", block.attn)
                hooks.append(block.attn.register_forward_hook(partial(self.after, f"{layer}.o")))
                hooks.append(block.mlp.register_forward_hook(partial(self.after, f"{layer}.mlp")))
            yield
        finally:
            for block in blocks:
                vars(block.attn).pop("heads_of", None)
            for hook in hooks:
                hook.remove()

    def head(self, row: int) -> Tensor:
        """The output head (vocabulary, width) of a row."""
        if "head/0" not in self.factors:
            return self.model.head()
        down, up = self.factors["head/0"]
        return self.model.head() + self.scale * (up[row] @ down[row])

    def nats(self, rows: Sequence[int], hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy (batch, time) in nats of the targets of these states, by each row's head."""
        if "head/0" not in self.factors:
            return self.model.nats_of(hidden, targets)
        each = zip(rows, hidden.split(1), targets.split(1))
        return torch.cat([self.model.nats_of(state, own, self.head(row)) for row, state, own in each])

    def logits(self, row: int, hidden: Tensor) -> Tensor:
        """Softcapped logits (..., vocabulary) of states of one row."""
        return self.model.logits_of(hidden, self.head(row))


def lora_shapes(model: Model, targets: Sequence[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Inputs and outputs of each pair of factors: 'layer.target/pass' for each pass, 'head/0'."""
    sizes = model.plan.dimensions
    outputs = {
        "q": sizes.width,
        "k": sizes.kv_width,
        "v": sizes.kv_width,
        "o": sizes.width,
        "mlp": sizes.width,
    }
    passes = Counter(layer for layer, *_ in model.scoring_calls)
    for target in targets:
        if target == "head":
            yield "head/0", (sizes.embedding_width, sizes.vocabulary_size)
            continue
        for layer, count in sorted(passes.items()):
            for number in range(count):
                yield f"{layer}.{target}/{number}", (sizes.width, outputs[target])
