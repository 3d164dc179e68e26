"""The processes that train together: one by default, several under torchrun."""

import dataclasses
import datetime
import os

import torch
from torch import Tensor, distributed

# Functions of this module have `group.WORLD` at import time as a default argument. If the compiler imported
# it only after `join_world`, they would keep the group and its threads after `leave_world`, and these can
# abort the process at exit (SIGABRT).
from torch.distributed.nn.functional import group  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True)
class World:
    """The rank of this process and their number. With one process nothing here communicates."""

    rank: int = 0
    size: int = 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place and the same on each of them."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def each(self, tensor: Tensor) -> list[Tensor]:
        """The tensor of each process, in the order of their ranks (all-gather)."""
        if self.size == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(gathered, tensor)
        return gathered

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, with one message for all tensors."""
        if self.size == 1 or not tensors:
            return
        flat = self.sum(torch.cat([tensor.reshape(-1).float() for tensor in tensors])).div_(self.size)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(part.view_as(tensor))

    def broadcast(self, value: float) -> float:
        """The first process's value, on all processes, for decisions that must agree, such as the time."""
        if self.size == 1:
            return value
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        mine = torch.tensor(value if self.rank == 0 else 0.0, dtype=torch.float64, device=device)
        return self.sum(mine).item()


def join_world(device: str) -> World:
    """The world that torchrun's environment variables describe; a single process without them."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Longer than torch's default: the others wait while the first packs.
    patience = datetime.timedelta(hours=4)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=patience)
    return World(rank=distributed.get_rank(group.WORLD), size=size)


def leave_world(world: World) -> None:
    """End the connections and threads that `join_world` made."""
    if world.size > 1:
        distributed.destroy_process_group()
