"""How much sooner several processes score what learns, and that they come to the bits of one.

python -m bench.shared [--adapters ScoreFirst,PhasedLora] [--processes N] [--rounds N] [--tokens N]
Documents of very different lengths and a small model; the ways are taken in turns, one thread to a process.
Seconds are of the fastest round; `busy` is the processor time of the process that had most.
"""

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from bench.machine import Watch, show
from bench.score import NoText
from bitgolf.adapt.documents import LoraDocuments, PhasedLora
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.base.events import finish
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.score.score import ScorePlan, scoring
from bitgolf.score.windows import Growing, PerDocument, Sliding
from bitgolf.train.optim import AdamRule
from bitgolf.train.world import join_world, leave_world

MODEL = ModelPlan(vocabulary_size=257, layers=2, width=128, heads=4, kv_heads=2)
MEAN_TOKENS = 600  # of a document
DOCUMENTS = PerDocument(within=Growing(length=256, stride=64))
LORA = {"rule": AdamRule(lr=0.003, eps=1e-10), "batch_documents": 4, "longest_first": True}
CHUNKS = ScoreFirst(chunk_tokens=16_384, sequence_length=256, batch_sequences=64, epochs=1)
PLANS = {
    "ScoreFirst": ScorePlan(windows=Sliding(length=256, stride=64), adapter=CHUNKS),
    "LoraDocuments": ScorePlan(windows=DOCUMENTS, adapter=LoraDocuments(**LORA)),
    "PhasedLora": ScorePlan(
        windows=DOCUMENTS,
        adapter=PhasedLora(**LORA, warm=True, lanes=8, prefix_documents=24, globally=CHUNKS),
    ),
}
Row = dict[str, Any]


class Text(NoText):
    """Tokens that stand for nothing, in documents."""

    bos = 256


def text(tokens: int) -> np.ndarray:
    """Documents of lognormal lengths."""
    draw = np.random.default_rng(1)
    stream = draw.integers(0, 256, tokens).astype(np.uint16)
    starts = np.cumsum(draw.lognormal(0, 1, tokens).clip(0.05) * MEAN_TOKENS / np.exp(0.5)).astype(int)
    stream[[0, *starts[starts < tokens - 2]]] = Text.bos
    return stream


def one_process(names: list[str], tokens: int) -> None:
    """Score by each plan, with the others that the environment names; the first says what it took."""
    torch.set_num_threads(1)
    world, found = join_world("cpu"), dict[str, Row]()
    for name in names:
        model, plan = build_model(MODEL), PLANS[name]
        world.broadcast(0.0)  # all begin at the same time
        started, busy = time.perf_counter(), time.process_time()
        nats = finish(scoring(model, text(tokens), Text(), plan, world=world)).nats  # type: ignore[arg-type]
        spent = torch.tensor([time.process_time() - busy], dtype=torch.float64)
        busiest = max(float(each) for each in world.each(spent))
        row = {"seconds": time.perf_counter() - started, "busy": busiest}
        found[name] = {**row, "sha256": hashlib.sha256(nats.tobytes()).hexdigest()[:16]}
    if world.rank == 0:
        print(json.dumps(found))
    leave_world(world)


def together(processes: int, names: list[str], tokens: int) -> dict[str, Row]:
    """What so many processes take for each plan."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    place |= {"WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench.shared", "--adapters", ",".join(names), "--worker"]
    command += ["--tokens", str(tokens)]
    running = [
        subprocess.Popen(
            command, env={**os.environ, **place, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(processes)
    ]
    said = [each.communicate()[0] for each in running]
    return json.loads(said[0])


def main() -> None:
    """Measure, and print a row for each plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", default=",".join(PLANS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=36_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    choice = parser.parse_args()
    if choice.worker:
        one_process(choice.adapters.split(","), choice.tokens)
        return
    counts, watch = (1, choice.processes), Watch()
    names = choice.adapters.split(",")
    taken = [{n: together(n, names, choice.tokens) for n in counts} for _ in range(choice.rounds)]
    for name in names:
        row: Row = {"bench": "shared", "adapter": name}
        for what in ("seconds", "busy"):
            row |= {f"{what} {n}": min(each[n][name][what] for each in taken) for n in counts}
        row["times as fast"] = row["seconds 1"] / row[f"seconds {choice.processes}"]
        row["same bits"] = len({each[n][name]["sha256"] for each in taken for n in counts}) == 1
        print(json.dumps(row)) if choice.json else show(row)
    print(json.dumps(watch.facts())) if choice.json else show(watch.facts())


if __name__ == "__main__":
    main()
