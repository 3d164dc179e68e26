"""Tokens as frames of coded bits; each frame is decoded alone, in lanes that advance together.

Tokens are cut into frames, and a frame into lanes. One range coder writes the lanes of a frame in turns. A
frame has a checksum of its bits and one of its tokens, so damage can be told from another machine's rounding,
and its place is known.
"""

import math
import zlib
from collections.abc import Generator, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitgolf.base.errors import ArtifactError
from bitgolf.net.model import Model
from bitgolf.proof.arithmetic import PLAIN, Arithmetic
from bitgolf.proof.coder import TokenDecoder, TokenEncoder
from bitgolf.proof.frequencies import frequencies_of
from bitgolf.proof.lanes import Lanes
from bitgolf.proof.mixed import MixedLanes
from bitgolf.score.windows import Sliding

MOST_LANES, LANE_TOKENS, MOST_LANE_TOKENS = 64, 1024, 2048


class Layout(NamedTuple):
    """The layout of tokens in frames and lanes. first: the token before every lane, which is not coded."""

    tokens: int
    lanes: int
    lane_tokens: int
    window: int
    stride: int
    first: int

    @classmethod
    def of(
        cls,
        tokens: int,
        window: int,
        first: int,
        lanes: int = 0,
        most: tuple[int, int] | None = None,
    ) -> "Layout":
        """A layout with enough lanes to be fast, and lanes so long that their starts cost little.

        most: lanes of a frame, and tokens of a lane; None is MOST_LANES and MOST_LANE_TOKENS.
        """
        most_lanes, most_tokens = most or (MOST_LANES, MOST_LANE_TOKENS)
        lanes = lanes or min(max(1, tokens // LANE_TOKENS), most_lanes)
        frames = max(1, math.ceil(tokens / (lanes * most_tokens)))
        return cls(
            tokens, lanes, max(1, math.ceil(tokens / (frames * lanes))), window, max(1, window // 2), first
        )

    @property
    def in_lanes(self) -> str:
        """How many lanes, in words."""
        return "1 lane" if self.lanes == 1 else f"{self.lanes} lanes"

    def frames(self) -> list[tuple[int, int]]:
        """Start and end of each frame, in tokens."""
        frame_tokens = self.lanes * self.lane_tokens
        return [
            (start, min(start + frame_tokens, self.tokens)) for start in range(0, self.tokens, frame_tokens)
        ]


class Frame(NamedTuple):
    """Coded bits, the checksum of their tokens, and the tokens' nats by the coder's logits."""

    data: bytes
    tokens_crc: int
    nats: float = math.nan


def in_lanes(tokens: np.ndarray, lanes: int) -> np.ndarray:
    """Tokens as (lanes, steps), one stretch per lane; padded with zeros at the end."""
    steps = math.ceil(len(tokens) / lanes)
    return np.pad(tokens.astype(np.int64), (0, lanes * steps - len(tokens))).reshape(lanes, steps)


def active_lanes(count: int, steps: int) -> Iterator[int]:
    """At each step, the number of lanes, from the first, that still have a token."""
    return (math.ceil((count - step) / steps) for step in range(steps))


def crc_of(tokens: np.ndarray) -> int:
    """The checksum of tokens (CRC-32)."""
    return zlib.crc32(tokens.astype("<u4").tobytes())


def encode_frame(
    model: Model,
    tokens: np.ndarray,
    layout: Layout,
    arithmetic: Arithmetic = PLAIN,
    mixed: MixedLanes | None = None,
) -> Generator[int, None, Frame]:
    """Code the tokens of one frame; yields how many are done. mixed: the mixers, if any."""
    rows = in_lanes(tokens, layout.lanes)
    lanes = Lanes(model, layout.lanes, layout.window, layout.stride, layout.first, arithmetic)
    coder, nats, done = TokenEncoder(), 0.0, 0
    for step, active in enumerate(active_lanes(len(tokens), rows.shape[1])):
        logits, upcoming = lanes.logits()[:active], torch.from_numpy(rows[:, step])
        if mixed is not None:
            logits = mixed.logits(logits, lanes.states)
            mixed.observe(rows[:active, step].tolist())
        coder.write(rows[:active, step], frequencies_of(logits))
        chosen = logits.gather(1, upcoming[:active, None].to(logits.device))[:, 0]
        nats += float((logits.logsumexp(1) - chosen).double().sum())
        lanes.follow(upcoming)
        done += active
        yield done
    return Frame(coder.finish(), crc_of(tokens), nats)


def decode_frame(
    model: Model,
    frame: Frame,
    count: int,
    layout: Layout,
    where: str,
    arithmetic: Arithmetic = PLAIN,
    mixed: MixedLanes | None = None,
) -> Generator[int, None, np.ndarray]:
    """The `count` tokens of a frame; yields how many are done. where: the frame, for messages.

    Raises ArtifactError if they are not the coded tokens.
    """
    steps = math.ceil(count / layout.lanes)
    rows = np.zeros((layout.lanes, steps), np.int64)
    lanes = Lanes(model, layout.lanes, layout.window, layout.stride, layout.first, arithmetic)
    coder, done = TokenDecoder(frame.data), 0
    try:
        for step, active in enumerate(active_lanes(count, steps)):
            logits = lanes.logits()[:active]
            if mixed is not None:
                logits = mixed.logits(logits, lanes.states)
            rows[:active, step] = coder.read(frequencies_of(logits))
            if mixed is not None:
                mixed.observe(rows[:active, step].tolist())
            lanes.follow(torch.from_numpy(rows[:, step]))
            done += active
            yield done
    except ArtifactError as error:
        raise other_tokens(where) from error
    tokens = rows.reshape(-1)[:count]
    if crc_of(tokens) != frame.tokens_crc:
        raise other_tokens(where)
    return tokens


def other_tokens(where: str) -> ArtifactError:
    """The error for undamaged bits that decode to other tokens."""
    return ArtifactError(
        "the bits are whole and give other tokens than were coded",
        where=where,
        way_out="this machine or library rounds otherwise than the one that coded; decode it there",
    )


def parallel_nats(
    model: Model, tokens: np.ndarray, layout: Layout, mixed: MixedLanes | None = None
) -> np.ndarray:
    """Nats, float64, of the tokens of a frame under the windows of its lanes, computed in parallel.

    They are in no order. mixed: the mixers, if any; asked step by step, lane after lane.
    """
    rows = in_lanes(tokens, layout.lanes)
    stream = torch.from_numpy(np.pad(rows, ((0, 0), (1, 0)), constant_values=layout.first))
    lengths = torch.tensor(
        [min(max(len(tokens) - i * rows.shape[1], 0), rows.shape[1]) for i in range(len(rows))]
    )
    device, scores = next(model.parameters()).device, list[Tensor]()
    model.window = layout.window
    try:
        with torch.inference_mode():
            for start, end, scored in Sliding(length=layout.window, stride=layout.stride).windows(
                stream.shape[1]
            ):
                part = stream[:, start : end + 1].to(device)
                hidden = model.hidden(part[:, :-1])[:, scored - start :]
                targets = part[:, 1 + scored - start :]
                if mixed is None:
                    nats = model.nats_of(hidden, targets).double().cpu()
                    scores.append(nats[torch.arange(scored, end) < lengths[:, None]])
                    continue
                for step in range(scored, end):
                    states, active = hidden[:, step - scored], int((step < lengths).sum())
                    logits = mixed.logits(model.logits_of(states)[:active], states)
                    upcoming = targets[:active, step - scored].cpu()
                    scores.append(-logits.log_softmax(1).gather(1, upcoming[:, None])[:, 0])
                    mixed.observe(upcoming.tolist())
    finally:
        model.window = 0
    return torch.cat(scores).numpy()
