"""A device that is not there: tensors of shape and type alone, and a watch over what touches them.

A GPU is stood for by torch's `meta` device. Under `Watch` every operation is looked at: tensors of the host
must not meet those of the device, what the device computes must not be waited for, and no shape may hang on
values. What is read back is all ones.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bitgolf.net.backend import Backend

DEVICE = torch.device("meta")
MOVES = ("aten._to_copy", "aten.to")
NUMBERS = ("aten._local_scalar_dense", "aten.item", "aten.equal", "aten.is_nonzero")
SHAPES = ("aten.nonzero", "aten.masked_select", "aten._unique2", "aten.unique_dim", "aten.bincount")
OWN = str(Path(__file__).parent.parent / "bitgolf")


class MixedError(Exception):
    """A tensor of the host met one of the device in an operation."""


class ShapeByValueError(Exception):
    """The shape of a result hangs on values that only the device knows."""


def on_device(**changes: Any) -> Backend:
    """A backend as a GPU with bfloat16 has it, on the device that is not there."""
    return dataclasses.replace(Backend(device=DEVICE, dtype=torch.bfloat16, fused=True), **changes)


def there(tensor: Tensor) -> bool:
    return tensor.device.type == "meta"


def place() -> str:
    """The innermost line of bitgolf that is being run, as file:function."""
    frame = sys._getframe(1)
    while frame and not frame.f_code.co_filename.startswith(OWN):
        frame = frame.f_back
    if frame is None:
        return "outside"
    return f"{Path(frame.f_code.co_filename).relative_to(OWN)}:{frame.f_code.co_name}"


class Watch(TorchDispatchMode):
    """Raises MixedError and ShapeByValueError; waits: where the host waited for the device, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, str(func).rpartition(".")[0]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(map(there, tensors)):
            return func(*args, **kwargs)
        self.operations += 1
        if name in NUMBERS:
            self.waits.append(place())
            return True
        if name in MOVES or name == "aten.copy_":
            return self._copied(func, name, args, kwargs)
        if name in SHAPES or (name == "aten.index" and any(_mask(index) for index in args[1])):
            raise ShapeByValueError(f"{name} at {place()}")
        here = [each for each in tensors if not there(each) and each.ndim]
        if here:
            shapes = ", ".join(f"{each.device.type} {tuple(each.shape)}" for each in tensors)
            raise MixedError(f"{name} at {place()}: {shapes}")
        return func(*args, **kwargs)

    def _copied(self, func, name, args, kwargs):
        """A copy goes as it is, but from the device to the host it is waited for and all ones."""
        if name == "aten.copy_":
            leaves, target = there(args[1]) and not there(args[0]), args[0]
        else:
            asked = [each for each in (*args[1:], *kwargs.values()) if isinstance(each, torch.device)]
            leaves = any(each.type == "cpu" for each in asked)
            dtypes = [each for each in (*args[1:], *kwargs.values()) if isinstance(each, torch.dtype)]
            target = torch.empty(args[0].shape, dtype=dtypes[0] if dtypes else args[0].dtype)
        if not leaves:
            return func(*args, **kwargs)
        self.waits.append(place())
        return target.fill_(1)


def _mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)
