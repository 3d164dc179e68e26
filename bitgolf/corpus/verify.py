"""Checks of existing data: what holds, what fails, and what no check can see.

For any folder of token shards, with a passport or without. `verify` is a generator of progress that returns
`Verified`. An audit of data takes the checks that need no text as a whole, over part of the tokens.
"""

import hashlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitgolf.base.errors import DataError, TokenizerError
from bitgolf.base.files import sha256_of
from bitgolf.corpus.belonging import LEAST_SHARE, share_returned
from bitgolf.corpus.blocks import BLOCK_TOKENS, Block, Digests, decoded, parts_of, token_blocks
from bitgolf.corpus.overlap import (
    BYTES_A_WORD,
    GRAM_WORDS,
    MOST_KEPT,
    Wanted,
    rate_for,
    scan_overlap,
    share_in_words,
)
from bitgolf.corpus.passport import SCAN_TOKENS
from bitgolf.corpus.sources import Progress, Shards, shards_of
from bitgolf.text.shards import PASSPORT_FILE, TOKENIZER_FILE, TokenStream, read_passport
from bitgolf.text.tokenizer import Tokenizer

HOLDS, FAILS, OPEN = "holds", "fails", "cannot tell"
SPLITS = ("train", "val")
DOCUMENTS = "exact documents"
STARTS = (1, 50256)  # usual tokens of a document's start: of SentencePiece, of GPT-2
RUN_TOKENS = 24  # some ten words
MOST_RUNS = 0.02  # of validation's that common phrases and licences may share
HEAD_TOKENS = 2_000_000  # in which the start of documents is looked for
FACTOR = np.uint64(0x9E3779B97F4A7C15)
COMMON_START = 256  # tokens: two texts may begin alike by chance, but not for so long
MOST_SHARED = 0.1  # of the 13-grams; phrases, headings and boilerplate are shared by any two halves of a text


class Check(NamedTuple):
    """One check. sure: holds, fails, or cannot tell. unseen: what it cannot see, whatever it says."""

    name: str
    sure: str
    found: str
    expected: str = ""
    unseen: str = ""


class Verified(NamedTuple):
    """What was found of a folder. facts: counts, hashes and fingerprints as JSON data."""

    checks: list[Check]
    facts: dict[str, Any]

    @property
    def failed(self) -> list[Check]:
        """The checks that do not hold."""
        return [each for each in self.checks if each.sure == FAILS]


class Data(NamedTuple):
    """A folder of shards. splits: those that are there. tokenizer, passport: None where there is none."""

    folder: Path
    splits: dict[str, TokenStream]
    tokenizer: Tokenizer | None
    passport: dict[str, Any] | None

    def stated(self, split: str) -> dict[str, Any] | None:
        """What the passport says of a split."""
        return None if self.passport is None else self.passport["splits"][split]

    @property
    def start(self) -> int:
        """The token that begins documents, guessed where no tokenizer says so; -1 where none does."""
        if self.tokenizer is not None:
            return self.tokenizer.bos
        stream = self.splits.get("val") or self.splits["train"]
        head = stream.read(0, min(stream.tokens, HEAD_TOKENS))
        first = int(head[0])
        special = first in STARTS or first < 4 or first == int(head.max())
        likely = [first] * special + [*STARTS]
        return next((token for token in likely if int((head == token).sum()) > 1), -1)


Checking = Generator[Progress, None, list[Check]]


def opened(folder: Path) -> Data:
    """The shards of a folder by passport, or by their names. Raises DataError for what holds none."""
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), way_out="give a folder with token shards")
    if (folder / PASSPORT_FILE).is_file():
        passport = read_passport(folder)
        paths = {
            split: [folder / shard["name"] for shard in passport["splits"][split]["shards"]]
            for split in SPLITS
        }
        return Data(folder, _streams(paths), Tokenizer.load(folder / TOKENIZER_FILE), passport)
    paths = {split: shards_of(folder, split) for split in SPLITS}
    if not all(paths.values()):
        raise DataError(
            "shards for training and validation are needed",
            where=str(folder),
            value=f"{len(paths['train'])} training, {len(paths['val'])} validation",
            way_out="name them *train*.bin and *val*.bin",
        )
    models = Shards(folder).models() or [*folder.glob(TOKENIZER_FILE)]
    if len(models) > 1:
        value, way_out = [path.name for path in models], "leave the one that made the shards"
        raise DataError("more than one .model file", where=str(folder), value=value, way_out=way_out)
    return Data(folder, _streams(paths), Tokenizer.load(models[0]) if models else None, None)


def _streams(paths: dict[str, list[Path]]) -> dict[str, TokenStream]:
    return {split: TokenStream(files) for split, files in paths.items()}


def verify(folder: Path, most_kept: int = MOST_KEPT) -> Generator[Progress, None, Verified]:
    """All checks of a folder. Raises DataError for shards whose headers or sizes are wrong.

    most_kept: hashes of validation text that are held in memory; of more than that, a sample is.
    """
    data = opened(folder)
    facts: dict[str, Any] = {"folder": str(folder), "splits": {}}
    checks = yield from by_files(data, facts)
    checks += yield from by_ids(data, facts)
    shared = yield from shared_tokens(data, most_kept=most_kept)
    if data.tokenizer is None:
        names = ("tokenizer", "bytes", "losslessness", f"{GRAM_WORDS}-grams")
        checks += [*shared, *(Check(name, OPEN, "no tokenizer lies beside the shards") for name in names)]
        return Verified(checks, facts)
    checks += [each for each in shared if each.name != DOCUMENTS]  # by their text, below
    facts |= _fingerprints(data, facts)
    checks += [came_back(data)]
    checks += yield from _text(data, facts, most_kept)
    return Verified(checks, facts)


def by_files(data: Data, facts: dict[str, Any]) -> Checking:
    """Counts and hashes of the files, against the passport and against each other."""
    hashes: dict[str, list[str]] = {}
    for split, stream in data.splits.items():
        shards: list[dict[str, Any]] = []
        for done, (path, tokens) in enumerate(zip(stream.paths, stream.shards)):
            yield Progress(f"hash {split}", done, len(stream.paths))
            shards.append({"name": path.name, "tokens": len(tokens), "sha256": sha256_of(path)})
        hashes[split] = [str(shard["sha256"]) for shard in shards]
        facts["splits"][split] = {"tokens": stream.tokens, "shards": shards}
    counts = ", ".join(
        f"{split} {stream.tokens:,} tokens in {len(stream.paths)} shards"
        for split, stream in data.splits.items()
    )
    checks = [_against_passport(data, counts, hashes)]
    both = {*hashes.get("train", ())} & {*hashes.get("val", ())}
    name, unseen = "files of both splits", "copies that differ by a byte"
    detail = f"{len(both)} files are in training and in validation"
    checks.append(Check(name, FAILS if both else HOLDS, detail, "none", unseen))
    return checks


def _against_passport(data: Data, counts: str, hashes: dict[str, list[str]]) -> Check:
    name = "counts and hashes"
    if data.passport is None:
        return Check(name, OPEN, counts, "", "whether these are the files that were published: no passport")
    wrong = [
        shard["name"]
        for split in hashes
        for shard, sha256 in zip(data.passport["splits"][split]["shards"], hashes[split])
        if shard["sha256"] != sha256
    ]
    wrong += [
        f"{split}: {data.passport['splits'][split]['tokens']:,} stated"
        for split, stream in data.splits.items()
        if data.passport["splits"][split]["tokens"] != stream.tokens
    ]
    unseen = "a passport that was written for changed files"
    detail = f"{counts}; not as stated: {', '.join(wrong[:3])}" if wrong else counts
    return Check(name, FAILS if wrong else HOLDS, detail, "as the passport says", unseen)


def by_ids(data: Data, facts: dict[str, Any]) -> Checking:
    """Ids within the vocabulary; a BOS where documents start."""
    largest: dict[str, int] = {}
    for split, stream in data.splits.items():
        yield Progress(f"ids of {split}", 0, 1)
        largest[split] = max(int(part.max()) for part in parts_of(stream))
    if data.tokenizer is None:
        detail = ", ".join(f"largest of {split}: {each}" for split, each in largest.items())
        return [Check("ids", OPEN, detail), document_starts(data, facts)]
    vocabulary_size = data.tokenizer.vocabulary_size
    detail = ", ".join(f"{split} up to {each}" for split, each in largest.items())
    fits = max(largest.values()) < vocabulary_size
    checks = [
        Check(
            "ids",
            HOLDS if fits else FAILS,
            detail,
            f"below {vocabulary_size}",
            "ids that stand for another text",
        )
    ]
    if not fits:
        raise TokenizerError(
            f"a token is past the vocabulary of {vocabulary_size}",
            where=str(data.folder),
            value=max(largest.values()),
            way_out="give the tokenizer that made these shards",
        )
    return [*checks, document_starts(data, facts)]


def document_starts(data: Data, facts: dict[str, Any]) -> Check:
    """Documents by their BOS. Without one, context leaks from one into the next, and none is found."""
    bos, has_tokenizer = data.start, data.tokenizer is not None
    unseen = "documents that were joined before a BOS was put"
    if bos < 0 and has_tokenizer:
        return Check("BOS", OPEN, "this tokenizer has none", "", "where documents start")
    parts, wrong = [], []
    for split, stream in data.splits.items():
        count, empty, first = _starts(stream, bos)
        facts["splits"][split]["documents"] = count
        parts.append(f"{split} {count:,} documents")
        if not count:
            wrong.append(f"{split} has no BOS at all")
        elif not first:
            wrong.append(f"{split} begins inside a document")
        if empty and has_tokenizer:
            wrong.append(f"{split} has {empty:,} empty documents")
        stated = data.stated(split)
        if stated is not None and stated["documents"] != count:
            wrong.append(f"{split}: {stated['documents']:,} stated")
    detail = ", ".join([*parts, *wrong])
    if not has_tokenizer:
        unseen = "whether this token starts each document: no tokenizer tells its BOS"
        detail = (
            f"by token {bos}: {detail}"
            if bos >= 0
            else f"no token begins documents: neither {STARTS[0]} nor "
        )
        detail += "" if bos >= 0 else f"{STARTS[1]}, nor the first one, comes again"
    return Check(
        "BOS",
        FAILS if wrong else HOLDS if has_tokenizer else OPEN,
        detail,
        "one before each document",
        unseen,
    )


def _starts(stream: TokenStream, bos: int) -> tuple[int, int, bool]:
    """How many BOS there are, after how many no token comes, and whether the first token is one."""
    count, empty, before, first = 0, 0, False, stream.read(0, 1)[0] == bos
    for part in parts_of(stream):
        there = np.concatenate([[before], part == bos])
        count += int(there[1:].sum())
        empty += int((there[1:] & there[:-1]).sum())
        before = bool(there[-1])
    return count, empty + before, bool(first)


def shared_tokens(data: Data, most_train: int | None = None, most_kept: int = MOST_KEPT) -> Checking:
    """What training has of validation: its start, runs of its tokens, whole documents of them.

    most_train: tokens of training that are read. most_kept: as in `verify`. Runs count as 64-bit hashes.
    """
    train, val = data.splits["train"], data.splits["val"]
    read = min(train.tokens, most_train or train.tokens)
    common = _alike(train, val)
    documents, runs = Wanted(), Wanted(rate_for(val.tokens, most_kept))
    total, done = val.tokens + read, 0
    for stream, end, of_documents, of_runs in (
        (val, val.tokens, documents.add, runs.add),
        (train, read, documents.look, runs.look),
    ):
        digests, tail, position = Digests(2 * RUN_TOKENS + 2), np.zeros(0, np.uint16), 0
        for block in token_blocks(stream, data.start):
            if position >= end:
                break
            yield Progress("shared tokens", min(done + position, total), total)
            of_documents(digests.update(block))
            of_runs(_runs(np.concatenate([tail, block.values]), data.start))
            tail = block.values[1 - RUN_TOKENS :]
            position += len(block.values)
        of_documents(digests.last())
        done += end
    part = "" if read == train.tokens else f", of the first {read:,} training tokens"
    whole = common == val.tokens
    detail = f"{common:,} tokens alike from the start{', all of validation' if whole else ''}"
    unseen = "training text that comes later; other tokenizations of the same text"
    fails = common >= COMMON_START or whole
    checks = [Check("prefix", FAILS if fails else HOLDS, detail, f"fewer than {COMMON_START}", unseen)]
    share = runs.seen / max(runs.different, 1)
    detail = f"{100 * share:.2g}% of the runs of {RUN_TOKENS} validation tokens stand in training{part}"
    detail += share_in_words(runs.one_of, "runs")
    unseen = "shorter runs; text under another tokenization"
    sure = FAILS if share > MOST_RUNS else HOLDS
    checks.append(Check("runs of tokens", sure, detail, f"at most {100 * MOST_RUNS:g}%", unseen))
    if data.start < 0:
        return [*checks, Check(DOCUMENTS, OPEN, "no token tells where documents begin")]
    detail = (
        f"{documents.seen:,} of {documents.different:,} different validation documents are training documents"
    )
    unseen = f"documents that differ by a token; those of up to {RUN_TOKENS} tokens; "
    unseen += f"whether {data.start} starts each of them"
    return [*checks, Check(DOCUMENTS, FAILS if documents.seen else HOLDS, detail + part, "none", unseen)]


def _alike(one: TokenStream, other: TokenStream) -> int:
    """How many tokens two streams have in common from their start."""
    least = min(one.tokens, other.tokens)
    for start in range(0, least, SCAN_TOKENS):
        count = min(SCAN_TOKENS, least - start)
        differs = one.read(start, count) != other.read(start, count)
        if differs.any():
            return start + int(np.argmax(differs))
    return least


def _runs(ids: np.ndarray, start: int) -> np.ndarray:
    """A 64-bit hash of every run of tokens that no document begins in."""
    count = max(len(ids) - RUN_TOKENS + 1, 0)
    total = _polynomials(ids, RUN_TOKENS)[:count]
    total = (total ^ (total >> np.uint64(31))) * FACTOR
    if start < 0 or not count:
        return total
    begun = np.cumsum(np.concatenate([[0], ids == start]))
    return total[begun[RUN_TOKENS:] == begun[:count]]


def _polynomials(ids: np.ndarray, length: int) -> np.ndarray:
    """(id + 1) * FACTOR^place, summed over every run of so many tokens, modulo 2^64; from halves of runs."""
    if length == 1:
        return ids.astype(np.uint64) + np.uint64(1)
    left = _polynomials(ids, (length + 1) // 2)
    rest = length // 2
    right = left if length % 2 == 0 else _polynomials(ids, rest)
    right = right[length - rest :]
    return left[: len(right)] * np.uint64(pow(int(FACTOR), rest, 1 << 64)) + right


def _fingerprints(data: Data, facts: dict[str, Any]) -> dict[str, Any]:
    """What tells these tokens from others: hashes, bytes a token, the score of a model that knows nothing."""
    tokenizer = data.tokenizer
    assert tokenizer is not None
    for split, stream in data.splits.items():
        counted, unknown, last = 0, 0, np.array([max(tokenizer.bos, 0)], np.uint16)
        digest = hashlib.sha256()
        for part in parts_of(stream):
            counted += int(tokenizer.token_bytes(part, np.concatenate([last, part[:-1]])).sum())
            unknown += int((part == tokenizer.unknown).sum())
            digest.update(part.astype("<u2").tobytes())
            last = part[-1:]
        facts["splits"][split] |= {
            "token_bytes": counted,
            "unknown_tokens": unknown,
            "tokens_sha256": digest.hexdigest(),
        }
    val = facts["splits"]["val"]
    rate = val["token_bytes"] / max(val["tokens"] - 1, 1)
    return {
        "tokenizer_identity": tokenizer.identity,
        "vocabulary_size": tokenizer.vocabulary_size,
        "bytes_per_token": rate,
        # What the step 0 of a public log is near to: every token as likely as any other.
        "uniform_bits_per_byte": float(np.log2(tokenizer.vocabulary_size) / rate) if rate else None,
    }


def came_back(data: Data) -> Check:
    """Whether this tokenizer made these shards, and whether it keeps every byte."""
    tokenizer = data.tokenizer
    assert tokenizer is not None
    wrong = data.passport is not None and data.passport["tokenizer_identity"] != tokenizer.identity
    shares = {split: share_returned(stream.paths, tokenizer) for split, stream in data.splits.items()}
    detail = ", ".join(
        f"{100 * share:.3g}% of a sample of {split} comes back" for split, share in shares.items()
    )
    if wrong:
        detail += "; its identity is not the one in the passport"
    fails = wrong or min(shares.values()) < LEAST_SHARE
    unseen = "what is not in the sample; control tokens"
    return Check(
        "tokenizer", FAILS if fails else HOLDS, detail, "tokens that encoding their text gives again", unseen
    )


def _text(data: Data, facts: dict[str, Any], most_kept: int) -> Checking:
    """What the text shows, decoded once: its bytes, whether it is all there, what both splits share."""
    assert data.tokenizer is not None
    digests, sizes = {split: hashlib.sha256() for split in SPLITS}, dict.fromkeys(SPLITS, 0)

    def text(split: str) -> Iterator[Block]:
        for block in decoded(data.splits[split], tokenizer):
            digests[split].update(block.values.data)
            sizes[split] += len(block.values)
            yield block

    tokenizer = data.tokenizer
    total = sum(facts["splits"][split]["token_bytes"] for split in SPLITS)
    one_of = rate_for(facts["splits"]["val"]["token_bytes"] // BYTES_A_WORD, most_kept)
    for done, counts in scan_overlap(text("train"), text("val"), one_of):
        yield Progress("text", min(done, total), total)
        facts["overlap"] = counts
    parts, wrong = [], []
    for split in SPLITS:
        own, stated, num_bytes = facts["splits"][split], data.stated(split), sizes[split]
        own |= {"text_bytes": num_bytes, "text_sha256": digests[split].hexdigest()}
        parts.append(f"{split} {own['token_bytes']:,} bytes by its tokens")
        if num_bytes != own["token_bytes"]:
            wrong.append(f"{split} decodes to {num_bytes:,}")
        if stated and stated.get("token_bytes", own["token_bytes"]) != own["token_bytes"]:
            wrong.append(f"{split}: {stated['token_bytes']:,} stated")
    unseen = "whether the source had other bytes: it is not here"
    checks = [
        Check("bytes", FAILS if wrong else HOLDS, ", ".join([*parts, *wrong]), "those of the text", unseen)
    ]
    return [*checks, _lossless(data, facts), *_overlap(data, facts)]


def _lossless(data: Data, facts: dict[str, Any]) -> Check:
    assert data.tokenizer is not None
    lost = sum(facts["splits"][split]["unknown_tokens"] for split in SPLITS)
    name, unseen = "losslessness", "what was changed before the text was tokenized"
    if lost:
        detail = f"{lost:,} unknown tokens, whose text is lost"
        return Check(name, FAILS, detail, "every byte of the text", unseen)
    if not data.tokenizer.lossless:
        detail = "this tokenizer changes texts before it cuts them, and the original is not here"
        return Check(name, OPEN, detail, "every byte of the text", unseen)
    changed = [
        split
        for split in SPLITS
        if (stated := data.stated(split)) is not None
        and stated["text_sha256"] not in (None, facts["splits"][split]["text_sha256"])
    ]
    if changed:
        detail = f"the text of {' and '.join(changed)} is not the one of the passport"
        return Check(name, FAILS, detail, "the SHA-256 in the passport", unseen)
    if data.passport is None:
        return Check(name, HOLDS, "a tokenizer that keeps every byte", "every byte of the text", unseen)
    return Check(name, HOLDS, "decoded, the text has the SHA-256 of the passport", "the same bytes", unseen)


def _overlap(data: Data, facts: dict[str, Any]) -> list[Check]:
    """Validation documents and their 13-grams in the training text."""
    overlap = facts["overlap"]
    documents = facts["splits"]["val"].get("documents", 1)
    detail = f"{overlap['exact_documents']:,} of {documents:,} validation documents are training documents"
    if data.tokenizer is not None and data.tokenizer.bos < 0:
        detail, sure = "no BOS tells documents apart", OPEN
    else:
        sure = FAILS if overlap["exact_documents"] else HOLDS
    unseen = "documents that differ by a byte; training shards that are not here"
    checks = [Check(DOCUMENTS, sure, detail, "none", unseen)]
    name = f"{GRAM_WORDS}-grams"
    if not overlap["checked_13grams"]:
        detail = "validation has no document of 13 words"
        return [*checks, Check(name, OPEN, detail, "", unseen)]
    share = overlap["shared_13grams"] / overlap["checked_13grams"]
    detail = (
        f"{overlap['shared_13grams']:,} of {overlap['checked_13grams']:,} different ones "
        f"({100 * share:.2f}%) stand in training"
    )
    detail += share_in_words(overlap.get("looked_at_1_of", 1), f"{GRAM_WORDS}-grams")
    unseen = "documents below 13 words; paraphrases; training shards that are not here; "
    unseen += f"of a document above {BLOCK_TOKENS:,} tokens 12 {GRAM_WORDS}-grams after each so many"
    sure = FAILS if share > MOST_SHARED else HOLDS
    return [*checks, Check(name, sure, detail, f"at most {100 * MOST_SHARED:.0f}%", unseen)]


def shown(checks: Sequence[Check]) -> list[tuple[str, ...]]:
    """Checks as rows of a table."""
    return [(each.name, each.sure, each.found, each.expected or "-", each.unseen or "-") for each in checks]
