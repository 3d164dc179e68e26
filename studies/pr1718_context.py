"""Pull request #1718: longer and shorter contexts in training and in scoring, after four times the steps.

bitgolf study studies/pr1718_context.py
"""

from bitgolf.core.position import AttentionWindow
from bitgolf.core.windows import Chunked, Sliding
from bitgolf.lab.laptop import SEQUENCE_LENGTH, a_minute
from bitgolf.recipes.pr1718 import pr1718
from bitgolf.study.design import Study, add_one, changed, factorial

READING = """\
Agrees: scoring windows longer than the training's hurt sliding scores, by 0.0023 at twice the length and by
0.0015 at twice the length and stride (published 0.0056). Training on sequences twice as long leans to a loss
of 0.0016 in sliding scores at equal tokens (published 0.0044, at fewer steps).

Does not agree: twice the length gains nothing in chunks (published 0.003 to 0.005), and half the attention
window does not hurt. In scoring it gains 0.0006, in training it leans to a gain of 0.0011; published were
losses of 0.005 in scoring alone and of 0.003 in both.

A guess at why: after 1.2 million tokens the model hardly uses what is more than a hundred tokens back. Chunks
of 256 cost 0.0007 against a sliding window, where the published ones of 2,048 cost 0.017. More context is
then noise. After 80 steps, in pr1718, none of these differences could be seen.

Three p-values are just under 0.05 with three seeds; over the documents, too, longer windows and chunks are
worse. Seconds were measured beside other jobs.
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
