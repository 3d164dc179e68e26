"""Tokens per second of our training step beside an everyday torch one, interleaved in one process.

python -m bench.train [--shapes tiny,demo,small,full] [--rounds N] [--threads N] [--compile] [--json]
On a machine that does other work too, take --threads 1: it then counts processor time, not wall time.
The plain step gets what ours gets from the process: its threads and its memory, freed blocks kept. It is
compiled where ours is (--compile), and eager beside our eager one.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.machine import Watch, interleaved, medians, show, spread
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
    "demo": (ModelPlan(vocabulary_size=4096, layers=4, width=192, heads=6, kv_heads=1), 256, 8),
}
PRODUCTS = 8  # of a shape that are timed at a time


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
        for kind in ("float32", "bfloat16"):
            plain = PlainStep(plan, weights, mixed=kind == "bfloat16")
            plain.model.compile()
            steps[f"plain {kind} compiled"] = plain
    calls: dict[str, Callable[[], Any]] = {
        name: (lambda step=step: step(*batch)) for name, step in steps.items()
    }
    products = {f"product {shape}": call for shape, call in products_of(plan, rows * length).items()}
    seconds = interleaved({**calls, **products}, rounds)
    rates = {name: spread([rows * length / value for value in seconds[name]]) for name in calls}
    median = {name: each["median"] for name, each in rates.items()}
    ceilings = {
        name.removeprefix("product "): PRODUCTS * flops(name) / min(seconds[name]) / 1e9 for name in products
    }
    ceiling, eager = max(ceilings.values()), max(median["ours float32"], median["ours bfloat16"])
    return {
        "bench": f"step {shape}",
        "tokens_per_second": median,
        "low_quarter": {name: each["low"] for name, each in rates.items()},
        "high_quarter": {name: each["high"] for name, each in rates.items()},
        "plain_gets": "the same process, threads and memory" + ", compiled too" * compiled,
        "over_plain_float32": median["ours bfloat16"] / median["plain float32"],
        "over_plain_bfloat16": median["ours bfloat16"] / median["plain bfloat16"],
        "best_over_plain_float32": max(eager, median.get("ours compiled", 0.0)) / median["plain float32"],
        "ceiling_gigaflops": ceiling,
        "gigaflops_by_product": ceilings,
        "share_of_ceiling": eager * flops_per_token(plan, length) / ceiling / 1e9,
        **first,
    }


def products_of(plan: ModelPlan, tokens: int) -> dict[str, Callable[[], Any]]:
    """Products as a step has them, some of each shape at a time, by "rows x inner x columns number type"."""
    shapes = {shape for name, shape in parameter_shapes(plan).items() if name.endswith("weight")}
    found: dict[str, Callable[[], Any]] = {}
    for columns, inner in sorted(shapes | {(1024, 256)}):
        for dtype in (torch.float32, torch.bfloat16):
            left, right = (torch.randn(count, inner).to(dtype) for count in (tokens, columns))
            name = f"{tokens} x {inner} x {columns} {str(dtype).removeprefix('torch.')}"
            found[name] = partial(_some, left, right)
    return found


def _some(left: Tensor, right: Tensor) -> None:
    for _ in range(PRODUCTS):
        F.linear(left, right)


def flops(name: str) -> float:
    """Of one product, by its name."""
    return 2.0 * math.prod(int(part) for part in name.split() if part.isdigit())


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
    seconds = medians(interleaved(calls, rounds))
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
    seconds = medians(interleaved({"loop": loop.step, "batched": batched.step}, rounds))
    return {
        "bench": f"muon {shape}",
        "milliseconds": {name: 1000 * value for name, value in seconds.items()},
        "times_as_fast": seconds["loop"] / seconds["batched"],
    }


def main() -> None:
    """Run the benchmarks asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="tiny,demo,small,full")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    choose_backend(BackendPlan(threads=options.threads))
    watch, results = Watch(), []
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
    results.append(watch.facts())
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        print()
    else:
        show(results[-1])


if __name__ == "__main__":
    main()
