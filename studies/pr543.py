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

READING = ""


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
