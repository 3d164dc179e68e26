"""Text files: format and compression by extension, bounded in size, checked before use."""

import bz2
import io
import lzma
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from bitgolf.base.errors import DataError
from bitgolf.public.optional import needed

PLAIN, JSON_LINES, JSON, PARQUET = "plain text", "JSON lines", "JSON", "parquet"
UNREADABLE = "not readable"
FORMS = {
    **dict.fromkeys((".txt", ".text", ".md", ".markdown"), PLAIN),
    **dict.fromkeys((".jsonl", ".ndjson"), JSON_LINES),
    ".json": JSON,
    ".parquet": PARQUET,
}
# Each starts a tool that unpacks one member of a file; files may hold several, one after the other.
PACKINGS: dict[str, tuple[str, Callable[[], Any]]] = {
    ".gz": ("gzip", lambda: zlib.decompressobj(31)),
    ".bz2": ("bzip2", bz2.BZ2Decompressor),
    ".xz": ("xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 30)),
    ".zst": ("zstandard", lambda: needed("zstandard", "a .zst file").ZstdDecompressor().decompressobj()),
}
ENDINGS = f"{', '.join(FORMS)}, also packed as {', '.join(PACKINGS)}"

FED_BYTES = 1024  # unpacked in one go: whatever it holds becomes some 30 MB at most
FREE_BYTES, LARGEST_RATIO = 1 << 26, 250  # beyond the first, no text takes up so many times less when packed
LOOKED_AT_BYTES = 1 << 16
LARGEST_CONTROL_SHARE = 0.02  # of control characters; text has next to none, random bytes one in ten
CONTROLS = bytes(set(range(32)) - set(b"\b\t\n\v\f\r\x1a\x1b"))

# How data that is no plain text starts.
STARTS = {
    b"\x1f\x8b": "gzip data",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ\0": "xz data",
    b"\x28\xb5\x2f\xfd": "zstandard data",
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"PAR1": "parquet data",
    b"%PDF-": "a PDF document",
    b"\xff\xfe": "text in UTF-16 or UTF-32",
    b"\xfe\xff": "text in UTF-16",
    b"\0\0\xfe\xff": "text in UTF-32",
}
BZIP2_BLOCK = b"1AY&SY"  # after "BZh" and a digit, which alone could be words


class TextName(NamedTuple):
    """What the name of a file says: its form, and the ending of its packing, empty if none."""

    form: str
    packing: str


def named(name: str) -> TextName | None:
    """What a name says whatever its case; None if its ending is not known."""
    packing = packing_of(name)
    form = FORMS.get(Path(name.lower().removesuffix(packing)).suffix)
    return TextName(form, packing) if form else None


def packing_of(name: str) -> str:
    """The ending that says how a file is packed, '' if none does."""
    return next((ending for ending in PACKINGS if name.lower().endswith(ending)), "")


def kind_of(path: Path) -> str:
    """'' for a regular file (links are followed), else what it is in words."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"{UNREADABLE}: {error.strerror}"
    kinds = {
        "a folder": stat.S_ISDIR,
        "a pipe": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
        "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
    }
    return "" if stat.S_ISREG(mode) else next(name for name, test in kinds.items() if test(mode))


def refuse_special(path: Path) -> None:
    """Raise DataError for what is not a regular file; a pipe or device may never end."""
    kind = kind_of(path)
    if kind.startswith(UNREADABLE):
        raise DataError(kind, where=str(path), way_out="check the name and its rights")
    if kind:
        raise DataError("not a regular file", where=str(path), value=kind, way_out="give a file")


class TextFile(io.RawIOBase):
    """The bytes of a file, unpacked as `packing` says ('' is not at all), as many as a text could have."""

    def __init__(self, path: Path, packing: str) -> None:
        refuse_special(path)
        self._path, self._left = path, memoryview(b"")
        self._parts = _unpacked(path, packing) if packing else _pieces(path, LOOKED_AT_BYTES)
        self._most, self._read = max(FREE_BYTES, LARGEST_RATIO * path.stat().st_size), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._left = memoryview(part)
            self._read += len(part)
            if self._read > self._most:
                raise DataError(
                    f"unpacks to more than {LARGEST_RATIO} times its size, which no text does",
                    where=str(self._path),
                    way_out="unpack it yourself if it is what you want",
                )
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


def opened(path: Path, packing: str) -> BinaryIO:
    """A text file to read from, after a look at its start. Raises DataError for what is no text."""
    file = io.BufferedReader(TextFile(path, packing), LOOKED_AT_BYTES)
    _refuse_start(file.peek(16), path)
    return cast(BinaryIO, file)


def text_to_score(path: Path) -> bytes:
    """All bytes of a file, unpacked if its ending says so; any bytes can be scored but packed ones."""
    try:
        with opened(path, packing_of(path.name)) as file:
            return file.read()
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror}", where=str(path)) from None


def plain_text(path: Path, packing: str) -> bytes:
    """All of a plain text file. Raises DataError for one that holds something else."""
    with opened(path, packing) as file:
        content = file.read()
    if (byte := content.find(b"\0")) >= 0:
        raise DataError(
            f"not plain text: a NUL at byte {byte}",
            where=str(path),
            way_out="binary data and UTF-16 are not read; convert it to UTF-8 text",
        )
    head = content[:LOOKED_AT_BYTES]
    controls = len(head) - len(head.translate(None, CONTROLS))
    if controls > 1 + LARGEST_CONTROL_SHARE * len(head):
        raise DataError(
            "not plain text: binary data",
            where=str(path),
            value=f"{controls} control characters in the first {len(head)} bytes",
            way_out="give text, or name the file by what it holds",
        )
    return content


def _refuse_start(head: bytes, path: Path) -> None:
    kind = next((what for start, what in STARTS.items() if head.startswith(start)), None)
    if kind is None or (kind == "bzip2 data" and head[4:10] != BZIP2_BLOCK):
        return
    raise DataError(
        "the content is not what the ending says",
        where=str(path),
        value=kind,
        way_out="give it the ending of what it holds, or convert it to UTF-8 text",
    )


def _pieces(path: Path, piece_bytes: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(piece_bytes):
            yield piece


def _unpacked(path: Path, packing: str) -> Iterator[bytes]:
    """Member after member, until the file ends; zeros between them and after the last are padding."""
    name, start = PACKINGS[packing]
    tool: Any = None
    for piece in _pieces(path, FED_BYTES):
        while piece:
            if tool is None and not (piece := piece.lstrip(b"\0")):
                break
            tool = tool or start()
            try:
                part = tool.decompress(piece)
            except Exception as error:  # each tool has its own kinds
                raise DataError(f"cannot read: not {name} data: {error}", where=str(path)) from None
            if part:
                yield part
            piece, tool = (tool.unused_data, None) if tool.eof else (b"", tool)
    if tool is not None:
        raise DataError(
            f"cannot read: cut short inside its {name} data", where=str(path), way_out="copy it again"
        )
