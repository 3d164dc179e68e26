"""The last stage: live, averaged and packed weights, each scored on the validation text."""

import dataclasses
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from bitgolf.adapt.learner import part_of
from bitgolf.base.errors import DataError
from bitgolf.base.events import Event
from bitgolf.base.tensors import read_tensors
from bitgolf.net.backend import Backend
from bitgolf.net.model import Model, model_with
from bitgolf.run.evaluation import Evaluated, evaluate
from bitgolf.run.positions import query_positions, trained_length
from bitgolf.run.result import Sums, by_sequence
from bitgolf.run.spec import RunSpec
from bitgolf.score.adapter import NoAdapter
from bitgolf.score.metric import bits_per_byte, summary
from bitgolf.score.score import ScorePlan, is_shared, scoring
from bitgolf.squeeze.artifact import load_model, unpack
from bitgolf.text.shards import Dataset
from bitgolf.train.world import World


def score_split(
    model: Model,
    dataset: Dataset,
    plan: ScorePlan,
    stage: str,
    part: Path | None = None,
    world: World = World(),
    spare: bool = False,
) -> Generator[Event, None, Evaluated]:
    """Score the validation split of a dataset; its passport says how many bytes must be accounted for.

    part, world, spare: see `evaluate`.
    """
    tokens, facts = dataset.scored_tokens(), dataset.passport["splits"]["val"]
    sizes = facts["text_bytes"], facts.get("differing_bytes")
    return evaluate(
        model, tokens, dataset.tokenizer, plan, *sizes, stage=stage, part=part, world=world, spare=spare
    )


def validation(spec: RunSpec, model: Model, world: World) -> Generator[tuple[int, int], None, float]:
    """Bits per byte of the validation text for a model in training, on windows side by side.

    world: the processes that share it. Yields (scored, to be scored). Nothing of the training changes:
    neither its mode nor its random numbers. A model whose scores are no numbers has NaN bits.
    """
    device = model.backend.device
    plan = spec.recipe.score.chunked(spec.recipe.data.sequence_length)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model.eval()
        try:
            tokens, tokenizer = spec.dataset.scored_tokens(), spec.dataset.tokenizer
            return bits_per_byte((yield from scoring(model, tokens, tokenizer, plan, world=world)))
        except DataError:
            return math.nan
        finally:
            model.train()


def score_variants(
    spec: RunSpec, backend: Backend, world: World
) -> Generator[Event, None, tuple[list[dict[str, Any]], dict[str, Sums]]]:
    """Live, averaged and quantized weights on equal windows; last, the packed bytes as the recipe scores.

    All are read from the folder. Where something adapts or is mixed in, what the packed bytes score without
    it stands before; mixers alone leave the model as it is, so that one pass gives both. A row of figures
    each, and of those on equal windows the sums by sequence.
    world: the processes that share the work; what cannot be shared is the first one's.
    """
    recipe, network = spec.recipe, spec.recipe.network()
    packed = load_model(unpack((spec.folder / "model.bin").read_bytes()), backend)
    kept, _ = read_tensors(spec.folder / "weights.safetensors")
    averaged = part_of(kept, "averaged")
    chunked, fixed = recipe.score.chunked(recipe.data.sequence_length), recipe.score.fixed()
    one_pass = recipe.score.learner == NoAdapter() and recipe.score != fixed != chunked
    cases: list[tuple[str, Model, ScorePlan]] = [
        ("live", model_with(network, part_of(kept, "live"), backend), chunked),
        *([("averaged", model_with(network, averaged, backend), chunked)] if averaged else []),
        ("quantized", packed, chunked),
        *([] if fixed == chunked or one_pass else [("quantized", packed, fixed)]),
        *([] if recipe.score == fixed else [("adapted", packed, recipe.score)]),
    ]
    rows: list[dict[str, Any]] = []
    sums: dict[str, Sums] = {}
    parts = [spec.folder / f"scores{number}.part" for number in range(len(cases))]
    for (name, model, plan), part in zip(cases, parts):
        if world.rank and not is_shared(plan):
            continue
        stage = "score final" if plan == recipe.score != chunked else f"score {name}"
        free = plan.replace(eval_seconds=0.0)  # the run has been made: what it takes is said, not refused
        evaluated = yield from score_split(model, spec.dataset, free, stage, part, world, spare=True)
        scores, seconds = evaluated.scores, {"seconds": evaluated.seconds}
        if name == "adapted":
            seconds["learning_seconds"] = evaluated.learning_seconds
        positions = query_positions(scores, trained_length(recipe))
        if name == "adapted" and one_pass:
            windows = scores.windows.replace(plan.label(), fixed.label())
            alone = dataclasses.replace(scores, nats=evaluated.alone, windows=windows)
            rows.append({"name": "quantized", **summary(alone), **positions})
        rows.append({"name": name, **summary(scores), **positions, **seconds})
        if plan == chunked:
            sums[name] = by_sequence(scores)
    if world.rank == 0:
        scores.save(spec.folder / "scores.npz")
    for part in spec.folder.glob(f"scores*.part{world.rank or '*'}"):  # each its own; the first also old ones
        part.unlink(missing_ok=True)
    return rows, sums
