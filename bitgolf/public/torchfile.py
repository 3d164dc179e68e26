"""Files of torch.save or safetensors, read without trust: nothing executed, every size checked.

A checkpoint is a zip file with a CRC for every member. Its tensors may claim any size, layout or number type;
here they are dense real numbers in the bytes that are there, or refused by name.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from bitgolf.public.streams import MAX_FILE_BYTES, PublicFileError

MOST_MEMBERS = 50_000  # tensors of a file
OLD_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before 1.6 begin
WAY_OUT = "expected a file that torch.save wrote, with tensors only: torch.save(model.state_dict(), ...)"
DEEPEST = 4  # wrappers of a state dict; a dict may hold itself
PACKED_DTYPES = {torch.float4_e2m1fn_x2} if hasattr(torch, "float4_e2m1fn_x2") else set()
HOLDERS = ("model", "state_dict", "model_state_dict")
# What wrappers of torch put into names: torch.compile, data parallelism, sharding, activation checkpoints.
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def load_tensors(data: bytes) -> dict[str, Any]:
    """What torch.save wrote, tensors and plain containers only; anything that would run code is refused."""
    if data[: len(OLD_MAGIC)] == OLD_MAGIC:
        way_out = "load it with torch, and save it again with torch 1.6 or newer"
        raise PublicFileError("written by torch before 1.6, in the old format", way_out=way_out)
    check_zip(data)
    try:
        with warnings.catch_warnings(action="ignore"):  # of kinds of tensors that are refused below
            value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for damaged or hostile files
        raise PublicFileError(f"not a safe torch file: {_refusal(data, error)}", way_out=WAY_OUT) from None
    if not isinstance(value, dict):
        raise PublicFileError("expected a dictionary", value=type(value).__name__, way_out=WAY_OUT)
    check_tensors(value, len(data))
    return value


def is_torch_file(data: bytes) -> bool:
    """Whether a file begins as torch.save writes it, today or before 1.6."""
    return data[:2] == b"PK" or data[: len(OLD_MAGIC)] == OLD_MAGIC


def check_zip(data: bytes) -> None:
    """Refuse a file that is no zip, one that is packed or claims too much, and one whose CRCs do not hold."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            claimed = sum(member.file_size for member in members)
            if claimed > min(MAX_FILE_BYTES, len(data)) or len(members) > MOST_MEMBERS:
                raise PublicFileError("claims more bytes than it has", value=claimed, way_out=WAY_OUT)
            packed = [each.filename for each in members if each.compress_type != zipfile.ZIP_STORED]
            damaged = None if packed else archive.testzip()
    except PublicFileError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds as well
        reason = _plain(str(error)) or type(error).__name__
        raise PublicFileError(f"not a safe torch file: {reason}", way_out=WAY_OUT) from None
    if packed:
        raise PublicFileError("packed in a way that torch does not write", value=packed[0], way_out=WAY_OUT)
    if damaged is not None:
        raise PublicFileError("damaged: the CRC does not hold", value=damaged, way_out="copy the file again")


def _refusal(data: bytes, error: Exception) -> str:
    """Why torch did not read a file, in our words: its own are advice to read it unsafely."""
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
    except Exception:  # it is given whatever has just been refused
        unsafe = []
    if unsafe:
        names = ", ".join(_plain(name) for name in sorted(unsafe)[:3])
        scalar = "a numpy scalar, " if any(name.startswith("numpy") for name in unsafe) else ""
        return f"it holds {scalar}{names}, which is no tensor and could run code"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    return _plain(str(error).strip().partition("\n")[0].partition(". ")[0]) or type(error).__name__


def _plain(text: str) -> str:
    """At most a line without escape codes."""
    return "".join(char for char in re.sub(r"\x1b\[[0-9;]*m", "", text) if char.isprintable())[:160]


def load_safetensors(data: bytes) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, whose reader checks every claim."""
    try:
        value = safetensors.torch.load(data)
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError, OverflowError) as error:
        reason = _plain(str(error))
        raise PublicFileError(f"not a safetensors file: {reason}", way_out="copy the file again") from None
    check_tensors(value, len(data))
    return value


def is_safetensors(data: bytes) -> bool:
    """Whether a file begins as safetensors: the size of a header of JSON, and its brace."""
    return len(data) > 9 and int.from_bytes(data[:8], "little") <= len(data) - 8 and data[8:9] == b"{"


def check_tensors(value: Any, num_bytes: int, name: str = "") -> None:
    """Refuse tensors that are not plain numbers in so many bytes of a file, by their names."""
    waiting: list[tuple[str, Any]] = [(name, value)]
    claimed, seen, met = 0, 0, set[int]()
    while waiting:
        name, each = waiting.pop()
        if isinstance(each, (Mapping, list, tuple, set)):
            if id(each) in met:  # once each: one may hold itself
                continue
            met.add(id(each))
        seen += 1
        if seen > 20 * MOST_MEMBERS:
            raise PublicFileError("holds too many values", value=seen, way_out=WAY_OUT)
        if isinstance(each, Mapping):
            waiting += [(f"{name}.{key}".lstrip("."), part) for key, part in each.items()]
        elif isinstance(each, (list, tuple, set)):
            waiting += [(name, part) for part in each]
        elif isinstance(each, Tensor):
            if problem := odd_tensor(each):
                raise PublicFileError(problem, where=name, value=[str(each.dtype), *_shape(each)])
            claimed += each.numel()
            if claimed > 2 * num_bytes:  # tied tensors may share their bytes
                raise PublicFileError(
                    "claims more values than the file holds", where=name, value=_shape(each)
                )


def _shape(tensor: Tensor) -> list[int]:
    return [] if tensor.is_nested else [*tensor.shape]


def odd_tensor(tensor: Tensor) -> str:
    """Why a tensor is not dense real numbers in bytes of its own; empty if it is."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return f"is a {type(tensor).__name__}, not a plain tensor"
    if tensor.is_quantized:
        return "is a quantized tensor of torch"
    if tensor.is_nested:
        return "is nested: a list of tensors"
    if tensor.layout != torch.strided:
        return f"is not dense but {str(tensor.layout).removeprefix('torch.')}"
    if tensor.device.type != "cpu":
        return f"has no values: it is on the device {tensor.device.type}"
    if tensor.is_complex():
        return "is complex; a model here has real weights"
    if tensor.dtype in PACKED_DTYPES:
        return "has several numbers in a byte; a model here has a number for each weight"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "claims more values than are stored for it"
    return ""


def state_in(value: Mapping[Any, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in what was saved, under plain names, and what was taken off on the way, in words.

    Raises PublicFileError for what is no state dict, and for names that fall together.
    """
    notes: list[str] = []
    while holders := _holders(value):
        if len(notes) == DEEPEST:
            raise PublicFileError("state dicts within state dicts", value=holders[:3], way_out=WAY_OUT)
        if len(holders) > 1 and holders[0] not in HOLDERS:
            way_out = "save one of them: torch.save(model.state_dict(), ...)"
            raise PublicFileError("several state dicts are in it", value=holders[:3], way_out=way_out)
        left = f", not those under {', '.join(map(repr, holders[1:4]))}" if len(holders) > 1 else ""
        notes.append(f"the state dict under {holders[0]!r} was read{left}")
        value = value[holders[0]]
    wrong = [str(name) for name, each in value.items() if not _is_weight(name, each)]
    if wrong or not value:
        raise PublicFileError("expected a state dict of tensors only", value=wrong[:3], way_out=WAY_OUT)
    state: dict[str, Tensor] = {}
    taken: dict[str, None] = {}
    for name, tensor in value.items():
        parts = name.split(".")
        taken |= dict.fromkeys(part for part in parts[:-1] if part in WRAPPERS)
        plain = ".".join(part for part in parts[:-1] if part not in WRAPPERS) + "." + parts[-1]
        plain = plain.lstrip(".")
        if plain in state:
            raise PublicFileError("two tensors have this name without wrappers", where=plain, value=name)
        state[plain] = tensor
    outer = next(
        (name.removesuffix("tok_emb.weight") for name in state if name.endswith(".tok_emb.weight")), ""
    )
    if outer and all(name.startswith(outer) for name in state):
        state = {name.removeprefix(outer): tensor for name, tensor in state.items()}
        taken[outer.rstrip(".")] = None
    notes += [f"the prefix {prefix + '.'!r} was taken off the names" for prefix in taken]
    return state, notes


def _holders(value: Mapping[Any, Any]) -> list[str]:
    """The keys that a state dict may be under: the usual ones first, then those with nothing but tensors.

    Where tensors of a model stand beside them, only the usual ones.
    """
    inner = {key: each for key, each in value.items() if isinstance(each, Mapping) and isinstance(key, str)}
    usual = [key for key in HOLDERS if key in inner]
    if any(_is_weight(name, each) and "." in name for name, each in value.items()):
        return usual
    return usual + [
        key
        for key, each in inner.items()
        if key not in usual and each and all(_is_weight(name, tensor) for name, tensor in each.items())
    ]


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def as_floats(name: str, tensor: Tensor) -> Tensor:
    """A weight in float32; whole numbers stay as they are. Raises PublicFileError for what is not finite."""
    if not tensor.is_floating_point():
        return tensor
    floats = tensor.detach().float()
    if not bool(torch.isfinite(floats).all()):
        raise PublicFileError("holds values that are not finite", where=name, value=str(tensor.dtype))
    return floats


def refuse_codes(weights: Mapping[str, Tensor]) -> None:
    """Whole numbers are no weights: codes without their scales would be scored as if they were."""
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise PublicFileError(
                "holds whole numbers, not weights",
                where=name,
                value=str(tensor.dtype),
                way_out="codes need their scales: give the packed file of the script, or its float weights",
            )
