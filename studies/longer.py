"""What is left of the largest gain and loss of pull requests #212 and #682 after 500 steps instead of 200?

bitgolf study studies/longer.py
"""

from bitgolf.forecast.laptop import a_minute
from bitgolf.net.embed import BigramHash, SmearGate
from bitgolf.net.layers import LnScale
from bitgolf.recipes.pr212 import pr212
from bitgolf.study.design import Study, changed

READING = """
Word pairs: 0.070 better [0.005, 0.136], where the study of #212 found 0.086 to 0.106 after 200 steps
(not claimed there) and the pull request a loss of 0.003 after 12,500. The gain shrinks slowly; half of
its interval is the baseline's own spread (0.027 between seeds, 0.003 with pairs).

Partial RoPE with LN scale: 0.220 worse, where the study of #682 found 0.095 after 200 steps and the
pull request a gain of 0.012. More steps make it worse here, so too few steps are not the reason. Which
of the two it is cannot be told here: in the study of #682 partial RoPE costs 0.068 and LN scale 0.022.

Cannot tell: how much of either change is the steps'. Rates and warm-down are those of #212 here, and
#682's in its own study.
"""


def study() -> Study:
    """#212's int6 stack for 500 steps, with word pairs and with the partial RoPE and LN scale of #682.

    After 200 steps, on the baseline, both moved far more than in the pull requests.
    """
    plain = a_minute(pr212(), steps=500)
    pairs = {"model.embed": (SmearGate(), BigramHash(buckets=1024, dimension=32))}
    lower = {"model.position.dims": 8, "model.input_scale": LnScale()}
    return Study(
        name="longer",
        question="What is left of word pairs and of LN scale after 500 steps?",
        baseline=plain,
        arms=(
            changed(plain, "SmearGate + BigramHash", pairs),
            changed(plain, "partial RoPE + LN scale", lower, bundle="one line of the table of #682"),
        ),
        seeds=(1, 2, 3),
        reading=READING,
    )
