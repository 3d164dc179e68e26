"""A program for tests: real steps of a recipe.json on made-up tokens; prints the peak bytes of memory."""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from bitgolf.core.backend import choose_backend
from bitgolf.core.files import read_json
from bitgolf.core.model import build_model
from bitgolf.core.optim import make_optimizers
from bitgolf.core.plan import from_json
from bitgolf.core.recipe import Recipe
from bitgolf.core.shards import TokenStream, write_shard
from bitgolf.core.train import ShardBatches, train


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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
    return [r.nats_per_token for r in train(model, recipe.train, optimizers, recipe.average, source)]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.ones(64, 64) @ torch.ones(64, 64)  # what the first product loads is not the training's
    imported = peak_bytes()
    losses = train_recipe(from_json(Recipe, read_json(folder / "recipe.json")), folder / "train_000000.bin")
    print(json.dumps({"imported": imported, "peak": peak_bytes(), "losses": losses}))
