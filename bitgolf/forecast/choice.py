"""Chooses a recipe for a text, a budget and minutes on this machine, and says why in words.

Three limits hold the size of a model: its bytes, the time to train it, the text to train it on. The largest
model within all three is taken. docs/make.md says what each figure here was measured at.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from bitgolf.base.errors import BudgetError
from bitgolf.forecast.budget import TOKENIZER_BYTES, flops_per_token
from bitgolf.net.embed import BigramHash
from bitgolf.net.model import ModelPlan, count_parameters
from bitgolf.recipe import Recipe
from bitgolf.squeeze.quantize import Fixed
from bitgolf.train.optim import MuonRule, OptimPlan

CODE_BYTES = 26_000  # of the script of such a recipe, packed
BITS = 4.1  # a weight: fewer, and a smaller model would be better; see `largest_fit`
MOST_BITS = 8.0  # a weight: more of them gain nothing
TOKENS_PER_WEIGHT = 1.0  # of training at least; below it a smaller model is better in the same time
TEXT_BYTES_PER_WEIGHT = 0.6  # at least; below it a model learns its text by heart
MOST_PASSES = 8  # over the text; more of them raise the loss on other text
WIDTHS = (32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640, 768)
VOCABULARIES = (320, 512, 1024, 2048, 4096, 8192)
TABLE_SHARE = 0.6  # of the weights at most, those of word pairs aside
TEXT_BYTES_PER_PIECE = 250  # at least, to learn it from
STEPS = 1500  # about
BATCHES = (1024, 65536)  # tokens of a step: fewest and most
MOMENTUM_STEPS = 300  # over which the momentum of Muon rises, or a quarter of the training
XZ_SHARE = 0.75  # of the bits of xz -9e that such models take; 0.73 to 0.82 were measured
WHY = {
    "bytes": "the largest that fills these bytes well",
    "time": "a larger one would see less than one token a weight in this time",
    "text": "a larger one would learn this text by heart",
    "start": "those of the run it starts from",
}


class Text(NamedTuple):
    """A text to be learnt, in bytes. xz_share: the size of its xz file over its own."""

    num_bytes: int
    documents: int
    xz_share: float
    xz_is_measured: bool = True

    def tokens(self, model: ModelPlan) -> float:
        """About how many of a model's tokens it has."""
        return self.num_bytes / piece_bytes(model.vocabulary_size)


class Choice(NamedTuple):
    """A recipe, tokens a second as measured for it, and why it is so: a line for each thing chosen."""

    recipe: Recipe
    speed: float
    lines: list[str]


def piece_bytes(pieces: int) -> float:
    """Bytes of English text to a token, about: 3.05 of a vocabulary of 1,024, 4.55 of 4,096."""
    return max(1.0, 0.75 * math.log2(pieces) - 4.45)


def shapes(base: ModelPlan, text_bytes: int) -> list[ModelPlan]:
    """Models from small to large, each with the largest vocabulary that its width and the text can carry."""
    models = []
    for width in WIDTHS:
        heads = max(1, width // (32 if width < 384 else 64))
        shape = {
            "width": width,
            "layers": min(12, max(2, round(width / 48))),
            "heads": heads,
            "kv_heads": max(each for each in range(1, max(1, heads // 4) + 1) if heads % each == 0),
        }
        fitting = [with_pairs(base.replace({**shape, "vocabulary_size": VOCABULARIES[0]}))]
        for pieces in VOCABULARIES[1:]:
            model = with_pairs(base.replace({**shape, "vocabulary_size": pieces}))
            if pieces * TEXT_BYTES_PER_PIECE > text_bytes:
                break
            if pieces * width > TABLE_SHARE * count_parameters(model.replace(embed=())):
                break
            fitting.append(model)
        models.append(fitting[-1])
    return models


def with_pairs(model: ModelPlan) -> ModelPlan:
    """The model, its tables of word pairs with a row for each piece, a sixth as wide as the model.

    The demo has four rows a piece, at fewer bits a weight; that was not measured at other sizes.
    """
    table_shape = {"buckets": model.vocabulary_size, "dimension": max(8, model.width // 6)}
    parts = (part.replace(table_shape) if isinstance(part, BigramHash) else part for part in model.embed)
    return model.replace(embed=tuple(parts))


def choose(
    base: Recipe,
    text: Text,
    budget_bytes: int,
    train_seconds: float,
    speed_of: Callable[[Recipe], float],
    shape: ModelPlan | None = None,
) -> Choice:
    """The recipe for a text. base: has optimizer, quantizer and windows. speed_of: tokens a second of one.

    shape: the model, where it is no longer to be chosen. Raises BudgetError where the code alone is larger
    than the budget.
    """
    if shape is not None:
        recipe = recipe_of(base, shape, text, budget_bytes, train_seconds, BATCHES[0])
        speed = speed_of(recipe)
        recipe = recipe_of(base, shape, text, budget_bytes, train_seconds, int(train_seconds * speed))
        return Choice(recipe, speed, [*size_lines(recipe, "start"), *time_lines(recipe, text, speed)])
    models = shapes(base.model, text.num_bytes)
    sized = [
        model for model in models if count_parameters(model) * BITS / 8 <= weight_bytes(budget_bytes, model)
    ]
    if not sized:
        raise BudgetError(
            f"the code takes about {CODE_BYTES:,} bytes, and the smallest model some more",
            where="--bytes",
            value=budget_bytes,
            way_out=f"give at least {CODE_BYTES + 20_000:,}",
        )
    read = [model for model in sized if count_parameters(model) * TEXT_BYTES_PER_WEIGHT <= text.num_bytes]
    read = read or sized[:1]
    tried = recipe_of(base, read[-1], text, budget_bytes, train_seconds, BATCHES[0])
    speed = speed_of(tried)
    power = speed * flops_per_token(tried.model, tried.data.sequence_length)

    def tokens_in_time(model: ModelPlan) -> float:
        return train_seconds * power / flops_per_token(model, base.data.sequence_length)

    timely = [m for m in read if tokens_in_time(m) >= TOKENS_PER_WEIGHT * count_parameters(m)]
    model = (timely or read[:1])[-1]
    tokens = int(tokens_in_time(model))
    recipe = recipe_of(base, model, text, budget_bytes, train_seconds, tokens)
    speed = speed_of(recipe)  # of what is really taken
    recipe = recipe_of(base, model, text, budget_bytes, train_seconds, int(train_seconds * speed))
    limit = "time" if model != read[-1] else "text" if model != sized[-1] else "bytes"
    return Choice(recipe, speed, [*size_lines(recipe, limit), *time_lines(recipe, text, speed)])


def weight_bytes(budget_bytes: int, model: ModelPlan) -> float:
    """Bytes that are left for weights."""
    return budget_bytes - CODE_BYTES - TOKENIZER_BYTES * max(0, model.vocabulary_size - 256)


def recipe_of(
    base: Recipe, model: ModelPlan, text: Text, budget_bytes: int, train_seconds: float, tokens: int
) -> Recipe:
    """The recipe of a shape whose training sees about so many tokens."""
    length = base.data.sequence_length
    most = int(MOST_PASSES * text.tokens(model))
    tokens = min(tokens, most)
    fewest, largest = BATCHES
    batch = min(largest, max(fewest, 2 ** int(math.log2(max(1, tokens / STEPS)))))
    batch = max(length, batch // length * length)
    steps = max(1, tokens // batch)
    bits = 8 * weight_bytes(budget_bytes, model) / count_parameters(model)
    overrides = {
        "model": model,
        "optim": with_momentum(base.optim, min(MOMENTUM_STEPS, max(1, steps // 4))),
        "train.train_seconds": round(train_seconds, 1),
        "train.batch_tokens": batch,
        # Only where the text ends the training before the clock.
        "train.steps": max(1, most // batch),
        "train.expected_steps": steps,
        "train.validate_steps": max(1, steps // 4),
        "budget.budget_bytes": budget_bytes,
    }
    if bits > MOST_BITS:
        overrides["quantize.rate"] = Fixed()
    return base.replace({"name": "made", **overrides})


def with_momentum(optim: OptimPlan, steps: int) -> OptimPlan:
    """The optimizers with a momentum that rises over so many steps."""
    rows = (
        row.replace({"rule.warmup_steps": steps}) if isinstance(row.rule, MuonRule) else row
        for row in optim.rows
    )
    return optim.replace(rows=tuple(rows))


def text_line(text: Text, budget_bytes: int) -> str:
    """What compressors make of a text, and from which size on a model is worth its own bytes."""
    pays = budget_bytes / (text.xz_share * (1 - XZ_SHARE))
    about = "" if text.xz_is_measured else "about "
    line = (
        f"text: {bytes_in_words(text.num_bytes)} in {text.documents:,} documents; xz -9e needs {about}"
        f"{bytes_in_words(text.num_bytes * text.xz_share)} ({8 * text.xz_share:.2f} bits a byte); a model of "
        f"{bytes_in_words(budget_bytes)} pays off from about {bytes_in_words(pays)} of such text"
    )
    if text.num_bytes * text.xz_share < budget_bytes:
        line += "; xz's file of all the text is smaller than the model, which so saves no bytes here"
    return line


def size_lines(recipe: Recipe, limit: str) -> list[str]:
    """Why this vocabulary, this shape, these bits. limit: what holds the size, a key of WHY."""
    model, weights = recipe.model, count_parameters(recipe.model)
    bits = 8 * weight_bytes(recipe.budget.budget_bytes, model) / weights
    table_share = model.vocabulary_size * model.width / weights
    fill = f"{bits:.1f} a weight, which fills {bytes_in_words(recipe.budget.budget_bytes)}"
    rest = f"as many as they need; {bits:.0f} a weight would fit"
    return [
        f"vocabulary: {model.vocabulary_size:,} pieces; their table is {table_share:.0%} of the weights",
        f"shape: {model.layers} layers of width {model.width}, {weights:,} weights; {WHY[limit]}; "
        f"bits: {rest if isinstance(recipe.quantize.rate, Fixed) else fill}",
    ]


def time_lines(recipe: Recipe, text: Text, speed: float) -> list[str]:
    """Why so many steps of so many tokens."""
    plan = recipe.train
    steps = plan.expected_steps
    passes = steps * plan.batch_tokens / text.tokens(recipe.model)
    by_text = (
        f"it ends after {MOST_PASSES} passes over the text, in {steps * plan.batch_tokens / speed:,.0f} s"
    )
    end = by_text if steps == plan.steps else f"{plan.train_seconds:,.0f} s"
    short = "; more minutes would help most, it does not read all of it once" if passes < 0.95 else ""
    return [
        f"training: {speed:,.0f} tokens a second measured here; {end}: about {steps:,} steps of "
        f"{plan.batch_tokens:,} tokens, {passes:.1f} times the text{short}",
        f"schedule: momentum rises over {warmup_steps(recipe.optim):,} steps, the rate falls over the last "
        f"{getattr(recipe.optim.schedule, 'fraction', 0):.0%}",
    ]


def warmup_steps(optim: OptimPlan) -> int:
    """The steps over which the momentum of Muon rises."""
    return next((row.rule.warmup_steps for row in optim.rows if isinstance(row.rule, MuonRule)), 0)


def bytes_in_words(count: float) -> str:
    """A number of bytes as people say it: 430 kB, 1.23 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * factor:
            parts = count / factor
            return f"{parts:,.0f} {unit}" if parts >= 999.5 else f"{parts:.3g} {unit}"
    return f"{count:.0f} bytes"
