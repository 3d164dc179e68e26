"""A researcher's question: is what #682 found there after very few steps? `bitgolf study question.py`"""

from bitgolf.forecast.laptop import a_minute
from bitgolf.recipes.pr682 import pr682
from bitgolf.study.design import Margin, Study, add_one
from bitgolf.train.average import Ema


def study() -> Study:
    """Two arms that differ from the baseline in one setting each; a difference below the margin is none."""
    baseline = a_minute(pr682(), steps=30, tokens=4000).replace(
        {"average": Ema(decay=0.97), "model.position.dims": 0}
    )
    changes = {"EMA 0.9": {"average": Ema(decay=0.9)}, "partial RoPE": {"model.position.dims": 8}}
    return Study(
        name="question",
        question="Does a shorter average, or partial RoPE, help after 30 steps?",
        baseline=baseline,
        arms=add_one(baseline, changes),
        seeds=(1, 2, 3),
        margin=Margin(value=0.005),
        data="texts",
    )
