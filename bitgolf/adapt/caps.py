"""Learnt bounds of the logits: one for logits above zero and one for those below."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.net.kernels import wide
from bitgolf.net.model import Model

CAPS = "logit_caps"  # a tensor of the model while it learns


def bent_logits(raw: Tensor, caps: Tensor) -> Tensor:
    """Logits l within (-caps[1], caps[0]): c tanh(l / c), with the bound c of their sign."""
    above, below = caps.to(raw.dtype)
    return torch.where(raw > 0, above * torch.tanh(raw / above), below * torch.tanh(raw / below))


@contextmanager
def with_learnt_caps(model: Model) -> Iterator[None]:
    """A context in which the model has two learnt bounds, which start at its own and so change no bit."""
    start = model.plan.logit_softcap
    caps = nn.Parameter(torch.full((2,), start, device=model.backend.device))
    nats_of, logits_of = model.nats_of, model.logits_of

    def at_rest() -> bool:
        return not torch.is_grad_enabled() and bool((caps == start).all())

    def bent(hidden: Tensor, head: Tensor | None) -> Tensor:
        matrix = (model.head() if head is None else head).to(hidden.dtype)
        return bent_logits(F.linear(hidden, matrix).to(wide(hidden)), caps)

    def own_nats(hidden: Tensor, targets: Tensor, head: Tensor | None = None) -> Tensor:
        if at_rest():
            return nats_of(hidden, targets, head)
        logits = bent(hidden.flatten(0, 1), head)
        return F.cross_entropy(logits, targets.flatten(), reduction="none").view(targets.shape)

    def own_logits(hidden: Tensor, head: Tensor | None = None) -> Tensor:
        return logits_of(hidden, head) if at_rest() else bent(hidden, head)

    model.register_parameter(CAPS, caps)
    vars(model).update(nats_of=own_nats, logits_of=own_logits)
    try:
        yield
    finally:
        del vars(model)["nats_of"], vars(model)["logits_of"], model._parameters[CAPS]
