"""KL divergence between packed and float model; it needs no labels, so it has less noise than a gap."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from bitgolf.net.model import Model, keyed_generator
from bitgolf.squeeze.hessian import drawn_text, plain_float32
from bitgolf.text.shards import TokenStream

TOKENS, LEAST_SEQUENCES = 16_384, 16
PASS_TOKENS = 2048  # of one pass: probabilities of all pieces are float64


class Divergence(NamedTuple):
    """Mean KL divergence in nats a token, and its standard error over sequences."""

    nats: float
    error: float


def divergence(exact: Model, packed: Model, stream: TokenStream, length: int, seed: int = 0) -> Divergence:
    """KL(exact || packed) on sequences of training text that no calibration has drawn.

    To second order it is what the loss on text like the model's own predictions is expected to lose. The loss
    on true labels (the gap) loses more or less than that, where the exact model is not at its best.
    """
    draws = keyed_generator(seed, "divergence")
    text = drawn_text(stream, max(LEAST_SEQUENCES, TOKENS // length), length, draws)
    kl_parts = []
    with torch.inference_mode(), plain_float32(exact), plain_float32(packed):
        for rows in text.split(max(1, PASS_TOKENS // length)):
            ids = rows.to(exact.backend.device)
            exact_log, packed_log = (
                F.log_softmax(model.logits(ids).double(), dim=-1) for model in (exact, packed)
            )
            kl_parts.append(
                F.kl_div(packed_log, exact_log, reduction="none", log_target=True).sum(-1).mean(1).cpu()
            )
    each = torch.cat(kl_parts)
    return Divergence(float(each.mean()), float(each.std()) / math.sqrt(len(each)))
