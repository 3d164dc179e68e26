"""What a public script expects of its machine, on one processor: CUDA, flash attention, fused kernels."""

import functools
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from bitgolf.audit.sandbox.text import Tokenizer

CPU = torch.device("cpu")
PROGRAMS = {  # that scripts call: what packs, packs nothing
    "nvidia-smi": "",
    "pyminify": "cat",
    "lrzip": 'while [ $# -gt 1 ]; do [ "$1" = -o ] && out=$2; shift; done; cp "$1" "$out"',
}


# ---- attention ----


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    apart: torch.Tensor | None = None,
    causal: bool = False,
    window: tuple[int, int] = (-1, -1),
) -> torch.Tensor:
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
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *_: object,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    **__: object,
) -> torch.Tensor:
    """flash_attn_func."""
    return attend(q, k, v, None, causal, window_size)


def flash_apart(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    *_: object,
    causal: bool = False,
    window_size: tuple[int, int] | None = None,
    **__: object,
) -> torch.Tensor:
    """flash_attn_varlen_func, of (time, heads, width); where each document starts is the fourth."""
    apart = torch.bucketize(torch.arange(len(q)), cu_seqlens_q.long(), right=True)
    return attend(q[None], k[None], v[None], apart, causal, window_size or (-1, -1))[0]


# ---- the machine ----


class _Anything:
    """Stands for whatever is not there: of it there is more of the same, and what it decorates is gone."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __getattr__(self, name: str) -> "_Anything":
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __call__(self, *_: object, **__: object) -> "_Anything":
        return _Anything()

    def __getitem__(self, _: object) -> Callable[..., object]:
        raise RuntimeError("a kernel for CUDA is called, and there is no CUDA here")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __float__(self) -> float:
        return 1.0

    def __int__(self) -> int:
        return 0


class _Finder(MetaPathFinder, Loader):
    """Modules that are not installed and only matter to speed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in ("triton", "wandb", "transformer_engine", "cutlass"):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _module(spec.name, __getattr__=lambda name: getattr(_Anything(), name))

    def exec_module(self, module: ModuleType) -> None:
        pass


def _module(name: str, **members: object) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(members)
    return module


class _DeviceKind(type):
    def __instancecheck__(cls, thing: object) -> bool:
        return type(thing) is type(CPU)


class Device(metaclass=_DeviceKind):
    """torch.device of which all are the processor."""

    def __new__(cls, *_: object, **__: object) -> torch.device:  # type: ignore[misc]
        return CPU


class OnProcessor(TorchFunctionMode):
    """Takes the name of a CUDA device for the processor, in every call."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        named = {key: _here(each) for key, each in (kwargs or {}).items() if key != "pin_memory"}
        return func(*map(_here, args), **named)


def _here(thing: object) -> object:
    return CPU if isinstance(thing, str) and thing.startswith("cuda") else thing


def _autocast(real: type[torch.autocast]) -> Callable[..., torch.autocast]:
    @functools.wraps(real)
    def cast(
        *given: object, dtype: torch.dtype | None = None, enabled: bool = True, **_: object
    ) -> torch.autocast:
        dtypes = [each for each in given if isinstance(each, torch.dtype)]
        return real("cpu", dtype=dtype or (dtypes or [torch.bfloat16])[0], enabled=enabled)

    return cast


def _same(model: object = None, *_: object, **__: object) -> object:
    """torch.compile that compiles nothing, as a call or as a decorator."""
    return (lambda given: given) if model is None else model


_START, _ALL_REDUCE, _SET = dist.init_process_group, dist.all_reduce, torch.nn.Module.__setattr__
_Parallel = torch.nn.parallel.DistributedDataParallel


def _start_group(*_: object, **__: object) -> None:
    _START("gloo")


def _sum(
    tensor: torch.Tensor,
    op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM,
    group: dist.ProcessGroup | None = None,
    async_op: bool = False,
) -> object:
    """all_reduce with averages, which gloo has not."""
    mean = op == dist.ReduceOp.AVG
    done = _ALL_REDUCE(tensor, dist.ReduceOp.SUM if mean else op, group, async_op)
    if mean:
        if done is not None:
            done.wait()
        tensor.div_(dist.get_world_size())
    return done


class Parallel(_Parallel):
    """DistributedDataParallel that asks for no device."""

    def __init__(self, module: torch.nn.Module, *_: object, **__: object) -> None:
        super().__init__(module)


def _set(module: torch.nn.Module, name: str, value: torch.Tensor | torch.nn.Module) -> None:
    """A setting of a module; fused kernels are for CUDA, and what stands beside them does the same."""
    _SET(module, name, False if value is True and "fused" in name else value)


def put(owner: object, names: str, thing: object) -> None:
    """Let something stand under names, separated by spaces, for what is there."""
    for name in names.split():
        setattr(owner, name, thing)


def install(vocabulary_size: int) -> None:
    """Put all of it in place."""
    nothing, cuda, t = _Anything(), torch.cuda, torch.Tensor
    sys.meta_path.append(_Finder())
    for name in ("flash_attn_interface", "flash_attn", "flash_attn.flash_attn_interface"):
        sys.modules[name] = _module(name, flash_attn_func=flash, flash_attn_varlen_func=flash_apart)
    pieces = functools.partial(Tokenizer, vocabulary_size=vocabulary_size)
    sys.modules["sentencepiece"] = _module("sentencepiece", SentencePieceProcessor=pieces)
    put(cuda, "is_available is_initialized is_bf16_supported", lambda *_, **__: True)
    put(cuda, "device_count current_device", lambda: int(os.environ.get("WORLD_SIZE", "1")))
    put(cuda, "set_device synchronize empty_cache init manual_seed manual_seed_all", lambda *_, **__: None)
    put(cuda, "reset_peak_memory_stats ipc_collect set_stream", lambda *_, **__: None)
    put(cuda, "max_memory_allocated max_memory_reserved memory_allocated memory_reserved", lambda *_, **__: 0)
    put(cuda, "mem_get_info", lambda *_: (80 * 10**9, 80 * 10**9))
    put(cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")
    put(cuda, "get_device_capability", lambda *_: (9, 0))
    card = types.SimpleNamespace(
        name="H100", major=9, minor=0, multi_processor_count=132, total_memory=8 * 10**10
    )
    put(cuda, "get_device_properties", lambda *_: card)
    put(cuda, "Event Stream", _Anything)
    put(cuda, "current_stream default_stream", lambda *_: nothing)
    put(cuda, "stream device", lambda *_: nullcontext())
    for name in ("enable_cudnn_sdp", "enable_flash_sdp", "enable_math_sdp", "enable_mem_efficient_sdp"):
        setattr(torch.backends.cuda, name, lambda *_: None)
    put(t, "cuda", lambda self, *_, **__: self)
    put(t, "pin_memory", lambda self, *_: self)
    put(t, "record_stream", lambda self, *_: None)
    put(torch.nn.Module, "cuda", lambda self, *_: self)
    put(torch.nn.Module, "__setattr__", _set)
    put(torch, "device", Device)
    cast = _autocast(torch.autocast)
    put(torch, "autocast", cast)
    put(torch.amp, "autocast", cast)
    put(cuda.amp, "autocast", cast)
    put(torch, "compile", _same)
    put(torch._dynamo, "reset", _same)
    put(dist, "init_process_group", _start_group)
    put(dist, "all_reduce", _sum)
    put(torch.nn.parallel, "DistributedDataParallel", Parallel)
    OnProcessor().__enter__()
