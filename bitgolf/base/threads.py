"""Work in several threads, as many as torch has: for compiled code and others that leave Python's lock."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Thread
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The results of `work` for all items, in their order; a single thread is this one.

    Each thread gives torch as many threads as this one, because the last bits of a decomposition depend on
    them.
    """
    threads = torch.get_num_threads()
    if min(threads, len(items)) < 2:
        return list(map(work, items))
    with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, threads)) as crew:
        return list(crew.map(work, items))


def in_parts(work: Callable[[int, int], None], count: int) -> None:
    """work(start, end) for the numbers below count, a part of them in each thread."""
    threads = min(torch.get_num_threads(), count)
    cuts = [count * thread // threads for thread in range(threads + 1)]
    first, *others = zip(cuts, cuts[1:])
    crew = [Thread(target=work, args=each) for each in others]
    for each in crew:
        each.start()
    work(*first)
    for each in crew:
        each.join()
