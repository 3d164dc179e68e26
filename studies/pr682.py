"""Pull request #682: EMA, partial RoPE and LN scale on the baseline, 200 steps, at a minute a training.

bitgolf study studies/pr682.py
Its own size: studies/pr682_full.py
"""

from bitgolf.forecast.laptop import a_minute
from bitgolf.net.layers import LnScale, Unscaled
from bitgolf.recipes.pr682 import pr682
from bitgolf.study.design import Study, changed
from bitgolf.train.average import Ema, Several

READING = """\
Agrees in direction: EMA 0.97 is better, by 0.010, and EMA 0.997 far worse, by 0.75 (published 0.167 better
and 0.41 worse than their own live weights). All features together are worse than EMA alone, by 0.12
(published 0.06).

Does not agree in size: the published gain of EMA 0.97 is seventeen times as large, at the same rates, in a
model four times as wide with nine layers in place of five.

Does not agree: partial RoPE with LN scale, published as 0.012 better, costs 0.10 here, and so all features
lose 0.11 against the baseline, where 0.17 were gained. The published 0.012 is one pair of runs, and three
runs of one training there differ by 0.063. Apart, partial RoPE costs 0.07 and LN scale 0.02: the two add
up. On top of them the average costs 0.01 where it gains 0.01 without them.

The rates are those of the original's clock, 0.57 falling to 0.31 of their value; weight decay is in none of
its runs. Seconds were measured beside other jobs.
"""


def study() -> Study:
    """Its table. Averages only watch a training, so lines that differ in them share one."""
    baseline = a_minute(pr682()).replace(
        {
            "model.position.dims": 0,
            "model.input_scale": Unscaled(),
            "average": Several(averages=(Ema(decay=0.97), Ema(decay=0.997))),
        }
    )
    lower = a_minute(pr682()).model.position.dims
    both = {"model.position.dims": lower, "model.input_scale": LnScale()}
    first, second = {"average.shipped": 0}, {"average.shipped": 1}
    return Study(
        name="pr682",
        question="Which of its features gain at 200 steps, and do they add up?",
        baseline=baseline,
        arms=(
            changed(baseline, "EMA 0.97", first),
            changed(baseline, "EMA 0.997", second),
            changed(baseline, "partial RoPE + LN scale", both, bundle="one line of its table"),
            changed(baseline, "partial RoPE", {"model.position.dims": lower}),
            changed(baseline, "LN scale", {"model.input_scale": LnScale()}),
            changed(baseline, "all features", both | first, bundle="the last line of its table"),
        ),
        seeds=(1, 2, 3, 4, 5),
        reading=READING,
    )
