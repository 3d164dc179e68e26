"""How attention knows the order of tokens, and how far back it sees."""

import dataclasses
import math
from functools import partial
from typing import ClassVar, Self

import torch
from torch import Tensor

from bitgolf.base.plan import setting
from bitgolf.net.kernels import AttentionMask
from bitgolf.net.parts import Dimensions, Module, Part, Start, start_constant

Tables = tuple[Tensor, Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position(Part):
    """The slot of position encodings."""

    abstract: ClassVar[bool] = True

    def trained_at(self, length: int) -> Self:
        """This encoding, for a model trained on sequences of `length` tokens."""
        return self

    def tables(self, time: int, window: int, head_width: int, device: torch.device) -> Tables:
        """Cosines and sines (time, half of the rotated dimensions), float32.

        window: tokens of a whole window, as the last one may be shorter; 0 if not known.
        """
        return torch.ones(time, 0, device=device), torch.zeros(time, 0, device=device)

    def limit(self, mask: AttentionMask, heads: int, root: Module) -> AttentionMask:
        """The mask with changes by distance, for `heads` query heads of the model `root`."""
        return mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope(Position):
    """Rotary positions, of a whole head or of its first dimensions (partial RoPE).

    What: pairs (j, j + dims/2) of the first `dims` dimensions are rotated by place * base^(-2j/dims); the
        others stay. In windows longer than `reference_length` the base grows by (window /
        reference)^(dims/(dims-2)) (NTK). The length of training or scoring counts, not that of a short last
        window. `trained_length` is filled in by the recipe; shorter windows keep its angles.
    Source: the public baseline; partial PR #315; the records of 2026-03-20 to 03-29 rescale from 1024
        although they train on 2048, so they train with another base: there, reference_length=1024.
    Cost: no bytes; fewer dimensions cost no less.
    Not for: scoring at twice the trained length (PR #1718: sliding +0.0056 bpb; tokens see unknown angles).
    Neutral: dims=0 rotates the whole head; reference_length=0 never rescales.
    """

    dims: int = setting(0, at_least=0)
    base: float = setting(10000.0, above=1)
    reference_length: int = setting(0, at_least=0)
    trained_length: int = setting(0, at_least=0)
    # Public checkpoints were trained with frequencies rounded to bfloat16 by a cast of the model.
    frequencies: str = setting("float32", one_of=("float32", "bfloat16"))

    def validate_for(self, dimensions: Dimensions) -> list[str]:
        if self.dims % 2:
            return [f"dims: dimensions turn in pairs, found {self.dims}"]
        if self.dims > dimensions.head_width:
            return [f"dims: a head has {dimensions.head_width} dimensions, found {self.dims}"]
        return []

    def trained_at(self, length: int) -> Self:
        return (
            self.replace(trained_length=length) if self.reference_length and not self.trained_length else self
        )

    def tables(self, time: int, window: int, head_width: int, device: torch.device) -> Tables:
        dims, base, longest = self.dims or head_width, self.base, max(time, window, self.trained_length)
        if 0 < self.reference_length < longest and dims > 2:
            base *= (longest / self.reference_length) ** (dims / (dims - 2))
        frequencies = 1 / base ** (torch.arange(0, dims, 2, dtype=torch.float32, device=device) / dims)
        times = torch.arange(time, dtype=torch.float32, device=device)
        if self.frequencies != "float32":
            frequencies = frequencies.to(getattr(torch, self.frequencies)).float()
        angles = torch.outer(times, frequencies)
        return angles.cos(), angles.sin()


def far_tables(tables: Tables, positions: int) -> Tables:
    """Cosines and sines of `positions` positions, computed from those of the first (at least two)."""
    turns = torch.complex(*(values.double() for values in tables))
    while len(turns) < positions:
        turns = torch.cat((turns, turns * (turns[-1] * turns[1])))
    return turns.real[:positions].float(), turns.imag[:positions].float()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoPosition(Position):
    """No position at all (NoPE).

    What: nothing is rotated; only the causal mask shows the order.
    Source: Kazemnejad et al. 2023; proposed in PR #1718, no public result.
    Cost: no bytes.
    Not for: models of one layer, which then see a bag of tokens.
    Neutral: none; choose Rope.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alibi(Position):
    """Attention scores that fall linearly with distance (ALiBi).

    What: a score of head h (from 1) falls by 2^(-8h/heads) per token of distance; nothing is rotated.
    Source: Press et al. 2021; recommended in PR #1718 against tokens in unknown positions, never measured
        there.
    Cost: no bytes; one more pass over the scores, and no flash attention.
    Not for: speed on GPUs.
    Neutral: steepness=0 equals NoPosition.
    """

    steepness: float = setting(1.0, at_least=0.0)

    def limit(self, mask: AttentionMask, heads: int, root: Module) -> AttentionMask:
        steps = torch.arange(1, heads + 1, dtype=torch.float32, device=root.own("tok_emb.weight").device)
        slopes = self.steepness * 2 ** (-8 * steps / heads)
        return mask._replace(score_mods=(*mask.score_mods, partial(lose_with_distance, slopes)))


def lose_with_distance(slopes: Tensor, scores: Tensor, first: int, start: int) -> Tensor:
    """Scores minus slope times distance; slopes (query heads,), float32."""
    count, _, group, queries, keys = scores.shape
    places = torch.arange(max(first + keys, start + queries), device=scores.device)
    offsets = places[first : first + keys] - places[start : start + queries, None]
    return scores + (slopes.view(count, 1, group, 1, 1) * offsets).to(scores.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelativeBuckets(Position):
    """A learned bias for each head and range of distances (T5).

    What: a score gets the bias of its distance's bucket; layers share the biases. The first half of the
        `buckets` have one distance each, the rest grow by equal ratios up to `longest`; larger distances are
        in the last. Nothing is rotated. The biases start at zero.
    Source: Raffel et al. 2020, causal form; recommended in PR #1718 against tokens in unknown positions,
        never measured there.
    Cost: buckets * heads weights; one more pass over the scores, no flash attention, slower on CPUs too.
    Not for: speed.
    Neutral: none; biases of zero, where they start, are NoPosition by another kernel.
    """

    buckets: int = setting(32, at_least=2, at_most=2**16)
    longest: int = setting(128, at_least=2)

    def validate_for(self, dimensions: Dimensions) -> list[str]:
        exact = self.buckets // 2
        return [f"longest: must be above {exact}, found {self.longest}"] * (self.longest <= exact)

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        return {"relative_bias": start_constant(0.0, self.buckets, dimensions.heads)}

    def limit(self, mask: AttentionMask, heads: int, root: Module) -> AttentionMask:
        change = partial(add_by_distance, root.own("relative_bias"), self.buckets, self.longest)
        return mask._replace(score_mods=(*mask.score_mods, change), learned=True)


def add_by_distance(
    bias: Tensor, buckets: int, longest: int, scores: Tensor, first: int, start: int
) -> Tensor:
    """Scores plus the bias of their distance; bias (buckets, query heads)."""
    count, _, group, queries, keys = scores.shape
    places = torch.arange(max(first + keys, start + queries), device=scores.device)
    back = (places[start : start + queries, None] - places[first : first + keys]).clamp_min(0)
    added = bias[distance_buckets(back, buckets, longest)].movedim(-1, 0)  # (query heads, queries, keys)
    return scores + added.view(count, 1, group, queries, keys).to(scores.dtype)


def distance_buckets(back: Tensor, buckets: int, longest: int) -> Tensor:
    """The bucket of each distance `back` to an earlier key; see RelativeBuckets."""
    exact = buckets // 2
    ratio = (back.clamp_min(1).float() / exact).log() / math.log(longest / exact)
    far = exact + (ratio * (buckets - exact)).long()
    return torch.where(back < exact, back, far.clamp_max(buckets - 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scope(Part):
    """The slot of limits on which tokens a query sees."""

    abstract: ClassVar[bool] = True

    def limit(self, mask: AttentionMask, inputs: Tensor, bos_id: int, training: bool) -> AttentionMask:
        """The mask with this limit. inputs: token ids (batch, time)."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionWindow(Scope):
    """Sliding-window attention.

    What: a query sees its own token and the `tokens` - 1 before it; outside training `evaluation_tokens` of
        them (-1: the same, 0: all).
    Source: PR #1718 (SWA_WINDOW_SIZE=1024; not to be confused with averaging of weights)
    Cost: no bytes; saves time if a sequence is several windows long.
    Not for: sequences of 2048: every combination of training and evaluation lost 0.003 to 0.005 bpb (PR
        #1718).
    Neutral: tokens=0 sees all.
    """

    tokens: int = setting(1024, at_least=0)
    evaluation_tokens: int = setting(-1, at_least=-1)

    def limit(self, mask: AttentionMask, inputs: Tensor, bos_id: int, training: bool) -> AttentionMask:
        window = self.tokens if training or self.evaluation_tokens < 0 else self.evaluation_tokens
        return mask._replace(window=window if window < inputs.shape[1] else 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocumentAttention(Scope):
    """Attention that stays inside its document.

    What: a query sees only keys since the last BOS. A document longer than `longest` tokens is cut into
        stretches of that length (0: never).
    Source: variable-length attention, PR #1530 (about 0.001 nats); the 2026-04-10 records on.
    Cost: no bytes; here one more pass over the scores.
    Not for: models scored on the unbroken stream: contexts across documents are then out of distribution.
    Neutral: a stream without BOS.
    """

    longest: int = setting(0, at_least=0)

    def validate_for(self, dimensions: Dimensions) -> list[str]:
        return ["bos_id: -1 says that no token opens a document"] if dimensions.bos_id < 0 else []

    def limit(self, mask: AttentionMask, inputs: Tensor, bos_id: int, training: bool) -> AttentionMask:
        opens = inputs == bos_id
        if self.longest:
            places = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
            since = places - torch.where(opens, places, 0).cummax(1).values
            opens = opens | (since % self.longest == 0)
        return mask._replace(score_mods=(*mask.score_mods, partial(hide_others, opens.cumsum(1))))


def hide_others(documents: Tensor, scores: Tensor, first: int, start: int) -> Tensor:
    """Scores with the keys of other documents masked; documents (batch, time), an index for each token."""
    queries, keys = scores.shape[-2:]
    own, theirs = documents[:, start : start + queries], documents[:, first : first + keys]
    return scores.masked_fill((own[:, :, None] != theirs[:, None])[:, None], -math.inf)
