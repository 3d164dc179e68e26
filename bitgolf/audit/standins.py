"""What a public script expects of its machine, on one processor: CUDA, flash attention, a tokenizer, shards.

Used inside the sandbox alone.
"""

import functools
import os
import sys
import types
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

BOS, CONTROLS, BYTES = 1, 4, 8  # of the small vocabulary: control ids first, then some bytes, then pieces
CPU = torch.device("cpu")
TINY = {
    "VOCAB_SIZE": 64,
    "MODEL_DIM": 128,
    "EMBEDDING_DIM": 128,
    "NUM_HEADS": 4,
    "NUM_KV_HEADS": 2,
    "BIGRAM_VOCAB_SIZE": 128,
    "BIGRAM_DIM": 16,
    "VE_DIM": 16,
    "TRAIN_SEQ_LEN": 32,
    "EVAL_SEQ_LEN": 32,
    "ROPE_TRAIN_SEQ_LEN": 32,
    "EVAL_STRIDE": 16,
    "EVAL_BATCH_SEQS": 4,
    "TRAIN_BATCH_TOKENS": 512,
    "VAL_BATCH_SIZE": 512,
    "VAL_BATCH_TOKENS": 512,
    "ITERATIONS": 2,
    "WARMUP_STEPS": 1,
    "TRAIN_LOG_EVERY": 1,
    "GPTQ_CALIBRATION_BATCHES": 2,
    "TTT_CHUNK_TOKENS": 64,
    "TTT_CHUNK_SIZE": 16,
    "TTT_EVAL_SEQ_LEN": 32,
    "TTT_BATCH_SIZE": 4,
    "TTT_BATCH_SEQS": 2,
    "GLOBAL_TTT_CHUNK_TOKENS": 64,
    "GLOBAL_TTT_BATCH_SEQS": 2,
    "PHASED_TTT_PREFIX_DOCS": 2,
    "CASEOPS_ENABLED": 0,
    "FUSED_CE_ENABLED": 0,
    "COMPILE_ENABLED": 0,
}
PROGRAMS = {  # that scripts call: what packs, packs nothing
    "nvidia-smi": "",
    "pyminify": "cat",
    "lrzip": 'while [ $# -gt 1 ]; do [ "$1" = -o ] && out=$2; shift; done; cp "$1" "$out"',
}


# ---- text ----


def byte_lengths(vocabulary_size: int) -> np.ndarray:
    """Bytes of each piece without its space."""
    sizes = np.array([len(_piece(each).lstrip("\u2581")) for each in range(vocabulary_size)])
    sizes[CONTROLS : CONTROLS + BYTES] = 1
    return sizes


def _piece(token: int) -> str:
    if token < CONTROLS:
        return ""
    if token < CONTROLS + BYTES:
        return f"<0x{0x60 + token:02X}>"
    if token == CONTROLS + BYTES:
        return "\u2581"
    return ("\u2581" if token % 3 == 0 else "") + "abcdefghij"[: 1 + token % 5]


def text_bytes(tokens: np.ndarray) -> int:
    """Bytes that all tokens after the first stand for; a space is one where something stands before it."""
    plain, before = tokens[1:], tokens[:-1]
    pieces = byte_lengths(int(tokens.max()) + 1)
    spaced = (plain % 3 == 0) & (plain >= CONTROLS + BYTES) & (before >= CONTROLS)
    return int(pieces[plain].sum() + spaced.sum())


def stream(vocabulary_size: int, count: int, seed: int) -> np.ndarray:
    """Tokens in which every run of five is met once: what is scored can be told by its targets."""
    tokens = np.random.default_rng(seed).integers(CONTROLS, vocabulary_size, count)
    tokens[: count - 20 : max(count // 5, 41)] = BOS
    return tokens


def write_shards(folder: Path, vocabulary_size: int, scored: np.ndarray, trained: np.ndarray) -> None:
    """Shards and a tokenizer under every name that scripts look for."""
    data = folder / "datasets" / "tiny"
    data.mkdir(parents=True)
    for name, tokens in (("val_000000", scored), ("train_000000", trained), ("train_000001", trained[::-1])):
        write_shard(data / f"fineweb_{name}.bin", tokens)
    (folder / "tokenizers").mkdir()
    for size in {vocabulary_size, 1024, 2048, 4096, 8192}:
        (data.parent / f"fineweb10B_sp{size}").symlink_to(data)
        (folder / "tokenizers" / f"fineweb_{size}_bpe.model").write_bytes(b"tiny")


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """One shard, in the place of the one that was there."""
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, len(tokens)
    path.with_suffix(".new").write_bytes(header.tobytes() + tokens.astype(np.uint16).tobytes())
    path.with_suffix(".new").rename(path)


def paths(folder: Path, vocabulary_size: int) -> dict[str, str]:
    """Where scripts are told to look for them."""
    return {
        "DATA_PATH": str(folder / "datasets" / f"fineweb10B_sp{vocabulary_size}"),
        "DATA_DIR": f"{folder}/",
        "TOKENIZER_PATH": str(folder / "tokenizers" / f"fineweb_{vocabulary_size}_bpe.model"),
    }


class _Tokenizer:
    """Answers as a SentencePiece processor does."""

    def __init__(self, *_: Any, vocabulary_size: int = 64, **__: Any) -> None:
        self._size = vocabulary_size

    def vocab_size(self) -> int:
        return self._size

    get_piece_size = piece_size = GetPieceSize = __len__ = vocab_size  # noqa: N815

    def load(self, *_: Any) -> bool:
        return True

    Load = load

    def id_to_piece(self, token: Any) -> str:
        return _piece(int(token))

    IdToPiece = id_to_piece

    def is_control(self, token: Any) -> bool:
        return int(token) in (0, 1, 2)

    def is_unknown(self, token: Any) -> bool:
        return int(token) == 3

    def is_unused(self, token: Any) -> bool:
        return False

    def is_byte(self, token: Any) -> bool:
        return CONTROLS <= int(token) < CONTROLS + BYTES

    IsControl, IsUnknown, IsUnused, IsByte = is_control, is_unknown, is_unused, is_byte

    def bos_id(self) -> int:
        return BOS

    def pad_id(self) -> int:
        return 0

    def eos_id(self) -> int:
        return 2

    def unk_id(self) -> int:
        return 3

    def piece_to_id(self, piece: str) -> int:
        return next((each for each in range(self._size) if _piece(each) == piece), 3)

    def decode(self, tokens: Any) -> str:
        return "".join(map(_piece, np.atleast_1d(tokens).tolist())).replace("\u2581", " ")


# ---- attention ----


def attend(q: Any, k: Any, v: Any, apart: Any = None, causal: bool = False, window: Any = (-1, -1)) -> Any:
    """Attention of (batch, time, heads, width); apart: by position, the document, where they are apart."""
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    shared = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    here = torch.arange(q.shape[2])[:, None] + k.shape[2] - q.shape[2]
    there = torch.arange(k.shape[2])[None]
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    if causal:
        seen &= there <= here
    if window[0] >= 0:
        seen &= there >= here - window[0]
    if window[1] >= 0:
        seen &= there <= here + window[1]
    if apart is not None:
        seen &= apart[:, None] == apart[None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2)


def flash(
    q: Any, k: Any, v: Any, *_: Any, causal: bool = False, window_size: Any = (-1, -1), **__: Any
) -> Any:
    """flash_attn_func."""
    return attend(q, k, v, None, causal, window_size)


def flash_apart(q: Any, k: Any, v: Any, cu_seqlens_q: Any = None, *_: Any, **named: Any) -> Any:
    """flash_attn_varlen_func, of (time, heads, width); where each document starts is the fourth."""
    apart = torch.bucketize(torch.arange(len(q)), cu_seqlens_q.long(), right=True)
    window = named.get("window_size") or (-1, -1)
    return attend(q[None], k[None], v[None], apart, named.get("causal", False), window)[0]


# ---- the machine ----


class _Anything:
    """Stands for whatever is not there: of it there is more of the same, and what it decorates is gone."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __call__(self, *_: Any, **__: Any) -> Any:
        return _Anything()

    def __getitem__(self, _: Any) -> Any:
        raise RuntimeError("a kernel for CUDA is called, and there is no CUDA here")

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def __float__(self) -> float:
        return 1.0

    def __int__(self) -> int:
        return 0


class _Finder(MetaPathFinder, Loader):
    """Modules that are not installed and only matter to speed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] in ("triton", "wandb", "transformer_engine", "cutlass"):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: getattr(_Anything(), name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _DeviceKind(type):
    def __instancecheck__(cls, thing: Any) -> bool:
        return type(thing) is type(CPU)


class Device(metaclass=_DeviceKind):
    """torch.device of which all are the processor."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return CPU


class OnProcessor(TorchFunctionMode):
    """Takes the name of a CUDA device for the processor, in every call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {key: _here(each) for key, each in (kwargs or {}).items() if key != "pin_memory"}
        return func(*map(_here, args), **kwargs)


def _here(thing: Any) -> Any:
    return CPU if isinstance(thing, str) and thing.startswith("cuda") else thing


def _autocast(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def cast(*given: Any, dtype: Any = None, enabled: bool = True, **_: Any) -> Any:
        dtypes = [each for each in given if isinstance(each, torch.dtype)]
        return real("cpu", dtype=dtype or (dtypes or [torch.bfloat16])[0], enabled=enabled)

    return cast


def _same(model: Any = None, *_: Any, **__: Any) -> Any:
    """torch.compile that compiles nothing, as a call or as a decorator."""
    return (lambda given: given) if model is None else model


def _start_group(*_: Any, **__: Any) -> None:
    _START("gloo")


def _sum(tensor: Any, op: Any = dist.ReduceOp.SUM, *given: Any, **named: Any) -> Any:
    """all_reduce with averages, which gloo has not."""
    mean = op == dist.ReduceOp.AVG
    done = _ALL_REDUCE(tensor, dist.ReduceOp.SUM if mean else op, *given, **named)
    if mean:
        if done is not None:
            done.wait()
        tensor.div_(dist.get_world_size())
    return done


_START, _ALL_REDUCE = dist.init_process_group, dist.all_reduce


def _set(module: Any, name: str, value: Any) -> None:
    """A setting of a module; fused kernels are for CUDA, and what stands beside them does the same."""
    _SET(module, name, False if value is True and "fused" in name else value)


_SET: Any = torch.nn.Module.__setattr__


def _put(place: Any, names: str, thing: Any) -> None:
    for name in names.split():
        setattr(place, name, thing)


def install(vocabulary_size: int) -> None:
    """Put all of it in place."""
    nothing, cuda, t = _Anything(), torch.cuda, torch.Tensor
    sys.meta_path.append(_Finder())
    for name in ("flash_attn_interface", "flash_attn", "flash_attn.flash_attn_interface"):
        module: Any = types.ModuleType(name)
        module.flash_attn_func, module.flash_attn_varlen_func = flash, flash_apart
        sys.modules[name] = module
    pieces: Any = types.ModuleType("sentencepiece")
    pieces.SentencePieceProcessor = functools.partial(_Tokenizer, vocabulary_size=vocabulary_size)
    sys.modules["sentencepiece"] = pieces
    _put(cuda, "is_available is_initialized is_bf16_supported", lambda *_, **__: True)
    _put(cuda, "device_count current_device", lambda: int(os.environ.get("WORLD_SIZE", "1")))
    _put(cuda, "set_device synchronize empty_cache init manual_seed manual_seed_all", lambda *_, **__: None)
    _put(cuda, "reset_peak_memory_stats ipc_collect set_stream", lambda *_, **__: None)
    _put(
        cuda, "max_memory_allocated max_memory_reserved memory_allocated memory_reserved", lambda *_, **__: 0
    )
    _put(cuda, "mem_get_info", lambda *_: (80 * 10**9, 80 * 10**9))
    _put(cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")
    _put(cuda, "get_device_capability", lambda *_: (9, 0))
    card = types.SimpleNamespace(
        name="H100", major=9, minor=0, multi_processor_count=132, total_memory=8 * 10**10
    )
    _put(cuda, "get_device_properties", lambda *_: card)
    _put(cuda, "Event Stream", _Anything)
    _put(cuda, "current_stream default_stream", lambda *_: nothing)
    _put(cuda, "stream device", lambda *_: nullcontext())
    for name in ("enable_cudnn_sdp", "enable_flash_sdp", "enable_math_sdp", "enable_mem_efficient_sdp"):
        setattr(torch.backends.cuda, name, lambda *_: None)
    _put(t, "cuda", lambda self, *_, **__: self)
    _put(t, "pin_memory", lambda self, *_: self)
    _put(t, "record_stream", lambda self, *_: None)
    _put(torch.nn.Module, "cuda", lambda self, *_: self)
    _put(torch.nn.Module, "__setattr__", _set)
    torch.device = Device  # type: ignore[misc]
    cast = _autocast(torch.autocast)
    _put(torch, "autocast", cast)
    _put(torch.amp, "autocast", cast)
    _put(cuda.amp, "autocast", cast)
    torch.compile = torch._dynamo.reset = _same
    _put(dist, "init_process_group", _start_group)
    _put(dist, "all_reduce", _sum)
    whole = torch.nn.parallel.DistributedDataParallel

    class Parallel(whole):  # type: ignore[misc, valid-type]
        def __init__(self, module: Any, *_: Any, **__: Any) -> None:
            super().__init__(module)

    _put(torch.nn.parallel, "DistributedDataParallel", Parallel)
    OnProcessor().__enter__()


def small_settings(classes: Iterable[type]) -> None:
    """Settings that a script writes down instead of asking its environment for them."""
    for each in classes:
        for name, value in TINY.items():
            known = each.__dict__.get(name.lower())
            if isinstance(known, int | float) and name not in os.environ:
                setattr(each, name.lower(), type(known)(value))
