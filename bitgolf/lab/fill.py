"""The step that fills a byte budget: rate-aware rounding of all tensors at one rate, found by trying.

Every tensor is at the same slope of damage against bytes, because one step sets them all; so the largest
artifact that fits is also the best of its kind, and no exchange of bytes between tensors helps.
"""

import math
from collections.abc import Generator
from typing import Any

from bitgolf.core.artifact import pack
from bitgolf.core.backend import choose_backend
from bitgolf.core.codec import Deflate, RowColumn, Smallest
from bitgolf.core.errors import BudgetError
from bitgolf.core.presets import rate_aware
from bitgolf.core.quantize import quantize_weights
from bitgolf.core.rate import RateAware
from bitgolf.core.recipe import Recipe
from bitgolf.core.run import Event, model_with
from bitgolf.lab.flatten import flatten, pack_script
from bitgolf.lab.repack import Trained

SHARE_TO_FILL = 0.999  # of the budget
TRIES = 24
COARSEST = 2.0**24  # times the step to begin with: every code is zero there


def rate_aware_run(trained: Trained) -> Trained:
    """The run with the rate-aware table and coder, unless its own table has rate-aware rules."""
    recipe = trained.recipe
    if any(isinstance(rule.quantizer, RateAware) for rule in recipe.quantize.rules):
        return trained
    pack_plan = recipe.pack.but(codec=Smallest(among=(Deflate(), RowColumn())))
    return trained._replace(recipe=recipe.but(quantize=rate_aware(), pack=pack_plan))


def with_step(recipe: Recipe, step: float) -> Recipe:
    """The recipe with this step in every rate-aware rule."""
    rules = recipe.quantize.rules
    changes = {
        f"quantize.rules.{i}.quantizer.step": step
        for i, rule in enumerate(rules)
        if isinstance(rule.quantizer, RateAware)
    }
    if not changes:
        raise BudgetError(
            "no rule of this table has a rate to set",
            where="quantize.rules",
            value=[type(rule.quantizer).__name__ for rule in rules],
            way_out='give one a step: --set "quantize=..." with RateAware, or bitgolf pack --compare',
        )
    return recipe.but(changes)


def fill_budget(trained: Trained, budget_bytes: int) -> Generator[Event, None, Recipe]:
    """The recipe of a run with the step at which code and artifact fill 99.9 to 100% of a budget.

    Raises BudgetError naming the smallest budget that would do, where none of its steps fits this one.
    """
    recipe = trained.recipe.but({"budget.budget_bytes": budget_bytes})
    steps = [rule.quantizer.step for rule in recipe.quantize.rules if isinstance(rule.quantizer, RateAware)]
    shipped = recipe.model.shipped()
    model = model_with(shipped, trained.weights, choose_backend(recipe.backend))
    yield Event("fill", 0, 1, {})
    length, stream = recipe.data.sequence_length, trained.dataset.train
    curvatures = recipe.quantize.curvatures(model, stream, length)
    tokenizer = trained.dataset.tokenizer.to_bytes()
    weights_of_rules = sum(weight.numel() for weight in trained.weights.values())

    def total_bytes(tried: Recipe) -> int:
        tensors, _ = quantize_weights(tried.quantize, trained.weights, curvatures)
        artifact = pack(shipped, tensors, tokenizer, recipe.pack)
        free = 0 if recipe.budget.count_tokenizer else dict(artifact.ledger).get("tokenizer", 0)
        return len(artifact.data) - free + len(pack_script(flatten(tried)))

    place, below, above = math.log2(steps[0]), math.inf, -math.inf  # log2 of a step; a fitting, a failing one
    facts: dict[str, Any] = {}
    for attempt in range(TRIES):
        tried = with_step(recipe, 2.0**place)
        size = total_bytes(tried)
        facts = {"step": 2.0**place, "total_bytes": size}
        yield Event("fill", min(0.99, (attempt + 1) / TRIES), 1, facts)
        if SHARE_TO_FILL * budget_bytes <= size <= budget_bytes:
            yield Event("fill", 1, 1, facts)
            return tried
        below, above = (place, above) if size <= budget_bytes else (below, place)
        # At high rate a bit a weight halves the step; the bracket keeps what that gets wrong.
        move = 8 * (size - (SHARE_TO_FILL + 1) / 2 * budget_bytes) / weights_of_rules
        place += move if math.isfinite(below) else max(move, 1.0)  # few bits are left: they go slowly
        if math.isfinite(below) and math.isfinite(above) and not above < place < below:
            place = (below + above) / 2
        if place > math.log2(steps[0] * COARSEST):
            smallest = total_bytes(with_step(recipe, steps[0] * COARSEST))
            raise BudgetError(
                "no step makes this model fit", where="--budget-bytes", value=budget_bytes,
                way_out=f"the smallest feasible budget is {smallest:,} bytes",
            )  # fmt: skip
    if math.isfinite(below):
        return with_step(recipe, 2.0**below)
    raise BudgetError(
        "no step was found that fits",
        where="--budget-bytes",
        value=budget_bytes,
        way_out=f"last try: {facts}",
    )
