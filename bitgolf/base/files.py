"""Files that are whole or absent: written to a temporary file, flushed, then renamed."""

import errno
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, TypeGuard

from bitgolf.base.errors import BitgolfError, displayed

MOST_NAME_BYTES = 100
FLOAT_LIMIT = 1e300  # of a number in a file
NAME_RULE = "a name is letters, digits and ._- after a letter or digit, and no path"


def is_plain_name(text: str) -> bool:
    """Whether a text is the name of one file or folder: letters, digits and ._- after a letter or digit."""
    return bool(re.fullmatch(r"\w[\w.-]*", text)) and len(text.encode()) <= MOST_NAME_BYTES


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file; if killed, or on a full disk, the old one stays untouched. Raises BitgolfError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise BitgolfError(
            "no space left on the disk" if full else f"cannot write: {error.strerror}",
            where=str(path),
            value=f"{len(data):,} bytes",
            way_out="free some space and give the same command again; bitgolf run with --resume"
            if full
            else "check the path and its rights",
        ) from None


def write_json(path: Path, data: object) -> None:
    """Write JSON for people to read: indented, keys in the order given."""
    write_bytes(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a number that fits in a float; JSON may hold larger ones."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and -FLOAT_LIMIT < value < FLOAT_LIMIT
    )


def read_json(path: Path) -> Any:
    """Read JSON. Raises BitgolfError with the wrong line, or with a key that an object has twice."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise BitgolfError("not a regular file", where=str(path), way_out="put the file itself there")
        return json.loads(path.read_bytes(), object_pairs_hook=_once_each)
    except FileNotFoundError:
        raise BitgolfError("no such file", where=str(path)) from None
    except RecursionError:
        raise BitgolfError("not readable as JSON: nested too deeply", where=str(path)) from None
    except (ValueError, OSError) as error:
        raise BitgolfError(f"not readable as JSON: {error}", where=str(path)) from None


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object as a dict. Raises ValueError for a key that occurs twice: only one can be meant."""
    read: dict[str, Any] = {}
    for key, value in pairs:
        if key in read:
            raise ValueError(f"the key {displayed(key)} stands twice in one object")
        read[key] = value
    return read


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
