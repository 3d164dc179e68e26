"""Probes of a model: whether its predictions depend on tokens that they must not see."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bitgolf.net.backend import Backend
from bitgolf.net.model import Model, ModelPlan, build_model, keyed_generator

PLAIN, CHUNK = Backend(attention="math"), Backend(attention="chunk", fused=True)
TIME, DOCUMENT = 40, 17  # tokens of a probe, and where its second document opens
COMMON = ("tok_emb.weight", "blocks.0.attn.c_v.weight", "blocks.0.mlp.fc.weight")  # of every model


def perturbed(plan: ModelPlan, seed: int = 1) -> Model:
    """A model none of whose tensors is at a special value; equal names get equal values."""
    model = build_model(plan, seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=keyed_generator(seed, "shake " + name))
            tensor.add_(noise * (0.1 if name.endswith("weight") else 0.2))
    return model


def stream(plan: ModelPlan, rows: int = 2, time: int = TIME) -> Tensor:
    """Token ids (rows, time + 1) without BOS."""
    ids = torch.randint(2, 95, (rows, time + 1), generator=torch.Generator().manual_seed(5))
    return ids % (plan.vocabulary_size - 2) + 2


def results(model: Model, ids: Tensor) -> tuple[Tensor, ...]:
    """Training loss, nats, and the gradients of the tensors that every model has."""
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    nats = model.nats(ids[:, :-1], ids[:, 1:])
    model.zero_grad()
    loss.backward()
    gradients = (dict(model.named_parameters())[name].grad for name in COMMON)
    return loss.detach(), nats.detach(), *(torch.zeros(()) if each is None else each for each in gradients)


def starts_equal(off: Model, base: Model) -> None:
    """Give both the same numbers where projections start at zero, which would hide a difference."""
    shared = dict(off.named_parameters())
    with torch.no_grad():
        for name, tensor in base.named_parameters():
            if name.endswith("proj.weight"):
                tensor.normal_(0, 0.2, generator=keyed_generator(0, name))
                shared[name].copy_(tensor)


def _moves(model: Model, ids: Tensor, changed: Tensor, part: Any) -> bool:
    """Both alike: with gradients where the model trains, and with the same random numbers."""
    outputs = []
    for x in (ids, changed):
        with torch.random.fork_rng(devices=()), torch.set_grad_enabled(model.training):
            torch.manual_seed(0)
            outputs.append(model.nats(x[:, :-1], x[:, 1:])[part])
    return not torch.equal(*outputs)


def probes(plan: ModelPlan) -> Iterator[tuple[str, Model]]:
    """A perturbed model as it scores and as it trains, at both ends of a training, by each attention."""
    for backend in (PLAIN, CHUNK):
        yield "scores", perturbed(plan).use(backend).eval()
        for progress in (0.0, 1.0):
            model = perturbed(plan).use(backend).train()
            model.at(progress)
            yield "in training, predictions", model


def sees_the_future(model: Model, ids: Tensor, token: int) -> bool:
    """Whether nats up to a token move when the tokens after it are replaced."""
    changed = ids.clone()
    changed[:, token + 1 :] = (ids[:, token + 1 :] + 7) % 60 + 2
    return _moves(model, ids, changed, (slice(None), slice(token)))


def sees_other_documents(model: Model, ids: Tensor, start: int) -> bool:
    """Whether nats of the document that opens at `start` move with the tokens before it."""
    ids = ids.clone()
    ids[:, start] = 1
    changed = ids.clone()
    changed[:, :start] = (ids[:, :start] + 7) % 60 + 2
    return _moves(model, ids, changed, (slice(None), slice(start, None)))


def sees_other_rows(model: Model, ids: Tensor) -> bool:
    """Whether nats of a sequence move with the other sequences of its batch."""
    changed = ids.clone()
    changed[1:] = (ids[1:] + 7) % 60 + 2
    return _moves(model, ids, changed, (slice(1),))


def end_differs(model: Model, ids: Tensor) -> bool:
    """Whether final states of the last positions alone are others than those of a whole pass."""
    with torch.inference_mode():
        whole = model.hidden(ids)
        ends = ((last, model.hidden(ids, last)) for last in (1, 7, ids.shape[1] - 1))
        return not all(torch.allclose(end, whole[:, -last:], rtol=0, atol=1e-4) for last, end in ends)
