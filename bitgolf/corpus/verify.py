"""The passport of data that lies there already: what holds, what does not, and what no check could see.

For any folder of token shards, with a passport or without. `verify` is a generator of progress that returns
`Verified`; an audit of data calls `finish(verify(folder))` and turns each `Check` that fails into a finding.
"""

import hashlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitgolf.base.errors import DataError, TokenizerError
from bitgolf.base.files import sha256_of
from bitgolf.corpus.belonging import LEAST_SHARE, share_returned
from bitgolf.corpus.passport import GRAM_WORDS, SCAN_BYTES, scan_overlap, shard_documents
from bitgolf.corpus.sources import Progress, Shards, shards_of
from bitgolf.text.shards import PASSPORT_FILE, TOKENIZER_FILE, TokenStream, read_passport
from bitgolf.text.tokenizer import Tokenizer

HOLDS, FAILS, OPEN = "holds", "fails", "cannot tell"
SPLITS = ("train", "val")
RUNS, RUN_TOKENS = 16, 64  # of validation that are looked for in the training tokens, evenly spread
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
    """A folder of shards. tokenizer, passport: None where there is none."""

    folder: Path
    splits: dict[str, TokenStream]
    tokenizer: Tokenizer | None
    passport: dict[str, Any] | None

    def stated(self, split: str) -> dict[str, Any] | None:
        """What the passport says of a split."""
        return None if self.passport is None else self.passport["splits"][split]

    def documents(self, split: str) -> Iterator[bytes]:
        """The texts of a split."""
        assert self.tokenizer is not None
        return shard_documents(self.splits[split].paths, self.tokenizer)


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


def verify(folder: Path) -> Generator[Progress, None, Verified]:
    """All checks of a folder. Raises DataError for shards whose headers or sizes are wrong."""
    data = opened(folder)
    facts: dict[str, Any] = {"folder": str(folder), "splits": {}}
    checks = yield from _files(data, facts)
    checks += yield from _tokens(data, facts)
    checks += yield from _runs(data)
    if data.tokenizer is None:
        names = ("tokenizer", "bytes", "losslessness", f"{GRAM_WORDS}-grams")
        checks += [Check(name, OPEN, "no tokenizer lies beside the shards") for name in names]
        checks += yield from _documents_by_tokens(data, facts)
        return Verified(checks, facts)
    facts |= _fingerprints(data, facts)
    checks += [*_tokenizer(data, facts)]
    checks += yield from _text(data, facts)
    checks += yield from _overlap(data, facts)
    return Verified(checks, facts)


def _files(data: Data, facts: dict[str, Any]) -> Checking:
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
    both = {*hashes["train"]} & {*hashes["val"]}
    name, unseen = "files of both splits", "copies that differ by a byte"
    said = f"{len(both)} files are in training and in validation"
    checks.append(Check(name, FAILS if both else HOLDS, said, "none", unseen))
    return checks


def _against_passport(data: Data, counts: str, hashes: dict[str, list[str]]) -> Check:
    name = "counts and hashes"
    if data.passport is None:
        return Check(name, OPEN, counts, "", "whether these are the files that were published: no passport")
    wrong = [
        shard["name"]
        for split in SPLITS
        for shard, found in zip(data.passport["splits"][split]["shards"], hashes[split])
        if shard["sha256"] != found
    ]
    wrong += [
        f"{split}: {data.passport['splits'][split]['tokens']:,} stated"
        for split, stream in data.splits.items()
        if data.passport["splits"][split]["tokens"] != stream.tokens
    ]
    unseen = "a passport that was written for changed files"
    said = f"{counts}; not as stated: {', '.join(wrong[:3])}" if wrong else counts
    return Check(name, FAILS if wrong else HOLDS, said, "as the passport says", unseen)


def _tokens(data: Data, facts: dict[str, Any]) -> Checking:
    """Ids within the vocabulary; a BOS where documents start."""
    largest: dict[str, int] = {}
    for split, stream in data.splits.items():
        yield Progress(f"ids of {split}", 0, 1)
        largest[split] = max(int(part.max()) for part in _parts(stream))
    if data.tokenizer is None:
        said = ", ".join(f"largest of {split}: {each}" for split, each in largest.items())
        return [Check("ids", OPEN, said), Check("BOS", OPEN, "no tokenizer lies beside the shards")]
    size = data.tokenizer.vocabulary_size
    said = ", ".join(f"{split} up to {each}" for split, each in largest.items())
    fits = max(largest.values()) < size
    checks = [
        Check("ids", HOLDS if fits else FAILS, said, f"below {size}", "ids that stand for another text")
    ]
    if not fits:
        raise TokenizerError(
            f"a token is past the vocabulary of {size}",
            where=str(data.folder),
            value=max(largest.values()),
            way_out="give the tokenizer that made these shards",
        )
    return [*checks, _bos(data, facts)]


def _bos(data: Data, facts: dict[str, Any]) -> Check:
    """Documents by their BOS. Without one, context leaks from one into the next, and none is found."""
    assert data.tokenizer is not None
    bos, unseen = data.tokenizer.bos, "documents that were joined before a BOS was put"
    if bos < 0:
        return Check("BOS", OPEN, "this tokenizer has none", "", "where documents start")
    words, wrong = [], []
    for split, stream in data.splits.items():
        starts = stream.documents(bos)
        count = len(starts)
        facts["splits"][split]["documents"] = count
        empty = int((np.diff(np.append(starts, stream.tokens)) == 1).sum())
        words.append(f"{split} {count:,} documents")
        if not count:
            wrong.append(f"{split} has no BOS at all")
        elif starts[0] != 0:
            wrong.append(f"{split} begins inside a document")
        if empty:
            wrong.append(f"{split} has {empty:,} empty documents")
        stated = data.stated(split)
        if stated is not None and stated["documents"] != count:
            wrong.append(f"{split}: {stated['documents']:,} stated")
    said = ", ".join([*words, *wrong])
    return Check("BOS", FAILS if wrong else HOLDS, said, "one before each document", unseen)


def _runs(data: Data) -> Checking:
    """Whether validation begins as training does, and whether runs of its tokens stand in training."""
    train, val = data.splits["train"], data.splits["val"]
    count = min(train.tokens, val.tokens)
    common, offset = 0, 0
    while offset < count:
        size = min(SCAN_BYTES, count - offset)
        same = train.read(offset, size) == val.read(offset, size)
        common = offset + (size if same.all() else int(np.argmin(same)))
        if not same.all():
            break
        offset += size
    whole = common == val.tokens
    said = f"{common:,} tokens alike from the start" + (", all of validation" if whole else "")
    unseen = "training text that comes later; other tokenizations of the same text"
    prefix = Check(
        "prefix", FAILS if common >= COMMON_START or whole else HOLDS, said, "fewer than 256", unseen
    )
    offsets = np.unique(np.linspace(0, max(val.tokens - RUN_TOKENS, 0), RUNS).astype(int)).tolist()
    wanted = {start: val.read(start, min(RUN_TOKENS, val.tokens)).tobytes() for start in offsets}
    found: set[int] = set()
    for done, part in enumerate(_parts(train, RUN_TOKENS)):
        yield Progress("runs", done, 0)
        text = part.tobytes()
        found |= {start for start, run in wanted.items() if start not in found and _stands_in(run, text)}
    said = f"{len(found)} of {len(wanted)} runs of {RUN_TOKENS} validation tokens stand in training"
    unseen = "text between these runs; text under another tokenization"
    return [prefix, Check("runs of tokens", FAILS if found else HOLDS, said, "none", unseen)]


def _documents_by_tokens(data: Data, facts: dict[str, Any]) -> Checking:
    """Validation documents in training by their tokens, where both splits begin with one token.

    That this token starts every document is a guess: public shards begin with their BOS.
    """
    train, val = data.splits["train"], data.splits["val"]
    start = int(val.read(0, 1)[0])
    name, starts = "exact documents", val.documents(start)
    if int(train.read(0, 1)[0]) != start:
        return [Check(name, OPEN, "the splits begin with different tokens, and no tokenizer tells a BOS")]
    wanted = {hashlib.sha256(each).digest() for each in _token_documents(val, start)}
    found: set[bytes] = set()
    for done, document in enumerate(_token_documents(train, start)):
        if done % 10_000 == 0:
            yield Progress("documents", done, 0)
        found |= wanted & {hashlib.sha256(document).digest()}
    facts["splits"]["val"]["documents"] = len(starts)
    said = f"{len(found):,} of {len(wanted):,} different validation documents are training documents"
    unseen = f"documents that differ by a token; whether {start}, the first token, starts each of them"
    return [Check(name, FAILS if found else HOLDS, said, "none", unseen)]


def _token_documents(stream: TokenStream, start: int) -> Iterator[bytes]:
    """The tokens of each document, as bytes, without the one that starts it."""
    edges = [*stream.documents(start).tolist(), stream.tokens]
    for first, end in zip(edges, edges[1:]):
        if end - first > 1:
            yield stream.read(first + 1, end - first - 1).tobytes()


def _stands_in(run: bytes, text: bytes) -> bool:
    """Whether a run of two-byte tokens stands in another at a whole token."""
    offset = text.find(run)
    while offset >= 0 and offset % 2:
        offset = text.find(run, offset + 1)
    return offset >= 0


def _parts(stream: TokenStream, overlap: int = 0) -> Iterator[np.ndarray]:
    """The tokens of a stream in pieces; each begins with the last ones of the piece before."""
    for start in range(0, stream.tokens, SCAN_BYTES):
        first = max(start - overlap, 0)
        yield stream.read(first, min(start + SCAN_BYTES, stream.tokens) - first)


def _fingerprints(data: Data, facts: dict[str, Any]) -> dict[str, Any]:
    """What tells these tokens from others: hashes, bytes a token, the score of a model that knows nothing."""
    tokenizer = data.tokenizer
    assert tokenizer is not None
    for split, stream in data.splits.items():
        counted, unknown, last = 0, 0, np.array([max(tokenizer.bos, 0)], np.uint16)
        digest = hashlib.sha256()
        for part in _parts(stream):
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


def _tokenizer(data: Data, facts: dict[str, Any]) -> Iterator[Check]:
    """Whether this tokenizer made these shards, and whether it keeps every byte."""
    tokenizer = data.tokenizer
    assert tokenizer is not None
    wrong = data.passport is not None and data.passport["tokenizer_identity"] != tokenizer.identity
    shares = {split: share_returned(stream.paths, tokenizer) for split, stream in data.splits.items()}
    said = ", ".join(
        f"{100 * share:.3g}% of a sample of {split} comes back" for split, share in shares.items()
    )
    if wrong:
        said += "; its identity is not the one in the passport"
    fails = wrong or min(shares.values()) < LEAST_SHARE
    unseen = "what is not in the sample; control tokens"
    yield Check(
        "tokenizer", FAILS if fails else HOLDS, said, "tokens that encoding their text gives again", unseen
    )


def _text(data: Data, facts: dict[str, Any]) -> Checking:
    """Bytes of the text, and whether the text is all there."""
    tokenizer = data.tokenizer
    assert tokenizer is not None
    words, wrong = [], []
    for split in SPLITS:
        yield Progress(f"text of {split}", 0, 1)
        own, stated = facts["splits"][split], data.stated(split)
        digest = hashlib.sha256()
        size = 0
        for document in data.documents(split):
            digest.update(document)
            size += len(document)
        own |= {"text_bytes": size, "text_sha256": digest.hexdigest()}
        words.append(f"{split} {own['token_bytes']:,} bytes by its tokens")
        if size != own["token_bytes"]:
            wrong.append(f"{split} decodes to {size:,}")
        if stated and stated.get("token_bytes", own["token_bytes"]) != own["token_bytes"]:
            wrong.append(f"{split}: {stated['token_bytes']:,} stated")
    unseen = "whether the source had other bytes: it is not here"
    checks = [
        Check("bytes", FAILS if wrong else HOLDS, ", ".join([*words, *wrong]), "those of the text", unseen)
    ]
    return [*checks, _lossless(data, facts)]


def _lossless(data: Data, facts: dict[str, Any]) -> Check:
    assert data.tokenizer is not None
    lost = sum(facts["splits"][split]["unknown_tokens"] for split in SPLITS)
    name, unseen = "losslessness", "what was changed before the text was tokenized"
    if lost:
        said = f"{lost:,} unknown tokens, whose text is lost"
        return Check(name, FAILS, said, "every byte of the text", unseen)
    if not data.tokenizer.lossless:
        said = "this tokenizer changes texts before it cuts them, and the original is not here"
        return Check(name, OPEN, said, "every byte of the text", unseen)
    changed = [
        split
        for split in SPLITS
        if (stated := data.stated(split)) is not None
        and stated["text_sha256"] not in (None, facts["splits"][split]["text_sha256"])
    ]
    if changed:
        said = f"the text of {' and '.join(changed)} is not the one of the passport"
        return Check(name, FAILS, said, "the SHA-256 in the passport", unseen)
    if data.passport is None:
        return Check(name, HOLDS, "a tokenizer that keeps every byte", "every byte of the text", unseen)
    return Check(name, HOLDS, "decoded, the text has the SHA-256 of the passport", "the same bytes", unseen)


def _overlap(data: Data, facts: dict[str, Any]) -> Checking:
    """Validation documents and their 13-grams in the training text."""
    total, overlap = facts["splits"]["train"]["token_bytes"], dict[str, int]()
    for done, found in scan_overlap(data.documents("train"), data.documents("val")):
        yield Progress("overlap", min(done, total), total)
        overlap = found
    facts["overlap"] = overlap
    documents = facts["splits"]["val"].get("documents", 1)
    said = f"{overlap['exact_documents']:,} of {documents:,} validation documents are training documents"
    if data.tokenizer is not None and data.tokenizer.bos < 0:
        said, sure = "no BOS tells documents apart", OPEN
    else:
        sure = FAILS if overlap["exact_documents"] else HOLDS
    unseen = "documents that differ by a byte; training shards that are not here"
    checks = [Check("exact documents", sure, said, "none", unseen)]
    name = f"{GRAM_WORDS}-grams"
    if not overlap["checked_13grams"]:
        said = "validation has no document of 13 words"
        return [*checks, Check(name, OPEN, said, "", unseen)]
    share = overlap["shared_13grams"] / overlap["checked_13grams"]
    said = (
        f"{overlap['shared_13grams']:,} of {overlap['checked_13grams']:,} different ones "
        f"({100 * share:.2f}%) stand in training"
    )
    unseen = "documents below 13 words; paraphrases; training shards that are not here"
    sure = FAILS if share > MOST_SHARED else HOLDS
    return [*checks, Check(name, sure, said, f"at most {100 * MOST_SHARED:.0f}%", unseen)]


def shown(checks: Sequence[Check]) -> list[tuple[str, ...]]:
    """Checks as rows of a table."""
    return [(each.name, each.sure, each.found, each.expected or "-", each.unseen or "-") for each in checks]
