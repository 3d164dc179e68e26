"""Tokens per second of decoding by lanes, and where a step's time goes.

python -m bench.prove [--shapes tiny,demo] [--lanes 64,128] [--arithmetic native,plain] [--processes N] ...
python -m bench.prove --mixers ngrams,LongestMatch [--lanes 1,4,8] [--bytes 40000]
One process is one thread, of which its own processor time counts, so that other work disturbs less. Frames
are decoded by several processes: with --processes 2, two decode one each at the same time, and their speeds
are added. With --mixers: proofs of the model that ships with mixers beside it, on the validation text of the
package sotu, windows of 256 by 64, there and back.
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
from bitgolf.base.events import finish
from bitgolf.corpus.sources import Sotu
from bitgolf.inputs.resolve import find_artifact
from bitgolf.mix.match import LongestMatch
from bitgolf.mix.nearest import NearestStates
from bitgolf.mix.ngram import InterpolatedNgrams
from bitgolf.mix.ppm import BytePpm
from bitgolf.net.backend import Backend, keep_freed_memory
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.proof.adapted import AdaptedPlan
from bitgolf.proof.arithmetic import Arithmetic
from bitgolf.proof.coder import TokenDecoder, TokenEncoder
from bitgolf.proof.crew import coder_of
from bitgolf.proof.file import compress_adapted, decompress, frames_of, read_header
from bitgolf.proof.frequencies import frequencies_of
from bitgolf.proof.lanes import Lanes
from bitgolf.score.mixer import Mixer
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Sliding
from bitgolf.text.encoder import Encoder

WINDOW, STRIDE, LANE = 256, 128, 2048
SHAPES = {
    "tiny": ModelPlan(width=128, layers=4, heads=4, kv_heads=2),
    "demo": ModelPlan(vocabulary_size=4096, layers=4, width=192, heads=6, kv_heads=1),
}

MIXERS: dict[str, tuple[Mixer, ...]] = {
    "ngrams": (InterpolatedNgrams(per_document=True), InterpolatedNgrams()),  # as demo has them
    "LongestMatch": (LongestMatch(),),
    "NearestStates": (NearestStates(),),
    "BytePpm": (BytePpm(),),
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


def bench_mixed(name: str, lanes: int, num_bytes: int) -> dict[str, Any]:
    """A text coded with mixers in so many lanes, and read back; sizes beside the sum of the steps."""
    torch.set_num_threads(1)
    keep_freed_memory()
    coder = coder_of(find_artifact("demo")[0].read_bytes(), WINDOW)
    source = Sotu()
    text = b"".join(source.split(list(source.documents()), 0.0).val)[:num_bytes]
    tokens = Encoder(coder.tokenizer).encode(text)
    adapted = AdaptedPlan.of(ScorePlan(windows=Sliding(length=WINDOW, stride=64), mixers=MIXERS[name]))
    for rehearsed in (True, False):  # what is compiled or loaded once stays
        some = tokens[:64] if rehearsed else tokens
        whole, start = coder.tokenizer.decode(some), time.process_time()
        packed = finish(compress_adapted(coder, adapted, some, whole, most_lanes=lanes))
        there = time.process_time()
        assert finish(decompress(coder, packed.data)) == whole, "other bytes came back"
        seconds = there - start, time.process_time() - there
    assert packed.layout is not None
    frames = frames_of(packed.data, read_header(packed.data), "")
    coded, bits = sum(len(each.frame.data) for each in frames), packed.nats / np.log(2)
    return {
        "bench": f"{name}, {packed.layout.in_lanes}, {len(text):,} bytes",
        "tokens_per_second": {"coding": len(tokens) / seconds[0], "decoding": len(tokens) / seconds[1]},
        "seconds_of_100_kB_there_and_back": sum(seconds) * 100_000 / len(text),
        "bits_per_byte_in_steps": bits / len(text),
        "coded_bytes": coded,
        "coded_over_sum": 8 * coded / bits - 1,
        "file_bytes": len(packed.data),
    }


def main() -> None:
    """Run the benchmarks asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="tiny,demo")
    parser.add_argument("--lanes", help="64,128,256 unless said; with mixers 1,4,8")
    parser.add_argument("--mixers", default="", help=f"of {','.join(MIXERS)}, or all")
    parser.add_argument("--bytes", type=int, default=40_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=384)  # a window and the half that follows
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--arithmetic", default="native", help="native, plain or portable; some side by side")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: list[dict[str, Any]] = [{"bench": "machine", "load_average": os.getloadavg()[0]}]
    counts = [
        int(count) for count in (options.lanes or ("1,4,8" if options.mixers else "64,128,256")).split(",")
    ]
    for name in MIXERS if options.mixers == "all" else filter(None, options.mixers.split(",")):
        for count in counts:
            results.append(bench_mixed(name, count, options.bytes))
            if not options.json:
                show(results[-1])
    for shape in () if options.mixers else options.shapes.split(","):
        for count, arithmetic in product(counts, options.arithmetic.split(",")):
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
