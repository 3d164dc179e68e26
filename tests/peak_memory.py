"""A program for tests: real steps of a recipe.json on made-up tokens; prints the peak bytes of memory."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from bitgolf import import_core
from bitgolf.base.files import read_json, write_json
from bitgolf.base.plan import from_json, to_json
from bitgolf.net.backend import choose_backend
from bitgolf.net.model import build_model
from bitgolf.recipe import Recipe
from bitgolf.text.shards import TokenStream, write_shard
from bitgolf.train.loop import ShardBatches, train
from bitgolf.train.optim import make_optimizers


def peak_of(recipe: Recipe, folder: Path) -> int:
    """Most bytes that a process of its own held while it took the steps of a recipe."""
    write_json(folder / "recipe.json", to_json(recipe))
    command = [sys.executable, "-m", "tests.peak_memory", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def peak_so_far() -> int:
    """Most bytes that this process has held; getrusage also counts who started it."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def train_recipe(recipe: Recipe, shard: Path) -> list[float]:
    """Losses of all its steps."""
    tokens = np.random.default_rng(0).integers(0, recipe.model.vocabulary_size, 4 * recipe.train.batch_tokens)
    write_shard(shard, tokens.astype(np.uint16))
    backend = choose_backend(recipe.backend)
    model = build_model(recipe.model, seed=1).use(backend)
    optimizers = make_optimizers(recipe.optim, model, iteration_dtype=backend.dtype)
    source = ShardBatches(
        stream=TokenStream([shard]),
        order=recipe.data.order,
        length=recipe.data.sequence_length,
        vocabulary_size=recipe.model.vocabulary_size,
    )
    steps = train(
        model,
        recipe.train,
        optimizers,
        recipe.average,
        source,
        noise=recipe.noise,
        quantize=recipe.quantize,
    )
    return [report.nats_per_token for report in steps]


if __name__ == "__main__":
    import_core()
    place = Path(sys.argv[1])
    losses = train_recipe(from_json(Recipe, read_json(place / "recipe.json")), place / "train_000000.bin")
    assert np.isfinite(losses).all()
    print(peak_so_far())
