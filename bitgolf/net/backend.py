"""The device, number type and kernels of a run, chosen by measurement, with the reason for each choice."""

import ctypes
import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F

from bitgolf.base.errors import BitgolfError
from bitgolf.base.plan import Plan, setting

DECODE_ROWS = 8  # below this many rows a bfloat16 product on a CPU is up to 50 times slower than float32
PROBE_SECONDS = 0.01  # for each of the two number types
BFLOAT16_GAIN = 1.3  # how much faster bfloat16 products must be to be chosen


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendPlan(Plan):
    """Settings of device, number type and kernels. 'auto' measures or detects; others are used as given.

    fused: hand-written backward passes; off uses plain torch operations, with the same results but slower.
    compile: torch.compile; its first step takes half a minute to several minutes, so it is for long runs.
    threads: 0 uses every core. reuse_memory: keep freed blocks (glibc only), which avoids page faults.
    """

    device: str = setting("auto", one_of=("auto", "cpu", "cuda"))
    dtype: str = setting("auto", one_of=("auto", "float32", "bfloat16"))
    attention: str = setting("auto", one_of=("auto", "chunk", "sdpa", "math"))
    fused: bool = True
    compile: bool = False
    threads: int = setting(0, at_least=0, at_most=4096)
    reuse_memory: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backend:
    """The choices of a run. reasons: one sentence for each, as recorded in the run folder."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    attention: str = "sdpa"
    fused: bool = False
    compile: bool = False
    threads: int = 0
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)

    def compute_dtype(self, rows: int) -> torch.dtype:
        """The number type of a forward pass over this many tokens; few tokens use float32."""
        return torch.float32 if self.device.type == "cpu" and rows < DECODE_ROWS else self.dtype

    def plain(self) -> Self:
        """The same device with float32 and plain operations, whose products can be intercepted."""
        return dataclasses.replace(self, dtype=torch.float32, fused=False, compile=False)

    @property
    def dtype_name(self) -> str:
        """The name of the number type in settings and results."""
        return str(self.dtype).removeprefix("torch.")


def choose_device(plan: BackendPlan) -> torch.device:
    """The requested device, or the best one. Raises BitgolfError if it is not available."""
    has_cuda = torch.cuda.is_available()
    if plan.device == "cuda" and not has_cuda:
        raise BitgolfError("no CUDA device", where="backend.device", way_out="use device=cpu or device=auto")
    return torch.device("cuda" if has_cuda and plan.device != "cpu" else "cpu")


def choose_backend(plan: BackendPlan, begun_in: str = "", same: Callable[[float], float] = float) -> Backend:
    """Resolve every 'auto'. Raises BitgolfError if the requested device is not available.

    begun_in: the number type of a run that is continued; it is kept, even if another is faster now. same:
    maps a measurement to the value that all processes use.
    """
    device = choose_device(plan)
    if plan.compile and not compiler_found():
        raise BitgolfError(
            "no C++ compiler", where="backend.compile", way_out="install g++, or compile=false"
        )
    reasons = {}
    reasons["device"] = f"{device.type}: {'asked for' if plan.device != 'auto' else 'the best one found'}"
    if plan.threads:
        torch.set_num_threads(plan.threads)
    reasons["threads"] = f"{torch.get_num_threads()}: {'asked for' if plan.threads else 'the default'}"
    if plan.reuse_memory and device.type == "cpu":
        reasons["reuse_memory"] = "on" if keep_freed_memory() else "off: needs Linux with glibc"
    if plan.compile:
        reasons["compile"] = "on: the first step of each shape takes minutes"
    dtype, reasons["dtype"] = _choose_dtype(plan.dtype, device, begun_in, same)
    attention, reasons["attention"] = _choose_attention(plan.attention, device, dtype)
    return Backend(
        device=device,
        dtype=dtype,
        attention=attention,
        fused=plan.fused,
        compile=plan.compile,
        threads=torch.get_num_threads(),
        reasons=reasons,
    )


def compiler_found() -> bool:
    """Whether torch.compile has what it needs to build CPU code."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def _choose_dtype(
    wish: str, device: torch.device, begun_in: str, same: Callable[[float], float]
) -> tuple[torch.dtype, str]:
    if wish != "auto":
        return getattr(torch, wish), f"{wish}: asked for"
    if begun_in in ("float32", "bfloat16"):
        return getattr(torch, begun_in), f"{begun_in}: kept, it was begun in this"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return torch.bfloat16, "bfloat16: the device has it natively"
        return torch.float32, "float32: the device has no native bfloat16"
    gain = same(bfloat16_gain(device))
    chosen = "bfloat16" if gain >= BFLOAT16_GAIN else "float32"
    return getattr(torch, chosen), f"{chosen}: bfloat16 products measured {gain:.1f} times as fast as float32"


def _choose_attention(wish: str, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    if wish != "auto":
        return wish, f"{wish}: asked for"
    if device.type == "cpu" and dtype == torch.bfloat16:
        return "chunk", "chunk: torch's CPU attention gains nothing from bfloat16, batched products do"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "math", "math: no flash attention on this card"
    return "sdpa", "sdpa: torch's own kernel"


def bfloat16_gain(device: torch.device) -> float:
    """How many times faster a bfloat16 matrix product is than float32, from about 20 ms of measuring."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.ones(1024, 256, dtype=dtype, device=device)
        right = torch.ones(256, 256, dtype=dtype, device=device)
        F.linear(left, right)
        best, stop = float("inf"), time.perf_counter() + PROBE_SECONDS
        while time.perf_counter() < stop:
            start = time.perf_counter()
            F.linear(left, right)
            best = min(best, time.perf_counter() - start)
        seconds[dtype] = best
    return seconds[torch.float32] / seconds[torch.bfloat16]


def keep_freed_memory() -> bool:
    """Make glibc reuse large blocks instead of returning them to the system; 1.1 to 1.3 times the speed.

    A new block costs a page fault per 4 KiB. Affects blocks made after the call. False without glibc.
    """
    if sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mmap_threshold, trim_threshold = -3, -1
    return bool(mallopt(mmap_threshold, 1 << 30) and mallopt(trim_threshold, 0x7FFFFFFF))
