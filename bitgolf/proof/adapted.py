"""Models that learn from the text, or mix in what it has shown, coded and decoded one token after another.

The steps are those of scoring: windows in parts, an adapter that learns after each, mixers that observe each
token. What has been decoded stands where scoring has its exam, so a decoder learns exactly what the coder
learnt, and a score that knew a token before its time could not be decoded.
"""

from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.errors import ArtifactError, BitgolfError
from bitgolf.proof.coder import TokenDecoder, TokenEncoder
from bitgolf.proof.crew import Coder
from bitgolf.proof.frames import Frame, crc_of, other_tokens
from bitgolf.proof.lanes import Lanes
from bitgolf.proof.table import shares_of
from bitgolf.score.exam import Exam
from bitgolf.score.mixer import Mixture, mixture_of
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Chunked, Sliding, Window


class Ways(NamedTuple):
    """How a stream is read: windows of so many tokens, moved by so many, by what adapts in them."""

    plan: ScorePlan
    length: int
    stride: int

    @classmethod
    def of(cls, plan: ScorePlan) -> "Ways":
        """Those of a score. Raises BitgolfError for windows and adapters that no single lane keeps."""
        windows = plan.windows
        if not isinstance(windows, Chunked | Sliding) or windows.counts_again or not plan.adapter.in_order:
            raise BitgolfError(
                "only windows that follow each other over one stream can be coded while something adapts",
                value=plan.label(),
                way_out='--set "score.windows=Sliding(length=256, stride=64)" and an adapter of the stream',
            )
        stride = windows.stride if isinstance(windows, Sliding) else windows.length
        return cls(plan, windows.length, stride)

    def windows(self, tokens: int) -> list[Window]:
        """The windows over a first token and so many more."""
        return list(Sliding(length=self.length, stride=self.stride).windows(tokens + 1))


class Decoded(Exam):
    """The tokens of a stream that have come so far; others do not exist yet."""

    def __init__(self, first: int, tokens: int, windows: list[Window]) -> None:
        super().__init__(np.full(tokens + 1, first), windows)
        self.count = 0

    def came(self, token: int) -> None:
        """The next token is known."""
        self._scored[self.count] = True
        self.count += 1
        self._tokens[self.count] = token


def steps_of(coder: Coder, ways: Ways, tokens: int, next_token: Callable[[Tensor], int]) -> Generator[int]:
    """Pass so many tokens; yields how many have passed.

    next_token: makes the next token of logits (1, vocabulary), and is not asked before the last is known.
    """
    plan, model, windows = ways.plan, coder.model, ways.windows(tokens)
    past, starts = Decoded(coder.first, tokens, windows), np.zeros(1, np.int64)
    lanes = Lanes(model, 1, ways.length, ways.stride, coder.first, coder.portable)
    mixture = mixture_of(plan.mixers, model.plan.vocabulary_size, coder.tokenizer)
    parts = list(plan.adapter.parts(windows, starts))
    with plan.adapter.adapting(model, windows, starts) as adaptation:
        for number, part in enumerate(parts, 1):
            for _ in range(sum(windows[index].end - windows[index].first_scored for index in part)):
                logits = lanes.logits()
                if mixture is not None:
                    logits = mixture_logits(mixture, logits, lanes.states)
                token = next_token(logits)
                if mixture is not None:
                    mixture.observe(token)
                lanes.follow(torch.tensor([token]))
                past.came(token)
                yield past.count
            if number < len(parts):
                adaptation.learn(past, part)


def mixture_logits(mixture: Mixture, logits: Tensor, states: Tensor) -> Tensor:
    """Logits (1, vocabulary), float64, of what mixers make of a model's logits and states (1, ...)."""
    own = torch.softmax(logits[0].double(), 0).cpu().numpy()
    mixed = mixture.distribution(own, states[0].float().cpu().numpy())
    return torch.from_numpy(np.log(np.maximum(mixed, np.finfo(float).tiny)))[None]


def encode_adapted(coder: Coder, ways: Ways, tokens: np.ndarray) -> Generator[int, None, Frame]:
    """Code tokens as one frame; yields how many are done."""
    writer, coming, nats = TokenEncoder(), iter(tokens.tolist()), [0.0]

    def next_token(logits: Tensor) -> int:
        token = next(coming)
        writer.write(np.array([token]), shares_of(logits))
        nats[0] -= float(logits[0].double().log_softmax(0)[token])
        return token

    yield from steps_of(coder, ways, len(tokens), next_token)
    return Frame(writer.finish(), crc_of(tokens), nats[0])


def decode_adapted(
    coder: Coder, ways: Ways, frame: Frame, tokens: int, where: str
) -> Generator[int, None, np.ndarray]:
    """The tokens of a frame; yields how many are done. where: the frame, for messages.

    Raises ArtifactError where they are not those that were coded.
    """
    reader, found = TokenDecoder(frame.data), list[int]()

    def next_token(logits: Tensor) -> int:
        found.append(int(reader.read(shares_of(logits))[0]))
        return found[-1]

    try:
        yield from steps_of(coder, ways, tokens, next_token)
    except ArtifactError as error:
        raise other_tokens(where) from error
    decoded = np.array(found, dtype=np.int64)
    if crc_of(decoded) != frame.tokens_crc:
        raise other_tokens(where)
    return decoded
