"""Which device, number type and kernels a run uses, chosen by measuring."""

import dataclasses
from collections.abc import Callable
from typing import Self

import torch

from bitgolf.net.backend import (
    BFLOAT16_GAIN,
    DECODE_ROWS,
    BackendPlan,
    bfloat16_gain,
    choose_device,
    keep_freed_memory,
)

FLASH_CAPABILITY = (8, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backend:
    """The choices, made."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    plan: BackendPlan = BackendPlan()  # noqa: RUF009

    @property
    def attention(self) -> str:
        """How attention is computed: by chunks, by torch's own kernel, or written out."""
        if self.plan.attention != "auto":
            return self.plan.attention
        if self.device.type == "cpu":
            return "chunk" if self.dtype == torch.bfloat16 else "sdpa"
        return "sdpa" if is_new(self.device) else "math"

    @property
    def fused(self) -> bool:
        """Whether the operations by hand are used."""
        return self.plan.fused

    @property
    def compile(self) -> bool:
        """Whether torch compiles the step."""
        return self.plan.compile

    def plain(self) -> Self:
        """The same device and attention in float32, whose products can all be seen."""
        plan = self.plan.replace(fused=False, compile=False, attention=self.attention)
        return dataclasses.replace(self, dtype=torch.float32, plan=plan)

    def compute_dtype(self, rows: int) -> torch.dtype:
        """The number type for a forward pass over this many tokens: decoding a few at a time is float32."""
        return torch.float32 if self.device.type == "cpu" and rows < DECODE_ROWS else self.dtype


def is_new(device: torch.device) -> bool:
    """Whether it is a card that has bfloat16 and flash attention."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY


def choose_backend(plan: BackendPlan, same: Callable[[float], float]) -> Backend:
    """Resolve every 'auto'; same: what one of several processes has measured as all of them take it."""
    device = choose_device(plan)
    if plan.threads:
        torch.set_num_threads(plan.threads)
    if plan.reuse_memory and device.type == "cpu":
        keep_freed_memory()
    dtype = plan.dtype
    if dtype == "auto":
        fast = is_new(device) or (device.type == "cpu" and same(bfloat16_gain(device)) >= BFLOAT16_GAIN)
        dtype = "bfloat16" if fast else "float32"
    return Backend(device=device, dtype=getattr(torch, dtype), plan=plan)
