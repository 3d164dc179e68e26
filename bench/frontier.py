"""What `frontier` may come to on 8xH100, on paper: python -m bench.frontier writes docs/frontier.md.

Every figure is of bench/frontier.toml, or computed from it and the recipes.
"""

import math
import textwrap
import tomllib
from pathlib import Path
from typing import Any

from bitgolf.forecast.budget import flops_per_token
from bitgolf.inputs.resolve import find_recipe
from bitgolf.recipe import Recipe
from bitgolf.train.loop import Stage

TABLE, PAGE = Path(__file__).with_suffix(".toml"), Path("docs/frontier.md")
WORLD = 8  # H100s
Row = dict[str, Any]  # of the table


def step_flops(recipe: Recipe) -> float:
    """Operations of a step, the mean of a training; loops counted as at its end."""
    stages = (*recipe.train.stages, Stage(until=1.0))
    begins = (0.0, *(stage.until for stage in stages))
    return recipe.train.batch_tokens * sum(
        (stage.until - begin)
        * flops_per_token(recipe.model, stage.sequence_length or recipe.data.sequence_length)
        for begin, stage in zip(begins, stages)
    )


def rate(row: Row) -> float:
    """Operations a second and GPU of a published training."""
    return step_flops(find_recipe(row["recipe"])) / (row["gpus"] * row["seconds"])


def mean_rate(rows: list[Row]) -> float:
    """Their geometric mean."""
    return math.exp(sum(math.log(rate(row)) for row in rows) / len(rows))


def left_out(rows: list[Row]) -> dict[str, float]:
    """How far the seconds of each are from what the others say of it, as a share of its own."""
    return {row["name"]: rate(row) / mean_rate([o for o in rows if o is not row]) - 1 for row in rows}


def evaluation_seconds(facts: Row) -> tuple[float, float]:
    """Seconds of the evaluation's busiest process at the published pace, and of adding up gradients."""
    shared = facts["sharing"]
    busiest = facts["evaluation"]["seconds"] * (1 + shared["first"] * (shared["busiest"] - 1))
    gathered = shared["steps"] * (WORLD - 1) * shared["gigabytes"] / shared["gigabytes_a_second"]
    return busiest, gathered


def page(facts: Row) -> str:
    """The page."""
    rows, recipe = facts["step"], find_recipe("frontier")
    errors, clock = left_out(rows), recipe.train.train_seconds
    mean = step_flops(recipe) / (WORLD * mean_rate(rows))
    relative = step_flops(recipe) / (WORLD * rate(rows[-1]))
    packing, score = facts["packing"], facts["score"]
    losses = [packing["published"] * packing["states"] * packing[name] for name in ("low", "share", "high")]
    gained = sum(effect["value"] for effect in facts["effect"])
    lost = sum(effect["value"] for effect in facts["lost"])
    # A published effect shrinks on another stack: between none of it and all of it, half in the middle.
    sums = [
        score["published"] - packing["published"] + loss + gained * part + lost
        for loss, part in zip(losses, (1.0, 0.5, 0.0), strict=True)
    ]
    size, below = facts["bytes"], sums[1] < score["goal"]
    reached = "reached" if losses[1] <= packing["goal"] else "not reached on paper"
    lines = [
        "# `frontier` on paper",
        "",
        *paragraph(
            "Nobody has trained `frontier` at full size: no GPU has run this code. All of this is computed "
            "by `python -m bench.frontier` from the published figures in `bench/frontier.toml`, with their "
            "sources. Intervals are between the ends that are named, no confidence."
        ),
        "",
        "## Bytes and packing",
        "",
        *paragraph(
            f"{size['total']:,} of 16,000,000 bytes by forecast, "
            f"{8 * size['total'] / size['parameters']:.2f} bits a weight. The packer sets its rate so "
            "as to fill the budget: what is uncertain is the loss."
        ),
        "",
        *paragraph(
            f"The record's packing costs {packing['published']} ({packing['source']}). At equal bytes our "
            f"packer has {packing['low']} to {packing['high']} of the loss of SDClip with GPTQ, "
            f"{packing['share']} on models trained decently ({packing['share_source']}), and "
            f"{packing['states']} of that with {packing['states_source']}. If that holds here: "
            f"**{losses[1]:.4f}, between {losses[0]:.4f} and {losses[2]:.4f}**. The goal of "
            f"{packing['goal']} is {reached}. None of these shares was measured at 36 M weights, and "
            "the record packs better than what they compare with, so that the truth may lie above."
        ),
        "",
        *paragraph(
            f"With `quantize.tuning=TuneByTensor` it would be {losses[1] * packing['fine_tuned']:.4f} "
            f"({packing['fine_tuned']} of it: {packing['fine_tuned_source']}). The recipe leaves it out: it "
            "reads training text, so its passes would count among the 600 seconds, and what they gain is not "
            "known to be more than what as many seconds of training do."
        ),
        "",
        "## Seconds",
        "",
        "| training | TFLOP a step | GPUs | seconds a step | TFLOP/s a GPU | by the others | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        flops = step_flops(find_recipe(row["recipe"]))
        lines.append(
            f"| {row['name']} | {flops / 1e12:.0f} | {row['gpus']} | {row['seconds']:.4f} | "
            f"{rate(row) / 1e12:.0f} | {errors[row['name']]:+.0%} | {row['source']} |"
        )
    worst, seen, tilt = max(map(abs, errors.values())), facts["evaluation"], facts["tilt"]
    shared, phases, busiest, gathered = facts["sharing"], facts["phases"], *evaluation_seconds(facts)
    left = seen["limit"] - busiest - gathered
    alone = tilt["microseconds"] * 1e-6 * seen["tokens"]
    lines += [
        "",
        *paragraph(
            "`by the others`: how far from its seconds a training is by the rates of the others. The "
            f"worst is {worst:.0%}: work alone does not say what a script reaches. Loops count as at the end."
        ),
        "",
        f"- By all of them: {mean:.3f} s a step, {clock / mean:,.0f} steps in {clock:.0f} s.",
        f"- By {rows[-1]['name']}, of this shape: {relative:.3f} s, {clock / relative:,.0f} steps.",
        f"- Scoring {seen['tokens']:,} tokens and adapting to them, there: {seen['seconds']:.0f} s of 600",
        f"  ({seen['source']}).",
        "",
        *paragraph(
            "That our step and our adaptation are as fast as theirs there is supposed and was never "
            f"measured. The adaptation is shared: each of {WORLD} processes takes whole batches of "
            "documents, the largest first to the one with least to do, and the scores are those of one "
            "process to the bit (docs/adapt.md; docs/performance-figures.md has two processes on two cores, "
            "and no GPU has run it)."
        ),
        "",
        *paragraph(
            f"Before the phase, which has {shared['first']:.0%} of the work, the busiest process then has "
            f"{shared['busiest'] - 1:.1%} more than the mean, and afterwards next to nothing "
            f"({shared['source']}). In the phase all take part in each step: two sequences each, for six of "
            f"the {WORLD}, as there; then each needs the gradients of all, {shared['gigabytes']} GB each, in "
            f"{shared['steps']} steps ({shared['log']}). At {shared['gigabytes_a_second']} GB/s, supposed, "
            f"this is {gathered:.1f} s. All together, if one of our batches takes as long as one of theirs: "
            f"**{busiest + gathered:.0f} s of {seen['limit']}**, so that {left:.0f} are left. One process "
            f"alone, as it was until now, would take {WORLD} times as long."
        ),
        "",
        *paragraph(
            f"More phases would fit: one took {phases['seconds']} s. They are not counted: {phases['gain']} "
            f"by {phases['source']}, nothing by the later stack ({phases['against']})."
        ),
        "",
        *paragraph(
            "The tilt by n-grams is left out for its seconds, not for its order: documents that are scored "
            "side by side can each have a lane of a mixer (`Memory.beside`), in one pass, and all count "
            "together. But our mixers are asked for each token and for the whole vocabulary: "
            f"{tilt['microseconds']} us a token ({tilt['source']}) are {alone:,.0f} s, where {left:.0f} are "
            f"left, and counts of up to 15 tokens take some 26 GB. Were each of {WORLD} processes to count "
            f"its own documents alone, {alone / WORLD:.0f} s would fit; that is not built, and counts of an "
            f"eighth of the text are worth less than the {facts['lost'][0]['value']} of all. "
            f"{rows[-1]['name']} takes {tilt['published']}, by a library in C that hints at one token."
        ),
        "",
        "## Score",
        "",
        f"| {score['source']} | {score['published']} |",
        "|---|---|",
        f"| our packing in place of theirs | {losses[1] - packing['published']:+.4f} |",
        *(f"| half of: {e['name']} ({e['source']}) | {e['value'] / 2:+.5f} |" for e in facts["effect"]),
        *(f"| {e['name']} ({e['source']}) | {e['value']:+.5f} |" for e in facts["lost"]),
        f"| **sum** | **{sums[1]:.4f}**, between {sums[0]:.4f} and {sums[2]:.4f} |",
        "",
        f"**The goal of {score['goal']} is {'reached' if below else 'not reached'} on paper**, by "
        f"{abs(score['goal'] - sums[1]):.4f}, which is less than any of these parts is known to.",
        *paragraph(
            "The recipe is that record's but for what stands in this table: case operators, training, "
            "its adaptation in windows of that length. The sum supposes that each part is worth here what it "
            "was there."
        ),
        "",
    ]
    return "\n".join(lines)


def paragraph(text: str) -> list[str]:
    """A text in lines."""
    return textwrap.wrap(text, 104)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(tomllib.loads(TABLE.read_text())))


if __name__ == "__main__":
    main()
