"""Tokens per second of decoding by lanes, and where a step's time goes.

python -m bench.prove [--shapes tiny,demo] [--lanes 64,128] [--arithmetic native,plain] [--processes N] ...
One process is one thread, of which its own processor time counts, so that other work disturbs less. Frames
are decoded by several processes: with --processes 2, two decode one each at the same time, and their speeds
are added.
"""

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from bench.machine import show
from bitgolf.net.backend import Backend, keep_freed_memory
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.proof.arithmetic import Arithmetic
from bitgolf.proof.coder import TokenDecoder, TokenEncoder
from bitgolf.proof.frequencies import frequencies_of
from bitgolf.proof.lanes import Lanes

WINDOW, STRIDE, LANE = 256, 128, 2048
SHAPES = {
    "tiny": ModelPlan(width=128, layers=4, heads=4, kv_heads=2),
    "demo": ModelPlan(vocabulary_size=4096, layers=4, width=192, heads=6, kv_heads=1),
}


class Laps:
    """Processor seconds by what was done in them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def __call__(self, name: str, call: Callable[..., Any], *given: Any) -> Any:
        """Do it, and count."""
        start = time.process_time()
        found = call(*given)
        self.seconds[name] += time.process_time() - start
        return found


def coded(lanes: Callable[[], Lanes], tokens: np.ndarray) -> bytes:
    """Tokens (lanes, steps) as a coder writes them."""
    states, coder = lanes(), TokenEncoder()
    for step in tokens.T:
        coder.write(step, frequencies_of(states.logits()))
        states.follow(torch.from_numpy(step.copy()))
    return coder.finish()


def decoding(lanes: Callable[[], Lanes], data: bytes, tokens: np.ndarray) -> dict[str, float]:
    """Read the tokens again; seconds of a step by its parts, in a lane of `LANE` tokens.

    begin again: of the passes that fill the memory of the next window, spread over all steps.
    """
    states, coder, laps = lanes(), TokenDecoder(data), Laps()
    for place, step in enumerate(tokens.T):
        if place == STRIDE:
            laps = Laps()  # from here on a window is as full as it is on average
        logits = laps("begin again" if place == WINDOW else "model", states.logits)
        shares = laps("shares", frequencies_of, logits)
        found = laps("range coder", coder.read, shares)
        laps("rest", states.follow, torch.from_numpy(found))
        assert np.array_equal(found, step), "other tokens came back"
    again = laps.seconds.pop("begin again", 0.0) * ((LANE - WINDOW) // STRIDE) / LANE
    counted = tokens.shape[1] - (STRIDE if tokens.shape[1] > STRIDE else 0)
    return {name: spent / counted for name, spent in laps.seconds.items()} | {"begin again": again}


def side_by_side(processes: int, *given: Any) -> list[dict[str, Any]]:
    """What `bench_decoding` finds in each of some processes that run it at the same time."""
    if processes == 1:
        return [bench_decoding(*given)]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        return [found.result() for found in [pool.submit(bench_decoding, *given) for _ in range(processes)]]


def bench_decoding(shape: str, count: int, steps: int, rounds: int, arithmetic: Arithmetic) -> dict[str, Any]:
    """The fastest of several decodings with so many lanes."""
    torch.set_num_threads(1)
    keep_freed_memory()
    plan = SHAPES[shape]
    model = build_model(plan).use(Backend()).eval()

    def lanes() -> Lanes:
        return Lanes(model, count, WINDOW, STRIDE, 1, arithmetic)

    tokens = np.random.default_rng(1).integers(0, plan.vocabulary_size, (count, steps))
    data = coded(lanes, tokens)
    laps = min((decoding(lanes, data, tokens) for _ in range(rounds)), key=lambda each: sum(each.values()))
    return {
        "bench": f"{shape}, {count} lanes, {arithmetic}",
        "tokens_per_second": count / sum(laps.values()),
        "milliseconds_a_step": {name: 1000 * spent for name, spent in laps.items()},
    }


def main() -> None:
    """Run the benchmarks asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="tiny,demo")
    parser.add_argument("--lanes", default="64,128,256")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=384)  # a window and the half that follows
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--arithmetic", default="native", help="native, plain or portable; some side by side")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: list[dict[str, Any]] = [{"bench": "machine", "load_average": os.getloadavg()[0]}]
    for shape in options.shapes.split(","):
        for count, arithmetic in product(map(int, options.lanes.split(",")), options.arithmetic.split(",")):
            given = shape, count, options.steps, options.rounds, arithmetic
            first, *others = side_by_side(options.processes, *given)
            first["bench"] += f", {options.processes} processes" * bool(others)
            first["tokens_per_second"] += sum(each["tokens_per_second"] for each in others)
            results.append(first)
            if not options.json:
                show(results[-1])
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
