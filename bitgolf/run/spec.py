"""The specification of a run: a recipe, a text, a seed and a folder."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bitgolf.recipe import Recipe
from bitgolf.text.shards import Dataset


class RunSpec(NamedTuple):
    """One run. code: the program whose bytes count towards the budget. clock: seconds, for tests to set."""

    recipe: Recipe
    dataset: Dataset
    folder: Path
    seed: int
    code: bytes
    clock: Callable[[], float] = time.perf_counter

    @property
    def training_identity(self) -> str:
        """Names the training of the run."""
        return training_identity(self.recipe, self.dataset, self.seed)


def training_identity(recipe: Recipe, dataset: Dataset, seed: int) -> str:
    """Names a training: its state may go on in, or end in, any run that has the same."""
    return f"{recipe.training().identity()}-{seed}-{data_identity(dataset)}"


def data_identity(dataset: Dataset) -> str:
    """16 hex digits that name the training tokens."""
    hashes = [shard["sha256"] for shard in dataset.passport["splits"]["train"]["shards"]]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
