"""From a source to a dataset: split, tokenizer, shards, passport."""

import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bitgolf.base.errors import DataError
from bitgolf.base.files import write_bytes, write_json
from bitgolf.corpus.belonging import check_belonging
from bitgolf.corpus.blocks import Block, blocks_of, decoded
from bitgolf.corpus.overlap import scan_overlap
from bitgolf.corpus.passport import (
    SplitFacts,
    make_passport,
    shard_documents,
    split_facts,
)
from bitgolf.corpus.sources import Progress, Shards, ShardSource, Source, Split, TextSource, salted
from bitgolf.corpus.textfile import refuse_special
from bitgolf.public.case import check_original_bytes
from bitgolf.text.encoder import Encoder, train_tokenizer
from bitgolf.text.shards import (
    PASSPORT_FILE,
    PASSPORT_FORMAT,
    SHARD_TOKENS,
    TOKENIZER_FILE,
    Dataset,
    TokenStream,
    write_shard,
)
from bitgolf.text.tokenizer import Tokenizer

TOKENIZER_TEXT_BYTES = 32_000_000  # how much training text the tokenizer learns from

Steps = Generator[Progress, None, None]


def dataset_name(source: Source, vocabulary_size: int, case_ops: bool = False) -> str:
    """A folder name that changes with the source, its files, the vocabulary and its kind."""
    kind = f"{vocabulary_size}-case-ops" if case_ops else f"{vocabulary_size}"
    digest = hashlib.sha256(os.fsencode(f"{PASSPORT_FORMAT} {source.key} {kind}")).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', source.name).strip('-')}-{kind}-{digest}"


def build_dataset(
    source: Source,
    out_dir: Path,
    *,
    vocabulary_size: int = 1024,
    tokenizer: Path | Tokenizer | None = None,
    validation_fraction: float = 0.1,
    across_words: bool = True,
    case_ops: bool = False,
    shard_tokens: int = SHARD_TOKENS,
) -> Generator[Progress, None, Dataset]:
    """Make a dataset folder, whole or not at all; yields progress and returns the dataset.

    tokenizer: one, a `.model` or a `tokenizer.bin` to use instead of training one. validation_fraction: for
    text without a split rule of its own. across_words, case_ops: of the tokenizer that is trained.
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
            if isinstance(source, Shards) and isinstance(tokenizer, Path):
                source = dataclasses.replace(source, model=tokenizer)
            yield from _adopt(source, partial)
        elif isinstance(source, TextSource):
            made = Tokenizer.load(tokenizer) if isinstance(tokenizer, Path) else tokenizer
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
    yield Progress("dataset", 1, 1)
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
    documents, text_bytes, empty = [], 0, 0
    yield Progress("read", 0, 0)
    for document in source.documents():
        empty += not document
        if document:
            documents.append(document)
            text_bytes += len(document)
            if len(documents) % 1000 == 0:
                yield Progress("read", text_bytes, 0)
    if not documents:
        raise DataError(
            "no text in this source",
            where=source.name,
            value=f"{empty:,} documents without text",
            way_out="give files with text in them",
        )
    split = source.split(documents, fraction)
    order = sorted(split.train, key=salted)
    rule = f"{split.rule}; training documents in the order of a salted SHA-256"
    without = [f"{empty:,} documents without text (empty or null) are left out"] if empty else []
    return Split(order, split.val, rule, [*source.notes(), *without])


def _tokenize(name: str, split: Split, tokenizer: Tokenizer, folder: Path, shard_tokens: int) -> Steps:
    train = yield from _write_split("train", split.train, tokenizer, folder, shard_tokens)
    val = yield from _write_split("val", split.val, tokenizer, folder, shard_tokens)
    if tokenizer.lossless:
        decoded = b"".join(shard_documents([folder / shard["name"] for shard in val.shards], tokenizer))
        if decoded != b"".join(split.val):
            raise DataError("the validation tokens do not decode to the validation text", where=name)
    overlap = yield from _scan(
        blocks_of(split.train), blocks_of(split.val), train.text_bytes + val.text_bytes
    )
    write_bytes(folder / TOKENIZER_FILE, tokenizer.to_bytes())
    passport = make_passport(name, split.rule, tokenizer, train, val, overlap, split.notes)
    write_json(folder / PASSPORT_FILE, passport)


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

    for document, tokens in zip(documents, Encoder(tokenizer).encode_documents(documents)):
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
    notes = source.notes()
    for split, paths in (("train", train), ("val", val)):
        yield Progress(f"check {split}", 0, len(paths))
        for path in paths:
            refuse_special(path)
        kept = [folder / f"{split}_{index:06}.bin" for index in range(len(paths))]
        facts[split] = split_facts(paths, tokenizer, None, [path.name for path in kept])
        check_original_bytes(paths, tokenizer, facts[split].token_bytes)
        notes += [f"{split}: {note}" for note in check_belonging(paths, tokenizer)]
        for index, (path, target) in enumerate(zip(paths, kept)):
            yield Progress(f"copy {split}", index, len(paths))
            shutil.copyfile(path, target)
    overlap = yield from _scan(
        decoded(TokenStream(train), tokenizer),
        decoded(TokenStream(val), tokenizer),
        facts["train"].text_bytes + facts["val"].text_bytes,
    )
    write_bytes(folder / TOKENIZER_FILE, tokenizer.to_bytes())
    rule = "as published; bytes are those the tokens count"
    passport = make_passport(source.name, rule, tokenizer, facts["train"], facts["val"], overlap, notes)
    write_json(folder / PASSPORT_FILE, passport)


def _scan(
    train: Iterable[Block], val: Iterable[Block], total: int
) -> Generator[Progress, None, dict[str, int]]:
    overlap: dict[str, int] = {}
    for done, counts in scan_overlap(train, val):
        yield Progress("overlap", min(done, total), total)
        overlap = counts
    return overlap


def _head(documents: Sequence[bytes]) -> Iterator[bytes]:
    taken = 0
    for document in documents:
        if taken >= TOKENIZER_TEXT_BYTES:
            return
        yield document[: TOKENIZER_TEXT_BYTES - taken]
        taken += len(document)
