"""Tokens per second of our training step beside an everyday torch one, interleaved in one process.

python -m bench.train [--shapes tiny,small,full] [--rounds N] [--threads N] [--compile] [--json]
On a machine that does other work too, take --threads 1: it then counts processor time, not wall time.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.plain import PlainMuon, PlainStep
from bitgolf.net.backend import BackendPlan, choose_backend
from bitgolf.net.kernels import AttentionMask, chunk_attend, math_attend, sdpa_attend
from bitgolf.net.model import ModelPlan, build_model, parameter_shapes
from bitgolf.train.muon import Muon
from bitgolf.train.optim import OptimPlan, make_optimizers
from bitgolf.train.schedule import Progress

SHAPES = {  # model, tokens of context, sequences in a batch
    "tiny": (ModelPlan(width=128, layers=4, heads=4, kv_heads=2), 256, 32),
    "small": (ModelPlan(width=256, layers=6, heads=4, kv_heads=2), 512, 16),
    "full": (ModelPlan(), 1024, 4),
}


class OurStep:
    """A training step of bitgolf: model, loss and optimizers as a run has them."""

    def __init__(self, plan: ModelPlan, settings: BackendPlan) -> None:
        backend = choose_backend(settings)
        self.model = build_model(plan).use(backend)
        self.optimizers = make_optimizers(OptimPlan(), self.model)

    def __call__(self, inputs: Tensor, targets: Tensor) -> float:
        self.optimizers.zero()
        loss = self.model(inputs, targets)
        loss.backward()
        self.optimizers.step(1.0, Progress(0, 1))
        return loss.item()


def clock() -> float:
    """Wall time; the process's own time where it has one thread, so that a busy machine disturbs less."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def interleave(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, taken in turns so that all see the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if number:  # the first round warms up
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def flops_per_token(plan: ModelPlan, time: int) -> float:
    """Model floating-point operations of a training step: six a weight, and causal attention."""
    matrices = sum(
        shape[0] * shape[1] for name, shape in parameter_shapes(plan).items() if name.endswith("weight")
    )
    return 6.0 * matrices + 6.0 * plan.layers * time * plan.width


def bench_step(shape: str, rounds: int, compiled: bool) -> dict[str, Any]:
    """Our step, float32 and bfloat16, beside the plain one, and the share of the measured product ceiling."""
    plan, length, rows = SHAPES[shape]
    tokens = torch.randint(
        plan.vocabulary_size, (rows, length + 1), generator=torch.Generator().manual_seed(1)
    )
    batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    weights = build_model(plan).state_dict()
    steps: dict[str, Callable[..., float]] = {
        "plain float32": PlainStep(plan, weights, mixed=False),
        "plain bfloat16": PlainStep(plan, weights, mixed=True),
        "ours float32": OurStep(plan, BackendPlan(threads=torch.get_num_threads(), dtype="float32")),
        "ours bfloat16": OurStep(plan, BackendPlan(threads=torch.get_num_threads(), dtype="bfloat16")),
    }
    first = {}
    if compiled:
        steps["ours compiled"] = OurStep(
            plan, BackendPlan(threads=torch.get_num_threads(), dtype="bfloat16", compile=True)
        )
        start = time.perf_counter()
        steps["ours compiled"](*batch)
        first["first_call_seconds"] = time.perf_counter() - start
    left, right = torch.randn(8192, 256).bfloat16(), torch.randn(1024, 256).bfloat16()
    calls: dict[str, Callable[[], Any]] = {
        name: (lambda step=step: step(*batch)) for name, step in steps.items()
    }
    seconds = interleave({**calls, "product": lambda: F.linear(left, right)}, rounds)
    ceiling = 2.0 * 8192 * 256 * 1024 / seconds.pop("product")
    rates = {name: rows * length / value for name, value in seconds.items()}
    best = rates.get("ours compiled", rates["ours bfloat16"])
    return {
        "bench": f"step {shape}",
        "tokens_per_second": rates,
        "over_plain_float32": rates["ours bfloat16"] / rates["plain float32"],
        "over_plain_bfloat16": rates["ours bfloat16"] / rates["plain bfloat16"],
        "best_over_plain_float32": best / rates["plain float32"],
        "ceiling_gigaflops": ceiling / 1e9,
        "share_of_ceiling": rates["ours bfloat16"] * flops_per_token(plan, length) / ceiling,
        **first,
    }


def bench_attention(rounds: int) -> dict[str, Any]:
    """Chunked attention beside torch's own in bfloat16, forward and backward, and both errors."""
    queries, keys, rows, length, width = 4, 2, 32, 256, 32
    draw = torch.Generator().manual_seed(1)
    heads = torch.randn(queries + 2 * keys, rows, length, width, generator=draw)
    heads[:queries] /= width**0.5
    upstream = torch.randn(rows, length, queries * width, generator=draw)

    ways = {"math": math_attend, "sdpa": sdpa_attend, "chunk": chunk_attend}

    def run(kind: str, dtype: torch.dtype) -> Tensor:
        leaf = heads.to(dtype).requires_grad_()
        out = ways[kind](leaf, queries, AttentionMask())
        out.backward(upstream.to(dtype))
        return out.detach().double()

    exact = run("math", torch.float64)
    errors = {kind: (run(kind, torch.bfloat16) - exact).abs().max().item() for kind in ("chunk", "sdpa")}
    calls = {kind: (lambda kind=kind: run(kind, torch.bfloat16)) for kind in ("chunk", "sdpa")}
    seconds = interleave(calls, rounds)
    return {
        "bench": "attention",
        "milliseconds": {kind: 1000 * value for kind, value in seconds.items()},
        "times_as_fast": seconds["sdpa"] / seconds["chunk"],
        "largest_error": errors,
    }


def bench_muon(shape: str, rounds: int) -> dict[str, Any]:
    """Batched Muon beside the loop over matrices."""
    weights = {
        k: v
        for k, v in build_model(SHAPES[shape][0]).state_dict().items()
        if v.ndim == 2 and "blocks" in k and "mix" not in k
    }

    def copies() -> list[torch.nn.Parameter]:
        parameters = [torch.nn.Parameter(value.clone()) for value in weights.values()]
        for number, parameter in enumerate(parameters):
            draw = torch.Generator().manual_seed(number)
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        return parameters

    loop, batched = PlainMuon(copies(), lr=0.04, momentum=0.95), Muon(copies(), lr=0.04, momentum=0.95)
    seconds = interleave({"loop": loop.step, "batched": batched.step}, rounds)
    return {
        "bench": f"muon {shape}",
        "milliseconds": {name: 1000 * value for name, value in seconds.items()},
        "times_as_fast": seconds["loop"] / seconds["batched"],
    }


def show(result: dict[str, Any]) -> None:
    """One result as `name: value` lines."""
    print(f"\n{result['bench']}")
    for name, value in result.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, figure in parts:
            if name != "bench":
                print(f"  {name.replace('_', ' ')} {part}".rstrip() + f": {figure:,.4g}")


def main() -> None:
    """Run the benchmarks asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="tiny,small,full")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    backend = choose_backend(BackendPlan(threads=options.threads))
    machine = {"bench": "machine", "load_average": os.getloadavg()[0], "threads": backend.threads}
    results = [machine]
    jobs: list[Callable[[], dict[str, Any]]] = [
        lambda: bench_attention(4 * options.rounds),
        *(lambda shape=shape: bench_muon(shape, options.rounds) for shape in options.shapes.split(",")),
        *(
            lambda shape=shape: bench_step(shape, options.rounds, options.compile)
            for shape in options.shapes.split(",")
        ),
    ]
    for job in jobs:
        results.append(job())
        if not options.json:
            show(results[-1])
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        print()
    else:
        show(machine)


if __name__ == "__main__":
    main()
