"""Pull request #682: EMA, partial RoPE and LN scale on the baseline, 200 steps, at a minute a training.

bitgolf study studies/pr682.py
Its own size: studies/pr682_full.py
"""

from bitgolf.core.average import Ema, Several
from bitgolf.core.layers import LnScale, Unscaled
from bitgolf.lab.laptop import a_minute
from bitgolf.recipes.pr682 import pr682
from bitgolf.study.design import Study, changed

READING = """\
"""


def study() -> Study:
    """Its table. Averages only watch a training, so lines that differ in them share one."""
    baseline = a_minute(pr682()).but(
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
