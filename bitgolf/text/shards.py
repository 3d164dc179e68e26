"""Token files in the public challenge's format, memory-mapped, and the dataset folder around them."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitgolf.base.errors import DataError, ShardError
from bitgolf.base.files import is_plain_name, read_json, sha256_of, write_bytes
from bitgolf.text.tokenizer import Tokenizer

SHARD_MAGIC, SHARD_VERSION = 20240520, 1
SHARD_HEADER_WORDS = 256  # little-endian int32: magic, version, token count, zeros
SHARD_HEADER_BYTES = 4 * SHARD_HEADER_WORDS
SHARD_TOKENS = 100_000_000  # what the public exporter puts into one file

PASSPORT_FORMAT = "bitgolf dataset 1"
PASSPORT_FILE, TOKENIZER_FILE = "passport.json", "tokenizer.bin"


def write_shard(path: Path, tokens: np.ndarray | Sequence[int]) -> None:
    """Write ids below 65,536 as one shard."""
    ids = np.asarray(tokens)
    if ids.ndim != 1 or (ids.size and (ids.min() < 0 or ids.max() > 65535)):
        raise ShardError("tokens must be one row of ids from 0 to 65535", where=str(path), value=ids.shape)
    header = np.zeros(SHARD_HEADER_WORDS, "<i4")
    header[:3] = SHARD_MAGIC, SHARD_VERSION, ids.size
    write_bytes(path, header.tobytes() + ids.astype("<u2").tobytes())


def read_shard(path: Path) -> np.ndarray:
    """The tokens of a shard as a read-only memory map. Raises ShardError naming the byte and the check."""
    again = "copy or build the file again"
    if path.exists() and not path.is_file():  # reading a pipe would wait
        raise ShardError("cannot read shard: not a file", where=str(path))
    try:
        with path.open("rb") as file:
            head = file.read(SHARD_HEADER_BYTES)
        file_bytes = path.stat().st_size
    except OSError as error:
        raise ShardError(f"cannot read shard: {error.strerror}", where=str(path)) from None
    if len(head) < SHARD_HEADER_BYTES:
        raise ShardError(
            f"cut short at byte {file_bytes} inside the header of {SHARD_HEADER_BYTES} bytes",
            where=str(path),
            way_out=again,
        )
    magic, version, count = np.frombuffer(head, "<i4")[:3].tolist()
    if magic != SHARD_MAGIC:
        raise ShardError(
            f"not a token shard: magic at byte 0 must be {SHARD_MAGIC}", where=str(path), value=magic
        )
    if version != SHARD_VERSION:
        raise ShardError(
            f"unknown version at byte 4, expected {SHARD_VERSION}", where=str(path), value=version
        )
    if count < 0:
        raise ShardError("negative token count at byte 8", where=str(path), value=count)
    expected = SHARD_HEADER_BYTES + 2 * count
    if file_bytes != expected:
        fault = (
            f"cut short at byte {file_bytes}"
            if file_bytes < expected
            else f"trailing bytes from byte {expected}"
        )
        raise ShardError(
            f"{fault}: size must be {SHARD_HEADER_BYTES} + 2 x {count} = {expected}",
            where=str(path),
            value=file_bytes,
            way_out=again,
        )
    if count == 0:
        return np.zeros(0, np.uint16)
    return np.memmap(path, np.dtype("<u2"), mode="r", offset=SHARD_HEADER_BYTES, shape=(count,))


class TokenStream:
    """Shards, in the given order, as one sequence of tokens; reading past the end continues at the start.

    paths: the files; shards: their tokens, if they are open already.
    """

    def __init__(self, paths: Sequence[Path], shards: Sequence[np.ndarray] = ()) -> None:
        self.paths = tuple(paths)
        self.shards = list(shards) or [read_shard(path) for path in self.paths]
        self._starts = [0, *itertools.accumulate(len(shard) for shard in self.shards)]
        self.tokens = self._starts[-1]
        if self.tokens == 0:
            raise ShardError("no tokens", where=", ".join(map(str, paths)) or "no shard")

    def read(self, start: int, count: int) -> np.ndarray:
        """`count` tokens (uint16) from `start`, which may lie any number of passes ahead."""
        parts, position = [], start % self.tokens
        while count > 0:
            shard = int(np.searchsorted(self._starts, position, side="right")) - 1
            offset = position - self._starts[shard]
            parts.append(self.shards[shard][offset : offset + count])
            count -= len(parts[-1])
            position = (position + len(parts[-1])) % self.tokens
        return np.concatenate(parts) if parts else np.zeros(0, np.uint16)

    def all(self) -> np.ndarray:
        """Every token once (uint16)."""
        return self.read(0, self.tokens)

    def location(self, position: int) -> str:
        """The shard that holds a token, and the token's index there, for messages."""
        shard = int(np.searchsorted(self._starts, position, side="right")) - 1
        return f"{self.paths[shard]}, token {position - self._starts[shard]}"

    def documents(self, bos: int) -> np.ndarray:
        """Where documents start (int64): the positions of the BOS token."""
        starts = [
            np.flatnonzero(shard == bos) + start for shard, start in zip(self.shards, self._starts[:-1])
        ]
        return np.concatenate(starts).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A folder of shards with the tokenizer that made them and a passport that describes them."""

    folder: Path
    passport: dict[str, Any]
    tokenizer: Tokenizer
    train: TokenStream
    val: TokenStream

    @staticmethod
    def open(folder: Path | str) -> "Dataset":
        """Open a folder; checks passport, tokenizer, and header and size of every shard. See `verify`."""
        folder = Path(folder)
        passport = read_passport(folder)
        tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
        if tokenizer.identity != passport["tokenizer_identity"]:
            raise DataError(
                "this tokenizer did not make these shards",
                where=str(folder / TOKENIZER_FILE),
                value=tokenizer.identity[:16],
                way_out=f"put back {passport['tokenizer_identity'][:16]} or build the data again",
            )
        return Dataset(
            folder,
            passport,
            tokenizer,
            _open_split(folder, passport, "train"),
            _open_split(folder, passport, "val"),
        )

    def check(self, split: str) -> None:
        """Hash the shards of a split. Raises ShardError unless they are those of the passport."""
        for shard in self.passport["splits"][split]["shards"]:
            path = self.folder / shard["name"]
            _expect(sha256_of(path), shard["sha256"], "hash of the shard", path)

    def scored_tokens(self) -> np.ndarray:
        """The validation tokens (uint16), after a check of their hashes and ids; only these are scored."""
        self.check("val")
        if not self.passport["splits"]["val"].get("token_bytes", 1):
            raise DataError("the validation tokens stand for no bytes", where=str(self.folder))
        tokens = self.val.all()
        for position in np.flatnonzero(tokens >= self.tokenizer.vocabulary_size)[:1].tolist():
            raise ShardError(
                f"a token is past the vocabulary of {self.tokenizer.vocabulary_size}",
                where=self.val.location(position),
                value=int(tokens[position]),
                way_out="build the dataset again",
            )
        return tokens

    def verify(self) -> None:
        """Check everything: hashes of shards, a BOS for each document, the hash of the decoded text."""
        for split, stream in (("train", self.train), ("val", self.val)):
            self.check(split)
            facts = self.passport["splits"][split]
            if self.tokenizer.bos >= 0:
                _expect(
                    len(stream.documents(self.tokenizer.bos)),
                    facts["documents"],
                    f"BOS count of {split}",
                    self.folder,
                )
            if self.tokenizer.lossless and facts["text_sha256"] is not None:
                digest = hashlib.sha256(self.tokenizer.decode(stream.all())).hexdigest()
                _expect(digest, facts["text_sha256"], f"hash of the decoded {split} text", self.folder)


def read_passport(folder: Path) -> dict[str, Any]:
    """The data passport. Nothing is scored without one."""
    path = folder / PASSPORT_FILE
    if not path.is_file():
        raise DataError("no data passport", where=str(path), way_out="build the dataset with `bitgolf data`")
    passport = read_json(path)
    for key, value, wanted in _passport_problems(passport):
        raise DataError(
            f"passport is not usable: {key or 'its content'} must be {wanted}",
            where=str(path),
            value=value,
            way_out="build the dataset again with `bitgolf data`",
        )
    return passport


def _passport_problems(passport: object) -> Iterator[tuple[str, object, str]]:
    """Wrong entries of a passport: the key, its value, and what it must be."""
    if not isinstance(passport, dict):
        yield "", passport, "an object"
        return
    if passport.get("format") != PASSPORT_FORMAT:
        yield "format", passport.get("format"), repr(PASSPORT_FORMAT)
    if not isinstance(passport.get("tokenizer_identity"), str):
        yield "tokenizer_identity", passport.get("tokenizer_identity"), "a text"
    splits = passport.get("splits")
    for split in ("train", "val"):
        facts = splits.get(split) if isinstance(splits, dict) else splits
        if not isinstance(facts, dict):
            yield f"splits.{split}", facts, "an object"
            continue
        for name in ("documents", "text_bytes", "tokens", "differing_bytes", "token_bytes"):
            count = facts.get(name, 0 if name in ("differing_bytes", "token_bytes") else None)
            if type(count) is not int or not 0 <= count < 2**63:
                yield f"splits.{split}.{name}", count, "a whole number from 0 to 2**63"
        if "text_sha256" not in facts or not isinstance(facts["text_sha256"], str | None):
            yield f"splits.{split}.text_sha256", facts.get("text_sha256"), "a text, or null"
        shards = facts.get("shards")
        for index, shard in enumerate(shards if isinstance(shards, list) else [shards]):
            if not isinstance(shard, dict):
                yield f"splits.{split}.shards.{index}", shard, "an object with name and sha256"
                continue
            for name in ("name", "sha256"):
                if not (isinstance(shard.get(name), str) and is_plain_name(shard[name])):
                    yield f"splits.{split}.shards.{index}.{name}", shard.get(name), "a plain name"


def _open_split(folder: Path, passport: dict[str, Any], split: str) -> TokenStream:
    stream = TokenStream([folder / shard["name"] for shard in passport["splits"][split]["shards"]])
    _expect(stream.tokens, passport["splits"][split]["tokens"], f"tokens of {split}", folder)
    return stream


def _expect(actual: object, stated: object, what: str, where: Path) -> None:
    if actual != stated:
        raise ShardError(
            f"{what} is not what the passport says ({stated})",
            where=str(where),
            value=actual,
            way_out="the data was changed; build the dataset again",
        )
