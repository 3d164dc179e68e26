"""Pull request #1718: longer and shorter contexts in training and in scoring, after four times the steps.

bitgolf study studies/pr1718_context.py
"""

from bitgolf.core.position import AttentionWindow
from bitgolf.core.windows import Chunked, Sliding
from bitgolf.lab.laptop import SEQUENCE_LENGTH, a_minute
from bitgolf.recipes.pr1718 import pr1718
from bitgolf.study.design import Study, add_one, changed, factorial

READING = """\
"""


def study() -> Study:
    """Attention windows of half a sequence as a 2x2, sequences twice as long, and how the score is cut.

    After 80 steps, as in pr1718.py, a model hardly uses its context, and all of these are the same.
    """
    length = SEQUENCE_LENGTH
    half, double = length // 2, 2 * length
    base = a_minute(pr1718(), steps=300).but(
        {
            "model.scope": (AttentionWindow(tokens=0, evaluation_tokens=0),),
            "score.windows": Sliding(length=length, stride=half),
        }
    )
    windows, factors = factorial(
        base,
        {
            "training window": {"all": {}, "half": {"model.scope.0.tokens": half}},
            "scoring window": {"all": {}, "half": {"model.scope.0.evaluation_tokens": half}},
        },
    )
    chunks = changed(base, "in chunks", {"score.windows": Chunked(length=length)})
    return Study(
        name="pr1718_context",
        question="What is a longer context worth, in training and in scoring?",
        baseline=base,
        arms=(
            *windows,
            *add_one(
                base,
                {
                    "training length x2": {"data.sequence_length": double},
                    "scoring length x2": {"score.windows": Sliding(length=double, stride=half)},
                },
            ),
            changed(
                base,
                "scoring length and stride x2",
                {"score.windows": Sliding(length=double, stride=length)},
                bundle="as many passes over the text as the baseline",
            ),
            chunks,
            changed(base, "in chunks x2", {"score.windows": Chunked(length=double)}, against=chunks.name),
        ),
        factors=factors,
        test="paired",  # arms that only score otherwise move with their reference from seed to seed
        seeds=(1, 2, 3),
        reading=READING,
    )
