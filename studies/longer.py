"""What is left of the largest gain and loss of pull requests #212 and #682 after 500 steps instead of 200?

bitgolf study studies/longer.py
"""

from bitgolf.forecast.laptop import a_minute
from bitgolf.net.embed import BigramHash, SmearGate
from bitgolf.net.layers import LnScale
from bitgolf.recipes.pr212 import pr212
from bitgolf.study.design import Study, changed

READING = ""


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
