"""Facts about a dataset, checked while it is built: counts, hashes, losses of the tokenizer."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitgolf.base.errors import DataError
from bitgolf.base.files import sha256_of
from bitgolf.text.shards import PASSPORT_FORMAT, TokenStream, read_shard
from bitgolf.text.tokenizer import Tokenizer

SCAN_TOKENS = 1 << 22  # looked at in one go


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """What one split says about itself in the passport.

    unknown_tokens: tokens whose text is lost. differing_bytes: of the text, where a tokenizer changes texts
    and the text is known; both stand in the passport only where there are some.
    """

    documents: int
    text_bytes: int
    token_bytes: int
    tokens: int
    text_sha256: str | None
    shards: list[dict[str, Any]]
    unknown_tokens: int = 0
    differing_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in the passport."""
        rare = {"unknown_tokens": 0, "differing_bytes": None}
        facts = dataclasses.asdict(self)
        return {name: fact for name, fact in facts.items() if name not in rare or fact != rare[name]}


def make_passport(
    name: str,
    rule: str,
    tokenizer: Tokenizer,
    train: SplitFacts,
    val: SplitFacts,
    overlap: dict[str, int],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The data passport, as it is written to passport.json. case_ops and notes stand there if there are any.

    notes: what the reader should know of the source. Raises DataError if validation has no bytes to score.
    """
    if not val.token_bytes:
        raise DataError(
            "the validation tokens stand for no bytes, so nothing can be scored",
            where=name,
            value=f"{val.unknown_tokens:,} of {val.tokens:,} tokens are unknown",
            way_out="use a tokenizer that knows this text, e.g. one with byte fallback",
        )
    notes = [*notes, *_lost("train", train), *_lost("val", val)]
    return {
        "format": PASSPORT_FORMAT,
        "name": name,
        "rule": rule,
        "tokenizer_identity": tokenizer.identity,
        "tokenizer_lossless": tokenizer.lossless,
        "vocabulary_size": tokenizer.vocabulary_size,
        **({"case_ops": True} if tokenizer.case_ops else {}),
        "splits": {"train": train.to_json(), "val": val.to_json()},
        "overlap": overlap,
        **({"notes": notes} if notes else {}),
    }


def _lost(split: str, facts: SplitFacts) -> list[str]:
    notes = []
    if facts.unknown_tokens:
        share = f"{100 * facts.unknown_tokens / facts.tokens:.3g}%"
        notes.append(f"{split}: {facts.unknown_tokens:,} tokens ({share}) are unknown; their text is lost")
    if facts.differing_bytes:
        notes.append(f"{split}: lossy: {facts.differing_bytes:,} of {facts.text_bytes:,} bytes differ")
    return notes


def split_facts(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    documents: Sequence[bytes] | None,
    names: Sequence[str] = (),
) -> SplitFacts:
    """Count what the shards hold, and compare it with the documents they were made from if these are known.

    Without documents the text has as many bytes as its tokens stand for. names: of the shards in the dataset.
    """
    counted, unknown, last = 0, 0, np.array([max(tokenizer.bos, 0)], np.uint16)
    shards = []
    for path, name in zip(paths, names or [path.name for path in paths]):
        tokens = read_shard(path)
        for start in range(0, len(tokens), SCAN_TOKENS):
            part = tokens[start : start + SCAN_TOKENS]
            wrong = int(np.argmax(part >= tokenizer.vocabulary_size))
            if part[wrong] >= tokenizer.vocabulary_size:
                raise DataError(
                    f"a token is past the vocabulary of {tokenizer.vocabulary_size}",
                    where=f"{path}, token {start + wrong}",
                    value=int(part[wrong]),
                    way_out="give the tokenizer that made these shards",
                )
            counted += int(tokenizer.token_bytes(part, np.concatenate([last, part[:-1]])).sum())
            unknown += int((part == tokenizer.unknown).sum())
            last = part[-1:]
        shard_bytes = path.stat().st_size
        shards.append({"name": name, "tokens": len(tokens), "bytes": shard_bytes, "sha256": sha256_of(path)})
    stream = TokenStream(paths)
    starts = len(stream.documents(tokenizer.bos)) if tokenizer.bos >= 0 else None
    if documents is None:
        return SplitFacts(starts or 1, counted, counted, stream.tokens, None, shards, unknown)
    text_bytes, digest = sum(map(len, documents)), hashlib.sha256()
    for document in documents:
        digest.update(document)
    if starts not in (None, len(documents)):
        raise DataError(f"BOS count is not the {len(documents)} documents", value=starts)
    if tokenizer.lossless and counted != text_bytes:
        raise DataError(f"bytes of the tokens are not the {text_bytes} of the text", value=counted)
    differing = None if tokenizer.lossless else _differing_in_all(paths, tokenizer, documents)
    facts = (len(documents), text_bytes, counted, stream.tokens, digest.hexdigest())
    return SplitFacts(*facts, shards, unknown, differing)


def differing_bytes(text: bytes, decoded: bytes) -> int:
    """How many bytes of a text its tokens do not give back, at least; 0 only if they give back the text.

    Bytes are counted by their value, so what only changed places counts as one.
    """
    if text == decoded:
        return 0
    counts = (np.bincount(np.frombuffer(each, np.uint8), minlength=256) for each in (text, decoded))
    gap = next(counts) - next(counts)
    return max(int(gap[gap > 0].sum()), int(-gap[gap < 0].sum()), 1)


def _differing_in_all(paths: Sequence[Path], tokenizer: Tokenizer, documents: Sequence[bytes]) -> int:
    """Of documents one by one; without document starts of the whole."""
    texts = documents if tokenizer.bos >= 0 else [b"".join(documents)]
    return sum(map(differing_bytes, texts, shard_documents(paths, tokenizer)))


def shard_documents(paths: Sequence[Path], tokenizer: Tokenizer) -> Iterator[bytes]:
    """The text of each document in shards, as far as the tokenizer kept it."""
    stream = TokenStream(paths)
    starts = stream.documents(tokenizer.bos).tolist() if tokenizer.bos >= 0 else []
    edges = sorted({0, *starts, stream.tokens})
    for start, end in zip(edges[:-1], edges[1:]):
        yield tokenizer.decode(stream.read(start, end - start))
