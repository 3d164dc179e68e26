"""A participant's ablation: does an average of the weights help this run? `bitgolf study ablation.py`"""

from bitgolf import find_recipe
from bitgolf.study.design import Study, changed
from bitgolf.train.average import Ema


def study() -> Study:
    """One change of a finished run's recipe; the seeds are named before any run."""
    baseline = find_recipe("runs/first")
    return Study(
        name="ablation",
        question="Does an average of the weights help after so few steps?",
        baseline=baseline,
        arms=(changed(baseline, "EMA", {"average": Ema(decay=0.9)}),),
        seeds=(1, 2, 3),
        data="texts",
    )
