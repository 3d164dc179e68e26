"""What is left of the largest gain and loss of pull requests #212 and #682 after 500 steps instead of 200?

bitgolf study studies/longer.py
"""

from bitgolf.forecast.laptop import a_minute
from bitgolf.net.embed import BigramHash, SmearGate
from bitgolf.net.layers import LnScale
from bitgolf.recipes.pr212 import pr212
from bitgolf.study.design import Study, add_one, changed

READING = """\
Word pairs: 0.023 better [0.002, 0.043], where the study of #212 found 0.070 after 200 steps and the pull
request a loss of 0.003 after 12,500.

Partial RoPE with LN scale: 0.110 worse, where the study of #682 found 0.053 after 200 steps, so too few steps
are hardly the reason. Which of the two it is cannot be told here; in the study of #543 leaving LN scale out
leans to a gain of 0.014, and partial RoPE to nothing.

Cannot tell: how much of either change is the steps'. Rates and warm-down are those of #212 here, and were the
baseline's and #682's after 200 steps. Seconds were measured beside tests.
"""


def study() -> Study:
    """#212's int6 stack for 500 steps, with its word pairs and with the partial RoPE and LN scale of #682.

    Their studies of 200 steps found 0.07 better and 0.05 worse; the pull requests found nothing of either.
    """
    best = a_minute(pr212(), steps=500)
    plain = best.but({"model.embed": ()})
    lower = {"model.position.dims": 8, "model.input_scale": LnScale()}
    return Study(
        name="longer",
        question="What is left of word pairs and of LN scale after 500 steps?",
        baseline=plain,
        arms=(
            *add_one(
                plain,
                {
                    "SmearGate + BigramHash": {
                        "model.embed": (SmearGate(), BigramHash(buckets=1024, dimension=32))
                    }
                },
            ),
            changed(plain, "partial RoPE + LN scale", lower, bundle="one line of the table of #682"),
        ),
        seeds=(1, 2, 3),
        reading=READING,
    )
