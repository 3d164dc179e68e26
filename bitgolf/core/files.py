"""Files that are whole or absent: written beside their place, flushed, then renamed."""

import errno
import hashlib
import io
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from bitgolf.core.errors import BitgolfError, CheckpointError


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
    except (ValueError, OSError) as error:
        raise BitgolfError(f"not readable as JSON: {error}", where=str(path)) from None


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Tensors and JSON facts as one safetensors file; nothing in it can be executed."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    body = safetensors.torch.save(plain, metadata={"facts": json.dumps(facts)})
    write_bytes(path, body + hashlib.sha256(body).digest())


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `write_tensors` wrote. Raises CheckpointError for a missing, cut or changed file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read: {error.strerror}", where=str(path)) from None
    body, digest = data[:-32], data[-32:]
    if hashlib.sha256(body).digest() != digest:
        raise CheckpointError(
            "checksum over the whole file does not hold",
            where=str(path),
            value=f"{len(data):,} bytes",
            way_out="the file was cut or changed; delete it and run again",
        )
    header = json.loads(body[8 : 8 + struct.unpack("<Q", body[:8])[0]])
    return safetensors.torch.load(body), json.loads(header["__metadata__"]["facts"])


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Columns as a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())
