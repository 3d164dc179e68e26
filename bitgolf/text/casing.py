"""Capitals as operators before lower-case letters, and back. Any bytes work; only ASCII letters change.

A folded text has no capitals, so four of them are free as operators and nothing needs an escape. T makes
the first letter of a word upper-case, A all its letters, C the next letter inside a word; B marks the start
of a document and ends a word there. `The NASA iPhone` folds to `Tthe Anasa iCphone`.
"""

import re
from string import ascii_lowercase

DOCUMENT_BREAK = b"B"
CASE_OPERATORS = b"TAC" + DOCUMENT_BREAK
# The bytes that occur in a folded text; the unused capitals get no ids.
FOLDED_BYTES = bytes(range(256)).translate(None, b"BDEFGHIJKLMNOPQRSUVWXYZ")
# A word is a run of letters: all of it, or its first letter, or a letter inside.
CAPITALS_PATTERN = re.compile(rb"(?<![A-Za-z])(?:([A-Z]{2,})(?![A-Za-z])|([A-Z]))|[A-Z]")
OPERATORS_PATTERN = re.compile(rb"[TC][a-z]?|A[a-z]*|B")
OPEN_OPERATOR = re.compile(rb"(?:[TC]|A[a-z]*)\Z")


def fold_case(text: bytes) -> bytes:
    """The text with capitals replaced by operators and lower-case letters."""
    return CAPITALS_PATTERN.sub(
        lambda match: (b"A" if match[1] else b"T" if match[2] else b"C") + match[0].lower(), text
    )


def unfold_case(folded: bytes) -> bytes:
    """The original text. An operator without a letter after it does nothing, so any bytes unfold."""
    return OPERATORS_PATTERN.sub(lambda match: match[0][1:].upper(), folded)


def operator_at_end(folded: bytes) -> bytes:
    """The operator that would change a letter after this text; empty if there is none."""
    match = OPEN_OPERATOR.search(folded, max(len(folded.rstrip(ascii_lowercase.encode())) - 1, 0))
    return match[0][:1] if match else b""
