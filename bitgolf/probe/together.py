"""Several processes that share an evaluation, simulated by threads, without a network."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from bitgolf.train.world import World

Result = TypeVar("Result")


class Together(World):
    """One of several threads that wait for each other where processes would."""

    def __init__(self, rank: int, barrier: threading.Barrier, slots: list[Tensor]) -> None:
        super().__init__(rank, barrier.parties)
        vars(self).update(barrier=barrier, slots=slots)

    def each(self, tensor: Tensor) -> list[Tensor]:
        barrier, slots = vars(self)["barrier"], vars(self)["slots"]
        slots[self.rank] = tensor
        barrier.wait()
        found = [each.clone() for each in slots]
        barrier.wait()
        return found

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self.each(tensor)).sum(0))

    def broadcast(self, value: float) -> float:
        return self.each(torch.tensor(value, dtype=torch.float64))[0].item()


def together(processes: int, work: Callable[[World], Result]) -> list[Result]:
    """What each of so many makes of the work, by rank. Raises the first one's error; then all end."""
    barrier, slots = threading.Barrier(processes), [torch.zeros(0)] * processes

    def one(rank: int) -> Result:
        try:
            return work(Together(rank, barrier, slots))
        except BaseException:
            barrier.abort()  # the others would wait for ever
            raise

    with ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(one, rank) for rank in range(processes)]
    errors = [error for each in futures if (error := each.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [each.result() for each in futures]
