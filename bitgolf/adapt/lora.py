"""Low-rank additions to what a model computes, with factors of its own for each row of a batch."""

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

    They are put beside the modules that are there, so that the model's own forward pass is the only one; a
    layer that is passed again has factors for each pass. `o` and `mlp` lead from what attention and MLP read
    to what they put out. The start is that of the fixed model: up is zero, down evenly drawn up to
    1 / sqrt(inputs), alike for all rows.
    """

    def __init__(self, model: Model, targets: Sequence[str], rank: int, alpha: float, seed: int) -> None:
        self.model, self.rank, self.scale, self.seed = model, rank, alpha / rank, seed
        self.shapes = dict(lora_shapes(model, targets))
        self.factors: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        self.rows: Tensor | None = None  # of the factors, one for each row of the batch; None: none is added
        self.passes: Counter[str] = Counter()

    def parameters(self) -> list[nn.Parameter]:
        """Every factor."""
        return [factor for pair in self.factors.values() for factor in pair]

    @torch.inference_mode(False)  # what is made in that mode can never learn
    def begin(self, rows: int, warm: bool = False) -> None:
        """Factors at their start for so many rows; warm: those of as many rows before keep `down`."""
        for name, (inputs, outputs) in self.shapes.items():
            before = self.factors.get(name)
            if warm and before is not None and len(before[0]) == rows:
                down = before[0].detach()
            else:
                down = self.drawn(name, rows, inputs).to(self.model.backend.device)
            up = down.new_zeros(rows, outputs, self.rank)
            self.factors[name] = nn.Parameter(down), nn.Parameter(up)

    def drawn(self, name: str, rows: int, inputs: int) -> Tensor:
        """The start of a factor `down`."""
        generator = keyed_generator(self.seed, f"lora {name}")
        one = (2 * torch.rand(self.rank, inputs, generator=generator) - 1) / math.sqrt(inputs)
        return one.repeat(rows, 1, 1)

    @contextmanager
    def looking_at(self, rows: Sequence[int]) -> Iterator[None]:
        """The model with the factors of these rows, one for each row of its batch."""
        self.rows = torch.tensor(rows, device=self.model.backend.device)
        self.passes.clear()
        try:
            yield
        finally:
            self.rows = None

    def plus(self, target: str, x: Tensor, y: Tensor) -> Tensor:
        """y (batch, time, outputs) with what stands beside the product that made it of x."""
        number = self.passes[target]
        pair = self.factors.get(f"{target}/{number}")
        if self.rows is None or pair is None:
            return y
        self.passes[target] += 1
        down, up = (factor[self.rows].to(x.dtype) for factor in pair)
        return y + (x @ down.mT) @ up.mT * self.scale

    def heads_of(self, target: str, attention: Attention, x: Tensor, *parts: Linear) -> Tensor:
        """`Attention.heads_of` with what stands beside its matrices."""
        own = Attention.heads_of(attention, x, *parts)
        names = {attention.c_q: "q", attention.c_k: "k", attention.c_v: "v"}
        pieces = own.flatten(2).split([len(part.weight) for part in parts], 2)
        added = [self.plus(f"{target}.{names[part]}", x, y) for part, y in zip(parts, pieces)]
        return torch.cat(added, 2).view_as(own) if self.rows is not None else own

    def after(self, target: str, module: Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """What a module puts out, with what stands beside it; of the last positions that it was asked for."""
        return self.plus(target, given[0][:, -output.shape[1] :], output)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """The model with its additions wherever `looking_at` says of which rows."""
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
        """The matrix (vocabulary, width) that turns states into logits in a row."""
        if "head/0" not in self.factors:
            return self.model.head()
        down, up = self.factors["head/0"]
        return self.model.head() + self.scale * (up[row] @ down[row])

    def nats(self, rows: Sequence[int], hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy (batch, time) of the targets of these states, by each row's own head."""
        if "head/0" not in self.factors:
            return self.model.nats_of(hidden, targets)
        each = zip(rows, hidden.split(1), targets.split(1))
        return torch.cat([self.model.nats_of(state, own, self.head(row)) for row, state, own in each])

    def logits(self, row: int, hidden: Tensor) -> Tensor:
        """Softcapped logits (..., vocabulary) of states of a row."""
        return self.model.logits_of(hidden, self.head(row))


def lora_shapes(model: Model, targets: Sequence[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Inputs and outputs of every addition: for each pass of a layer, 'layer.target/pass'; 'head/0'."""
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
