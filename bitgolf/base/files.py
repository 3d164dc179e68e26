"""Files that are whole or absent: written beside their place, flushed, then renamed."""

import errno
import hashlib
import io
import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from bitgolf.base.errors import BitgolfError, CheckpointError

MOST_NAME_BYTES = 100
NAME_RULE = "a name is letters, digits and ._- after a letter or digit, and no path"
# What bytes that are no tensors, or facts of another shape, can raise.
UNREADABLE_TENSORS = (
    safetensors.SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError,
    struct.error,
)  # fmt: skip


def is_plain_name(text: str) -> bool:
    """Whether a text is the name of one file or folder: letters, digits and ._- after a letter or digit."""
    return bool(re.fullmatch(r"\w[\w.-]*", text)) and len(text.encode()) <= MOST_NAME_BYTES


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a kill or a full disk leaves the old one untouched. Raises BitgolfError."""
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
            way_out="free some space and run again with --resume"
            if full
            else "check the path and its rights",
        ) from None


def write_json(path: Path, data: Any) -> None:
    """Write JSON for people to read: indented, keys in the order given."""
    write_bytes(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON. Raises BitgolfError with the line at fault."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BitgolfError("no such file", where=str(path)) from None
    except RecursionError:
        raise BitgolfError("not readable as JSON: nested too deeply", where=str(path)) from None
    except (ValueError, OSError) as error:
        raise BitgolfError(f"not readable as JSON: {error}", where=str(path)) from None


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Tensors and JSON facts as one safetensors file with a checksum; nothing in it can be executed."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    words = json.dumps(facts)
    # One metadata entry: the library writes several in an order that changes from call to call.
    note = json.dumps({"facts": words, "sha256": _tensors_sha256(plain, words)})
    write_bytes(path, safetensors.torch.save(plain, metadata={"bitgolf": note}))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `write_tensors` wrote. Raises CheckpointError for a missing, cut or changed file."""
    try:
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
        note = json.loads(header["__metadata__"]["bitgolf"])
        if _tensors_sha256(tensors, note["facts"]) != note["sha256"]:
            raise ValueError("the checksum does not hold")
        facts = json.loads(note["facts"])
        if not isinstance(facts, dict):
            raise ValueError("its facts have no names")
        return tensors, facts
    except OSError as error:
        raise CheckpointError(f"cannot read: {error.strerror}", where=str(path)) from None
    except UNREADABLE_TENSORS as error:
        raise CheckpointError(
            f"damaged: {error}",
            where=str(path),
            value=f"{len(data):,} bytes",
            way_out="the file was cut or changed; delete it and run again",
        ) from None


def _tensors_sha256(tensors: Mapping[str, torch.Tensor], words: str) -> str:
    digest = hashlib.sha256(words.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Columns as a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())
