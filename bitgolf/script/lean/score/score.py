"""Nats per token on a model, window by window, with the bytes that each token stands for."""

from typing import NamedTuple

import numpy as np

from bitgolf.net.model import Model
from bitgolf.score.score import ScorePlan, _score_batches, _scored_nats, document_starts
from bitgolf.script.lean.text.tokenizer import Tokenizer


class Scores(NamedTuple):
    """One row per scored token, in the order of the stream: its id, nats, and bytes of text."""

    target: np.ndarray
    nats: np.ndarray
    bytes: np.ndarray


def score(model: Model, tokens: np.ndarray, tokenizer: Tokenizer, plan: ScorePlan) -> Scores:
    """Score a token stream: every window of the plan, each target once."""
    if plan.limit_tokens:
        tokens = tokens[: plan.limit_tokens + 1]
    windows = list(plan.windows.windows(len(tokens), document_starts(tokens, tokenizer.bos).tolist()))
    inputs = np.concatenate([np.arange(window.first_scored, window.end) for window in windows])
    nats = np.full(len(inputs), np.nan, np.float32)
    model.window = plan.windows.longest()
    for place, batch in _score_batches(windows, plan.batch_tokens):
        batch_nats = _scored_nats(model, tokens, batch)
        nats[place[:, None] + np.arange(batch_nats.shape[1])] = batch_nats
    model.window = 0
    target, previous = tokens[inputs + 1], tokens[inputs]
    return Scores(target, nats, tokenizer.token_bytes(target, previous).astype(np.int32))
