"""A trained run packed again by other rules: bytes and losses of each, from reloaded bytes only."""

import math
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitgolf.base.errors import BitgolfError, nearest
from bitgolf.base.events import Event
from bitgolf.base.files import write_bytes, write_json
from bitgolf.base.plan import parse_overrides, to_json
from bitgolf.base.tensors import read_tensors
from bitgolf.inputs.recorded import record
from bitgolf.inputs.typed import Origin, read_as, read_plan
from bitgolf.net.backend import Backend, choose_backend
from bitgolf.net.model import count_parameters, model_with, parameter_shapes, shipped_weights
from bitgolf.recipe import Recipe
from bitgolf.report.divergence import Divergence, divergence
from bitgolf.report.report import write_report
from bitgolf.report.tensors import bits_per_byte_of, noise_quantizers, predicted_gap, tensor_rows
from bitgolf.run.packer import Packer, Packing
from bitgolf.run.result import Sums, by_sequence
from bitgolf.run.scoring import score_split
from bitgolf.score.metric import bits_per_byte, summary
from bitgolf.score.score import ScorePlan, Scores
from bitgolf.script.counted import script_of, whole_ledger
from bitgolf.squeeze.artifact import Artifact, load_model, unpack
from bitgolf.squeeze.fill import FillBudget
from bitgolf.squeeze.gptq import Gptq
from bitgolf.squeeze.grid import Grid
from bitgolf.squeeze.presets import (
    by_part,
    clip_searched,
    deviations,
    entropy_coded,
    feedback_deviations,
    feedback_rows,
    fine_tuned,
    int5_mlp,
    public_int6,
    rate_aware,
)
from bitgolf.squeeze.quantize import (
    AbsMax,
    Curvatures,
    Fixed,
    QuantizePlan,
    absmax_rows,
    int6_rows,
    public_int8,
)
from bitgolf.squeeze.rate import RateAware
from bitgolf.text.shards import Dataset

RATE_STEP = 0.0002
OWN = "recipe"  # the name of a run's own table
TABLES: dict[str, Callable[[], QuantizePlan]] = {
    "public-int8": public_int8,
    "public-int6": public_int6,
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
TABLES |= {f"tuned-{level}": partial(fine_tuned, RATE_STEP * 2 ** (level / 2)) for level in range(-2, 5)}
OF_TRAINING = (
    "weights.safetensors",
    "metrics.jsonl",
    "environment.json",
    "checkpoint",
)  # only runs have them
MAY_CHANGE = ("quantize", "pack", "score", "budget", "backend")  # of a recipe whose weights are there


class Trained(NamedTuple):
    """A run folder: its recipe, the weights that were packed (float32, by name), and its text.

    trained_on: the table that training noise was given, where the recipe has been changed since.
    dtype: the number type it was trained and scored in, where that is known.
    """

    folder: Path
    recipe: Recipe
    weights: dict[str, Tensor]
    dataset: Dataset
    trained_on: QuantizePlan
    dtype: str = ""

    @property
    def backend(self) -> Backend:
        """What it is packed and scored on: in the number type of the run unless its recipe says another."""
        return choose_backend(self.recipe.backend, self.dtype)


def open_run(folder: Path, overrides: Sequence[str] = (), data: Path | None = None) -> Trained:
    """Read a finished run. Raises BitgolfError for one that is not, and for changes that need training."""
    trained = [text for text in overrides if text.split(".")[0].split("=")[0] not in MAY_CHANGE]
    if trained:
        raise BitgolfError(
            "the weights of this run were trained without this",
            value=trained[0],
            way_out=f"packing again can change {', '.join(MAY_CHANGE)}",
        )
    original = read_plan(folder / "recipe.json", Recipe)
    recipe = parse_overrides(original, overrides)
    if not (folder / "weights.safetensors").is_file():
        raise BitgolfError(
            "this run has no weights", where=str(folder), way_out="finish it: bitgolf run ... --resume"
        )
    stored, _ = read_tensors(folder / "weights.safetensors")
    kind = "averaged" if any(name.startswith("averaged/") for name in stored) else "live"
    weights = {name.removeprefix(f"{kind}/"): t for name, t in stored.items() if name.startswith(kind)}
    result = folder / "result.json"
    data_folder = data or (read_as(result, Origin).get("dataset") if result.is_file() else None)
    if data_folder is None:
        raise BitgolfError("no dataset is known", where=str(folder), way_out="give it with --data FOLDER")
    shipped = recipe.model.shipped()
    if other := sorted(
        name
        for name, shape in parameter_shapes(shipped).items()
        if name not in weights or weights[name].shape != torch.Size(shape)
    ):
        raise BitgolfError(
            "the weights are not of this recipe",
            where=str(folder),
            value=other[0],
            way_out="recipe.json or weights.safetensors was changed; take both from the same run",
        )
    weights = shipped_weights(shipped, weights)
    dataset, dtype = Dataset.open(Path(data_folder)), dtype_of(folder)
    return Trained(folder, recipe, weights, dataset, original.quantize, dtype)


def dtype_of(folder: Path) -> str:
    """The number type that a run was trained and scored in, as its result says; empty where none does."""
    path = folder / "result.json"
    return read_as(path, Origin).get("dtype", "") if path.is_file() else ""


def filling(trained: Trained, budget_bytes: int) -> Trained:
    """The run with the rate that fills a budget; by the rate-aware table unless its own has such rules."""
    recipe = trained.recipe
    if not any(isinstance(rule.quantizer, RateAware) for rule in recipe.quantize.rules):
        recipe = recipe.replace({"quantize": rate_aware(), "pack.codec": entropy_coded()})
    return trained._replace(
        recipe=recipe.replace({"quantize.rate": FillBudget(), "budget.budget_bytes": budget_bytes})
    )


def chunked(recipe: Recipe) -> ScorePlan:
    """The windows of every comparison: those of training, side by side."""
    return recipe.score.chunked(recipe.data.sequence_length)


def float_scores(trained: Trained) -> Generator[Event, None, Scores]:
    """What the weights score before they are quantized."""
    recipe = trained.recipe
    model = model_with(recipe.network().shipped(), trained.weights, trained.backend)
    return (yield from score_split(model, trained.dataset, chunked(recipe), "score float")).scores


def curvatures_of(trained: Trained, plan: QuantizePlan) -> Curvatures:
    """What the quantizers of a table ask about a run."""
    recipe = trained.recipe
    model = model_with(recipe.network().shipped(), trained.weights, trained.backend)
    return plan.curvatures(model, trained.dataset.train, recipe.data.sequence_length)


def packed_by(
    trained: Trained, plan: QuantizePlan, name: str, curvatures: Curvatures | None = None
) -> Generator[Event, None, tuple[Packing, Scores]]:
    """Calibrate if the table asks for it, set its rate, quantize, tune, pack, reload, score.

    curvatures: those that are known, in place of calibration.
    """
    yield Event(f"pack {name}", 0, 1, {})
    started = time.perf_counter()
    if curvatures is None:
        curvatures = curvatures_of(trained, plan)
    seconds = {"calibrate": time.perf_counter() - started}
    recipe, tokenizer = trained.recipe.replace(quantize=plan), trained.dataset.tokenizer.to_bytes()
    code_bytes = 0 if plan.rate == Fixed() else len(script_of(trained.recipe))
    packer = Packer(recipe, tokenizer, trained.weights, curvatures, code_bytes)
    packer, plan = yield from packer.allocated(trained.backend, trained.dataset.train)
    return (yield from reloaded(trained, packer, plan, name, seconds, started))


def reloaded(
    trained: Trained, packer: Packer, plan: QuantizePlan, name: str, seconds: dict[str, float], started: float
) -> Generator[Event, None, tuple[Packing, Scores]]:
    """Pack, reload, score. started: when packing began, calibration included."""
    recipe = trained.recipe
    rows, artifact = packer.packed(plan)
    seconds["pack"] = time.perf_counter() - started - seconds["calibrate"]
    yield Event(f"pack {name}", 1, 1, {"artifact_bytes": len(artifact.data)})
    loaded = load_model(unpack(artifact.data), trained.backend)
    scores = (yield from score_split(loaded, trained.dataset, chunked(recipe), f"score {name}")).scores
    return Packing(plan, packer.curvatures, packer.weights, rows, artifact, seconds), scores


def paired_gap(scores: Sums, base: Sums) -> tuple[float, float | None]:
    """Bits per byte lost against `base` on the same tokens, and its standard error over sequences.

    The error says how far another text of this kind might be; it knows nothing of another training seed.
    None of a single sequence.
    """
    lost, sizes = scores.bits - base.bits, base.bytes
    gap = lost.sum() / sizes.sum()
    spread = (lost - gap * sizes).std(ddof=1) if len(lost) > 1 else None
    return float(gap), None if spread is None else float(spread * math.sqrt(len(lost)) / sizes.sum())


def findings(
    trained: Trained, packing: Packing, scores: Sums, base: Sums, others: Curvatures | None = None
) -> dict[str, Any]:
    """What packing costs, what it was expected to cost, and what became of each tensor.

    others: curvatures gathered for others, of tensors whose own quantizer asks for none or for less.
    """
    gap, error = paired_gap(scores, base)
    noisy = noise_quantizers(trained.recipe.noise, trained.trained_on, trained.weights)
    curvatures = {**packing.curvatures, **(others or {})}
    rows = tensor_rows(packing.plan, packing.weights, curvatures, packing.artifact, packing.rows, noisy)
    bytes_per_token = int(scores.bytes.sum()) / int(scores.tokens.sum())
    moved = divergence_of(trained, packing.artifact)
    return {
        "gap": gap,
        "gap_error": error,
        "kl_gap": bits_per_byte_of(moved.nats, bytes_per_token),
        "kl_gap_error": bits_per_byte_of(moved.error, bytes_per_token),
        "predicted_gap": predicted_gap(rows, bytes_per_token),
        "alarms": sum(bool(row["alarm"]) for row in rows),
        "quantization": rows,
    }


def divergence_of(trained: Trained, artifact: Artifact) -> Divergence:
    """How far packing moved the predictions of a run's model."""
    recipe, backend = trained.recipe, trained.backend
    exact = model_with(recipe.network().shipped(), trained.weights, backend)
    packed = load_model(unpack(artifact.data), backend)
    return divergence(exact, packed, trained.dataset.train, recipe.data.sequence_length)


def compare_tables(trained: Trained, names: Sequence[str]) -> Generator[Event, None, list[dict[str, Any]]]:
    """Every table of these names on one run, after the float weights as they are.

    What one table's calibration knows of gradients predicts the gaps of all that quantize the same tensors.
    """
    for name in names:
        if name not in (OWN, *TABLES):
            raise BitgolfError("no such table", value=name, way_out=nearest(name, [OWN, *TABLES]))
    plans = {name: trained.recipe.quantize if name == OWN else TABLES[name]() for name in names}
    base = yield from float_scores(trained)
    knowing = next((plan for plan in plans.values() if getattr(plan.calibration, "outputs", False)), None)
    curvatures = {} if knowing is None else curvatures_of(trained, knowing)
    lines: list[dict[str, Any]] = [{"name": "float", "bits_per_byte": bits_per_byte(base)}]
    for name, plan in plans.items():
        packing, scores = yield from packed_by(trained, plan, name)
        costs = findings(trained, packing, by_sequence(scores), by_sequence(base), curvatures)
        del costs["quantization"]
        figures = {"artifact_bytes": len(packing.artifact.data), "bits_per_byte": bits_per_byte(scores)}
        lines.append({"name": name, **figures, **costs, "seconds": sum(packing.seconds.values())})
    return lines


def pack_again(trained: Trained, out: Path) -> Generator[Event, None, dict[str, Any]]:
    """Pack a run by its changed recipe into a folder of its own, which `bitgolf score` takes as a run."""
    if trained_here := [name for name in OF_TRAINING if (out / name).exists()]:
        raise BitgolfError(
            "a run was trained in this folder", where=str(out), value=trained_here[0], way_out="another --out"
        )
    recipe, code, started = trained.recipe, script_of(trained.recipe), time.perf_counter()
    curvatures = curvatures_of(trained, recipe.quantize)
    seconds = {"calibrate": time.perf_counter() - started}
    packer = Packer(recipe, trained.dataset.tokenizer.to_bytes(), trained.weights, curvatures, len(code))
    packer, plan = yield from packer.allocated(trained.backend, trained.dataset.train)
    packing, scores = yield from reloaded(trained, packer, plan, OWN, seconds, started)
    base = yield from float_scores(trained)
    artifact = packing.artifact
    total = packer.total_bytes(artifact)
    result = {
        "status": "ok" if total <= recipe.budget.budget_bytes else "over budget",
        **summary(scores),
        "dtype": trained.backend.dtype_name,
        "float_bits_per_byte": bits_per_byte(base),
        **findings(trained, packing, by_sequence(scores), by_sequence(base)),
        "artifact_bytes": len(artifact.data),
        "code_bytes": len(code),
        "total_bytes": total,
        "budget_bytes": recipe.budget.budget_bytes,
        "recipe": recipe.name,
        "recipe_identity": recipe.identity(),
        "parameters": count_parameters(recipe.model.shipped()),
        "variants": [{"name": "float", **summary(base)}, {"name": "quantized", **summary(scores)}],
        "ledger": whole_ledger(recipe, code, artifact),
        "rules": to_json(plan.rules),
        "seconds": packing.seconds,
        "dataset": str(trained.dataset.folder),
        "packed_from": str(trained.folder),
    }
    (out / "result.json").unlink(missing_ok=True)  # of an earlier packing: none, if this one is killed here
    write_bytes(out / "model.bin", artifact.data)
    write_json(out / "recipe.json", to_json(recipe))
    record(recipe, out)
    write_json(out / "result.json", result)
    scores.save(out / "scores.npz")
    write_report(out)
    return result
