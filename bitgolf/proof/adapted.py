"""Coding and decoding with models that learn from the text or use mixers, one token after another.

The steps are those of scoring: windows in parts, an adapter that learns after each part, mixers that observe
each token. The decoded tokens take the place of the exam. So the decoder learns exactly what the coder
learnt, and a score that used a token too early could not be decoded.
"""

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.errors import ArtifactError, BitgolfError
from bitgolf.proof.arithmetic import Arithmetic, arithmetic_here
from bitgolf.proof.coder import TokenDecoder, TokenEncoder
from bitgolf.proof.crew import ALONE, Coder, Crew, Decoding
from bitgolf.proof.frames import Frame, Layout, crc_of, other_tokens
from bitgolf.proof.frequencies import frequencies_of
from bitgolf.proof.kept import Kept, kept_state, restore_kept
from bitgolf.proof.lanes import Lanes
from bitgolf.proof.mixed import mixed_logits
from bitgolf.run.memories import KEPT_VERSION
from bitgolf.run.sheet import UNFIT
from bitgolf.score.adapter import Adaptation, NoAdapter
from bitgolf.score.exam import Exam
from bitgolf.score.mixer import Memory, mixture_of
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Chunked, Sliding, Window


class AdaptedPlan(NamedTuple):
    """How a stream is read: length and stride of windows, adapter and mixers."""

    plan: ScorePlan
    length: int
    stride: int

    @classmethod
    def of(cls, plan: ScorePlan) -> "AdaptedPlan":
        """The plan of a score. Raises BitgolfError for windows and adapters that do not work in one lane."""
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
        """The windows over a first token and `tokens` more."""
        return list(Sliding(length=self.length, stride=self.stride).windows(tokens + 1))


class Decoded(Exam):
    """An exam of the tokens decoded so far; later ones do not exist yet."""

    def __init__(self, first: int, tokens: int, windows: list[Window]) -> None:
        super().__init__(np.full(tokens + 1, first), windows)
        self.count, self.total = 0, tokens

    def tokens(self) -> np.ndarray:
        """The tokens so far, int64."""
        return self._tokens[1 : self.count + 1].astype(np.int64)

    def append(self, token: int) -> None:
        """Add the next token."""
        self._scored[self.count] = True
        self.count += 1
        self._tokens[self.count] = token


class Passage:
    """The pass of a stream through a model that adapts.

    frame: tokens of a frame. The state at the end of each frame is saved, and a killed coding continues from
    there to the same bits.
    """

    def __init__(
        self, coder: Coder, adapted: AdaptedPlan, tokens: int, frame: int, kept: Kept, arithmetic: Arithmetic
    ) -> None:
        self.coder, self.plan, self.windows = coder, adapted.plan, adapted.windows(tokens)
        self.frame, self.kept = frame, kept
        self.past = Decoded(coder.first, tokens, self.windows)
        self.lanes = Lanes(coder.model, 1, adapted.length, adapted.stride, coder.first, arithmetic)
        self.mixture = mixture_of(adapted.plan.mixers, coder.model.plan.vocabulary_size, coder.tokenizer)

    def steps(
        self, next_token: Callable[[Tensor], int], ended: Callable[[], Mapping[str, Any]]
    ) -> Generator[int]:
        """Pass the tokens; yields how many have passed.

        next_token: gives the next token for logits (1, vocabulary).
        ended: called at the end of each frame; returns facts to save with it, as JSON data.
        """
        model, past, lanes, starts = self.coder.model, self.past, self.lanes, np.zeros(1, np.int64)
        parts, end = list(self.plan.adapter.parts(self.windows, starts)), 0
        with self.plan.adapter.adapting(model, self.windows, starts) as adaptation:
            adaptation.updates_left = len(parts) - 1
            self.resume(adaptation)
            for number, part in enumerate(parts, 1):
                end += sum(self.windows[index].end - self.windows[index].first_scored for index in part)
                while past.count < end:
                    logits = lanes.logits()
                    if self.mixture is not None:
                        logits = mixed_logits([self.mixture], logits, lanes.states)
                    token = next_token(logits)
                    if self.mixture is not None:
                        self.mixture.observe(token)
                    lanes.follow(torch.tensor([token]))
                    past.append(token)
                    if past.count % self.frame == 0 or past.count == past.total:
                        self.keep(adaptation, ended())
                    yield past.count
                if 0 < adaptation.updates_left == len(parts) - number:
                    adaptation.learn(past, part)
                    adaptation.updates_left -= 1

    def memories(self) -> list[Memory]:
        """The memories of the mixers."""
        return list(self.mixture.memories) if self.mixture is not None else []

    def keep(self, adaptation: Adaptation, facts: Mapping[str, Any]) -> None:
        """Save the complete state; at the end only the tokens."""
        if self.kept.path is None or not (adaptation.resumable or self.plan.adapter == NoAdapter()):
            return
        tensors, learnt = {"tokens": torch.from_numpy(self.past.tokens())}, dict[str, Any]()
        with suppress(*UNFIT):  # a mixer that cannot tell, no space: then it begins again where it was before
            if self.past.count < self.past.total:
                more, learnt = kept_state(adaptation, self.memories(), self.lanes)
                tensors |= more
            self.kept.write(tensors, {**learnt, **facts})

    def resumed(self) -> tuple[np.ndarray, Mapping[str, Any]]:
        """The tokens passed before it was killed, and the facts saved with them."""
        state = self.kept.read()
        return (state[0]["tokens"].numpy(), state[1]) if state else (np.zeros(0, np.int64), {})

    def resume(self, adaptation: Adaptation) -> None:
        """Continue from the saved state. Raises CheckpointError if it does not fit."""
        if (state := self.kept.read()) is None:
            return
        tensors, facts = state
        for token in tensors["tokens"].tolist():
            self.past.append(token)
        if self.past.count < self.past.total:
            restore_kept(adaptation, self.memories(), self.lanes, tensors, facts, str(self.kept.path))
        else:
            adaptation.updates_left = 0


def encode_adapted(
    coder: Coder, adapted: AdaptedPlan, tokens: np.ndarray, frame: int, crew: Crew = ALONE
) -> Generator[int, None, list[Frame]]:
    """Code tokens in frames of `frame` tokens; yields how many are done. The crew's file keeps frames."""
    arithmetic = coder.arithmetic
    kept = Kept(crew, "encode", identity_of_passage(coder, adapted, frame, tokens.tobytes(), arithmetic))
    passage = Passage(coder, adapted, len(tokens), frame, kept, arithmetic)
    passed, facts = passage.resumed()
    frames = [Frame(bytes.fromhex(data), crc, nats) for data, crc, nats in facts.get("frames", ())]
    writer, upcoming, nats = TokenEncoder(), iter(tokens[len(passed) :].tolist()), [0.0]

    def next_token(logits: Tensor) -> int:
        token = next(upcoming)
        writer.write(np.array([token]), frequencies_of(logits))
        nats[0] -= float(logits[0].double().log_softmax(0)[token])
        return token

    def ended() -> dict[str, Any]:
        nonlocal writer
        start = len(frames) * frame
        frames.append(Frame(writer.finish(), crc_of(tokens[start : start + frame]), nats[0]))
        writer, nats[0] = TokenEncoder(), 0.0
        return {"frames": [(each.data.hex(), each.tokens_crc, each.nats) for each in frames]}

    yield from passage.steps(next_token, ended)
    return frames


def decode_adapted(
    coder: Coder, adapted: AdaptedPlan, jobs: Sequence[Decoding], crew: Crew = ALONE
) -> Generator[int, None, np.ndarray]:
    """The tokens of frames; yields how many are done. The crew's file keeps finished frames.

    Raises ArtifactError if they are not the coded tokens.
    """
    frame_tokens, content, arithmetic = (
        jobs[0].num_tokens,
        b"".join(job.content() for job in jobs),
        jobs[0].arithmetic,
    )
    kept = Kept(crew, "decode", identity_of_passage(coder, adapted, frame_tokens, content, arithmetic))
    passage = Passage(coder, adapted, sum(job.num_tokens for job in jobs), frame_tokens, kept, arithmetic)
    decoded: list[int] = passage.resumed()[0].tolist()
    number = -(-len(decoded) // jobs[0].num_tokens)
    reader = TokenDecoder(jobs[number].frame.data) if number < len(jobs) else None

    def next_token(logits: Tensor) -> int:
        assert reader is not None
        decoded.append(int(reader.read(frequencies_of(logits))[0]))
        return decoded[-1]

    def ended() -> dict[str, Any]:
        nonlocal number, reader
        job, start = jobs[number], number * jobs[0].num_tokens
        if crc_of(np.array(decoded[start:])) != job.frame.tokens_crc:
            raise other_tokens(job.where)
        number += 1
        reader = TokenDecoder(jobs[number].frame.data) if number < len(jobs) else None
        return {}

    try:
        yield from passage.steps(next_token, ended)
    except ArtifactError as error:
        raise other_tokens(jobs[number].where) from error
    return np.array(decoded, dtype=np.int64)


def identity_of_passage(
    coder: Coder, adapted: AdaptedPlan, frame: int | Layout, content: bytes, arithmetic: Arithmetic
) -> str:
    """A hash of everything that the bits of a coding depend on. frame: tokens of a frame, or the layout."""
    machine = f"{arithmetic_here(arithmetic)} {torch.get_num_threads()} {KEPT_VERSION}"
    stream = f"{adapted.plan.identity()} {adapted.length} {adapted.stride}"
    description = f"{coder.identity.hex()} {stream} {frame} {machine} "
    return hashlib.sha256(description.encode() + content).hexdigest()
