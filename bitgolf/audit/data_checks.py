"""What shards show by their tokens alone: shared documents and runs, starts, counts; and the tokenizer."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding
from bitgolf.audit.rules import Rules, known_texts
from bitgolf.base.errors import BitgolfError
from bitgolf.inputs.typed import read_outside
from bitgolf.text.shards import PASSPORT_FILE, TokenStream, read_shard

GRAM_TOKENS = 13
STARTS = (1, 50256)  # usual tokens of a document's start: of SentencePiece, of GPT-2
MOST_VALIDATION, MOST_TRAINING = 8_000_000, 64_000_000  # tokens that are compared
PIECE = 2_000_000  # tokens hashed in one go
FACTOR = np.uint64(0x9E3779B97F4A7C15)
MOST_SHARED = 0.02  # of validation runs that common phrases and licences may share
LONE_SPACE = "\u2581"


def shards_in(folder: Path, names: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The training and the validation shards among a folder's files, by their names and their first bytes."""
    train: list[Path] = []
    val: list[Path] = []
    for name in sorted(names):
        path, words = folder / name, Path(name).name.lower()
        if not words.endswith(".bin") or not ("train" in words or "val" in words):
            continue
        try:
            read_shard(path)
        except BitgolfError:
            continue
        (train if "train" in words else val).append(path)
    return train, val


def check_data(folder: Path, names: Sequence[str], rules: Rules) -> Iterator[Finding]:
    """All findings of shards, and of the tokenizers beside them."""
    train, val = shards_in(folder, names)
    if val:
        yield from starts(val)
        yield from counts(folder, val)
    if train and val:
        yield from shared(train, val)
    elif train or val:
        missing = "validation" if train else "training"
        yield Finding("V13", CANNOT_TELL, folder.name, f"no {missing} shards, so nothing to compare")
    for name in names:
        if name.endswith((".vocab", ".model")):
            yield from lone_space(folder / name)


COVERED = frozenset("V11 V12 V13 V14 B03 B07".split())


def start_token(stream: TokenStream) -> int:
    """The token that begins documents; -1 where none does."""
    head = stream.read(0, min(stream.tokens, PIECE))
    first = int(head[0])
    special = first in STARTS or first < 4 or first == int(head.max())
    if special and int((head == first).sum()) > 1:
        return first
    return next((token for token in STARTS if int((head == token).sum()) > 1), -1)


def starts(val: Sequence[Path]) -> Iterator[Finding]:
    """B07."""
    stream = TokenStream(val)
    token = start_token(stream)
    if token < 0:
        yield Finding(
            "B07",
            SUSPECTED,
            val[0].name,
            f"no token begins documents: neither {STARTS[0]} nor {STARTS[1]}, nor the first one, comes again",
            "one start token before each document",
            "build the shards again with it",
        )
    elif int(stream.read(0, 1)[0]) != token:
        yield Finding(
            "B07",
            SUSPECTED,
            f"{val[0].name}: token 0",
            f"the first document begins with token {int(stream.read(0, 1)[0])}, others behind token {token}",
            f"token {token} before each document, the first one too",
            "build the shards again with it",
        )


def counts(folder: Path, val: Sequence[Path]) -> Iterator[Finding]:
    """V11, V12: as many tokens as everybody's validation text has under a tokenizer that is known."""
    tokens = TokenStream(val).tokens
    named = next(
        (text for text in known_texts() if text.name.split(" ")[0] in f"{folder.absolute()}".lower()), None
    )
    stated = _stated(folder)
    if stated is not None and stated != tokens:
        yield Finding(
            "V12", FOUND, val[0].name, f"{tokens:,} validation tokens", f"{stated:,}, as {PASSPORT_FILE} says"
        )
    elif named and tokens < 0.995 * named.tokens:
        yield Finding(
            "V11" if tokens < 0.6 * named.tokens else "V12",
            SUSPECTED,
            val[0].name,
            f"{tokens:,} validation tokens",
            f"{named.tokens:,} with {named.name}",
            "take the whole validation split of the challenge, in its order",
        )


def _stated(folder: Path) -> int | None:
    """The validation tokens that a passport states."""
    if not (folder / PASSPORT_FILE).is_file():
        return None
    try:
        fields = read_outside(folder / PASSPORT_FILE)
    except BitgolfError:
        return None
    splits = fields.get("splits") if isinstance(fields, dict) else None
    val = splits.get("val") if isinstance(splits, dict) else None
    tokens = val.get("tokens") if isinstance(val, dict) else None
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) else None


def shared(train: Sequence[Path], val: Sequence[Path]) -> Iterator[Finding]:
    """V13, V14: documents of validation, and runs of 13 tokens of it, that training has too."""
    held, text = TokenStream(val), TokenStream(train)
    ids = held.read(0, min(held.tokens, MOST_VALIDATION)).astype(np.uint16)
    same = min(len(ids), text.tokens)
    token = start_token(held)
    known = {digest for _, digest in _documents(ids, token)}
    wanted = np.unique(_grams(ids, token))
    seen = np.zeros(len(wanted), bool)
    found: set[bytes] = set()
    read = min(text.tokens, MOST_TRAINING)
    for start in range(0, read, PIECE):
        piece = text.read(start, min(PIECE + GRAM_TOKENS, read - start)).astype(np.uint16)
        found |= known.intersection(digest for _, digest in _documents(piece, token))
        there = _grams(piece, token)
        if len(wanted) and len(there):
            places = np.minimum(np.searchsorted(wanted, there), len(wanted) - 1)
            seen[places[wanted[places] == there]] = True
    whole = (
        ""
        if read == text.tokens and len(ids) == held.tokens
        else f", of {read:,} training tokens that were read"
    )
    if same > 1000 and np.array_equal(ids[:same], text.read(0, same)):
        yield Finding(
            "V14",
            FOUND,
            f"{val[0].name}, {train[0].name}",
            f"the first {same:,} tokens of both are the same",
            "validation text that was held out",
            "take other documents",
        )
    if found:
        yield Finding(
            "V13",
            FOUND,
            train[0].name,
            f"{len(found):,} of {len(known):,} validation documents are training documents{whole}",
            "none",
            "hash the documents of both splits, and leave these out",
        )
    elif len(wanted) and seen.mean() > MOST_SHARED:
        yield Finding(
            "V13",
            SUSPECTED,
            train[0].name,
            f"{100 * seen.mean():.1f}% of the runs of 13 tokens in validation stand in training too{whole}",
            f"less than {100 * MOST_SHARED:g}%",
            "look for documents that were changed a little",
        )


def _documents(ids: np.ndarray, token: int) -> Iterator[tuple[int, bytes]]:
    """Each whole document, where it starts and its hash; the last one may be cut and is left out."""
    if token < 0:
        return
    edges = np.flatnonzero(ids == token)
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist()):
        if end - start > GRAM_TOKENS:
            yield start, hashlib.blake2b(ids[start:end].tobytes(), digest_size=12).digest()


def _grams(ids: np.ndarray, token: int) -> np.ndarray:
    """A 64-bit hash of every run of 13 tokens that no document begins in."""
    if len(ids) < GRAM_TOKENS:
        return np.zeros(0, np.uint64)
    count = len(ids) - GRAM_TOKENS + 1
    total = np.zeros(count, np.uint64)
    for i in range(GRAM_TOKENS):
        total = total * FACTOR + ids[i : i + count].astype(np.uint64) + np.uint64(1)
    total ^= total >> np.uint64(31)
    if token < 0:
        return total
    inside = np.convolve(ids == token, np.ones(GRAM_TOKENS, np.int32))[
        GRAM_TOKENS - 1 : GRAM_TOKENS - 1 + count
    ]
    return total[inside == 0]


def lone_space(path: Path) -> Iterator[Finding]:
    """B03: a tokenizer without a piece for a lone space."""
    pieces = _pieces(path)
    if pieces is None:
        return
    spaced = any(piece.startswith(LONE_SPACE) and len(piece) > 1 for piece in pieces)
    if spaced and LONE_SPACE not in pieces:
        yield Finding(
            "B03",
            FOUND,
            path.name,
            f"none of {len(pieces):,} pieces is a lone space: it becomes three byte tokens",
            "a piece for it, or bytes counted from the text",
            "train the tokenizer with it, and sum the bytes of the tokens against the text",
        )


def _pieces(path: Path) -> list[str] | None:
    """The pieces of a SentencePiece model or of its list; None for what is neither."""
    if path.stat().st_size > 2**25:
        return None
    data = path.read_bytes()
    if path.suffix == ".vocab":
        lines = data.decode("utf-8", "replace").splitlines()
        rows = [line.split("\t") for line in lines if "\t" in line]
        return [row[0] for row in rows] if len(rows) > 100 else None
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
    except RuntimeError:
        return None
    return [model.id_to_piece(i) for i in range(model.get_piece_size())]
