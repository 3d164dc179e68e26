"""Scored tokens per second of our sliding windows and chains beside the public way, taken in turns.

python -m bench.score [--shapes tiny,small] [--tokens N] [--rounds N] [--threads N] [--json]
The public way: a forward pass over each whole window with all its logits, in everyday torch. Chains score 16
times as many tokens, as the first of each lane are passed for nothing. Weights are drawn away from where they
start, so that every part has a say in the nats that are compared.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.plain import PlainScore
from bench.train import interleave, show
from bitgolf.net.backend import BackendPlan, choose_backend
from bitgolf.net.model import ModelPlan, build_model, model_with
from bitgolf.score.chained import Chained
from bitgolf.score.score import ScorePlan, score
from bitgolf.score.windows import Sliding, Windows

SHAPES = {  # model, length of a window; strides are of 64 tokens
    "tiny": (ModelPlan(width=128, layers=4, heads=4, kv_heads=2), 256),
    "small": (ModelPlan(width=256, layers=6, heads=4, kv_heads=2), 1024),
}
STRIDE, LANES = 64, 16
KINDS = ("float32", "bfloat16")


class NoText:
    """Tokens that stand for nothing."""

    bos, lossless = -1, True

    def token_bytes(self, targets: np.ndarray, previous: np.ndarray) -> np.ndarray:
        return np.zeros(len(targets), np.int64)


def bench_sliding(shape: str, tokens: int, rounds: int) -> dict[str, Any]:
    """Our sliding windows in both number types beside the public way, and how far the nats are apart."""
    plan, length = SHAPES[shape]
    draw = torch.Generator().manual_seed(1)
    text = torch.randint(plan.vocabulary_size, (16 * tokens + length,), generator=draw)
    weights = {
        name: tensor + 0.02 * torch.randn(tensor.shape, generator=draw)
        for name, tensor in build_model(plan).state_dict().items()
    }
    long = text.numpy().astype(np.uint16)
    stream, windows = long[: tokens + length], Sliding(length=length, stride=STRIDE)
    chained = Chained(history=length - STRIDE, stride=STRIDE, lanes=LANES)
    cuts = list(windows.windows(len(stream)))

    def ours(kind: str, by: Windows, stream: np.ndarray) -> Callable[[], np.ndarray]:
        backend = choose_backend(BackendPlan(threads=torch.get_num_threads(), dtype=kind))
        model = model_with(plan, weights, backend)
        return lambda: score(model, stream, NoText(), ScorePlan(windows=by)).nats  # type: ignore[arg-type]

    def public(kind: str) -> Callable[[], Tensor]:
        way = PlainScore(plan, weights, mixed=kind == "bfloat16")
        return lambda: way(text, cuts)

    calls: dict[str, Callable[[], Any]] = {f"public {kind}": public(kind) for kind in KINDS}
    calls |= {f"sliding {kind}": ours(kind, windows, stream) for kind in KINDS}
    calls |= {f"chained {kind}": ours(kind, chained, long) for kind in KINDS}
    found = {name: np.asarray(call()) for name, call in calls.items()}
    exact = found["public float32"]
    seconds = interleave(calls, rounds)
    rates = {name: len(found[name]) / value for name, value in seconds.items()}
    return {
        "bench": f"score {shape} {length}/{STRIDE}",
        "tokens_per_second": rates,
        "sliding_over_public": {kind: rates[f"sliding {kind}"] / rates[f"public {kind}"] for kind in KINDS},
        "bfloat16_over_public_float32": rates["sliding bfloat16"] / rates["public float32"],
        "chained_over_sliding": {kind: rates[f"chained {kind}"] / rates[f"sliding {kind}"] for kind in KINDS},
        "largest_difference_in_nats": {
            name: float(np.abs(nats - exact).max())
            for name, nats in found.items()
            if not name.startswith("chained")
        },
    }


def main() -> None:
    """Run the benchmarks asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="tiny,small")
    parser.add_argument("--tokens", type=int, default=4096, help="scored after the first window")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    backend = choose_backend(BackendPlan(threads=options.threads))
    machine = {"bench": "machine", "load_average": os.getloadavg()[0], "threads": backend.threads}
    results = [
        machine,
        *(bench_sliding(s, options.tokens, options.rounds) for s in options.shapes.split(",")),
    ]
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        print()
    else:
        for result in results:
            show(result)


if __name__ == "__main__":
    main()
