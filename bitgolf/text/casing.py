"""Capitals as operators before lower-case letters, and back. Any bytes go through; only ASCII letters change.

A folded text holds no capitals, so four of them are free for other work and nothing needs an escape. T makes
the first letter of a word upper-case, A all its letters, C the next letter inside a word; B stands where a
document starts and ends a word there. `The NASA iPhone` folds to `Tthe Anasa iCphone`.
"""

import re
from string import ascii_lowercase

DOCUMENT_BREAK = b"B"
CASE_OPERATORS = b"TAC" + DOCUMENT_BREAK
# The bytes that a folded text is made of: the capitals left over get no ids.
FOLDED_BYTES = bytes(range(256)).translate(None, b"BDEFGHIJKLMNOPQRSUVWXYZ")
# A word is a run of letters: all of it, or its first letter, or a letter inside.
CAPITALS_PATTERN = re.compile(rb"(?<![A-Za-z])(?:([A-Z]{2,})(?![A-Za-z])|([A-Z]))|[A-Z]")
OPERATORS_PATTERN = re.compile(rb"[TC][a-z]?|A[a-z]*|B")
OPEN_OPERATOR = re.compile(rb"(?:[TC]|A[a-z]*)\Z")


def fold_case(text: bytes) -> bytes:
    """The text without capitals, with the operators that give them back."""
    return CAPITALS_PATTERN.sub(
        lambda match: (b"A" if match[1] else b"T" if match[2] else b"C") + match[0].lower(), text
    )


def unfold_case(folded: bytes) -> bytes:
    """The text that was folded. An operator with no letter after it does nothing, so any bytes unfold."""
    return OPERATORS_PATTERN.sub(lambda match: match[0][1:].upper(), folded)


def operator_at_end(folded: bytes) -> bytes:
    """The operator that acts on a letter after this text, if one comes; empty where none does."""
    match = OPEN_OPERATOR.search(folded, max(len(folded.rstrip(ascii_lowercase.encode())) - 1, 0))
    return match[0][:1] if match else b""
