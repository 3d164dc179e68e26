"""Bytes of tokens by the challenge's rule, for tokenizers where it differs from the size of the text.

The rule takes one space mark off the front of a piece and counts the rest as it is written, so every further
mark counts three bytes for one space. For a SentencePiece model that changes no byte of a text the scores
count the bytes of the text itself: the rule would call it longer than it is, and flatter the bits per byte.
"""

import math
from typing import Any

import numpy as np
import sentencepiece

from bitgolf.score.score import Scores
from bitgolf.text.tokenizer import SPACE_MARK, Tokenizer


def public_rule(tokenizer: Tokenizer, scores: Scores) -> dict[str, Any]:
    """What the challenge's rule makes of scores, where it counts other bytes; else nothing.

    Tokenizers that bitgolf trains have no pieces with space marks: the rule does not speak of them.
    """
    if not tokenizer.model_file or not len(scores.target):
        return {}
    pieces = _pieces(tokenizer)
    special = np.array([not piece for piece in pieces])
    leading = np.array([piece.startswith(SPACE_MARK) for piece in pieces])
    sizes = np.array([_size(piece) for piece in pieces], np.int64)
    targets = scores.target.astype(np.int64)
    previous = np.concatenate([[tokenizer.bos], targets[:-1]])
    at_start = np.where(previous < 0, True, special[previous])
    counted = int((sizes[targets] + (leading[targets] & ~at_start)).sum())
    if counted == int(scores.bytes.sum()) or not counted:
        return {}
    bits = float(scores.nats.astype(np.float64).sum()) / math.log(2)
    return {"public_rule_bytes": counted, "public_rule_bits_per_byte": bits / counted}


def _pieces(tokenizer: Tokenizer) -> list[str]:
    """The pieces of a model as they are written, '' for special ones."""
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_file)
    special = (model.is_control, model.is_unknown, model.is_unused)
    return [
        "" if any(is_one(token) for is_one in special) else model.id_to_piece(token)
        for token in range(tokenizer.vocabulary_size)
    ]


def _size(piece: str) -> int:
    """Bytes of a piece behind its first space mark; pieces of one byte are written <0xNN>."""
    is_byte = len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
    return 1 if is_byte else len(piece.removeprefix(SPACE_MARK).encode())
