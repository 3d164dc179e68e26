"""What a shipped tokenizer shows: pieces that are missing, a table of bytes that does not fit."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bitgolf.audit.finding import FOUND, Finding
from bitgolf.base.errors import BitgolfError
from bitgolf.text.tokenizer import open_model

LONE_SPACE = "\u2581"
MOST_BYTES = 2**25  # of a tokenizer or a table that are read
LEAST_PIECES, MOST_PIECES = 8, 2**17
HEADER, FIELDS = 24, 15  # bytes of a TokenMonster file before its pieces, and behind each of them
LONGEST = 64  # bytes of a piece that a table may name


def check_tokenizers(folder: Path, names: Sequence[str]) -> tuple[list[Finding], frozenset[str]]:
    """All findings of the tokenizers among a folder's files and of the tables beside them, and the codes that
    could be looked for: none without a tokenizer.
    """
    tables = [*byte_tables(folder, names)]
    findings: list[Finding] = []
    looked: set[str] = set()
    for name in names:
        pieces = pieces_of(folder / name) if name.endswith((".vocab", ".model")) else None
        if pieces is None:
            continue
        findings += lone_space(name, pieces)
        looked.add("B03")
        for table_name, table in tables:
            findings += half_characters(table_name, name, pieces, table)
            looked.add("B02")
    return findings, frozenset(looked)


def lone_space(name: str, pieces: Sequence[str | bytes]) -> Iterator[Finding]:
    """B03: a tokenizer without a piece for a lone space."""
    spaced = any(isinstance(each, str) and each.startswith(LONE_SPACE) and len(each) > 1 for each in pieces)
    if spaced and LONE_SPACE not in pieces:
        message = f"none of {len(pieces):,} pieces is a lone space: it becomes three byte tokens"
        yield Finding("B03", FOUND, name, message)


def half_characters(
    table_name: str, name: str, pieces: Sequence[str | bytes], table: np.ndarray
) -> Iterator[Finding]:
    """B02: single bytes of characters that a table counts as the three bytes of U+FFFD."""
    if len(table) != len(pieces):
        return
    halves = [i for i, each in enumerate(pieces) if is_half(each)]
    wrong = [i for i in halves if table[i] == 3]
    if wrong:
        counts = f"{len(wrong)} of {len(halves)}"
        message = f"{counts} tokens of {name} that are one byte of a character count as 3"
        yield Finding("B02", FOUND, f"{table_name}: token {wrong[0]}", message)


def is_half(piece: str | bytes) -> bool:
    """Whether a piece is one byte that is no character by itself."""
    if isinstance(piece, bytes):
        return len(piece) == 1 and piece[0] >= 0x80
    return len(piece) == 6 and piece.startswith("<0x") and piece[3:5] >= "80"


def byte_tables(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Rows of small whole numbers among the arrays that a folder ships, with their places."""
    for name in names:
        if not name.endswith((".npz", ".npy")) or (folder / name).stat().st_size > MOST_BYTES:
            continue
        try:
            inner = zipfile.ZipFile(folder / name).filelist if name.endswith(".npz") else []
            if sum(each.file_size for each in inner) > MOST_BYTES:
                continue
            loaded = np.load(folder / name, allow_pickle=False)
            arrays = (
                {"": loaded} if isinstance(loaded, np.ndarray) else {f"/{key}": loaded[key] for key in loaded}
            )
        except (ValueError, OSError, EOFError, zipfile.BadZipFile):
            continue
        for key, array in arrays.items():
            whole = array.ndim == 1 and array.dtype.kind in "iu" and 100 < len(array) < MOST_PIECES
            if whole and array.min() >= 0 and 1 < array.max() <= LONGEST:
                yield f"{name}{key}", array


def pieces_of(path: Path) -> list[str] | list[bytes] | None:
    """The pieces of a SentencePiece model or its list, or of a TokenMonster vocabulary; None for others."""
    if not 0 < path.stat().st_size <= MOST_BYTES:
        return None
    data = path.read_bytes()
    if path.suffix == ".vocab":
        lines = data.decode("utf-8", "replace").splitlines()
        rows = [line.split("\t") for line in lines if "\t" in line]
        ranked = rows and all(
            len(row) == 2 and row[1].strip().lstrip("-").replace(".", "").isdigit() for row in rows
        )
        return [row[0] for row in rows] if ranked and len(rows) > LEAST_PIECES else _token_monster(data)
    try:
        model = open_model(data)
    except BitgolfError:
        return None
    return [model.id_to_piece(i) for i in range(model.get_piece_size())]


def _token_monster(data: bytes) -> list[bytes] | None:
    """The pieces in the order of their numbers: each behind its length, before fixed fields."""
    count, offset, pieces = int.from_bytes(data[11:14], "little"), HEADER, []
    if not 100 < count < MOST_PIECES:
        return None
    for _ in range(count):
        length = data[offset] if offset < len(data) else 0
        end = offset + 1 + length
        if not length or end + FIELDS > len(data):
            return None
        pieces.append(data[offset + 1 : end])
        offset = end + FIELDS
    return pieces
