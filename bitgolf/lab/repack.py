"""A trained run packed again by other rules: what each saves and what it costs, from reloaded bytes alone."""

import math
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from bitgolf.core.artifact import Artifact, unpack
from bitgolf.core.backend import choose_backend
from bitgolf.core.errors import BitgolfError, nearest
from bitgolf.core.files import read_json, read_tensors, write_bytes, write_json
from bitgolf.core.fill import FillBudget
from bitgolf.core.gptq import Gptq
from bitgolf.core.grid import Grid
from bitgolf.core.metric import bits_per_byte, summary
from bitgolf.core.plan import from_json, parse_changes, to_json
from bitgolf.core.presets import (
    by_part,
    clip_searched,
    deviations,
    entropy_coded,
    feedback_deviations,
    feedback_rows,
    int5_mlp,
    rate_aware,
)
from bitgolf.core.quantize import (
    AbsMax,
    Curvatures,
    QuantizePlan,
    absmax_rows,
    int6_rows,
    public_int8,
)
from bitgolf.core.rate import RateAware
from bitgolf.core.recipe import Recipe
from bitgolf.core.run import Event, Packer, load_model, model_with, score_split, shipped_weights
from bitgolf.core.score import ScorePlan, Scores
from bitgolf.core.shards import Dataset
from bitgolf.core.windows import Chunked
from bitgolf.lab.flatten import flatten, pack_script

RATE_STEP = 0.0002
OWN = "recipe"  # the name of a run's own table
TABLES: dict[str, Callable[[], QuantizePlan]] = {
    "public-int8": public_int8,
    "int8": lambda: absmax_rows(8, 8),
    "int6": int6_rows,
    "int6-search": clip_searched,
    "int5-int6": int5_mlp,
    "int5": lambda: absmax_rows(5, 8),
    "int4": lambda: absmax_rows(4, 8),
    "sdclip": deviations,
    "gptq": feedback_rows,
    "gptq-int5": lambda: feedback_rows(5),
    "gptq-int4": lambda: feedback_rows(4),
    "gptq-sdclip": feedback_deviations,
    "gptq-sdclip-int8": lambda: by_part(Gptq(), AbsMax(grid=Grid(bits=8))),  # embeddings to the nearest
}
TABLES |= {f"rate-{level}": partial(rate_aware, RATE_STEP * 2 ** (level / 2)) for level in range(-2, 5)}
MAY_CHANGE = ("quantize", "pack", "score", "budget", "backend")  # of a recipe whose weights are there


class Trained(NamedTuple):
    """A run folder: its recipe, the weights that were packed (float32, by name), and its text."""

    folder: Path
    recipe: Recipe
    weights: dict[str, Tensor]
    dataset: Dataset


class Packing(NamedTuple):
    """One way to pack: the bytes, the report of its tensors, and what reloading them scores."""

    artifact: Artifact
    rows: list[dict[str, Any]]
    scores: Scores
    seconds: dict[str, float]


def open_run(folder: Path, changes: Sequence[str] = (), data: Path | None = None) -> Trained:
    """Read a finished run. Raises BitgolfError for one that is not, and for changes that need training."""
    trained = [text for text in changes if text.split(".")[0].split("=")[0] not in MAY_CHANGE]
    if trained:
        raise BitgolfError(
            "the weights of this run were trained without this",
            value=trained[0],
            way_out=f"packing again can change {', '.join(MAY_CHANGE)}",
        )
    recipe = parse_changes(from_json(Recipe, read_json(folder / "recipe.json")), changes)
    if not (folder / "weights.safetensors").is_file():
        raise BitgolfError(
            "this run has no weights", where=str(folder), way_out="finish it: bitgolf run ... --resume"
        )
    stored, _ = read_tensors(folder / "weights.safetensors")
    kind = "averaged" if any(name.startswith("averaged/") for name in stored) else "live"
    weights = {name.removeprefix(f"{kind}/"): t for name, t in stored.items() if name.startswith(kind)}
    result = folder / "result.json"
    known = data or (read_json(result).get("dataset") if result.is_file() else None)
    if known is None:
        raise BitgolfError("no dataset is known", where=str(folder), way_out="give it with --data FOLDER")
    return Trained(
        folder, recipe, shipped_weights(recipe.model.shipped(), weights), Dataset.open(Path(known))
    )


def filling(trained: Trained, budget_bytes: int) -> Trained:
    """The run with the rate that fills a budget; by the rate-aware table unless its own has such rules."""
    recipe = trained.recipe
    if not any(isinstance(rule.quantizer, RateAware) for rule in recipe.quantize.rules):
        recipe = recipe.but({"quantize": rate_aware(), "pack.codec": entropy_coded()})
    return trained._replace(
        recipe=recipe.but({"quantize.rate": FillBudget(), "budget.budget_bytes": budget_bytes})
    )


def chunked(recipe: Recipe) -> ScorePlan:
    """The windows of every comparison: those of training, side by side."""
    return recipe.score.but(windows=Chunked(length=recipe.data.sequence_length))


def float_scores(trained: Trained) -> Generator[Event, None, Scores]:
    """What the weights score before they are quantized."""
    recipe = trained.recipe
    model = model_with(recipe.model.shipped(), trained.weights, choose_backend(recipe.backend))
    return (yield from score_split(model, trained.dataset, chunked(recipe), "score float"))


def curvatures_of(trained: Trained, plan: QuantizePlan) -> Curvatures:
    """What the quantizers of a table ask about a run."""
    recipe = trained.recipe
    model = model_with(recipe.model.shipped(), trained.weights, choose_backend(recipe.backend))
    return plan.curvatures(model, trained.dataset.train, recipe.data.sequence_length)


def packed_by(
    trained: Trained, plan: QuantizePlan, name: str, curvatures: Curvatures | None = None
) -> Generator[Event, None, Packing]:
    """Calibrate if the table asks for it and no curvatures are known, quantize, pack, reload, score."""
    yield Event(f"pack {name}", 0, 1, {})
    started = time.perf_counter()
    if curvatures is None:
        curvatures = curvatures_of(trained, plan)
    calibrated = time.perf_counter()
    packer = Packer(trained.recipe, trained.dataset.tokenizer.to_bytes(), trained.weights, curvatures, 0)
    rows, artifact = packer.packed(plan)
    seconds = {"calibrate": calibrated - started, "pack": time.perf_counter() - calibrated}
    yield Event(f"pack {name}", 1, 1, {"artifact_bytes": len(artifact.data)})
    loaded = load_model(unpack(artifact.data), choose_backend(trained.recipe.backend))
    scores = yield from score_split(loaded, trained.dataset, chunked(trained.recipe), f"score {name}")
    return Packing(artifact, rows, scores, seconds)


def paired_gap(scores: Scores, base: Scores) -> tuple[float, float]:
    """Bits per byte lost against `base` on the same tokens, and its standard error over sequences.

    The error says how far another text of this kind might be; it knows nothing of another training seed.
    """
    sequences = np.cumsum(base.context == 1)
    count = int(sequences[-1]) + 1
    bits = np.bincount(sequences, (scores.nats.astype(float) - base.nats) / math.log(2), count)[1:]
    sizes = np.bincount(sequences, base.bytes, count)[1:]
    gap = bits.sum() / sizes.sum()
    spread = (bits - gap * sizes).std(ddof=1) if len(bits) > 1 else math.nan
    return float(gap), float(spread * math.sqrt(len(bits)) / sizes.sum())


def figures(name: str, packing: Packing, base: Scores) -> dict[str, Any]:
    """One line of a comparison."""
    gap, error = paired_gap(packing.scores, base)
    return {
        "name": name,
        "artifact_bytes": len(packing.artifact.data),
        "bits_per_byte": bits_per_byte(packing.scores),
        "gap": gap,
        "gap_error": error if math.isfinite(error) else None,
        "seconds": sum(packing.seconds.values()),
        "alarms": sum(bool(row["alarm"]) for row in packing.rows),
    }


def compare_tables(trained: Trained, names: Sequence[str]) -> Generator[Event, None, list[dict[str, Any]]]:
    """Every table of these names on one run, after the float weights as they are."""
    for name in names:
        if name not in (OWN, *TABLES):
            raise BitgolfError("no such table", value=name, way_out=nearest(name, [OWN, *TABLES]))
    base = yield from float_scores(trained)
    lines: list[dict[str, Any]] = [{"name": "float", "bits_per_byte": bits_per_byte(base)}]
    for name in names:
        plan = trained.recipe.quantize if name == OWN else TABLES[name]()
        packing = yield from packed_by(trained, plan, name)
        lines.append(figures(name, packing, base))
    return lines


def pack_again(trained: Trained, out: Path) -> Generator[Event, None, dict[str, Any]]:
    """Pack a run by its changed recipe into a folder of its own, which `bitgolf score` takes as a run."""
    if out.resolve() == trained.folder.resolve():
        raise BitgolfError("this folder holds the run itself", where=str(out), way_out="another --out")
    recipe, code = trained.recipe, pack_script(flatten(trained.recipe))
    curvatures = curvatures_of(trained, recipe.quantize)
    packer = Packer(recipe, trained.dataset.tokenizer.to_bytes(), trained.weights, curvatures, len(code))
    table = yield from packer.settle()
    base = yield from float_scores(trained)
    packing = yield from packed_by(trained, table, OWN, curvatures)
    total = packer.total_bytes(packing.artifact)
    line = figures(OWN, packing, base)
    result = {
        "status": "ok" if total <= recipe.budget.budget_bytes else "over budget",
        **summary(packing.scores),
        "float_bits_per_byte": bits_per_byte(base),
        **{key: line[key] for key in ("gap", "gap_error", "alarms", "artifact_bytes")},
        "code_bytes": len(code),
        "total_bytes": total,
        "budget_bytes": recipe.budget.budget_bytes,
        "ledger": [["code", len(code)], *map(list, packing.artifact.ledger)],
        "quantization": packing.rows,
        "rules": to_json(table.rules),
        "seconds": packing.seconds,
        "dataset": str(trained.dataset.folder),
        "packed_from": str(trained.folder),
    }
    write_bytes(out / "model.bin", packing.artifact.data)
    write_json(out / "recipe.json", to_json(recipe))
    write_json(out / "result.json", result)
    return result
