"""Scored tokens per second of our sliding windows and chains beside the public way, taken in turns.

python -m bench.score [--shapes tiny,small] [--rounds N] [--json]
The public way: a forward pass over each whole window with all its logits, in everyday torch. One thread, of
which its own processor time counts. Every way scores a short and a longer stretch, and the difference counts:
in a long text a window scores `stride` tokens and a chain has its history. Figures are of the fastest of some
rounds. Weights are drawn away from where they start, so that every part has a say in the nats compared.
"""

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.machine import show
from bench.plain import PlainScore
from bitgolf.net.backend import BackendPlan, choose_backend
from bitgolf.net.model import ModelPlan, build_model, model_with
from bitgolf.net.native import native
from bitgolf.score.chained import Chained
from bitgolf.score.score import ScorePlan, score
from bitgolf.score.windows import Sliding, Windows

SHAPES = {  # model, length of a window, windows of the longer stretch; lanes of a chain, spans in each
    "tiny": (ModelPlan(width=128, layers=4, heads=4, kv_heads=2), 256, 32, 32, 4),
    "small": (ModelPlan(width=256, layers=6, heads=4, kv_heads=2), 1024, 6, 8, 12),
}
STRIDE = 64
KINDS = ("float32", "bfloat16")


class NoText:
    """Tokens that stand for nothing."""

    bos, lossless = -1, True

    def token_bytes(self, targets: np.ndarray, previous: np.ndarray) -> np.ndarray:
        return np.zeros(len(targets), np.int64)


class Way(NamedTuple):
    """A way to score so many tokens from the first; and a shorter and a longer stretch for it."""

    nats: Callable[[int], np.ndarray]
    short: int
    long: int


def ways_of(plan: ModelPlan, length: int, windows: int, lanes: int, spans: int) -> dict[str, Way]:
    """The public way, our sliding windows and our chains, in both number types, on the same text."""
    draw = torch.Generator().manual_seed(1)
    text = torch.randint(plan.vocabulary_size, (lanes * (length + spans * STRIDE) + 1,), generator=draw)
    weights = {
        name: tensor + 0.02 * torch.randn(tensor.shape, generator=draw)
        for name, tensor in build_model(plan).state_dict().items()
    }
    stream, sliding = text.numpy().astype(np.uint16), Sliding(length=length, stride=STRIDE)
    chained = Chained(history=length - STRIDE, stride=STRIDE, lanes=lanes)
    stretches = length, length + windows * STRIDE
    filled = lanes * STRIDE + chained.history  # what is scored when every lane has its first window
    chains = filled, filled + lanes * spans * STRIDE

    def ours(kind: str, by: Windows) -> Callable[[int], np.ndarray]:
        model = native(model_with(plan, weights, choose_backend(BackendPlan(threads=1, dtype=kind))))
        return lambda scored: score(model, stream[: scored + 1], NoText(), ScorePlan(windows=by)).nats  # type: ignore[arg-type]

    def public(kind: str) -> Callable[[int], np.ndarray]:
        way = PlainScore(plan, weights, mixed=kind == "bfloat16")
        return lambda scored: way(text, list(sliding.windows(scored + 1))).numpy()

    found = {f"public {kind}": Way(public(kind), *stretches) for kind in KINDS}
    found |= {f"sliding {kind}": Way(ours(kind, sliding), *stretches) for kind in KINDS}
    return found | {f"chained {kind}": Way(ours(kind, chained), *chains) for kind in KINDS}


def fastest(ways: dict[str, Way], rounds: int) -> dict[str, float]:
    """Tokens per second of each, from the least processor time of either stretch."""
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            for scored in (way.short, way.long):
                start = time.process_time()
                way.nats(scored)
                seconds.setdefault((name, scored), []).append(time.process_time() - start)
    least = {key: min(values) for key, values in seconds.items()}
    return {
        name: (way.long - way.short) / (least[name, way.long] - least[name, way.short])
        for name, way in ways.items()
    }


def memory_of(call: Callable[[], object]) -> float:
    """MiB that a call takes at its peak beyond what was there; not a number where Linux does not say."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _resident("VmRSS")
        call()
        return (_resident("VmHWM") - before) / 1024
    except (OSError, AttributeError):
        return float("nan")


def _resident(name: str) -> int:
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(name))
    return int(line.split()[1])


def operations(plan: ModelPlan, length: int) -> dict[str, float]:
    """Floating-point operations of products and attention, in millions for each scored token.

    Attention counts the keys that a query sees. Of a sliding window all tokens pass all layers but two: the
    first makes queries, keys and values of new tokens alone; in the last, all have keys and values, and the
    scored ones the rest.
    """
    width, kv_width = plan.width, plan.dimensions.kv_width
    keys, queries_too = 2 * 2 * width * kv_width, 2 * width**2
    rest = 2 * 2 * width**2 + 2 * 2 * width * plan.hidden_width()
    head = 2 * width * plan.vocabulary_size

    def attention(queries: int) -> float:
        """Of the last so many tokens of a window."""
        return 4 * width * sum(range(length - queries + 1, length + 1))

    whole = length * (keys + rest) + attention(length)
    first = STRIDE * (keys + queries_too) + length * (rest - queries_too) + attention(STRIDE)
    ended = length * keys + STRIDE * rest + attention(STRIDE)
    span = STRIDE * (keys + rest) + attention(STRIDE)
    return {
        "public": (plan.layers * whole + length * head) / STRIDE / 1e6,
        "sliding": (first + (plan.layers - 2) * whole + ended + STRIDE * head) / STRIDE / 1e6,
        "chained": (plan.layers * span + STRIDE * head) / STRIDE / 1e6,
    }


def bench_scorers(shape: str, rounds: int) -> dict[str, Any]:
    """Speeds, what arithmetic says of them, memory, and how far the nats are apart."""
    plan, length, *sizes = SHAPES[shape]
    ways = ways_of(plan, length, *sizes)
    for way in ways.values():
        way.nats(way.short)  # what is compiled or loaded once stays
    memory = {name: memory_of(lambda way=way: way.nats(way.long)) for name, way in ways.items()}
    found = {name: way.nats(way.long) for name, way in ways.items() if "chained" not in name}
    exact = found["public float32"]
    rates, millions = fastest(ways, rounds), operations(plan, length)
    public = rates["public float32"]
    return {
        "bench": f"score {shape} {length}/{STRIDE}",
        "tokens_per_second": rates,
        "sliding_over_public": {kind: rates[f"sliding {kind}"] / rates[f"public {kind}"] for kind in KINDS},
        "bfloat16_over_public_float32": rates["sliding bfloat16"] / public,
        "chained_over_sliding": {kind: rates[f"chained {kind}"] / rates[f"sliding {kind}"] for kind in KINDS},
        "million_operations_a_token": millions,
        "fewer_operations": {
            "sliding_over_public": millions["public"] / millions["sliding"],
            "chained_over_sliding": millions["sliding"] / millions["chained"],
        },
        "gigaflops": {name: rate * millions[name.split()[0]] / 1000 for name, rate in rates.items()},
        "peak_MiB": memory,
        "largest_difference_in_nats": {
            name: float(np.abs(nats - exact).max()) for name, nats in found.items()
        },
    }


def products() -> dict[str, float]:
    """Gigaflops of a product of 1024x256 by 256x256, the most that the figures below can reach."""
    rates = {}
    for kind in KINDS:
        left, right = (torch.ones(rows, 256, dtype=getattr(torch, kind)) for rows in (1024, 256))
        least = float("inf")
        for _ in range(50):
            start = time.process_time()
            left @ right
            least = min(least, time.process_time() - start)
        rates[kind] = 2 * 1024 * 256 * 256 / least / 1e9
    return rates


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="tiny,small")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    choose_backend(BackendPlan(threads=1))  # keeps freed memory for all ways alike
    results = [{"bench": "machine", "load_average": os.getloadavg()[0], "gigaflops_of_products": products()}]
    for shape in options.shapes.split(","):
        results.append(bench_scorers(shape, options.rounds))
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        print()
    else:
        for result in results:
            show(result)


if __name__ == "__main__":
    main()
