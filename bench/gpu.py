"""Everything that a GPU must show, in one command: equality with the CPU, choices, speed, processes, a run.

python -m bench.gpu [--public train_gpt.py] [--seconds 420] [--out runs/gpu.json] [--page docs/gpu.md]
--rehearse does the same on the CPU at tiny sizes: it shows that the command works, and nothing of a GPU.
The public script is a file of yours, which this runs: fetch it yourself, and read it first.
A part that fails or for which no time is left says so in its row; the others go on. Exit code 1 then, 2
without a CUDA device.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import peers
from bitgolf.base.events import finish
from bitgolf.base.files import write_json
from bitgolf.base.plan import to_json
from bitgolf.corpus.build import build_dataset
from bitgolf.corpus.sources import source_from
from bitgolf.forecast.laptop import laptop
from bitgolf.forecast.speed import RandomBatches
from bitgolf.net.backend import Backend, BackendPlan, choose_backend, compiler_found
from bitgolf.net.model import Model, ModelPlan, build_model, model_with
from bitgolf.recipe import BudgetPlan, DataPlan, Recipe
from bitgolf.recipes.baseline import baseline
from bitgolf.recipes.frontier import frontier
from bitgolf.run.folder import processor_name
from bitgolf.score.score import ScorePlan, scoring
from bitgolf.score.windows import Sliding
from bitgolf.squeeze.artifact import load_model, pack, unpack
from bitgolf.squeeze.presets import rate_aware
from bitgolf.squeeze.quantize import QuantizePlan, int6_rows, public_int8, quantize_weights
from bitgolf.text.shards import Dataset
from bitgolf.train.average import Ema
from bitgolf.train.loop import TrainPlan, train
from bitgolf.train.optim import OptimPlan, make_optimizers
from bitgolf.train.schedule import Progress
from bitgolf.train.world import World

CLOSE = {"float32": 1e-3, "bfloat16": 0.05}  # of a gradient's length, from the float64 one of the CPU
CLOSE_LOSS, CLOSE_NATS = 0.02, 0.01  # after some steps in float32; of a token, in float32
CLOSE_BYTES = 0.01  # of a model packed by what was seen on the device
STEPS, PROCESS_STEPS = 10, 8
MICRO_TOKENS = 65_536  # of the full recipes, a step: a micro-batch of the public baseline on one GPU
WARM_STEPS, TIMED_STEPS = 3, 10
CHILD_SECONDS = 120.0  # after no part begins any more, when runs in other processes are ended
WORDS = "the people of this nation and their government shall keep peace with all for many years".split()
Row = dict[str, Any]  # of a part, as JSON has it


@dataclasses.dataclass(frozen=True)
class Bench:
    """What the parts share. until: the time of `time.monotonic` at which no further part begins."""

    device: torch.device
    dataset: Dataset
    folder: Path
    public: Path | None
    until: float

    @property
    def rehearsed(self) -> bool:
        """Whether this is the CPU, on which only the command itself is tried."""
        return self.device.type == "cpu"

    def backend(self, **changes: Any) -> Backend:
        """The plain float32 backend of the device, changed."""
        given = {"dtype": torch.float32, "attention": "math"} | changes
        return Backend(device=self.device, **given)


def tiny() -> Recipe:
    """Three layers of everything that is usual, which train in seconds."""
    return Recipe(
        name="gpu-tiny",
        data=DataPlan(sequence_length=64),
        model=ModelPlan(vocabulary_size=320, layers=3, width=64, heads=4, kv_heads=2),
        optim=OptimPlan(),
        train=TrainPlan(steps=PROCESS_STEPS, train_seconds=0, batch_tokens=1024, accumulation=0),
        average=Ema(decay=0.5),
        quantize=int6_rows(),
        score=ScorePlan(windows=Sliding(length=64, stride=32)),
        budget=BudgetPlan(budget_bytes=1_000_000, count_tokenizer=True),
        backend=BackendPlan(dtype="float32"),
    )


def choices(bench: Bench) -> Iterable[Row]:
    """What `auto` comes to, with its reasons, and what the device has."""
    backend = choose_backend(BackendPlan(device=bench.device.type))
    row: Row = {"what": "auto", "ok": True, **backend.reasons}
    if bench.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability()
        row |= {
            "name": torch.cuda.get_device_name(),
            "devices": torch.cuda.device_count(),
            "capability": f"sm_{major}{minor}",
            "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
            "cuda": torch.version.cuda,
            "flash": torch.backends.cuda.is_flash_attention_available(),
        }
    yield row


def batch_of(recipe: Recipe, rows: int) -> tuple[Tensor, Tensor]:
    """Token ids that are the same on every machine."""
    batches = RandomBatches(recipe.model.vocabulary_size, recipe.data.sequence_length)
    inputs, targets, _ = batches.next_batch(1, rows, World(), batches.length)
    return inputs, targets


def gradients(model: Model, inputs: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """The loss, and all gradients in a row, float64 on the CPU."""
    device = model.backend.device
    loss = model(inputs.to(device), targets.to(device))
    loss.backward()
    parts = [each.grad for each in model.parameters() if each.grad is not None]
    return loss.item(), torch.cat([part.double().flatten().cpu() for part in parts])


def parity(bench: Bench) -> Iterable[Row]:
    """Loss and gradients by each kernel, attention and number type, against float64 on the CPU."""
    recipe = tiny()
    batch = batch_of(recipe, 4)
    exact = Backend(dtype=torch.float64, attention="math")
    loss, wanted = gradients(build_model(recipe.network()).use(exact).double(), *batch)
    ways: list[Row] = [
        {"dtype": dtype, "attention": attention, "fused": fused, "compile": False}
        for dtype in (torch.float32, torch.bfloat16)
        for attention in ("math", "sdpa", "chunk")
        for fused in (False, True)
    ]
    if not bench.rehearsed and compiler_found():
        ways += [{"dtype": torch.bfloat16, "attention": "sdpa", "fused": True, "compile": True}]
    for way in ways:
        backend = bench.backend(**way)
        found, got = gradients(build_model(recipe.network()).use(backend), *batch)
        error = float((got - wanted).norm() / wanted.norm())
        kernels = "compiled" if way["compile"] else "fused" if way["fused"] else "plain"
        yield {
            "what": f"{backend.dtype_name}, {way['attention']}, {kernels}",
            "ok": error <= CLOSE[backend.dtype_name],
            "loss_error": abs(found - loss),
            "gradient_error": error,
        }


def losses_of(recipe: Recipe, backend: Backend, steps: int) -> tuple[list[float], Model]:
    """The loss of each step of a training on random tokens, and the model after them."""
    model = build_model(recipe.network()).use(backend)
    optimizers = make_optimizers(recipe.optim, model, World(), backend.dtype)
    batches = RandomBatches(recipe.model.vocabulary_size, recipe.data.sequence_length)
    plan = recipe.train.replace(steps=steps)
    reports = train(model, plan, optimizers, recipe.average, batches)
    return [report.nats_per_token for report in reports], model


def training(bench: Bench) -> Iterable[Row]:
    """The losses of some steps, here and on the CPU."""
    recipe = tiny()
    here, _ = losses_of(recipe, bench.backend(attention="sdpa", fused=True), STEPS)
    there, _ = losses_of(recipe, Backend(attention="math", fused=True), STEPS)
    error = max(abs(a - b) for a, b in zip(here, there, strict=True))
    yield {"what": f"{STEPS} steps", "ok": error <= CLOSE_LOSS, "loss_error": error, "last_loss": here[-1]}


def packed(
    table: QuantizePlan, recipe: Recipe, weights: dict[str, Tensor], backend: Backend, bench: Bench
) -> bytes:
    """The artifact of these weights, calibrated on this backend."""
    plan = recipe.network()
    model = model_with(plan, weights, backend)
    curvatures = table.curvatures(model, bench.dataset.train, recipe.data.sequence_length)
    tensors, _ = quantize_weights(table, weights, curvatures)
    return pack(plan, tensors, bench.dataset.tokenizer.to_bytes(), recipe.pack).data


def packing(bench: Bench) -> Iterable[Row]:
    """The bytes of equal weights: the same where nothing is calibrated, nearly so where the device did it."""
    recipe = tiny()
    weights = {name: each.detach() for name, each in build_model(recipe.network()).state_dict().items()}
    tables = {"int8": public_int8(), "int6": int6_rows(), "rate-aware": rate_aware()}
    for name, table in tables.items():
        here, there = (
            packed(table, recipe, weights, backend, bench)
            for backend in (bench.backend(), Backend(attention="math"))
        )
        asks = any(rule.quantizer.needs_hessian() for rule in table.rules)
        off = abs(len(here) - len(there)) / len(there)
        yield {
            "what": name,
            "ok": off <= CLOSE_BYTES if asks else here == there,
            "bytes": len(here),
            "bytes_on_cpu": len(there),
            "equal": hashlib.sha256(here).digest() == hashlib.sha256(there).digest(),
        }


def scores(bench: Bench) -> Iterable[Row]:
    """Nats of each token by a packed model, here and on the CPU."""
    recipe = tiny()
    weights = {name: each.detach() for name, each in build_model(recipe.network()).state_dict().items()}
    unpacked = unpack(packed(int6_rows(), recipe, weights, Backend(), bench))
    tokens, tokenizer = bench.dataset.scored_tokens()[:2000], bench.dataset.tokenizer
    here, there = (
        finish(scoring(load_model(unpacked, backend), tokens, tokenizer, recipe.score)).nats
        for backend in (bench.backend(attention="sdpa"), Backend(attention="math"))
    )
    error = float(abs(here - there).max())
    yield {"what": "sliding windows", "ok": error <= CLOSE_NATS, "nats_error": error, "tokens": len(here)}


def speed(bench: Bench) -> Iterable[Row]:
    """Tokens a second and memory of a step: baseline, the public script if given, frontier."""
    for name, recipe, path in (
        ("ours", baseline(), None),
        ("public", baseline(), bench.public),
        ("frontier", frontier(), None),
    ):
        if name == "public" and path is None:
            yield {"what": "public script", "ok": True, "note": "not given; --public train_gpt.py"}
            continue
        sized = laptop(recipe) if bench.rehearsed else recipe
        length = sized.data.sequence_length
        tokens = length if bench.rehearsed else MICRO_TOKENS
        sized = sized.replace({"train.batch_tokens": tokens, "train.accumulation": 1})
        sized = sized.replace({"backend.device": bench.device.type})
        yield {"what": name if name == "public" else sized.name, **timed(bench, sized, name, path)}


def timed(bench: Bench, recipe: Recipe, name: str, path: Path | None) -> Row:
    """Steps of a peer; running out of memory is told, not raised."""
    cuda = not bench.rehearsed
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    rows = recipe.train.rows(recipe.data.sequence_length, 1)
    inputs, targets = (each.to(bench.device) for each in batch_of(recipe, rows))
    steps = 1 if bench.rehearsed else TIMED_STEPS
    try:
        with bench.device:
            peer = peers.PEERS["public" if name == "public" else "ours"](recipe, path)
        for step in range(WARM_STEPS + steps if cuda else steps):
            if step == WARM_STEPS or not cuda:
                wait(bench.device)
                started = time.perf_counter()
            peer.nats(inputs, targets).backward()
            peer.step(Progress(step, 1000))
        wait(bench.device)
    except torch.cuda.OutOfMemoryError:
        return {"ok": True, "note": f"out of memory at {recipe.train.batch_tokens:,} tokens a step"}
    seconds = time.perf_counter() - started
    return {
        "ok": True,
        "tokens_per_second": steps * recipe.train.batch_tokens / seconds,
        "tokens_a_step": recipe.train.batch_tokens,
        "memory_bytes": torch.cuda.max_memory_allocated() if cuda else 0,
    }


def wait(device: torch.device) -> None:
    """Until the device has done what was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def child(bench: Bench, command: Sequence[str]) -> str:
    """The output of a command of this interpreter. Raises RuntimeError with the end of its complaints."""
    left = max(1.0, bench.until + CHILD_SECONDS - time.monotonic())
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=left
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-400:] or f"exit code {done.returncode}")
    return done.stdout


def run_words(bench: Bench, recipe: Recipe, name: str) -> list[str]:
    """The command that runs a recipe on this device into a folder."""
    write_json(bench.folder / f"{name}.json", to_json(recipe.replace({"backend.device": bench.device.type})))
    words = ["run", bench.folder / f"{name}.json", "--data", bench.dataset.folder, "--json"]
    return ["bitgolf", *map(str, [*words, "--out", bench.folder / name])]


def losses_in(folder: Path) -> list[float]:
    """Of each step of a finished run."""
    return [
        json.loads(line)["nats_per_token"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def processes(bench: Bench) -> Iterable[Row]:
    """torchrun on as many GPUs as divide eight, against one process: NCCL there, gloo in a rehearsal."""
    count = 2 if bench.rehearsed else max(n for n in (1, 2, 4, 8) if n <= torch.cuda.device_count())
    if count == 1:
        yield {"what": "torchrun", "ok": True, "note": "one GPU: nothing to compare"}
        return
    started = time.perf_counter()
    child(bench, run_words(bench, tiny(), "one"))
    one = time.perf_counter() - started
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
    child(bench, [*launch, *run_words(bench, tiny(), "several")])
    pairs = zip(losses_in(bench.folder / "one"), losses_in(bench.folder / "several"), strict=True)
    error = max(abs(a - b) for a, b in pairs)
    yield {
        "what": f"{count} processes, {'gloo' if bench.rehearsed else 'NCCL'}",
        "ok": error <= CLOSE_LOSS,
        "loss_error": error,
        "seconds": time.perf_counter() - started - one,
        "seconds_alone": one,
    }


def pipeline(bench: Bench) -> Iterable[Row]:
    """A run from text to report, rate-aware packing included, and its score again from the command line."""
    recipe = tiny().replace({"quantize": rate_aware(), "backend.dtype": "auto"})
    result = json.loads(child(bench, run_words(bench, recipe, "run")))
    words = [str(bench.folder / "run"), "--data", str(bench.dataset.folder)]
    again = json.loads(child(bench, ["bitgolf", "score", *words, "--json"]))
    error = abs(result["bits_per_byte"] - again["bits_per_byte"])
    yield {
        "what": "run and score",
        "ok": result["status"] == "ok" and error < 0.01,
        "bits_per_byte": result["bits_per_byte"],
        "score_error": error,
        "artifact_bytes": result["artifact_bytes"],
        "dtype": result["dtype"],
    }


PARTS: dict[str, Callable[[Bench], Iterable[Row]]] = {
    "choices": choices,
    "parity": parity,
    "training": training,
    "packing": packing,
    "scores": scores,
    "speed": speed,
    "processes": processes,
    "pipeline": pipeline,
}


def rows_of(bench: Bench, parts: Sequence[str]) -> list[Row]:
    """The rows of all parts. What one raises is its row."""
    rows: list[Row] = []
    for name in parts:
        if time.monotonic() > bench.until:
            rows.append({"part": name, "what": "not done", "ok": False, "note": "no time was left"})
            continue
        started = time.monotonic()
        try:
            for row in PARTS[name](bench):
                rows.append({"part": name, **row})
        except Exception as error:  # whatever a GPU shows first is what this is for
            rows.append({"part": name, "what": type(error).__name__, "ok": False, "note": str(error)[-400:]})
        print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr)
    return rows


def made_dataset(folder: Path) -> Dataset:
    """Forty documents of drawn words, tokenized with 320 pieces: nothing is fetched."""
    texts, draw = folder / "texts", random.Random(1)
    texts.mkdir()
    for number in range(40):
        lines = (" ".join(draw.choices(WORDS, k=10)).capitalize() + ".\n" for _ in range(40))
        (texts / f"{number:02}.txt").write_text("".join(lines))
    for _ in build_dataset(source_from(str(texts)), folder / "data", vocabulary_size=320):
        pass
    return Dataset.open(folder / "data")


def page(facts: Row | None) -> str:
    """docs/gpu.md: what a GPU has shown, or that none has run this yet."""
    head = [
        "# GPUs",
        "",
        "`make gpu` checks on a CUDA machine that everything works there, and measures it.",
        "",
        "    make gpu                                  # any CUDA machine, under ten minutes",
        "    make gpu PUBLIC=train_gpt.py              # the public script's speed beside ours; you fetch it",
        "    python -m bench.gpu --rehearse            # every part on the CPU, at tiny sizes",
        "",
    ]
    if facts is None:
        return "\n".join([*head, NEVER])
    made = "**A rehearsal on a CPU: nothing here is of a GPU**" if facts["rehearsed"] else facts["device"]
    body = [f"{made}; torch {facts['torch']}, {facts['seconds']:.0f} s in all.", ""]
    for part in dict.fromkeys(row["part"] for row in facts["rows"]):
        own = [row for row in facts["rows"] if row["part"] == part]
        keys = list(dict.fromkeys(key for row in own for key in row if key != "part"))
        body += [f"## {part.capitalize()}", "", (PARTS[part].__doc__ or "").splitlines()[0], ""]
        body += ["| " + " | ".join(key.replace("_", " ") for key in keys) + " |", "|" + "---|" * len(keys)]
        body += ["| " + " | ".join(shown(row.get(key, "")) for key in keys) + " |" for row in own]
        body += [""]
    return "\n".join([*head, *body])


NEVER = """\
**No GPU has run this code yet.** Once one has, this page is written from the JSON of `make gpu`.

`tests/test_device.py` checks the following without a GPU, on a device of shapes without values:

- The training step of every shipped recipe, with its noise and averages. No operation mixes tensors of CPU
  and GPU, no shape depends on values, and the CPU waits for the GPU once per step. It waits for the loss and
  the length of the gradient, because they decide whether the weights are updated.
- Resumed training, windows of all kinds, test-time training, LoRA by document, mixers, calibration
  and tuning. The test lists where they wait for the device: a batch of scores waits three times, mixers
  twice per window, because they count on the host.
- What `auto` chooses: float32 and plain attention below sm_80, bfloat16 and torch's own attention above.

Two faults were mended. The first was found by these tests, the second by reading: rate-aware packing and
tied tables would have ended in an error after a training on a GPU. Weights now go to the CPU before they are
packed, so equal weights give equal bytes. A resumed training also waited once more for each snapshot of an
average.

These tests cannot show the kernels themselves and their rounding, `torch.compile` and NCCL on a GPU, speed
and memory. They do not take branches that ask for a device named `cuda` either: the size of a pass, the
size of Muon's batches, the wait at the end of a step. float16 is not used at all, so cards below sm_80
compute in float32. Nothing forecasts what fits on a small card: `bitgolf forecast` gives the memory of a CPU.
"""


def shown(value: Any) -> str:
    """A value in a cell of the page."""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/").replace("\n", " ")


def main() -> int:
    """All parts, or some; the rows as JSON and as a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, at tiny sizes")
    parser.add_argument("--public", type=Path, help="train_gpt.py of the public challenge")
    parser.add_argument("--seconds", type=float, default=420.0, help="after which no further part begins")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", type=Path, help="where the rows go as JSON")
    parser.add_argument("--page", type=Path, help="where they go as a page")
    options = parser.parse_args()
    if unknown := [name for name in options.parts.split(",") if name not in PARTS]:
        parser.error(f"--parts: no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    if not options.rehearse and not torch.cuda.is_available():
        print("no CUDA device here; --rehearse tries the command on the CPU", file=sys.stderr)
        return 2
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as held:
        bench = Bench(
            torch.device("cpu" if options.rehearse else "cuda"),
            made_dataset(Path(held)),
            Path(held),
            options.public,
            started + options.seconds,
        )
        rows = rows_of(bench, options.parts.split(","))
    facts: Row = {
        "bench": "gpu",
        "rehearsed": options.rehearse,
        "device": processor_name() if options.rehearse else torch.cuda.get_device_name(),
        "torch": str(torch.__version__),
        "seconds": time.monotonic() - started,
        "rows": rows,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, facts)
    if options.page:
        options.page.write_text(page(facts))
    print(json.dumps(facts, indent=2))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
