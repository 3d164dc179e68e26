"""Text from a model, token by token: same seed, same text."""

import codecs
from collections.abc import Iterator

import numpy as np
import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.net.model import Model
from bitgolf.text.encoder import Encoder
from bitgolf.text.tokenizer import Tokenizer


def sample(
    model: Model,
    tokenizer: Tokenizer,
    prompt: bytes = b"",
    *,
    tokens: int = 200,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 1337,
    window: int = 256,
) -> Iterator[str]:
    """Continue the prompt; yields pieces of text that together are valid Unicode, without the prompt.

    temperature 0 takes the likeliest token each time. top_p keeps the likeliest tokens that together have
    that much probability. window: the tokens of context; more than the model was trained on does not help.
    Ends early when the model starts another document. Leave the model in float32: one row at a time,
    bfloat16 is slower on a CPU, and rounds.
    """
    if temperature < 0 or not 0 < top_p <= 1 or window < 1:
        raise BitgolfError(
            "cannot sample like this",
            value={"temperature": temperature, "top_p": top_p, "window": window},
            way_out="temperature is at least 0, top_p in (0, 1], window at least 1",
        )
    ids = [tokenizer.bos] * (tokenizer.bos >= 0) + [int(i) for i in Encoder(tokenizer).encode(prompt)]
    if not ids:
        raise BitgolfError("this tokenizer has no document start", way_out="give a prompt")
    draws = np.random.default_rng(seed)
    text = codecs.getincrementaldecoder("utf-8")("replace")
    written = len(tokenizer.decode(ids))
    model.window = window  # places turn alike however much of it is filled
    for _ in range(tokens):
        following = choose(next_logits(model, ids[-window:]), temperature, top_p, draws.random())
        if following == tokenizer.bos:
            break
        ids.append(following)
        # Decoding from the start keeps the tokenizer's rules about leading spaces in the tokenizer.
        decoded = tokenizer.decode(ids)
        yield text.decode(decoded[written:])
        written = len(decoded)
    yield text.decode(b"", final=True)


def next_logits(model: Model, ids: list[int]) -> np.ndarray:
    """What the model expects after these tokens, as float64 logits."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        return model.logits(torch.tensor([ids], device=device))[0, -1].double().cpu().numpy()


def choose(logits: np.ndarray, temperature: float, top_p: float, draw: float) -> int:
    """The token that `draw`, uniform in [0, 1), picks."""
    if temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")
    weights = np.exp((logits[order] - logits[order[0]]) / temperature)
    cumulative = np.cumsum(weights) / weights.sum()
    kept = min(int(np.searchsorted(cumulative, top_p)) + 1, len(order))
    rank = np.searchsorted(cumulative[:kept], draw * cumulative[kept - 1], side="right")
    return int(order[min(int(rank), kept - 1)])
