"""Pull request #488: warm-down and averages on an int6 QAT stack.

bitgolf study studies/pr488.py
"""

from bitgolf.core.average import LateEma, NoAverage, SwaCount
from bitgolf.core.embed import BigramHash, SmearGate
from bitgolf.core.grid import Grid, RowGroups
from bitgolf.core.quantize import AbsMax, QuantRule
from bitgolf.core.schedule import WarmdownClock
from bitgolf.lab.laptop import a_minute
from bitgolf.recipes.pr488 import pr488
from bitgolf.study.design import Study, changed

READING = """\
Agrees: the late warm-down (0.065 better than a warm-down longer than the training; published with SWA 0.049),
and int5 in the MLP, 0.015 worse in 67,000 fewer bytes (published 0.011 worse).

Does not agree: BigramHash with SmearGate gains 0.120 here and lost 0.004 there, after 950 steps on 524,288
tokens each. Pairs of tokens are what a short training learns first: see the study `longer`.

Adds: with the late warm-down in place neither average gains anything; SWA loses 0.005. There late EMA, whose
embedding was averaged in bfloat16, was 0.017 worse than SWA; averaged in float32 it is 0.004 better here.

Three of the five seeds had been seen before the other two were added: what is just under 0.05, as SWA alone,
deserves that much less belief.
"""


def study() -> Study:
    """Its table of five lines. "A" has the public warm-down of 1,200 steps, longer than its training."""
    best = a_minute(pr488())
    steps = round(1200 * best.train.steps / pr488().train.steps)
    clean = best.but({"optim.schedule": WarmdownClock(warmdown_steps=steps), "average": NoAverage()})
    five = AbsMax(grid=Grid(bits=5, symmetric=False, scale_floor=1 / 15, granularity=RowGroups(rows=8)))
    mixed = (QuantRule(patterns=("blocks.*.mlp.*.weight",), quantizer=five), *best.quantize.rules)
    bigrams = (BigramHash(buckets=1024, dimension=32), SmearGate())
    warm = {"optim.schedule": best.optim.schedule}
    swa, ema = {"average": SwaCount(guard=0.5)}, {"average": LateEma(decay=0.9)}
    late = changed(clean, "late warm-down", warm)
    why = "an average of the end of a warm-down needs that warm-down"
    return Study(
        name="pr488",
        question="What do bigram tables, int5, and a late warm-down with an average do to int6 QAT?",
        baseline=clean,
        arms=(
            changed(clean, "BigramHash + SmearGate", {"model.embed": bigrams}),
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
