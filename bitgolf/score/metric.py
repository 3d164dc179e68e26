"""The metric: bits per byte from scores, a ratio of sums in float64, independent of the scorer."""

import math
from typing import Any

import numpy as np

from bitgolf.base.errors import DataError
from bitgolf.score.score import Scores

SUSPICIOUS_BITS_PER_BYTE = 0.7


def bits_per_byte(scores: Scores) -> float:
    """sum(nats) / ln 2 / sum(bytes), over exactly the scored tokens; a float."""
    return total_nats(scores) / math.log(2) / total_bytes(scores)


def total_nats(scores: Scores) -> float:
    """The sum of all nats. Raises DataError, with the row, for a value that is no -log of a probability."""
    wrong = np.flatnonzero(~(scores.nats >= 0) | ~np.isfinite(scores.nats))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(scores.nats)} scores are not finite or negative",
            where=f"scored token {wrong[0]}",
            value=float(scores.nats[wrong[0]]),
        )
    return float(scores.nats.sum(dtype=np.float64))


def total_bytes(scores: Scores) -> int:
    """The bytes of the scored tokens, never more than the text has. Raises DataError if there are none."""
    total = int(scores.bytes.sum(dtype=np.int64))
    if scores.file_bytes is not None:
        total = min(total, scores.file_bytes)
    if total <= 0:
        raise DataError("nothing was scored", value=f"{len(scores.nats)} tokens, {total} bytes")
    return total


def summary(scores: Scores) -> dict[str, Any]:
    """The figures of one scoring, with the keys of result.json."""
    bits, nats, text_bytes = bits_per_byte(scores), total_nats(scores), total_bytes(scores)
    figures: dict[str, Any] = {
        "windows": scores.windows,
        "bits_per_byte": bits,
        "nats_per_token": nats / len(scores.nats),
        "tokens": len(scores.nats),
        "text_bytes": text_bytes,
        "complete": scores.complete,
        "tokens_sha256": scores.tokens_sha256,
    }
    if scores.file_bytes not in (None, text_bytes):
        figures["file_bytes"] = scores.file_bytes
        if not scores.loss:
            # Lossless, but the public rule counts other bytes: above by its count, here by the size.
            figures["bits_per_file_byte"] = bits * text_bytes / scores.file_bytes
    if scores.loss:
        figures["lossy"] = scores.loss
    if bits < SUSPICIOUS_BITS_PER_BYTE:
        figures["warning"] = (
            f"{bits:.3f} bits per byte is better than any small model of text is known to be; "
            "look for validation text in training, or a model that sees its targets"
        )
    return figures
