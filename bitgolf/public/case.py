"""The public challenge's CaseOps: capitals as private-use characters, and the bytes behind each token.

A sidecar lies beside a shard and is as long; it says for each token how many bytes of the original text it
stands for: `fineweb_val_bytes_000000.bin` belongs to `fineweb_val_000000.bin`. The model file alone would
count the operators as text.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from bitgolf.base.errors import DataError, ShardError
from bitgolf.text.shards import read_shard, write_shard
from bitgolf.text.tokenizer import Tokenizer

TITLE, ALLCAPS, CAPNEXT, ESCAPE = "\ue001", "\ue002", "\ue003", "\ue004"
CONTROLS = TITLE + ALLCAPS + CAPNEXT + ESCAPE
# A word is a run of ASCII letters: all of it, or its first letter, or a letter inside; and the controls.
ENCODED_PATTERN = re.compile(
    f"(?<![A-Za-z])(?:(?P<all>[A-Z]{{2,}})(?![A-Za-z])|(?P<title>[A-Z]))|(?P<next>[A-Z])|[{CONTROLS}]"
)
DECODED_PATTERN = re.compile(f"{ESCAPE}(.?)|[{TITLE}{CAPNEXT}][a-z]?|{ALLCAPS}[a-z]*", re.DOTALL)
OPERATORS = {"all": ALLCAPS, "title": TITLE, "next": CAPNEXT, None: ESCAPE}


def encode_public_case(text: str) -> str:
    """Capitals as operators before lower-case letters; what is not an ASCII letter stays as it is."""
    return ENCODED_PATTERN.sub(lambda match: OPERATORS[match.lastgroup] + match[0].lower(), text)


def decode_public_case(encoded: str) -> str:
    """The text that was encoded. An operator with no letter after it does nothing."""
    return DECODED_PATTERN.sub(lambda match: match[0][1:].upper() if match[1] is None else match[1], encoded)


def original_bytes(surfaces: Iterable[str]) -> list[int]:
    """Bytes of the original text behind each part of an encoded text; operators have none.

    An escape can end one part and its control start the next.
    """
    counts, escaped = [], False
    for surface in surfaces:
        counts.append(0)
        for letter in surface:
            if escaped or letter not in CONTROLS:
                counts[-1] += len(letter.encode())
            escaped = letter == ESCAPE and not escaped
    return counts


def tokenize_public_case(
    model: sentencepiece.SentencePieceProcessor, text: str
) -> tuple[np.ndarray, np.ndarray]:
    """Ids (uint16) and original bytes (int64) of one document, BOS first.

    Of a character in several byte tokens the last has all bytes. White space that the model strips from the
    ends of a text is not counted, so the sum is the size of the text only where nothing is stripped.
    """
    encoded = encode_public_case(text)
    made = model.encode(encoded, out_type="offset_mapping")
    counts = original_bytes(encoded[start:end] for start, end in made["offsets"])
    return np.array([model.bos_id(), *made["ids"]], np.uint16), np.array([0, *counts], np.int64)


def is_sidecar(path: Path) -> bool:
    """Whether a file is a sidecar; a pattern for validation shards finds those too."""
    return "_bytes_" in path.name


def sidecar_path(shard: Path) -> Path:
    """Where the sidecar of a shard lies."""
    kind, _, number = shard.name.rpartition("_")
    return shard.with_name(f"{kind}_bytes_{number}")


def write_sidecar(shard: Path, counts: np.ndarray | Sequence[int]) -> None:
    """Write the bytes of each token of a shard beside it. Raises ShardError if there is not one for each."""
    write_shard(sidecar_path(shard), counts)
    read_sidecar(shard)


def read_sidecar(shard: Path) -> np.ndarray:
    """The bytes of each token of a shard (uint16). Raises ShardError if there is not one for each."""
    counts, tokens = read_shard(sidecar_path(shard)), read_shard(shard)
    if len(counts) != len(tokens):
        raise ShardError(
            f"a sidecar needs one entry for each of the {len(tokens)} tokens of {shard.name}",
            where=str(sidecar_path(shard)),
            value=len(counts),
        )
    return counts


def check_original_bytes(shards: Sequence[Path], tokenizer: Tokenizer, counted: int) -> None:
    """Refuse shards whose tokenizer alone counts other bytes than those of the original text.

    Operators counted as text, or the text between them, would make bits per byte look better than they are.
    """
    sidecars = [read_sidecar(shard) for shard in shards if sidecar_path(shard).is_file()]
    stated = sum(int(counts.sum(dtype=np.int64)) for counts in sidecars)
    pieces = map(tokenizer.piece, range(tokenizer.vocabulary_size))
    if TITLE.encode() in pieces or (sidecars and stated != counted):
        raise DataError(
            "this tokenizer does not count the bytes of the original text",
            where=str(shards[0].parent),
            value=f"{counted:,} bytes" + (f", {stated:,} in the sidecars" if sidecars else ""),
            way_out="give the text itself; `bitgolf data TEXT --case-ops` counts its bytes exactly",
        )
