"""Changes of token embeddings before the first layer: pairs of tokens, and a share of the token before."""

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.base.plan import setting
from bitgolf.net.parts import Dimensions, Module, Part, Start, start_constant, start_normal
from bitgolf.net.start import start_orthogonal


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedPart(Part):
    """The slot of changes of the embedded tokens; several in a tuple act one after another."""

    abstract: ClassVar[bool] = True

    @property
    def after(self) -> bool:
        """Whether it acts after the first norm, not before it."""
        return False

    def embed(self, x: Tensor, inputs: Tensor, root: Module, bos_id: int) -> Tensor:
        """The changed embeddings (batch, time, width) of `inputs`; root: the model with the tensors."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairTable(EmbedPart):
    """A learned vector for each bucket of token pairs, projected to the width if it is narrower."""

    abstract: ClassVar[bool] = True

    buckets: int = setting(2048, at_least=3, at_most=2**24)
    dimension: int = setting(128, at_least=1, at_most=2**16)

    def rows(self, x: Tensor, inputs: Tensor, root: Module, bos_id: int) -> Tensor:
        """The vectors of the pairs (batch, time, width), in the type of x."""
        (buckets,) = self.lookups(inputs, bos_id).values()
        rows = F.embedding(buckets, root.own("bigram.embed.weight")).to(x.dtype)
        return (
            rows
            if self.dimension == x.shape[-1]
            else F.linear(rows, root.own("bigram.proj.weight").to(x.dtype))
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BigramHash(PairTable):
    """A learned vector for each hash of a token and the one before.

    What: adds scale * (proj @ table[hash(id, previous id)]) before the norm; the first place of a row (and,
        with `boundary`, of a document) has its own bucket.
    Source: record 2026-03-19_smeargate, PR #162 and #198; hash 36313 id XOR 27191 previous id, int32.
    Cost: buckets * dimension + width * dimension weights; a lookup and a small product a token.
    Not for: small steps on int6 (PR #212: +0.003; PR #488: +0.003), vocabularies of 4096 and more. In PR
        #1716 the table was in no optimizer, so its branch stayed zero: a row of the parameter table must
        name it.
    Neutral: an empty tuple; scale 0 adds nothing.
    """

    scale: float = 0.05
    boundary: bool = False  # the public code lets a pair reach across the start of a document

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        width = dimensions.embedding_width
        # The public table starts at zero, so its projection must not: with both zero no gradient flows.
        starts = {"bigram.embed.weight": start_constant(0.0, self.buckets, self.dimension)}
        if self.dimension != width:
            starts["bigram.proj.weight"] = start_orthogonal(width, self.dimension)
        return starts | {"bigram.scale": start_constant(self.scale)}

    def lookups(self, inputs: Tensor, bos_id: int) -> dict[str, Tensor]:
        buckets = bigram_buckets(inputs, self.buckets)
        if self.boundary:
            buckets = buckets.masked_fill(inputs == bos_id, self.buckets - 1)
        return {"bigram.embed.weight": buckets}

    def embed(self, x: Tensor, inputs: Tensor, root: Module, bos_id: int) -> Tensor:
        return x + root.own("bigram.scale").to(x.dtype) * self.rows(x, inputs, root, bos_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BigramSum(PairTable):
    """A learned vector for each hash of a token and the one before, the hash of two earlier scripts.

    What: adds proj @ table[(multiplier * previous id + id) mod buckets] before the norm, without a
        scale; before the first place of a row stands id 0. The table starts normal at 0.01, the projection
        at zero.
    Source: PR #212 (multiplier 31; in no optimizer in its ablation, so that it added nothing: +0.003 beside
        a frozen smear), record 2026-03-19_smeargate (92821).
    Cost: buckets * dimension + width * dimension weights; a lookup and a small product a token.
    Not for: large vocabularies: by 31 the ids of a pair overlap, where BigramHash spreads them.
    Neutral: an empty tuple; a projection of zero, where it starts, adds nothing.
    """

    multiplier: int = setting(31, at_least=1, below=2**31)
    boundary: bool = False  # if set, id 0 stands before the start of a document too

    def validate_for(self, dimensions: Dimensions) -> list[str]:
        same = self.dimension == dimensions.embedding_width
        return ["dimension: it has a projection, choose another than the width"] * same

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        return {
            "bigram.embed.weight": start_normal(0.01, self.buckets, self.dimension),
            "bigram.proj.weight": start_constant(0.0, dimensions.embedding_width, self.dimension),
        }

    def lookups(self, inputs: Tensor, bos_id: int) -> dict[str, Tensor]:
        previous = F.pad(inputs[:, :-1], (1, 0))
        if self.boundary:
            previous = previous.masked_fill(inputs == bos_id, 0)
        return {"bigram.embed.weight": (self.multiplier * previous + inputs) % self.buckets}

    def embed(self, x: Tensor, inputs: Tensor, root: Module, bos_id: int) -> Tensor:
        return x + self.rows(x, inputs, root, bos_id)


def bigram_buckets(inputs: Tensor, buckets: int) -> Tensor:
    """The bucket (batch, time) of each id and the id before; the first place has the last bucket."""
    ids = inputs.to(torch.int32)  # wraps for ids of 59,139 and more, as in public
    pairs = (36313 * ids[:, 1:]) ^ (27191 * ids[:, :-1])
    first = torch.full_like(ids[:, :1], buckets - 1)
    return torch.cat((first, pairs % (buckets - 1)), 1).long()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmearVector(EmbedPart):
    """Every token mixed with the token before, by a learned share per channel.

    What: (1 - g) * x_t + g * x_{t-1} after the norm, g = sigmoid(gate); x before the first place is zero.
    Source: PR #162, #198, #374 (gate starts at 0: half and half). Record 2026-03-19_smeargate has g as the
        share of x_t, before the norm: the same with start=-3 and before_norm.
    Cost: width weights; a pass over the embeddings.
    Not for: starts without OrthogonalStart: half of each token's signal is gone at step 0 (PR #212, #488:
        +0.003).
    Neutral: a gate far below zero; `boundary` keeps documents apart (an audit of PR #1797 found the leak).
    """

    start: float = 0.0
    before_norm: bool = False
    boundary: bool = False

    @property
    def after(self) -> bool:
        return not self.before_norm

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        width = dimensions.embedding_width if self.before_norm else dimensions.width
        return {"smear.gate": start_constant(self.start, width)}

    def embed(self, x: Tensor, inputs: Tensor, root: Module, bos_id: int) -> Tensor:
        share = root.own("smear.gate").sigmoid().to(x.dtype)
        before = F.pad(x[:, :-1], (0, 0, 1, 0))
        if self.boundary:
            before = before.masked_fill((inputs == bos_id)[..., None], 0.0)
        return (1 - share) * x + share * before


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmearGate(EmbedPart):
    """A share of the token before added to every token, by a gate that reads the token.

    What: x_t + lambda * sigmoid(w . x_t[:channels]) * x_{t-1} before the norm; lambda and w start at zero.
        With `boundary` nothing is added to the BOS that opens a document.
    Source: PR #1667 (after modded-nanogpt); boundary fix PR #1851; PR #1716 has it after the norm.
    Cost: channels + 1 weights; a pass over the embeddings.
    Not for: large gains: 0.0005 to 0.001 bpb with the output gate (record 2026-04-16).
    Neutral: lambda=0, where it starts.
    """

    channels: int = setting(12, at_least=1)
    after_norm: bool = False
    boundary: bool = True

    @property
    def after(self) -> bool:
        return self.after_norm

    def validate_for(self, dimensions: Dimensions) -> list[str]:
        width = dimensions.width if self.after_norm else dimensions.embedding_width
        return [f"channels: at most the width {width}, found {self.channels}"] * (self.channels > width)

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        gate = start_constant(0.0, 1, self.channels)
        return {"smear_gate.weight": gate, "smear_lambda": start_constant(0.0, 1)}

    def embed(self, x: Tensor, inputs: Tensor, root: Module, bos_id: int) -> Tensor:
        gate = F.linear(x[..., : self.channels], root.own("smear_gate.weight").to(x.dtype)).sigmoid()
        gate = root.own("smear_lambda").to(x.dtype) * gate
        if self.boundary:
            gate = gate.masked_fill((inputs == bos_id)[..., None], 0.0)
        return x + gate * F.pad(x[:, :-1], (0, 0, 1, 0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmearBias(EmbedPart):
    """A small share of the token before added to every token, by a gate with a bias.

    What: x_t + factor * sigmoid(w . x_t[:channels] + b) * x_{t-1} after the norm; w starts at zero, b at
        `start`.
    Source: PR #212 (0.07, -2, 12 channels; frozen in its ablation, so that always 0.0083 of the token before
        was added: +0.003 with a table of pairs that added nothing).
    Cost: channels + 1 weights; a pass over the embeddings.
    Not for: large shares: no gate lets more than `factor` through. SmearGate learns its factor.
    Neutral: factor=0
    """

    channels: int = setting(12, at_least=1)
    factor: float = 0.07
    start: float = -2.0
    boundary: bool = False

    @property
    def after(self) -> bool:
        return True

    def validate_for(self, dimensions: Dimensions) -> list[str]:
        width = dimensions.width
        return [f"channels: at most the width {width}, found {self.channels}"] * (self.channels > width)

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        gate = start_constant(0.0, 1, self.channels)
        return {"smear_gate.weight": gate, "smear_gate.bias": start_constant(self.start, 1)}

    def embed(self, x: Tensor, inputs: Tensor, root: Module, bos_id: int) -> Tensor:
        weight, bias = (root.own(f"smear_gate.{name}").to(x.dtype) for name in ("weight", "bias"))
        gate = self.factor * F.linear(x[..., : self.channels], weight, bias).sigmoid()
        if self.boundary:
            gate = gate.masked_fill((inputs == bos_id)[..., None], 0.0)
        return x + gate * F.pad(x[:, :-1], (0, 0, 1, 0))
