"""Pull request #543: the eleven-layer stack, one part left out at a time.

bitgolf study studies/pr543.py
"""

from bitgolf.forecast.laptop import a_minute
from bitgolf.net.layers import Unscaled
from bitgolf.recipes.pr543 import pr543
from bitgolf.squeeze.quantize import AbsMax
from bitgolf.study.design import Study, leave_one_out
from bitgolf.train.average import NoAverage
from bitgolf.train.qat import NoNoise

READING = """\
Agrees with keeping them: the smear (0.089 worse without), XSA (0.018) and the shared value embeddings (0.015,
for 34,000 bytes). Each is worth more than the noise in the whole stack, not only on the baseline.

Does not agree: LN scale leans to a loss, 0.014 better without it (corrected p 0.05), as in the study of #682.

No evidence: partial RoPE, tight SWA, late QAT and clip search, at effects below about 0.02. Late QAT is at
work for the last seven steps of a hundred; published runs of it were most likely inactive. Clip search picks
among clips that a smallest scale of 1/31 makes equal for nearly all rows of this size.

Cannot tell: what the parts are worth at 4,000 steps. The stack was published
without any ablation.
"""


def study() -> Study:
    """What each part of the stack is worth there; the pull request measured none of them alone."""
    whole = a_minute(pr543(), steps=100, tokens=65_536)
    searched = whole.quantize.rules[2].quantizer
    return Study(
        name="pr543",
        question="What does each part of the stack add to the whole?",
        baseline=whole,
        arms=leave_one_out(
            whole,
            {
                "partial RoPE": {"model.position.dims": 0},
                "LN scale": {"model.input_scale": Unscaled()},
                "XSA": {"model.heads_out": ()},
                "value embeddings": {"model.values": ()},
                "the smear": {"model.embed": ()},
                "tight SWA": {"average": NoAverage()},
                "late QAT": {"noise": NoNoise()},
                "clip search": {"quantize.rules.2.quantizer": AbsMax(grid=searched.grid)},
            },
        ),
        seeds=(1, 2, 3),
        reading=READING,
    )
