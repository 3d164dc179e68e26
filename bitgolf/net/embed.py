"""What happens to token embeddings before the first layer: pairs of tokens, and a smear of the one before."""

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.base.plan import setting
from bitgolf.net.parts import Dimensions, Module, Part, Start, start_constant
from bitgolf.net.start import start_orthogonal


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedPart(Part):
    """The slot of what changes the embedded tokens; in a tuple, one after another."""

    abstract: ClassVar[bool] = True

    @property
    def after(self) -> bool:
        """Whether it acts after the first norm rather than before."""
        return False

    def embed(self, x: Tensor, inputs: Tensor, root: Module, bos_id: int) -> Tensor:
        """The changed embeddings (batch, time, width) of `inputs`; root: the model with the tensors."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class BigramHash(EmbedPart):
    """A learned vector for each hash of a token and the one before.

    What: adds scale * (proj @ table[hash(id, previous id)]) before the norm; the first place of a row (and,
        with `boundary`, a document's) has a bucket of its own.
    Source: record 2026-03-19_smeargate, PR #162 and #198; hash 36313 id XOR 27191 previous id, int32.
    Cost: buckets * dimension + width * dimension weights; a lookup and a small product a token.
    Not for: small steps on int6 (PR #212: +0.003; PR #488: +0.003), vocabularies of 4096 and more. In PR
        #1716 the table was in no optimizer, so that its branch was zero throughout: row by row it must be
        somewhere.
    Neutral: an empty tuple; scale 0 adds nothing.
    """

    buckets: int = setting(2048, at_least=3)
    dimension: int = setting(128, at_least=1)
    scale: float = 0.05
    boundary: bool = False  # the public code lets a pair reach across the start of a document

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        width = dimensions.embedding_width
        # The public table starts at zero, so its projection must not: two zeros would never leave zero.
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
        (buckets,) = self.lookups(inputs, bos_id).values()
        rows = F.embedding(buckets, root.own("bigram.embed.weight")).to(x.dtype)
        if self.dimension != x.shape[-1]:
            rows = F.linear(rows, root.own("bigram.proj.weight").to(x.dtype))
        return x + root.own("bigram.scale").to(x.dtype) * rows


def bigram_buckets(inputs: Tensor, buckets: int) -> Tensor:
    """The bucket (batch, time) of each id with the one before; the first place has the last bucket."""
    ids = inputs.to(torch.int32)  # wraps for ids of 59,139 and more, as in public
    pairs = (36313 * ids[:, 1:]) ^ (27191 * ids[:, :-1])
    first = torch.full_like(ids[:, :1], buckets - 1)
    return torch.cat((first, pairs % (buckets - 1)), 1).long()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmearVector(EmbedPart):
    """Every token mixed with the one before, by a learned share for each channel.

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
    """Some of the token before added to every token, by a gate that looks at the token.

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

    def problems_in(self, dimensions: Dimensions) -> list[str]:
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
