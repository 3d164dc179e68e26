"""Pull request #488: warm-down and averages on an int6 QAT stack.

bitgolf study studies/pr488.py
"""

from bitgolf.forecast.laptop import a_minute
from bitgolf.forecast.weight_model import likely_steps
from bitgolf.net.embed import BigramHash, SmearVector
from bitgolf.recipes.pr488 import pr488
from bitgolf.squeeze.grid import Grid, RowGroups
from bitgolf.squeeze.quantize import AbsMax, QuantRule
from bitgolf.study.design import Study, changed
from bitgolf.train.average import LateEma, NoAverage
from bitgolf.train.schedule import WarmdownClock

READING = """\
As #488 ran it: orthogonal start, the smear by a share for each channel, a control whose warm-down is three
times as long as its training, late EMA at 0.995.

Agrees: the late warm-down, 0.180 better alone, 0.175 with SWA, 0.152 with late EMA (published 0.049 with SWA,
0.033 with late EMA); and late EMA behind SWA, by 0.023 here and 0.017 there.

Does not agree: BigramHash with SmearVector gains 0.132 here and lost 0.004 there. Int5 in the MLP costs 0.361
here and 0.011 there: its step is never below 1/15, and in a control whose rates begin at a third and fall,
97% of the second MLP matrices are below half of that and become zero. The float score is the control's.

Adds: with the late warm-down in place no average gains: late EMA costs 0.028, and SWA shows nothing (+0.006).

Cannot tell: what bigrams and int5 do after the late warm-down; the pull request tried both on the long one
alone, as here.
"""


def study() -> Study:
    """Its table of five lines. "A" has a warm-down of 3,000 steps, three times as long as its training."""
    best = a_minute(pr488())
    steps = round(3000 * best.train.steps / likely_steps(pr488().train))
    clean = best.replace({"optim.schedule": WarmdownClock(warmdown_steps=steps), "average": NoAverage()})
    five = AbsMax(grid=Grid(bits=5, symmetric=False, scale_floor=1 / 15, granularity=RowGroups(rows=8)))
    mixed = (QuantRule(patterns=("blocks.*.mlp.*.weight",), quantizer=five), *best.quantize.rules)
    bigrams = (BigramHash(buckets=512, dimension=24), SmearVector())  # 2,048 and 96 there
    warm = {"optim.schedule": best.optim.schedule}
    swa = {"average": best.average}
    ema = {"average": a_minute(pr488().replace({"average": LateEma(decay=0.995)})).average}
    late = changed(clean, "late warm-down", warm)
    why = "an average of the end of a warm-down needs that warm-down"
    return Study(
        name="pr488",
        question="What do bigram tables, int5, and a late warm-down with an average do to int6 QAT?",
        baseline=clean,
        arms=(
            changed(clean, "BigramHash + SmearVector", {"model.embed": bigrams}),
            changed(clean, "mixed int5/int6", {"quantize.rules": mixed}),
            late,
            changed(clean, "late warm-down + SWA", warm | swa, bundle=why),
            changed(clean, "late warm-down + late EMA", warm | ema, bundle=why),
            changed(late.recipe, "SWA alone", swa, against=late.name),
            changed(late.recipe, "late EMA alone", ema, against=late.name),
        ),
        seeds=(1, 2, 3, 4, 5),
        reading=READING,
    )
