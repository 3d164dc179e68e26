"""Log probabilities of an answer's tokens, in the form of the completions protocol.

Source: https://platform.openai.com/docs/api-reference/completions/object
"""

import codecs
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from bitgolf.net.model import Model
from bitgolf.text.tokenizer import Tokenizer

BYTES = "bytes:"  # before what is no whole character


class TokenLogprob(NamedTuple):
    """One token. logprob, top: log-probabilities in nats; None for the first token of a prompt.

    offset: where its text begins, in characters of the answer.
    """

    text: str
    offset: int
    logprob: float | None
    top: dict[str, float] | None


class Logprobs:
    """The `logprobs` of an answer: the model's own probabilities, before temperature and any cut.

    before: tokens that are left out. most: how many of the likeliest are named besides the token itself.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int], most: int) -> None:
        self.tokenizer, self.most, self.waiting = tokenizer, most, list[TokenLogprob]()
        self._ids, self._text = [*before], codecs.getincrementaldecoder("utf-8")("replace")
        self._bytes, self._characters = len(tokenizer.decode(self._ids)), 0

    def add(self, token: int, logits: np.ndarray | None) -> None:
        """Take the next token and the logits (vocabulary,) that it was drawn from, if there were any."""
        logprob: float | None = None
        top: dict[str, float] | None = None
        if logits is not None:
            shifted = logits - logits.max()
            logprobs = shifted - np.log(np.exp(shifted).sum())
            likeliest = np.argsort(-logprobs, kind="stable")[: self.most]
            logprob = float(logprobs[token])
            top = {}
            for each in likeliest:  # of two with one text the likelier one
                top.setdefault(self._name(int(each)), float(logprobs[each]))
            top[self._name(token)] = logprob
        name, begin = self._name(token), self._characters
        self._ids.append(token)
        decoded = self.tokenizer.decode(self._ids)
        self._characters += len(self._text.decode(decoded[self._bytes :]))
        self._bytes = len(decoded)
        # Bytes before it that came to no character stand as one in front of a token that is whole.
        begin = begin if name.startswith(BYTES) else self._characters - len(name)
        self.waiting.append(TokenLogprob(name, begin, logprob, top))

    def take(self, characters: int | None) -> dict[str, Any] | None:
        """The `logprobs` of tokens that begin before this place and were not taken yet."""
        split = [characters is None or token.offset < characters for token in self.waiting]
        out = [token for token, is_out in zip(self.waiting, split) if is_out]
        self.waiting = [token for token, is_out in zip(self.waiting, split) if not is_out]
        return as_object(out) if out else None

    def _name(self, token: int) -> str:
        """A token as text, after the one before it; bytes that are no character as `bytes:\\xe2`."""
        before = self._ids[-1:]
        raw = self.tokenizer.decode([*before, token])[len(self.tokenizer.decode(before)) :]
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return BYTES + "".join(f"\\x{byte:02x}" for byte in raw)


def as_object(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """`logprobs` of a choice."""
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [token.top for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


def joined(one: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any] | None:
    """The `logprobs` of an answer from those of its pieces."""
    if one is None or other is None:
        return one or other
    return {name: one[name] + other[name] for name in one}


def logits_of_prompt(model: Model, ids: Sequence[int], window: int) -> list[np.ndarray | None]:
    """The logits (vocabulary,) that each token was expected with; None for the first, of which none were.

    Windows overlap by half: after the first one every token has at least half a window before it.
    """
    rows: list[np.ndarray | None] = [None]
    device, stride = next(model.parameters()).device, max(1, window // 2)
    model.window = window
    with torch.inference_mode():
        while len(rows) < len(ids):
            end = min(len(ids), max(window, len(rows) + stride))
            start = max(0, end - window)
            logits = model.logits(torch.tensor([ids[start : end - 1]], device=device))[0]
            rows += [*logits[len(rows) - 1 - start :].double().cpu().numpy()]
    return rows
