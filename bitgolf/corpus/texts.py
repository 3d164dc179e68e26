"""Documents from text files, and files from Hugging Face datasets."""

import importlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bitgolf.base.errors import DataError
from bitgolf.corpus.textfile import (
    ENDINGS,
    JSON,
    JSON_LINES,
    PLAIN,
    TextFile,
    named,
    opened,
    plain_text,
    refuse_special,
)

PART_BYTES = 4096  # a single text file is cut at blank lines into documents of at least this size
ROWS = 256  # of a parquet file, read in one go


def read_documents(path: Path, *, alone: bool = False) -> Iterator[bytes]:
    """Documents of one file, read as its ending says; empty where a row has null for its text.

    alone: it is the whole source, so a plain text is cut into several.
    """
    name = named(path.name)
    if name is None:
        raise DataError(
            "not a text file by its ending",
            where=str(path),
            way_out=f"it takes {ENDINGS}; name plain text .txt",
        )
    try:
        if name.form == PLAIN:
            text = plain_text(path, name.packing)
            yield from parts_of(text) if alone else (text,)
        elif name.form == JSON_LINES:
            with opened(path, name.packing) as file:
                yield from _json_lines(file, str(path))
        elif name.form == JSON:
            with opened(path, name.packing) as file:
                yield from _whole_json(file.read(), str(path))
        else:
            yield from _parquet(path, name.packing)
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror or error}", where=str(path)) from None


def parts_of(text: bytes, least: int = PART_BYTES) -> Iterator[bytes]:
    """Cut after blank lines (where there are none, after lines), never into less than so many bytes."""
    inside = text.strip()
    mark = next((mark for mark in (b"\n\n", b"\r\n\r\n") if mark in inside), b"\n")
    start = 0
    while start < len(text):
        position = text.find(mark, start + least)
        end = len(text) if position < 0 else position + len(mark)
        yield text[start:end]
        start = end


def _json_lines(file: Iterable[bytes], where: str) -> Iterator[bytes]:
    for number, line in enumerate(file, 1):
        if line.strip():
            row_where = f"{where}, line {number}"
            yield _text_of(_parsed(line, row_where), row_where)


def _whole_json(content: bytes, where: str) -> Iterator[bytes]:
    """A row, an array of rows or texts, or, as many such files are, JSON lines."""
    first, _, others = content.strip().partition(b"\n")
    if others.lstrip().startswith(b"{") and first.rstrip().endswith(b"}"):
        yield from _json_lines(io.BytesIO(content), where)
        return
    rows = _parsed(content, where)
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        row_where = f"{where}, item {number}" if isinstance(rows, list) else where
        yield _text_of({"text": row} if isinstance(row, str) else row, row_where)


def _parsed(content: bytes, where: str) -> Any:
    """JSON; numbers are floats, of any length, and a byte order mark is taken off."""
    try:
        return json.loads(
            content.decode("utf-8-sig", "surrogatepass"),
            object_pairs_hook=_object,
            parse_int=float,
        )
    except RecursionError:
        raise DataError("not readable as JSON: nested too deep", where=where) from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise DataError(f"not readable as JSON: {error}", where=where) from None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Raises ValueError where it has two texts, of which readers take either."""
    made = dict(pairs)
    if len(made) < len(pairs) and [key for key, _ in pairs].count("text") > 1:
        raise ValueError('"text" stands twice in one object')
    return made


def _text_of(row: Any, where: str) -> bytes:
    """The text of a row; null is none, so it is empty."""
    if not isinstance(row, dict) or "text" not in row:
        actual = [key[:40] for key in sorted(row)[:8]] if isinstance(row, dict) else type(row).__name__
        way_out = "every row needs one; leave out files that hold something else"
        raise DataError('no string under "text"', where=where, value=actual, way_out=way_out)
    text = row["text"]
    if not isinstance(text, (str, type(None))):
        raise DataError('"text" is not a string', where=where, value=type(text).__name__)
    return (text or "").encode("utf-8", "surrogatepass")


def _parquet(path: Path, packing: str) -> Iterator[bytes]:
    parquet, arrow = _optional("pyarrow.parquet", "parquet"), _optional("pyarrow", "parquet")
    refuse_special(path)
    try:
        parquet_file = parquet.ParquetFile(io.BytesIO(TextFile(path, packing).readall()) if packing else path)
        names = parquet_file.schema_arrow.names
        if names.count("text") != 1:
            fault = "more than one" if "text" in names else "no"
            raise DataError(f'{fault} column "text"', where=str(path), value=names)
        kind = parquet_file.schema_arrow.field("text").type
        if not _is_text(kind, arrow.types):
            raise DataError(
                f'column "text" holds {kind}, not strings',
                where=str(path),
                way_out="write it as a column of strings",
            )
        for rows in parquet_file.iter_batches(ROWS, columns=["text"]):
            for text in rows.column(0).to_pylist():
                yield _text_of({"text": text}, str(path))
    except (arrow.ArrowException, ValueError) as error:  # UnicodeDecodeError is one
        raise DataError(f"not readable as parquet: {error}", where=str(path)) from None


def _is_text(kind: Any, types: Any) -> bool:
    value = kind.value_type if types.is_dictionary(kind) else kind
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return any(test(value) for test in tests)


def hub_files(repository: str) -> list[str]:
    """Names of all files in a Hugging Face dataset, sorted."""
    hub = _optional("huggingface_hub", "hub")
    try:
        return sorted(hub.HfApi().list_repo_files(repository, repo_type="dataset"))
    except Exception as error:  # the library's errors differ between its versions
        raise _hub_error(repository, error) from None


def hub_fetch(repository: str, name: str) -> Path:
    """A file of a Hugging Face dataset, from its own cache or the network."""
    hub = _optional("huggingface_hub", "hub")
    try:
        return Path(hub.hf_hub_download(repo_id=repository, filename=name, repo_type="dataset"))
    except Exception as error:
        raise _hub_error(f"{repository}/{name}", error) from None


def _hub_error(where: str, error: Exception) -> DataError:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return DataError(
        f"cannot fetch from Hugging Face: {first_line}",
        where=where,
        way_out="check the name and the network, or give local files",
    )


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(
            f"this source needs {module}, which is not installed", way_out=f"pip install 'bitgolf[{extra}]'"
        ) from None
