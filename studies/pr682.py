"""Pull request #682: EMA, partial RoPE and LN scale on the baseline, 200 steps.

bitgolf study studies/pr682.py
"""

from bitgolf.core.average import Ema, NoAverage
from bitgolf.core.layers import LnScale, Unscaled
from bitgolf.core.optim import baseline_rows
from bitgolf.lab.laptop import a_minute
from bitgolf.recipes.pr682 import pr682
from bitgolf.study.design import Arm, Study, add_one, changed


def study() -> Study:
    """Its table of four lines; the last line has weight decay too."""
    whole = a_minute(pr682())
    baseline = whole.but(
        {
            "average": NoAverage(),
            "model.position.dims": 0,
            "model.input_scale": Unscaled(),
            "optim.rows": baseline_rows(),
        }
    )
    both = {"model.position.dims": whole.model.position.dims, "model.input_scale": LnScale()}
    return Study(
        name="pr682",
        question="Which of its features gain at 200 steps, and do they add up?",
        baseline=baseline,
        arms=(
            *add_one(baseline, {"EMA 0.97": {"average": Ema(decay=0.97)}}),
            changed(baseline, "partial RoPE + LN scale", both, bundle="one line of its table"),
            Arm(name="all features", recipe=whole, bundle="the last line of its table"),
        ),
        seeds=(1, 2, 3),
    )
