"""Seconds and memory of a training step as batch, length, vocabulary and width grow, each in its own process.

python -m bench.growth [--axes batch,length,vocabulary,width] [--steps N] [--dtype auto] [--json]
From a middle point one setting at a time is changed. Seconds are of the fastest step, on one thread. Memory
is the peak of the whole process; beside it stands its forecast.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch

from bench.machine import Watch, show
from bench.train import OurStep, flops_per_token
from bitgolf.forecast.budget import memory_bytes
from bitgolf.net.backend import BackendPlan
from bitgolf.net.model import ModelPlan, parameter_shapes
from bitgolf.recipe import DataPlan, Recipe
from bitgolf.train.loop import TrainPlan

MIDDLE = {"batch": 8, "length": 256, "vocabulary": 1024, "width": 128}
AXES = {
    "batch": (1, 4, 16, 64),
    "length": (64, 256, 1024, 4096),
    "vocabulary": (256, 1024, 4096, 16384),
    "width": (32, 128, 512, 1024),
}
LAYERS, HEAD_WIDTH = 4, 32


def recipe_of(batch: int, length: int, vocabulary: int, width: int, dtype: str) -> Recipe:
    """A model of four layers at a point, with its batch in one pass."""
    heads = max(1, width // HEAD_WIDTH)
    model = ModelPlan(
        vocabulary_size=vocabulary, layers=LAYERS, width=width, heads=heads, kv_heads=max(1, heads // 2)
    )
    tokens = batch * length
    return Recipe(
        model=model,
        data=DataPlan(sequence_length=length),
        train=TrainPlan(batch_tokens=tokens, accumulation=1, forward_tokens=tokens),
        backend=BackendPlan(threads=1, dtype=dtype),
    )


def measured(steps: int, batch: int, length: int, vocabulary: int, width: int, dtype: str) -> dict[str, Any]:
    """What a step takes at a point, in this process, of which it must be the first."""
    recipe = recipe_of(batch, length, vocabulary, width, dtype)
    step, seconds = OurStep(recipe.model, recipe.backend), []
    ids = torch.randint(vocabulary, (batch, length + 1), generator=torch.Generator().manual_seed(1))
    pair = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    for _ in range(steps + 1):
        start = time.process_time()
        step(*pair)
        seconds.append(time.process_time() - start)
    best, tokens = min(seconds[1:]), batch * length
    return {
        "milliseconds": 1000 * best,
        "tokens_per_second": tokens / best,
        "gigaflops": tokens / best * flops_per_token(recipe.model, length) / 1e9,
        "MiB": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "forecast_MiB": memory_bytes(recipe, parameter_shapes(recipe.model)) / 2**20,
    }


def bench_axis(axis: str, steps: int, dtype: str) -> dict[str, Any]:
    """One setting at all its values."""
    found = {}
    for value in AXES[axis]:
        point = json.dumps({"steps": steps, **MIDDLE, axis: value, "dtype": dtype})
        command = [sys.executable, "-m", "bench.growth", "--point", point]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[str(value)] = json.loads(ran.stdout)
    kinds = next(iter(found.values()))
    return {"bench": f"growth {axis}"} | {
        kind: {value: point[kind] for value, point in found.items()} for kind in kinds
    }


def main() -> None:
    """Measure the axes asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", default=",".join(AXES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measured(**json.loads(options.point))))
        return
    watch, results = Watch(), []
    for axis in options.axes.split(","):
        results.append(bench_axis(axis, options.steps, options.dtype))
        if not options.json:
            show(results[-1])
    results.append(watch.facts())
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        print()
    else:
        show(results[-1])


if __name__ == "__main__":
    main()
