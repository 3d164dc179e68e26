"""Frames of a model with mixers, coded in lanes; the mixers keep their state from frame to frame."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import add
from typing import Any

import numpy as np
import torch

from bitgolf.base.events import mapped
from bitgolf.proof.adapted import AdaptedPlan, identity_of_passage
from bitgolf.proof.crew import ALONE, Coder, Crew, Decoding
from bitgolf.proof.frames import Frame, Layout, decode_frame, encode_frame
from bitgolf.proof.kept import Kept, restore_memories, state_of_memories
from bitgolf.proof.mixed import MixedLanes
from bitgolf.run.sheet import UNFIT
from bitgolf.score.adapter import NoAdapter
from bitgolf.score.mixer import Mixture, mixture_of

MIXED_LANES, MIXED_LANE_TOKENS = 8, 4096  # at most, of a frame; more lanes are faster and know less


def mixture_for(coder: Coder, adapted: AdaptedPlan) -> Mixture | None:
    """The mixture for a new stream; None if no mixer changes anything."""
    return mixture_of(adapted.plan.mixers, coder.model.plan.vocabulary_size, coder.tokenizer)


def mixed_layout(coder: Coder, adapted: AdaptedPlan, tokens: int, most_lanes: int = 0) -> Layout | None:
    """The layout of tokens for mixers, at most `most_lanes` lanes; None if only one lane is possible."""
    mixture = mixture_for(coder, adapted)
    if adapted.plan.adapter != NoAdapter() or mixture is None or mixture.beside() is None:
        return None
    most = most_lanes or MIXED_LANES, MIXED_LANE_TOKENS
    layout = Layout.of(tokens, adapted.length, coder.first, most=most)._replace(stride=adapted.stride)
    return layout if layout.lanes > 1 else None


class MixedFrames:
    """The state at the end of a frame: the frames so far, and the memories of the mixers."""

    def __init__(self, coder: Coder, adapted: AdaptedPlan, layout: Layout, kept: Kept) -> None:
        mixture = mixture_for(coder, adapted)
        assert mixture is not None
        self.mixture, self.lanes, self.kept = mixture, layout.lanes, kept

    def begin(self) -> MixedLanes:
        """The mixers of the next frame. Raises ArtifactError for mixers without lanes."""
        return MixedLanes(self.mixture, self.lanes)

    def resumed(self) -> tuple[np.ndarray, Mapping[str, Any]]:
        """The tokens of frames finished before it was killed, and the facts saved with them."""
        if (state := self.kept.read()) is None:
            return np.zeros(0, np.int64), {}
        restore_memories(self.mixture.memories, *state, str(self.kept.path))
        return state[0]["tokens"].numpy(), state[1]

    def keep(self, tokens: np.ndarray, facts: Mapping[str, Any]) -> None:
        """Save the state."""
        with suppress(*UNFIT):  # a mixer that cannot tell, no space: then it begins again where it was before
            tensors, seen = state_of_memories(self.mixture.memories)
            self.kept.write({**tensors, "tokens": torch.from_numpy(tokens)}, {**seen, **facts})


def encode_mixed(
    coder: Coder, adapted: AdaptedPlan, tokens: np.ndarray, layout: Layout, crew: Crew = ALONE
) -> Generator[int, None, list[Frame]]:
    """Code tokens in frames; yields how many are done. The crew's file keeps frames that are."""
    identity = identity_of_passage(coder, adapted, layout, tokens.tobytes(), coder.arithmetic)
    state = MixedFrames(coder, adapted, layout, Kept(crew, "encode", identity))
    frames = [
        Frame(bytes.fromhex(data), crc, nats) for data, crc, nats in state.resumed()[1].get("frames", ())
    ]
    for start, end in layout.frames()[len(frames) :]:
        steps = encode_frame(coder.model, tokens[start:end], layout, coder.arithmetic, state.begin())
        frames.append((yield from mapped(steps, partial(add, start))))
        facts = [(each.data.hex(), each.tokens_crc, each.nats) for each in frames]
        state.keep(tokens[:end], {"frames": facts})
    return frames


def decode_mixed(
    coder: Coder, adapted: AdaptedPlan, jobs: Sequence[Decoding], crew: Crew = ALONE
) -> Generator[int, None, np.ndarray]:
    """The tokens of frames, int64; yields how many are done. The crew's file keeps frames that are.

    Raises ArtifactError if they are not the coded tokens.
    """
    layout, arithmetic = jobs[0].layout, jobs[0].arithmetic
    content = b"".join(job.content() for job in jobs)
    identity = identity_of_passage(coder, adapted, layout, content, arithmetic)
    state = MixedFrames(coder, adapted, layout, Kept(crew, "decode", identity))
    tokens = state.resumed()[0]
    for job, (start, _) in zip(jobs, layout.frames(), strict=True):
        if start < len(tokens):
            continue
        arguments = job.frame, job.num_tokens, layout, job.where, arithmetic, state.begin()
        decoded = yield from mapped(decode_frame(coder.model, *arguments), partial(add, start))
        tokens = np.concatenate([tokens, decoded])
        state.keep(tokens, {})
    return tokens
