"""Whether a tokenizer made the shards: a decoded sample, encoded again, must give the same tokens."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bitgolf.base.errors import TokenizerError
from bitgolf.text.encoder import Encoder
from bitgolf.text.shards import TokenStream
from bitgolf.text.tokenizer import Tokenizer

SAMPLES, SAMPLE_TOKENS = 32, 4096  # looked at in each split, evenly spread
BLOCK = 64  # tokens that come back together or not at all: single ones of another tokenizer often do
LEAST_SHARE = 0.9  # of the sampled tokens; with less another tokenizer made the shards


def share_returned(paths: Sequence[Path], tokenizer: Tokenizer) -> float:
    """The share of sampled tokens that stand in blocks which come back when their text is encoded.

    Sampled is what begins where text begins: at a document start or after another control token. It ends at
    the next token without text, be it unknown, since what stood there cannot be encoded again.
    """
    returned, looked_at, encoder = 0, 0, Encoder(tokenizer)
    for ids, whole in _samples(TokenStream(paths), tokenizer):
        again = encoder.encode(tokenizer.decode(ids)).tobytes()
        blocks = [ids[start : start + BLOCK] for start in range(0, len(ids), BLOCK)]
        for block in blocks if whole else blocks[:-1]:  # a cut text may end in other tokens
            returned += len(block) * (block.tobytes() in again)
            looked_at += len(block)
    return returned / looked_at if looked_at else 1.0


def check_belonging(paths: Sequence[Path], tokenizer: Tokenizer) -> list[str]:
    """Notes on shards and tokenizer. Raises TokenizerError if it did not make these shards."""
    share = share_returned(paths, tokenizer)
    share_in_words = f"{100 * share:.3g}% of sampled tokens come back when their text is encoded again"
    if share < LEAST_SHARE:
        raise TokenizerError(
            "this tokenizer did not make these shards",
            where=str(paths[0].parent),
            value=share_in_words,
            way_out="give the .model that made them, or the text itself",
        )
    return [f"only {share_in_words}: another version or other options made some of them"] if share < 1 else []


def _samples(stream: TokenStream, tokenizer: Tokenizer) -> Iterator[tuple[np.ndarray, bool]]:
    """Runs of tokens with text from a start on, and whether the text is known to end where they do."""
    count = min(SAMPLE_TOKENS, stream.tokens)
    for start in np.unique(np.linspace(0, stream.tokens - count, SAMPLES).astype(int)).tolist():
        ids = stream.read(start, count)
        silent = np.flatnonzero(tokenizer.boundary[ids])
        firsts = [0] * (start == 0) + (1 + silent[ids[silent] != tokenizer.unknown]).tolist()
        for first in firsts:
            end = silent[np.searchsorted(silent, first) :]
            part = ids[first : end[0]] if len(end) else ids[first:]
            if len(part):
                is_known = ids[end[0]] != tokenizer.unknown if len(end) else start + count == stream.tokens
                yield part, bool(is_known)
