"""Pull request #682: EMA, partial RoPE and LN scale on the baseline, 200 steps.

bitgolf study studies/pr682.py
"""

from bitgolf.core.average import Ema, NoAverage
from bitgolf.core.layers import LnScale, Unscaled
from bitgolf.core.optim import baseline_rows
from bitgolf.lab.laptop import a_minute
from bitgolf.recipes.pr682 import pr682
from bitgolf.study.design import Arm, Study, add_one, changed

READING = """\
Agrees: the moving average. Published 0.167 better than its own live weights; here 0.069 better than the
baseline, far outside the noise. Rates are constant, so an average does what a warm-down would do
(docs/findings.md).

Does not agree: partial RoPE with LN scale, published as a slight gain of 0.012 on one seed, costs 0.053 here.
It is hardly the 200 steps: in the study `longer` 500 steps, on another stack, show a larger loss.

Explains what the pull request left open: there EMA alone (2.4661) beat all features together (2.5273), which
looked like a copying error. Here it is the same, 1.641 against 1.715, because partial RoPE and LN scale cost
what the average gains.

Cannot tell: anything at nine layers and full width, nor whether decay alone does something.
"""


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
        seeds=(1, 2, 3, 4, 5),
        reading=READING,
    )
