"""Small runs of a technique: four layers, three steps, on a generated text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitgolf.base.events import finish
from bitgolf.base.plan import Plan
from bitgolf.base.tensors import read_tensors
from bitgolf.catalog.techniques import Technique, value_at
from bitgolf.corpus.build import build_dataset
from bitgolf.corpus.sources import source_from
from bitgolf.net.backend import BackendPlan
from bitgolf.net.model import ModelPlan
from bitgolf.recipe import DataPlan, Recipe
from bitgolf.run.stages import run
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Chunked
from bitgolf.squeeze.artifact import unpack
from bitgolf.squeeze.quantize import int6_rows
from bitgolf.text.shards import Dataset
from bitgolf.train.loop import TrainPlan
from bitgolf.train.optim import OptimPlan
from bitgolf.train.schedule import Constant

WORDS = "the people of this nation and their government shall keep peace with all for many years".split()
# Where a slot of a table stands in the row that takes matrices.
AT = {
    "optim.rows.0.rule": "optim.rows.1.rule",
    "quantize.rules.0.quantizer": "quantize.rules.1.quantizer",
    "quantize.rules.0.quantizer.grid.granularity": "quantize.rules.1.quantizer.grid.granularity",
}


class BrokenError(Exception):
    """A technique does not keep what a check asks."""


def make_dataset(folder: Path) -> Dataset:
    """A few generated documents, tokenized with 320 pieces."""
    rng = np.random.default_rng(0)
    texts = folder / "texts"
    texts.mkdir()
    for number in range(20):
        lines = (" ".join(rng.choice(WORDS, rng.integers(5, 15))).capitalize() + "." for _ in range(30))
        (texts / f"{number:02}.txt").write_text("\n".join(lines) + "\n")
    for _ in build_dataset(source_from(str(texts)), folder / "dataset", vocabulary_size=320):
        pass
    return Dataset.open(folder / "dataset")


def small_recipe() -> Recipe:
    """Four layers of width 48, three steps, one value in every slot."""
    return Recipe(
        name="check",
        data=DataPlan(sequence_length=32),
        model=ModelPlan(vocabulary_size=320, layers=4, width=48, heads=4, kv_heads=2),
        optim=OptimPlan(schedule=Constant()),
        train=TrainPlan(steps=3, train_seconds=0, batch_tokens=128, accumulation=1),
        quantize=int6_rows(),
        score=ScorePlan(windows=Chunked(length=32)),
        backend=BackendPlan(dtype="float32", threads=1),
    )


def with_technique(recipe: Recipe, technique: Technique, member: Plan | None) -> Recipe:
    """The recipe with a member in the slot of a technique; in a slot of many as the only one, or none."""
    path = AT.get(technique.path, technique.path)
    many = isinstance(value_at(recipe, path), tuple)
    if many:
        return recipe.replace({path: () if member is None else (member,)})
    return recipe if member is None else recipe.replace({path: member})


class Small:
    """Small runs on one generated text; equal recipes run once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.dataset = folder, make_dataset(folder)
        self.results: dict[Recipe, dict[str, Any]] = {}

    def run(self, recipe: Recipe) -> dict[str, Any]:
        """What a run comes to: losses, weights, averages, reloaded weights, scores, and packed bytes."""
        if recipe not in self.results:
            out = self.folder / f"run{len(self.results)}"
            finish(run(recipe, self.dataset, out, 1, code=b""))
            self.results[recipe] = self._read(out)
        return self.results[recipe]

    def _read(self, out: Path) -> dict[str, Any]:
        result = json.loads((out / "result.json").read_text())
        if result["status"] not in ("ok", "over budget"):
            raise BrokenError(f"a run of three steps ends as {result['status']}: {result.get('error')}")
        stored, _ = read_tensors(out / "weights.safetensors")
        live = {n.removeprefix("live/"): t for n, t in stored.items() if n.startswith("live/")}
        averaged = {n.removeprefix("averaged/"): t for n, t in stored.items() if n.startswith("averaged/")}
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        packed = (out / "model.bin").read_bytes()
        with np.load(out / "scores.npz") as scores:
            nats = {name: torch.from_numpy(scores[name].astype(np.float64)) for name in ("nats", "context")}
        return {
            "losses": {str(i): torch.tensor(line["nats_per_token"]) for i, line in enumerate(lines)},
            "weights": live,
            "averaged weights": averaged or live,
            "packed weights": dict(unpack(packed).weights),
            "scores": nats,
            "packed bytes": {"bytes": torch.frombuffer(bytearray(packed), dtype=torch.uint8)},
        }


def difference(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The first part of two runs in which tensors that both have differ; '' where none does."""
    for part in ("losses", "weights", "averaged weights", "packed weights", "scores"):
        common = first[part].keys() & second[part].keys()
        for name in sorted(common):
            if not torch.equal(first[part][name], second[part][name]):
                return f"{part} ({name})" if part not in ("losses", "scores") else part
    return ""
