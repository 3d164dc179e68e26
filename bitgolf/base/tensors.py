"""Tensors and columns in files from which nothing can be executed."""

import hashlib
import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from bitgolf.base.errors import CheckpointError
from bitgolf.base.files import write_bytes

# Errors that bytes which are no tensors, or facts of another shape, can raise.
UNREADABLE_TENSORS = (
    safetensors.SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError,
    struct.error,
)  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Tensors and JSON facts as one safetensors file with a checksum; nothing in it can be executed."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    facts_json = json.dumps(facts)
    # One metadata entry: the library writes several in an order that changes from call to call.
    note = json.dumps({"facts": facts_json, "sha256": _tensors_sha256(plain, facts_json)})
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


def _tensors_sha256(tensors: Mapping[str, torch.Tensor], facts_json: str) -> str:
    digest = hashlib.sha256(facts_json.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():  # torch cannot view an empty array of numpy as bytes
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Columns as a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())
