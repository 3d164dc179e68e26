"""Pull request #543: the eleven-layer stack, one part left out at a time.

bitgolf study studies/pr543.py
"""

from typing import Any

from bitgolf.forecast.laptop import a_minute
from bitgolf.net.layers import Unscaled
from bitgolf.recipes.pr543 import pr543
from bitgolf.study.design import Study, changed, leave_one_out
from bitgolf.train.average import NoAverage
from bitgolf.train.qat import NoNoise

READING = """\
As #543 ran it: its tables of values in no optimizer, int6 as multiples of four, a smear that starts at a
half.

Agrees with keeping it: the smear, 0.076 worse without.

Does not agree: LN scale, 0.020 better without it, as partial RoPE with LN scale is a loss in the study of
#682.

No evidence: XSA (0.005 worse without), partial RoPE, tight SWA, value embeddings, late QAT and clip search,
at effects below about 0.014. An earlier form of this recipe trained its value embeddings and lost 0.015
without them; frozen, as #543 had them, 0.002 is left, for 38,000 bytes. XSA lost 0.018 there and 0.005
here. Late QAT is at work for the last seven steps of a hundred. Clip search picks among clips that are
equal for nearly all rows of this size.

Cannot tell: what the parts are worth at 4,000 steps. The stack was published without any ablation.
"""


def study() -> Study:
    """What each part of the stack is worth there; the pull request measured none of them alone."""
    whole = a_minute(pr543(), steps=100, tokens=65_536)
    parts: dict[str, dict[str, Any]] = {
        "partial RoPE": {"model.position.dims": 0},
        "LN scale": {"model.input_scale": Unscaled()},
        "XSA": {"model.heads_out": ()},
        "value embeddings": {"model.values": ()},
        "the smear": {"model.embed": ()},
        "tight SWA": {"average": NoAverage()},
        "late QAT": {"noise": NoNoise()},
    }
    searches = ("rules.1.quantizer", "rules.2.quantizer", "rules.3.quantizer.of")  # int8 twice, its multiples
    largest = {f"quantize.{search}.percentiles": (1.0,) for search in searches}
    return Study(
        name="pr543",
        question="What does each part of the stack add to the whole?",
        baseline=whole,
        arms=(
            *leave_one_out(whole, parts),
            changed(whole, "without clip search", largest, bundle="one search, in three rules"),
        ),
        seeds=(1, 2, 3),
        reading=READING,
    )
