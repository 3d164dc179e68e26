"""Documents out of text files, and files out of Hugging Face datasets."""

import gzip
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitgolf.core.errors import DataError

TEXT_ENDINGS = (".txt", ".md", ".jsonl", ".jsonl.gz", ".parquet")
PART_BYTES = 4096  # a single text file is cut at blank lines into documents of at least this size


def read_documents(path: Path, *, alone: bool = False) -> Iterator[bytes]:
    """Documents of one file. alone: it is the whole source, so a plain text is cut into several."""
    try:
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            yield from _read_json_lines(path)
        elif path.name.endswith(".parquet"):
            yield from _read_parquet(path)
        elif alone:
            yield from _parts(path.read_bytes())
        else:
            yield path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read: {error}", where=str(path)) from None


def _parts(text: bytes) -> Iterator[bytes]:
    """Cut after blank lines (where there are none, after lines), never into less than PART_BYTES."""
    mark = b"\n\n" if b"\n\n" in text.strip() else b"\n"
    while text:
        end = text.find(mark, PART_BYTES)
        cut = len(text) if end < 0 else end + len(mark)
        yield text[:cut]
        text = text[cut:]


def _read_json_lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:  # UnicodeDecodeError is one
                raise DataError(f"not readable as JSON: {error}", where=where) from None
            yield _text_of(row, where)


def _text_of(row: Any, where: str) -> bytes:
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise DataError('no string under "text"', where=where, value=found)
    return text.encode("utf-8", "surrogatepass")


def _read_parquet(path: Path) -> Iterator[bytes]:
    parquet = _optional("pyarrow.parquet", "parquet")
    try:
        table = parquet.ParquetFile(path)
        names = table.schema_arrow.names
        if "text" not in names:
            raise DataError('no column "text"', where=str(path), value=names)
        for rows in table.iter_batches(columns=["text"]):
            for text in rows.column(0).to_pylist():
                yield _text_of({"text": text or ""}, str(path))
    except _optional("pyarrow", "parquet").ArrowException as error:
        raise DataError(f"not readable as parquet: {error}", where=str(path)) from None


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
