"""A full-size recipe at the size of a laptop: the same techniques, fewer and narrower layers, shorter steps.

`bitgolf run pr543-laptop` is `laptop(pr543())`. Widths and dimensions are a quarter, sequences 256 tokens,
steps at most 400; whatever counts in layers, tokens or steps follows in proportion. Nothing else changes.
"""

import math
from collections.abc import Callable
from typing import Any

from bitgolf.base.plan import field_types
from bitgolf.forecast.weight_model import likely_steps
from bitgolf.net.model import ModelPlan, count_parameters
from bitgolf.recipe import Recipe
from bitgolf.score.windows import Sliding, Windows
from bitgolf.squeeze.quantize import Fixed, QuantizePlan
from bitgolf.train.average import Averager, Several
from bitgolf.train.loop import Stage
from bitgolf.train.optim import MuonRule, OptimPlan
from bitgolf.train.schedule import Schedule

NARROWER = 4  # widths, dimensions of tables and of heads' positions
HEADS = 2  # half as many heads, which are then half as wide
SHALLOWER = 0.55  # of the layers, rounded
SEQUENCE_LENGTH = 256
BATCH_TOKENS = 4096
STEPS = 400
CALIBRATION_SEQUENCES = 128
FEWER_DOCUMENTS = 256  # times fewer in the text of a laptop than in the public validation text
MINUTE_STEPS, MINUTE_TOKENS = 200, 131_072


def laptop(recipe: Recipe, most_steps: int = STEPS) -> Recipe:
    """The recipe for two cores and some minutes. It ends by steps: every machine trains as long.

    Where a clock ends the recipe, these steps stand for those that it is expected to leave: rules of the
    clock without one go by steps, at the same shares of the training.
    """
    model, whole = recipe.model, likely_steps(recipe.train)
    steps = min(whole, most_steps)
    layers = max(2, round(model.layers * SHALLOWER))
    layer = _shallower(model.layers, layers)
    sequences = recipe.train.batch_tokens / recipe.data.sequence_length
    fewer_rows = max(1.0, sequences * SEQUENCE_LENGTH / BATCH_TOKENS)
    rules = _rules(layer, recipe.data.sequence_length / SEQUENCE_LENGTH, fewer_rows)

    def fewer(count: int) -> int:
        return max(1, round(count * steps / whole)) if count else 0

    heads = max(1, model.heads // HEADS)
    shape = {
        "layers": layers,
        "width": model.width // NARROWER,
        "embedding_width": model.embedding_width // NARROWER,
        "mlp_hidden": model.mlp_hidden // NARROWER,
        "heads": heads,
        "kv_heads": max(1, model.kv_heads // HEADS),
    }
    seams = ("position", "scope", "embed", "values", "residual", "recurrence")
    parts = {seam: _shrunk(getattr(model, seam), rules) for seam in seams}
    small = model.replace({**shape, **parts})
    return recipe.replace(
        {
            "name": f"{recipe.name}-laptop",
            "data.sequence_length": SEQUENCE_LENGTH,
            "model": small,
            "optim": _fewer_steps(recipe.optim, fewer),
            "train.steps": steps,
            # A clock that counts steps counts as many over the training; a real one does not end it.
            "train.train_seconds": recipe.train.train_seconds if recipe.train.step_seconds else 0.0,
            "train.step_seconds": recipe.train.step_seconds * whole / steps,
            "train.tokens": 0,
            "train.expected_steps": 0,
            "train.batch_tokens": BATCH_TOKENS,
            "train.accumulation": 1,
            "train.stages": tuple(_smaller_stage(stage, recipe) for stage in recipe.train.stages),
            "average": _shorter_memory(recipe.average, fewer, steps / whole),
            "quantize": _less_text(_renumbered(recipe.quantize, model.layers, layer)),
            "budget.budget_bytes": _smaller_budget(recipe, small),
            "backend.attention": "auto",
            "score.windows": _shorter_windows(recipe.score.windows),
            "score.adapter": _shrunk(recipe.score.adapter, rules),
        }
    )


def _shallower(layers: int, fewer: int) -> Callable[[int], int]:
    """Where a layer stands in a stack of fewer, counted from whichever end is nearer."""
    return lambda index: (
        index * fewer // layers
        if index < layers / 2
        else fewer - math.ceil((layers - index) * fewer / layers)
    )


def _rules(layer: Callable[[int], int], shorter: float, fewer_rows: float) -> dict[str, Callable[[Any], Any]]:
    """How settings of parts shrink, by name. shorter: how many times shorter the sequences are.

    fewer_rows: how many times fewer of them make a batch.
    """

    def tokens(count: int) -> int:
        return round(count / shorter)

    rules: dict[str, Callable[[Any], Any]] = {
        "layers": lambda value: tuple(dict.fromkeys(map(layer, value))),
        "first": layer,
        "last": layer,
        "dims": lambda value: 2 * math.ceil(value * HEADS / NARROWER / 2),
        "dimension": lambda value: max(8, value // NARROWER),
        "buckets": lambda value: max(64, value // NARROWER),
        "tokens": tokens,
        "evaluation_tokens": lambda value: tokens(value) if value > 0 else value,
        "reference_length": tokens,
        "longest": tokens,
        "chunk_tokens": tokens,
        "sequence_length": tokens,
        "rank": lambda value: max(1, value // NARROWER),
        "batch_documents": lambda value: max(1, round(value / fewer_rows)),
        "prefix_documents": lambda value: max(8, value // FEWER_DOCUMENTS),
        "globally": lambda value: _shrunk(value, rules),
    }
    return rules


def a_minute(recipe: Recipe, steps: int = MINUTE_STEPS, tokens: int = MINUTE_TOKENS) -> Recipe:
    """Its laptop form at about a minute a run on one core, for studies: fewer steps, a part of the text.

    Sliding windows move by half their length, which takes half the time of a quarter. tokens: to be scored.
    """
    overrides: dict[str, Any] = {
        "name": f"{recipe.name}-minute",
        "train.priming_steps": 0,  # for compilers, which so short a run has no use for
        "score.limit_tokens": tokens,
    }
    if isinstance(recipe.score.windows, Sliding):
        overrides["score.windows.stride"] = SEQUENCE_LENGTH // 2
    return laptop(recipe, steps).replace(overrides)


def _smaller_stage(stage: Stage, recipe: Recipe) -> Stage:
    """Sequences as much shorter, in powers of two, which divide a batch."""
    shorter = SEQUENCE_LENGTH * stage.sequence_length / recipe.data.sequence_length
    batch_tokens = BATCH_TOKENS * stage.batch_tokens // recipe.train.batch_tokens
    length = 2 ** round(math.log2(shorter)) if shorter else 0
    return stage.replace(sequence_length=length, batch_tokens=batch_tokens)


def _shrunk(value: Any, rules: dict[str, Callable[[Any], Any]]) -> Any:
    """Parts with every setting that has a rule changed by it."""
    if isinstance(value, tuple):
        return tuple(_shrunk(item, rules) for item in value)
    overrides = {
        name: rules[name](getattr(value, name)) for name in field_types(type(value)) if name in rules
    }
    return value.replace(overrides) if overrides else value


def _fewer_steps(optim: OptimPlan, fewer: Callable[[int], int]) -> OptimPlan:
    rows = tuple(
        row.replace({"rule.warmup_steps": fewer(row.rule.warmup_steps)})
        if isinstance(row.rule, MuonRule)
        else row
        for row in optim.rows
    )
    return optim.replace(rows=rows, schedule=_in_steps(optim.schedule, fewer))


def _in_steps(schedule: Schedule, fewer: Callable[[int], int]) -> Schedule:
    steps = getattr(schedule, "warmdown_steps", 0)
    return schedule.replace(warmdown_steps=fewer(steps)) if steps else schedule


def _shorter_memory(average: Averager, fewer: Callable[[int], int], share: float) -> Averager:
    """Snapshots as many, and a moving average over the same share of the training."""
    overrides: dict[str, Any] = {}
    if isinstance(average, Several):
        overrides["averages"] = tuple(_shorter_memory(each, fewer, share) for each in average.averages)
    if hasattr(average, "every"):
        overrides["every"] = fewer(average.every)
    if hasattr(average, "decay"):
        overrides["decay"] = max(0.0, 1.0 - (1.0 - average.decay) / share)
    return average.replace(overrides)


def _renumbered(quantize: QuantizePlan, layers: int, layer: Callable[[int], int]) -> QuantizePlan:
    """Rules for single layers, `blocks.10.*`, where those layers are now."""
    names = {f"blocks.{index}.": f"blocks.{layer(index)}." for index in range(layers)}

    def renamed(pattern: str) -> str:
        prefix = next((old for old in names if pattern.startswith(old)), "")
        return names[prefix] + pattern.removeprefix(prefix) if prefix else pattern

    return quantize.replace(
        rules=tuple(
            rule.replace(patterns=tuple(dict.fromkeys(map(renamed, rule.patterns))))
            for rule in quantize.rules
        )
    )


def _less_text(quantize: QuantizePlan) -> QuantizePlan:
    sequences = getattr(quantize.calibration, "sequences", 0)
    few = min(sequences, CALIBRATION_SEQUENCES)
    return quantize.replace({"calibration.sequences": few}) if few < sequences else quantize


def _smaller_budget(recipe: Recipe, small: ModelPlan) -> int:
    """A budget that is filled gets as many bytes a weight as before, others stay."""
    budget = recipe.budget.budget_bytes
    if isinstance(recipe.quantize.rate, Fixed):
        return budget
    return budget * count_parameters(small.shipped()) // count_parameters(recipe.model.shipped())


def _shorter_windows(windows: Windows) -> Windows:
    overrides: dict[str, Any] = {}
    if hasattr(windows, "length"):
        overrides["length"] = min(windows.length, SEQUENCE_LENGTH)
    if hasattr(windows, "within"):
        overrides["within"] = _shorter_windows(windows.within)
    return windows.replace(overrides)
