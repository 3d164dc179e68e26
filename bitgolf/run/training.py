"""The first stage: train, log, write checkpoints."""

import json
import math
import os
from collections.abc import Generator
from functools import partial
from pathlib import Path

from bitgolf.base.events import Event, mapped
from bitgolf.net.model import Model
from bitgolf.run.folder import CHECKPOINT, finite, keep_metrics
from bitgolf.run.scoring import validation
from bitgolf.run.spec import RunSpec
from bitgolf.train.loop import ShardBatches, State, train
from bitgolf.train.optim import make_optimizers
from bitgolf.train.world import World

VALIDATED = "val_bits_per_byte"  # in lines of metrics


def train_model(
    spec: RunSpec, model: Model, world: World, state: State | None
) -> Generator[Event, None, tuple[State, str]]:
    """Train from the start or from a state; the last state, and how it ended: finished or diverged."""
    recipe, path, metrics = spec.recipe, spec.folder / CHECKPOINT, spec.folder / "metrics.jsonl"
    if world.rank == 0:
        keep_metrics(metrics, state.step if state else 0)
    source = ShardBatches(
        stream=spec.dataset.train,
        order=recipe.data.order,
        length=recipe.data.sequence_length,
        vocabulary_size=recipe.model.vocabulary_size,
        bos=spec.dataset.tokenizer.bos,
    )
    steps = train(
        model,
        recipe.train,
        make_optimizers(recipe.optim, model, world, model.backend.dtype),
        recipe.average,
        source,
        clock=spec.clock,
        world=world,
        state=state,
        identity=spec.training_identity,
        noise=recipe.noise,
        quantize=recipe.quantize,
    )
    status, saved = "finished", spec.clock()
    shown: dict[str, float] = {}  # the last validation
    train_split = spec.dataset.passport["splits"]["train"]
    bits_per_nat = (
        train_split["tokens"] / max(1, train_split["text_bytes"]) / math.log(2)
    )  # a byte, over a nat a token
    with (metrics if world.rank == 0 else Path(os.devnull)).open("a") as log:
        for report in steps:
            state, status = report.state, report.status
            state.dtype = model.backend.dtype_name
            row, logged = report.row(), report.step % recipe.train.log_steps == 0 or status != "running"
            if recipe.train.validates(report.step, status == "finished"):
                row[VALIDATED] = yield from mapped(
                    validation(spec, model, world), partial(_validating, report.progress)
                )
                shown, logged = {VALIDATED: row[VALIDATED]}, True
            if world.rank == 0 and logged:
                log.write(json.dumps(finite(row)) + "\n")
            figures = {
                "nats": report.nats_per_token,
                "bits_per_byte": bits_per_nat * report.nats_per_token,
                "tokens_per_second": round(report.tokens_per_second),
            }
            yield Event("train", report.progress, 1, figures | shown)
            due = status == "finished" or spec.clock() - saved >= recipe.train.checkpoint_seconds
            if world.rank == 0 and due:
                log.flush()
                state.save(path)
                saved = spec.clock()
    assert state is not None, "a plan has at least one step"
    return state, status


def _validating(progress: float, step: tuple[int, int]) -> Event:
    done, total = step
    return Event("train", progress, 1, {"validated": f"{done / total:.0%}"})
