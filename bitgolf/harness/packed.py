"""A packed model with text as input: likelihoods of continuations and texts, and generation."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.inputs.resolve import find_artifact
from bitgolf.net.backend import Backend
from bitgolf.net.model import model_with
from bitgolf.pipeline.repack import dtype_of
from bitgolf.pipeline.work import model_to_score
from bitgolf.report.sample import sample
from bitgolf.score.windows import Chunked, Window
from bitgolf.text.encoder import Encoder

WINDOW = 256  # tokens of a model whose recipe is not beside it
BATCH_TOKENS = 4096  # of one forward pass; their logits are held in memory
MOST_GENERATED = 256  # tokens, where a task does not say


class Asked(NamedTuple):
    """Tokens, and the windows that score those asked for.

    first_too: the very first token is asked for, which nothing predicts: one of all, equally likely.
    """

    tokens: np.ndarray
    windows: list[Window]
    first_too: bool


class Part(NamedTuple):
    """A window of the tokens of one question."""

    question: int
    tokens: np.ndarray
    window: Window


class Found(NamedTuple):
    """Log-likelihood in nats, and whether each of its tokens was the likeliest."""

    loglikelihood: float
    greedy: bool


class PackedModel:
    """A run or a model.bin, answering in text what lm-evaluation-harness asks."""

    def __init__(self, model: str, window: int = 0) -> None:
        """window: the most tokens it sees; 0 takes as many as it was trained on."""
        if not 0 <= window < 2**31:
            raise BitgolfError("a window has at least one token", value=window, way_out="window=256")
        path, unpacked = find_artifact(model)
        self.tokenizer, self.encoder = unpacked.tokenizer, Encoder(unpacked.tokenizer)
        # In the number type of its run; where none is known, not in the one that is faster just now.
        overrides = [] if dtype_of(path.parent) else ["backend.dtype=float32"]
        self.model, _, trained = model_to_score(path, unpacked, overrides)
        self.model.eval()
        self.window = window or trained or WINDOW
        # Steps are taken one row at a time, where bfloat16 is slower.
        plain = self.model.backend.dtype == torch.float32
        self.stepping = self.model if plain else model_with(self.model.plan, unpacked.weights, Backend())

    def loglikelihood(self, questions: Sequence[tuple[str, str]]) -> list[Found]:
        """Of each continuation after its context. Spaces at the end of a context go to the continuation."""
        queries = []
        for context, continuation in questions:
            ids = self._ids(context + continuation)
            first = min(len(self._ids(context.rstrip())), len(ids)) - 1
            queries.append(Asked(ids, list(self._windows(len(ids) - 1, max(first, 0))), first < 0 < len(ids)))
        return self._scored(queries)

    def rolling(self, texts: Sequence[str]) -> list[Found]:
        """Of each whole text, by windows side by side as `bitgolf score` has them."""
        windows, opens = Chunked(length=self.window), self.tokenizer.bos >= 0
        texts_ids = [self._ids(text) for text in texts]
        return self._scored(
            [Asked(ids, list(windows.windows(len(ids))), not opens and len(ids) > 0) for ids in texts_ids]
        )

    def continued(self, context: str, until: Sequence[str], tokens: int, temperature: float) -> str:
        """What the model writes after a context, up to the first of the strings that end it."""
        ends, text = [end for end in until if end], ""
        for piece in sample(
            self.stepping,
            self.tokenizer,
            _bytes(context),
            tokens=tokens,
            temperature=temperature,
            top_p=1.0,
            window=self.window,
        ):
            text += piece
            if positions := [text.find(end) for end in ends if end in text]:
                return text[: min(positions)]
        return text

    def _ids(self, text: str) -> np.ndarray:
        return next(self.encoder.encode_documents([_bytes(text)])).astype(np.int64)

    def _windows(self, targets: int, first: int) -> Iterator[Window]:
        """Windows that score the inputs from `first` on, each with as much before it as it can see."""
        step = self.window if targets - first <= self.window else max(self.window // 2, 1)
        for position in range(first, targets, step):
            end = min(position + step, targets)
            yield Window(max(end - self.window, 0), end, position)

    def _scored(self, queries: Sequence[Asked]) -> list[Found]:
        """Sums over the windows of each question; those of one shape are passed together."""
        uniform = -math.log(self.tokenizer.vocabulary_size)
        sums = [uniform if each.first_too else 0.0 for each in queries]
        greedy = [not each.first_too for each in queries]
        shapes: dict[tuple[int, int], list[Part]] = defaultdict(list)
        for question, (ids, windows, _) in enumerate(queries):
            for window in windows:
                part = Part(question, ids[window.start : window.end + 1], window)
                shapes[window.end - window.start, window.end - window.first_scored].append(part)
        self.model.window = self.window
        for (length, scored), parts in shapes.items():
            rows = max(1, BATCH_TOKENS // length)
            for batch in (parts[first : first + rows] for first in range(0, len(parts), rows)):
                for part, nats, likeliest in zip(batch, *self._passed(batch, scored), strict=True):
                    sums[part.question] -= nats
                    greedy[part.question] &= likeliest
        return [Found(*each) for each in zip(sums, greedy, strict=True)]

    def _passed(self, parts: Sequence[Part], scored: int) -> tuple[list[float], list[bool]]:
        tokens = torch.from_numpy(np.stack([part.tokens for part in parts])).to(self.model.backend.device)
        targets = tokens[:, -scored:]
        with torch.inference_mode():
            hidden = self.model.hidden(tokens[:, :-1], scored)
            nats = self.model.nats_of(hidden, targets).double().sum(1)
            likeliest = (self.model.logits_of(hidden).argmax(-1) == targets).all(1)
        return nats.tolist(), likeliest.tolist()


def settings_of(given: dict[str, Any]) -> tuple[list[str], int, float]:
    """The strings that end a text, its most tokens and its temperature, from the settings of a task."""
    until = given.get("until") or []
    temperature = float(given.get("temperature") or 0) if given.get("do_sample") else 0.0
    most = int(given.get("max_gen_toks") or MOST_GENERATED)
    return [until] if isinstance(until, str) else list(until), most, temperature


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
