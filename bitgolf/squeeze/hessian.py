"""Curvature of the loss for each matrix of a trained model: second moments of inputs and output gradients.

All matrix products use `F.linear` and all tables of ids `F.embedding`, so only these two are intercepted and
the model runs as always. Labels are drawn from the model itself, so the moments of gradients are those of
the Fisher information.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bitgolf.base.errors import PlanError
from bitgolf.base.plan import setting
from bitgolf.net.kernels import capped_logits
from bitgolf.net.model import Model, ModelPlan, keyed_generator, parameter_shapes
from bitgolf.squeeze.quantize import Calibration, Curvature, Curvatures
from bitgolf.text.shards import TokenStream

CALIBRATION_TOKENS = 8192  # of one pass
HEADS = ("tok_emb.weight", "lm_head.weight")  # a row per token: of gradients only the diagonal
SHRINKAGE = 2.0  # occurrences of an average row, added to those of each row
COUNTED_TOKENS, TRIAL_TOKENS = 2**26, 2**12  # of the training stream, for frequencies of rows
COUNTED_AT_ONCE = 2**20
LOOKUP_DAMPING = 0.003  # of the mean of the diagonal, added to moments that are inverted


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainText(Calibration):
    """Sequences from the training text.

    What: `sequences` sequences, drawn with `seed`; with `outputs` also the gradients at the products, in one
        forward and one backward pass.
    Source: GPTQ; records from 2026-03-25 on, with 16 to 64 batches in the time that training reserves
    Cost: no bytes; a forward pass over the sequences and a square product for each matrix
    Not for: validation text, which must not shape the model
    Neutral: quantizers that do not ask
    """

    sequences: int = setting(128, at_least=1)
    seed: int = setting(0, at_least=0)
    outputs: bool = False

    def gives_outputs(self) -> bool:
        return self.outputs

    def gather(
        self, names: list[str], model: Model, stream: TokenStream, length: int, trial: bool
    ) -> Curvatures:
        draws = keyed_generator(self.seed, "calibration")
        text = drawn_text(stream, 1 if trial else self.sequences, length, draws)
        often = row_frequencies(model.plan, stream, TRIAL_TOKENS if trial else COUNTED_TOKENS)
        return gather_curvatures(model, text, names, self.outputs, draws, often if self.outputs else {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnText(Calibration):
    """Sequences that the model writes itself.

    What: each starts with a uniformly drawn token and is sampled at `temperature`; for rules that allow no
        text after training.
    Source: record 2026-03-25 (64 sequences of 2048 tokens at 0.8, seed 42)
    Cost: no bytes; a pass of the model for each token of a sequence: 197 seconds in that record
    Not for: runs that may read their training text, which is as good and costs no time
    Neutral: quantizers that do not ask
    """

    sequences: int = setting(64, at_least=1)
    temperature: float = setting(0.8, above=0)
    seed: int = setting(42, at_least=0)
    outputs: bool = False

    def gives_outputs(self) -> bool:
        return self.outputs

    def gather(
        self, names: list[str], model: Model, stream: TokenStream, length: int, trial: bool
    ) -> Curvatures:
        draws = keyed_generator(self.seed, "calibration")
        shape = (1, min(length, 2)) if trial else (self.sequences, length)
        text = written_text(model, *shape, self.temperature, draws)
        return gather_curvatures(model, text, names, self.outputs, draws)


def drawn_text(stream: TokenStream, sequences: int, length: int, draws: torch.Generator) -> Tensor:
    """Token ids (sequences, length) from random places of a stream, on the CPU."""
    starts = torch.randint(max(1, stream.tokens - length), (sequences,), generator=draws).tolist()
    return torch.stack([torch.from_numpy(stream.read(start, length).astype("int64")) for start in starts])


def written_text(
    model: Model, sequences: int, length: int, temperature: float, draws: torch.Generator
) -> Tensor:
    """Token ids (sequences, length) sampled from the model, on the CPU."""
    parts = []
    with torch.no_grad(), plain_float32(model):
        for first in torch.randint(model.plan.vocabulary_size, (sequences, 1), generator=draws).split(
            max(1, CALIBRATION_TOKENS // length)
        ):
            rows = first
            while rows.shape[1] < length:
                hidden = model.hidden(rows.to(model.backend.device))[:, -1]
                logits = capped_logits(hidden, model.head(), model.plan.logit_softcap)
                likely = F.softmax(logits / temperature, dim=-1).cpu()
                rows = torch.cat((rows, torch.multinomial(likely, 1, generator=draws)), 1)
            parts.append(rows)
    return torch.cat(parts)


def row_frequencies(plan: ModelPlan, stream: TokenStream, most: int) -> dict[str, Tensor]:
    """How often a token of the stream looks up each row of each table, float64, by the table's name.

    Half an occurrence is added to each row, so that none is zero. Of a stream with more than `most` tokens,
    `most` are read in evenly spaced stretches.
    """
    stretches = -(-min(stream.tokens, most) // COUNTED_AT_ONCE)
    counts: dict[str, Tensor] = {}
    shapes = parameter_shapes(plan)
    for i in range(stretches):
        start, end = (stream.tokens * (i + k) // stretches for k in (0, 1))
        ids = stream.read(start, min(end - start, COUNTED_AT_ONCE))
        for name, rows in looked_up_rows(plan, torch.from_numpy(ids.astype("int64"))[None]).items():
            hits = rows.flatten().bincount(minlength=shapes[name][0])
            counts[name] = counts.get(name, torch.full(hits.shape, 0.5, dtype=torch.float64)) + hits
    return {name: hits / hits.sum() for name, hits in counts.items()}


def looked_up_rows(plan: ModelPlan, inputs: Tensor) -> dict[str, Tensor]:
    """The rows of each table that token ids (batch, time) look up."""
    rows_by_table = {"tok_emb.weight": inputs}
    for part in plan.parts():
        rows_by_table |= part.lookups(inputs, plan.bos_id)
    return rows_by_table


def gather_curvatures(
    model: Model,
    text: Tensor,
    names: Iterable[str],
    outputs: bool,
    draws: torch.Generator,
    frequencies: Mapping[str, Tensor] = {},  # noqa: B006
) -> Curvatures:
    """The curvature of tensors by name, in float32, over token ids (sequences, length).

    frequencies: how often rows of tables are looked up in all of the text; if not given, in this text.
    For a matrix that is used several times, as in loops, the inputs of all uses are added.
    Raises PlanError for a tensor that is in no product.
    """
    watch = ProductWatch(model, names, outputs)
    with plain_float32(model):
        for rows in text.split(max(1, CALIBRATION_TOKENS // text.shape[1])):
            with torch.set_grad_enabled(outputs), watch:
                logits = model.logits(rows.to(model.backend.device)).flatten(0, 1)
            if outputs:
                labels = drawn_labels(logits.detach(), draws)
                loss = F.cross_entropy(logits, labels.to(logits.device), reduction="sum")
                tables = [model.tok_emb.weight, *watch.tables.values()]
                loss.backward(inputs=tables)
                for table in tables:
                    table.grad = None
    return watch.curvatures(text.numel(), frequencies)


def drawn_labels(logits: Tensor, draws: torch.Generator) -> Tensor:
    """A token sampled from each row of logits (rows, vocabulary), on the CPU.

    Draws one number per row; `multinomial` draws one per token of the vocabulary.
    """
    sums = logits.softmax(-1).cpu().cumsum(-1)
    marks = torch.rand(len(sums), 1, generator=draws) * sums[:, -1:]
    return torch.searchsorted(sums, marks, right=True)[:, 0].clamp_max(sums.shape[1] - 1)


class ProductWatch(TorchFunctionMode):
    """Sums second moments of the inputs and output gradients of named matrices during a pass."""

    def __init__(self, model: Model, names: Iterable[str], outputs: bool) -> None:
        super().__init__()
        self.names, self.outputs = tuple(names), outputs
        parameters = dict(model.named_parameters())
        self.sizes = {name: len(tensor) for name, tensor in parameters.items() if tensor.ndim}
        self.matrices = {id(tensor): (name,) for name, tensor in parameters.items()}
        self.joined: dict[int, tuple[Tensor, tuple[str, ...]]] = {}  # kept alive: no other gets its id
        self.inputs: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.tables: dict[str, Tensor] = {}  # tables that rows were looked up in
        self.lookups: dict[str, Tensor] = {}  # moments of gradients at looked-up rows
        self.looked_up: dict[str, Tensor] = {}  # the squared gradients at each row
        self.occurrences: dict[str, Tensor] = {}  # how often each row was looked up
        self.uses = dict.fromkeys(self.names, 0)

    def __enter__(self) -> Self:
        self.joined.clear()
        return super().__enter__()

    # Any: a function of torch with any arguments.
    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.cat and all(id(part) in self.matrices for part in args[0]):
            # Several matrices as one, as for queries, keys and values of attention.
            self.joined[id(result)] = result, sum((self.matrices[id(part)] for part in args[0]), ())
        elif function is F.linear:
            _, names = self.joined.get(id(args[1]), (None, self.matrices.get(id(args[1]), ())))
            if any(name in self.uses for name in names):
                self.accumulate(names, args[0], result)
        elif function is F.embedding and self.outputs:
            name = self.matrices.get(id(args[1]), ("",))[0]
            if name in self.uses:
                self.tables[name] = args[1]
                result.register_hook(partial(self.accumulate_lookups, name, args[0].detach().flatten()))
        return result

    def accumulate(self, names: Sequence[str], x: Tensor, products: Tensor) -> None:
        """Add a product of x (..., columns) with matrices that are concatenated by rows."""
        rows = x.detach().float().reshape(-1, x.shape[-1])
        moments = rows.T @ rows
        for name in set(names) & self.uses.keys():
            self.inputs[name] = self.inputs.get(name, 0) + moments
            self.uses[name] += len(rows)
        if self.outputs:
            products.register_hook(partial(self.accumulate_gradients, names))

    def accumulate_gradients(self, names: Sequence[str], gradients: Tensor) -> None:
        """Add the gradients (..., rows) at the products with these matrices."""
        sizes = [self.sizes[name] for name in names]
        parts = gradients.detach().float().flatten(0, -2).split(sizes, dim=1)
        for name, part in zip(names, parts):
            if name in self.uses:
                moments = part.square().sum(0) if name in HEADS else part.T @ part
                self.gradients[name] = self.gradients.get(name, 0) + moments

    def accumulate_lookups(self, name: str, ids: Tensor, gradients: Tensor) -> None:
        """Add the gradients (..., columns) at the rows `ids` of a table."""
        rows = gradients.detach().float().flatten(0, -2)
        self.lookups[name] = self.lookups.get(name, 0) + rows.T @ rows
        sums = self.looked_up.setdefault(name, rows.new_zeros(self.sizes[name]))
        sums.index_add_(0, ids, rows.square().sum(1))
        # Like bincount, which would wait for a GPU.
        seen = ids.new_zeros(self.sizes[name]).index_add_(0, ids, torch.ones_like(ids))
        self.occurrences[name] = self.occurrences.get(name, 0) + seen

    def curvatures(self, tokens: int, frequencies: Mapping[str, Tensor]) -> Curvatures:
        """The curvatures over `tokens` tokens. Raises PlanError for a tensor that is in no product."""
        if lost := [name for name in self.names if not self.uses[name] and name not in self.lookups]:
            raise PlanError(
                f"quantize.rules: nothing is multiplied with {name}; give it a quantizer that does not ask"
                for name in lost
            )
        return {name: self.curvature(name, tokens, frequencies.get(name)) for name in self.names}

    def curvature(self, name: str, tokens: int, often: Tensor | None) -> Curvature:
        """The curvature of one tensor over `tokens` tokens, on the CPU, where packing is done.

        often: the frequency of each row of a table.
        """
        products = lookups = None
        if self.uses[name]:
            outputs = self.gradients[name].cpu() / self.uses[name] if self.outputs else None
            products = Curvature(self.inputs[name].cpu() / tokens, outputs, tokens)
        if name in self.lookups:
            sums, seen = self.looked_up[name].cpu(), self.occurrences[name].cpu()
            total = sums.sum().clamp_min(torch.finfo(torch.float32).tiny)
            rows = lookup_moments(sums, seen, often)
            missed = 0.0 if often is None else float(often[seen == 0].sum())
            moments = self.lookups[name].cpu() / total
            lookups = Curvature(moments, rows, tokens, int((seen == 0).sum()), missed)
        if products and lookups:
            return both_uses(products, lookups)
        curvature = products or lookups
        assert curvature is not None, "curvatures() has refused what was not seen"
        return curvature


def lookup_moments(sums: Tensor, seen: Tensor, often: Tensor | None) -> Tensor:
    """Expected squared gradients at each row (rows,) per token, float32.

    sums: squared gradients in a calibration text, in which each row occurred `seen` times. often: frequency
    of each row in all of the text. The sensitivity of a row per occurrence is shrunk towards the mean of all
    rows, so rows that are rare or absent in the calibration text get about the mean.
    """
    sums, seen = sums.double(), seen.double()
    often = (seen + 0.5) / (seen + 0.5).sum() if often is None else often
    mean = sums.sum() / seen.sum().clamp_min(1)
    return (often * (sums + SHRINKAGE * mean) / (seen + SHRINKAGE)).float()


def both_uses(products: Curvature, lookups: Curvature) -> Curvature:
    """The curvature of a table that is both multiplied and looked up, such as tied embeddings.

    Its inputs are those of both uses, weighted by their rows. The weight of a row is its damage in both uses
    for errors as error feedback on these inputs leaves them: with the inverse as second moments.
    """
    assert products.outputs is not None and lookups.outputs is not None, "only gradients show lookups"
    head, lookup = products.outputs.double(), lookups.outputs.double()
    share = lookup.sum() / (head.sum() + lookup.sum())
    inputs = torch.lerp(products.inputs.double(), lookups.inputs.double(), share)
    damping = LOOKUP_DAMPING * inputs.diagonal().mean() * torch.eye(len(inputs)).to(inputs)
    errors = torch.linalg.inv(inputs + damping) / len(inputs)
    outputs = head * (products.inputs.double() * errors).sum() + lookup * (lookups.inputs * errors).sum()
    return lookups._replace(inputs=inputs.float(), outputs=outputs.float())


@contextlib.contextmanager
def plain_float32(model: Model) -> Iterator[None]:
    """The model in float32 and plain operations, in which every product can be seen."""
    before = model.backend
    model.choose(before.plain())
    try:
        yield
    finally:
        model.choose(before)
