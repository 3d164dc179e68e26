"""The training loss: that of the next token, and what may be added to it."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.base.plan import Plan, setting
from bitgolf.net.parts import Dimensions, Module, Start, start_constant, start_uniform

NatsOf = Callable[..., Tensor]  # see `Model.nats_of`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(Plan):
    """The slot of the training loss. in_training_alone: it has tensors that are never in an artifact."""

    abstract: ClassVar[bool] = True
    in_training_alone: ClassVar[bool] = True

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        """Tensors that only training needs; they are in no artifact."""
        return {}

    def loss(self, nats: Tensor, hidden: Tensor, targets: Tensor, root: Module, nats_of: NatsOf) -> Tensor:
        """The loss, a number; nats (batch, time) of the next token, hidden (batch, time, width)."""
        return nats.mean()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextToken(Objective):
    """Only the next token.

    What: mean nats per token.
    Source: common practice.
    Cost: nothing.
    Not for: nothing known.
    Neutral: this is the neutral one.
    """

    in_training_alone: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiToken(Objective):
    """Further heads that predict the tokens after the next one.

    What: head k (from 0) predicts k + 1 tokens beyond the next; weight * their mean loss is added in
        training. Outside training, and in artifacts, there are no such heads.
    Source: PR #88, #198 (MTP_NUM_HEADS, MTP_LOSS_WEIGHT 0.2); PR #212: no effect (+0.0018 bpb).
    Cost: no bytes; heads * vocabulary * width weights in training, as many more products as the head.
    Not for: small models: no public gain.
    Neutral: weight=0
    """

    heads: int = setting(1, at_least=1, at_most=64)
    weight: float = setting(0.2, at_least=0.0)

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        shape = dimensions.vocabulary_size, dimensions.embedding_width
        return {f"mtp_heads.{k}.weight": start_constant(0.0, *shape) for k in range(self.heads)}

    def loss(self, nats: Tensor, hidden: Tensor, targets: Tensor, root: Module, nats_of: NatsOf) -> Tensor:
        if not root.training or not self.weight or targets.shape[1] < 2:
            return nats.mean()
        far = [
            nats_of(hidden[:, : -k - 1], targets[:, k + 1 :], root.own(f"mtp_heads.{k}.weight"))
            for k in range(min(self.heads, targets.shape[1] - 1))
        ]
        return nats.mean() + self.weight * torch.stack([each.mean() for each in far]).mean()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenAfterNext(Objective):
    """One matrix predicts the token after the next through the model's own head.

    What: in training, weight * mean nats of the token two ahead under head(W h) is added, W (width, width), h
        the normalised final state, the softcap as for the next token. Outside training, and in artifacts,
        there is no W.
    Source: PR #212 (weight 0.5): 1.1947 against 1.1929 bpb, 3% of the steps lost.
    Cost: no bytes; width * width weights in training, and a second product with the head.
    Not for: small models: no public gain.
    Neutral: weight=0
    """

    weight: float = setting(0.5, at_least=0.0)

    def tensors(self, dimensions: Dimensions) -> dict[str, Start]:
        return {"mtp_head.weight": start_uniform(dimensions.embedding_width, dimensions.embedding_width)}

    def loss(self, nats: Tensor, hidden: Tensor, targets: Tensor, root: Module, nats_of: NatsOf) -> Tensor:
        if not root.training or not self.weight or targets.shape[1] < 2:
            return nats.mean()
        next_hidden = F.linear(hidden[:, :-1], root.own("mtp_head.weight").to(hidden.dtype))
        return nats.mean() + self.weight * nats_of(next_hidden, targets[:, 1:]).mean()
