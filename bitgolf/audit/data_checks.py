"""What shards in a folder show: the checks of `bitgolf data --verify` as findings, and known counts."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding
from bitgolf.audit.rules import known_texts
from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import finish
from bitgolf.corpus.sources import Progress
from bitgolf.corpus.verify import (
    DOCUMENTS,
    FAILS,
    Check,
    Data,
    by_files,
    came_back,
    document_starts,
    shared_tokens,
)
from bitgolf.text.shards import PASSPORT_FILE, TOKENIZER_FILE, TokenStream, read_passport, read_shard
from bitgolf.text.tokenizer import Tokenizer

MOST_TRAINING = 64_000_000  # tokens that are compared
CODES = {
    "counts and hashes": ("V12", FOUND),
    "files of both splits": ("V13", FOUND),
    DOCUMENTS: ("V13", FOUND),
    "runs of tokens": ("V13", SUSPECTED),
    "prefix": ("V14", FOUND),
    "BOS": ("B07", SUSPECTED),
    "tokenizer": ("B09", SUSPECTED),
}
COVERED = frozenset({code for code, _ in CODES.values()} | {"V11"})


def shards_in(folder: Path, names: Sequence[str]) -> dict[str, list[Path]]:
    """The shards of each split among a folder's files, by their names and their first bytes."""
    shards: dict[str, list[Path]] = {}
    for name in sorted(names):
        path, lowered = folder / name, Path(name).name.lower()
        if lowered.endswith(".bin") and ("train" in lowered or "val" in lowered):
            try:
                read_shard(path)
            except BitgolfError:
                continue
            shards.setdefault("train" if "train" in lowered else "val", []).append(path)
    return shards


def check_data(folder: Path, names: Sequence[str]) -> Iterator[Finding]:
    """All findings of shards."""
    shards = shards_in(folder, names)
    if not shards:
        return
    shard_name = (shards.get("val") or shards["train"])[0].name
    try:
        splits = {split: TokenStream(paths) for split, paths in shards.items()}
        passport = read_passport(folder) if (folder / PASSPORT_FILE).is_file() else None
        checks = finish(_checks(Data(folder, splits, _tokenizer(folder, names), passport)))
    except BitgolfError as error:
        yield Finding("V12", SUSPECTED, shard_name, str(error), "shards that can be read")
        return
    failed = {each.name: each for each in checks if each.sure == FAILS}
    if DOCUMENTS in failed:
        failed.pop("runs of tokens", None)  # they stand in these documents
    for name, check in failed.items():
        code, sure = CODES[name]
        message, way_out = f"{name}: {check.found}", "build the shards again"
        yield Finding(code, sure, shard_name, message, check.expected, way_out)
    if len(shards) == 1:
        missing = "validation" if "train" in shards else "training"
        yield Finding("V13", CANNOT_TELL, folder.name, f"no {missing} shards, so nothing to compare")
    if "val" in splits and not failed.keys() & {"counts and hashes"}:
        yield from counts(folder, shard_name, splits["val"].tokens)


def _checks(data: Data) -> Generator[Progress, None, list[Check]]:
    """What tokens alone show, and whether a sample of their text gives them again."""
    facts: dict[str, Any] = {"splits": {split: {} for split in data.splits}}
    checks = (yield from by_files(data, facts)) if data.passport else []
    if data.tokenizer is not None:
        checks.append(came_back(data))
    if "val" in data.splits:  # shards of training may begin anywhere
        checks.append(document_starts(data._replace(splits={"val": data.splits["val"]}), facts))
    if len(data.splits) == 2:
        checks += yield from shared_tokens(data, MOST_TRAINING)
    return checks


def _tokenizer(folder: Path, names: Sequence[str]) -> Tokenizer | None:
    """The only tokenizer among a folder's files that can be read."""
    candidates = [name for name in names if name.endswith(".model") or Path(name).name == TOKENIZER_FILE]
    try:
        return Tokenizer.load(folder / candidates[0]) if len(candidates) == 1 else None
    except BitgolfError:
        return None


def counts(folder: Path, shard_name: str, tokens: int) -> Iterator[Finding]:
    """V11, V12: as many tokens as everybody's validation text has under a tokenizer that is known."""
    folder_text = f"{folder.absolute()}".lower()
    named = next((text for text in known_texts() if text.name.split(" ")[0] in folder_text), None)
    if named and tokens < 0.995 * named.tokens:
        code = "V11" if tokens < 0.6 * named.tokens else "V12"
        message, those = f"{tokens:,} validation tokens", f"{named.tokens:,} with {named.name}"
        yield Finding(code, SUSPECTED, shard_name, message, those)
