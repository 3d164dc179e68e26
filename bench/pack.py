"""Ways of packing beside each other on the same trained models: bytes as written, gap as reloaded.

bitgolf run bench/pack.py:one_million --seed 1337 --out runs/1m-1337      (ten minutes each, two threads)
python -m bench.pack runs/1m-1337 [RUN ...] [--ways public,ours,tuned,parts,states] [--levels=-2,0] [--redo]
python -m bench.pack runs/1m-1337 --ways nncodec --nncodec PYTHON      (the standard's coder)
python -m bench.pack runs/demo --seconds      (where the time of packing goes, as the run's recipe packs it)

Each run gets a pack.json beside its result; what stands there is not measured again without --redo.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import nncodec
from bench.machine import Watch, show
from bitgolf.base.events import Event, finish
from bitgolf.base.files import read_json, write_json
from bitgolf.net.backend import Backend
from bitgolf.net.model import ModelPlan
from bitgolf.pipeline.repack import (
    Trained,
    by_sequence,
    curvatures_of,
    findings,
    float_scores,
    open_run,
    packed_by,
)
from bitgolf.recipe import BudgetPlan, DataPlan, Recipe
from bitgolf.report import screen
from bitgolf.run.packer import Packer
from bitgolf.score.metric import bits_per_byte
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Chunked
from bitgolf.script.counted import script_of
from bitgolf.squeeze.artifact import Artifact, PackPlan
from bitgolf.squeeze.codec import Brotli, Deflate, Zstd
from bitgolf.squeeze.gptq import Gptq
from bitgolf.squeeze.grid import Grid
from bitgolf.squeeze.presets import (
    by_part,
    entropy_coded,
    feedback_deviations,
    fine_tuned,
    int5_mlp,
    rate_aware,
)
from bitgolf.squeeze.quantize import (
    AbsMax,
    NoTuning,
    QuantizePlan,
    SdClip,
    absmax_rows,
    int6_rows,
    quantize_weights,
)
from bitgolf.squeeze.rate import RateAware
from bitgolf.squeeze.trellis import rounded_codes
from bitgolf.text.batches import ShuffledBlocks
from bitgolf.text.shards import TokenStream
from bitgolf.train.average import Ema
from bitgolf.train.loop import TrainPlan
from bitgolf.train.optim import AdamRule, MuonRule, OptimPlan, public_rows
from bitgolf.train.schedule import WarmdownFraction

STEP = 0.0002  # near three bits a weight on the models here


def trained(name: str, model: ModelPlan, train_seconds: float, decay: float) -> Recipe:
    """The public baseline's optimizers with decoupled decay, a long warm-down and an average."""
    rows = public_rows(
        embedding=AdamRule(lr=0.02, weight_decay=0.04),
        matrices=MuonRule(lr=0.02, weight_decay=0.04),
        rest=AdamRule(lr=0.02),
    )
    return Recipe(
        name=name,
        data=DataPlan(sequence_length=256, order=ShuffledBlocks()),
        model=model,
        optim=OptimPlan(rows=rows, schedule=WarmdownFraction(fraction=0.65)),
        train=TrainPlan(steps=100_000, train_seconds=train_seconds, batch_tokens=4096, accumulation=1),
        average=Ema(decay=decay),
        quantize=int6_rows(),
        score=ScorePlan(windows=Chunked(length=256)),
        budget=BudgetPlan(budget_bytes=16_000_000),
    )


def one_million() -> Recipe:
    """Eight layers of width 128."""
    return trained("pack-1m", ModelPlan(layers=8, width=128, heads=4, kv_heads=2), 600.0, 0.99)


def three_million() -> Recipe:
    """Six layers of width 256."""
    return trained("pack-3m", ModelPlan(layers=6, width=256, heads=4, kv_heads=2), 600.0, 0.98)


def seventeen_million() -> Recipe:
    """The shape of the public baseline."""
    return trained("pack-17m", ModelPlan(), 3600.0, 0.98)


class Way(NamedTuple):
    """One way of packing: what happens to the tensors, and what codes them."""

    quantize: QuantizePlan
    pack: PackPlan


OURS = PackPlan(codec=entropy_coded())
INT8 = AbsMax(grid=Grid(bits=8))


def public_ways() -> dict[str, Way]:
    """(a) to (d): as public records packed; (d) with embeddings in int8 too, which does better."""
    zstd, brotli = PackPlan(codec=Zstd()), PackPlan(codec=Brotli())
    ways = {
        "a int8, zlib": Way(absmax_rows(8, 8), PackPlan(codec=Deflate())),
        "b int6, zstd-22": Way(int6_rows(), zstd),
        "c int5 and int6, zstd-22": Way(int5_mlp(), zstd),
    }
    for sigmas in (9.0, 12.85, 18.0):
        rules = by_part(Gptq(scales=(SdClip(sigmas=sigmas),)), INT8)
        ways[f"d SDClip {sigmas:g}, GPTQ, brotli"] = Way(rules, brotli)
    ways["d SDClip 12.85, embedding 20, GPTQ, brotli"] = Way(feedback_deviations(), brotli)
    return ways


def our_ways(levels: Sequence[int]) -> dict[str, Way]:
    """(e): steps so many half octaves from the middle one."""
    steps = [STEP * 2 ** (level / 2) for level in levels]
    return {f"e rate-aware, step {step:.2g}": Way(rate_aware(step), OURS) for step in steps}


def tuned_ways(levels: Sequence[int]) -> dict[str, Way]:
    """(t): the same steps, what is not rounded yet fine-tuned after each tensor."""
    steps = [STEP * 2 ** (level / 2) for level in levels]
    return {f"t fine-tuned, step {step:.2g}": Way(fine_tuned(step), OURS) for step in steps}


def by_states() -> dict[str, Way]:
    """Trellises of more states, at three rates."""
    packs = {states: PackPlan(codec=entropy_coded(states)) for states in (8, 16, 64)}
    return {
        f"step {step:g}, {states} states": Way(rate_aware(step, states), pack)
        for step in (STEP, 2 * STEP, 4 * STEP)
        for states, pack in packs.items()
    }


def rounded_only(step: float) -> QuantizePlan:
    """The rate-aware table without its tuning."""
    return rate_aware(step).replace(tuning=NoTuning())


def parts_of_ours() -> dict[str, Way]:
    """The rate-aware packer built up, a setting at a time; coarse, so that gaps stand out of their errors."""
    step = 2 * STEP
    bare = RateAware(step=step, by_row=False, by_column=False, across_rows=False, trellis=False)
    rungs = {
        "steps by tensor": bare,
        "and by row": bare.replace(by_row=True),
        "and by column": bare.replace(by_row=True, by_column=True),
        "and feedback over rows": bare.replace(by_row=True, by_column=True, across_rows=True),
        "and a trellis": RateAware(step=step),
        "sides in eighths": RateAware(step=step, octave_parts=8),
        "sides in halves": RateAware(step=step, octave_parts=2),
    }
    table = rounded_only(step)
    ways = {
        f"part: {name}": Way(table.replace({"rules.0.quantizer": each}), OURS) for name, each in rungs.items()
    }
    ways["part: and control tensors tuned"] = Way(rate_aware(step), OURS)
    ways["part: zstd in place of the coder"] = Way(table, PackPlan(codec=Zstd()))
    ways["part: brotli in place of the coder"] = Way(table, PackPlan(codec=Brotli()))
    return ways


def make_machine_code() -> None:
    """Of what rounds: it takes seconds, once in a process or on a machine."""
    one = torch.ones(1, 1).double()
    rounded_codes(one, one, one, None, 8)


def measure(
    run: Trained, ways: dict[str, Way | nncodec.Peer], known: dict[str, Any]
) -> Generator[Event, None, dict[str, Any]]:
    """What each way makes of a run, and what is `known` of it already; all look at the same curvature."""
    base = yield from float_scores(run)
    make_machine_code()  # before the first way is timed
    curvatures, lines = None, dict(known)
    for name, way in ways.items():
        if name in lines:
            continue
        if isinstance(way, nncodec.Peer):
            lines[name] = yield from nncodec.measured(run, name, way, base)
            write_json(run.folder / "pack.json", lines)
            continue
        if curvatures is None:
            curvatures = curvatures_of(run, rate_aware())
        changed = run._replace(recipe=run.recipe.replace({"pack": way.pack}))
        packing, scores = yield from packed_by(changed, way.quantize, name, curvatures)
        line = findings(changed, packing, by_sequence(scores), by_sequence(base))
        tensors = line.pop("quantization")
        line |= {"name": name, "artifact_bytes": len(packing.artifact.data)}
        line |= {"bits_per_byte": bits_per_byte(scores), "seconds": packing.seconds["pack"]}
        weights = sum(row["elements"] for row in tensors if row["bits"] and "Keep" not in row["rule"])
        line["bits_per_weight"] = 8 * line["artifact_bytes"] / weights
        lines[name] = line
        write_json(run.folder / "pack.json", lines)
    return lines


class Stopwatch:
    """Seconds of the process and of the clock, by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}
        self.last = time.process_time(), time.perf_counter()

    def lap(self, phase: str) -> None:
        """What has passed since the last lap belongs to this phase."""
        before, self.last = self.last, (time.process_time(), time.perf_counter())
        own, wall = self.seconds.get(phase, (0.0, 0.0))
        self.seconds[phase] = own + self.last[0] - before[0], wall + self.last[1] - before[1]


@dataclass(frozen=True, kw_only=True)
class TimedPacker(Packer):
    """A packer whose phases are timed."""

    watch: Stopwatch

    def packed(self, table: QuantizePlan) -> tuple[list[dict[str, Any]], Artifact]:
        quantize_weights(table, self.weights, self.curvatures, self.made)
        self.watch.lap("quantize")
        found = super().packed(table)  # takes the tensors that were just made
        self.watch.lap("code")
        return found

    def tuned(
        self, table: QuantizePlan, backend: Backend, stream: TokenStream, trial: bool = False
    ) -> Generator[Event, None, Packer]:
        found = yield from super().tuned(table, backend, stream, trial)
        self.watch.lap("tune")
        return found


def bench_seconds(run: Trained) -> dict[str, Any]:
    """Where the seconds of packing go, and a hash of the bytes. Machine code is made before."""
    make_machine_code()
    recipe, watch, machine = run.recipe, Stopwatch(), Watch()
    curvatures = curvatures_of(run, recipe.quantize)
    watch.lap("calibrate")
    code = script_of(recipe)
    watch.lap("script")
    tokenizer, tries = run.dataset.tokenizer.to_bytes(), list[Event]()
    packer: Packer = TimedPacker(recipe, tokenizer, run.weights, curvatures, len(code), watch=watch)
    packer, table = finish(packer.allocated(run.backend, run.dataset.train), tries.append)
    data = packer.packed(table)[1].data
    own, wall = ({name: each[i] for name, each in watch.seconds.items()} for i in (0, 1))
    return machine.facts() | {
        "bench": f"pack {run.folder.name}",
        "tries": sum(event.stage == "fill" for event in tries),
        "process_seconds": own | {"all": sum(own.values())},
        "wall_seconds": wall | {"all": sum(wall.values())},
        "artifact_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def main() -> None:
    """Measure, and print a table for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--ways", default="public,ours,parts", help="which groups, with commas between them")
    parser.add_argument("--levels", default="-2,-1,0,1,2,3,4", help="of ours: half octaves from 0.0002")
    parser.add_argument("--nncodec", help="the Python that has nncodec, for --ways nncodec")
    parser.add_argument("--sequences", type=int, default=600, help="scored, 256 tokens each")
    parser.add_argument("--data", type=Path, help="the dataset of runs that did not end")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="of --seconds, for programs")
    parser.add_argument("--seconds", action="store_true", help="where the time goes, and nothing else")
    parser.add_argument("--redo", action="store_true", help="measure again what was measured before")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    if chosen.seconds:
        for folder in chosen.runs:
            found = bench_seconds(open_run(folder, data=chosen.data))
            print(json.dumps(found)) if chosen.json else show(found)
        return
    levels = [int(level) for level in chosen.levels.split(",")]
    groups: dict[str, Callable[[], Mapping[str, Way | nncodec.Peer]]] = {
        "public": public_ways,
        "ours": lambda: our_ways(levels),
        "tuned": lambda: tuned_ways(levels),
        "parts": parts_of_ours,
        "states": by_states,
        "nncodec": lambda: nncodec.ways(chosen.nncodec or sys.executable),
    }
    ways = {name: way for group in chosen.ways.split(",") for name, way in groups[group]().items()}
    for folder in chosen.runs:
        run = open_run(folder, [f"score.limit_tokens={256 * chosen.sequences}"], chosen.data)
        path = folder / "pack.json"
        known = read_json(path) if path.is_file() else {}
        if chosen.redo:
            known = {name: line for name, line in known.items() if name not in ways}
        lines = screen.follow(measure(run, ways, known))
        print(json.dumps({"run": str(folder), "ways": list(lines.values())}))


if __name__ == "__main__":
    main()
