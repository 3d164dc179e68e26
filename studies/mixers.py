"""What do mixers add to a small model? Pull requests #1718, #1740, #738, #780, #1420 and #1916.

bitgolf study studies/mixers.py
"""

from bitgolf.forecast.laptop import a_minute
from bitgolf.mix.match import LongestMatch
from bitgolf.mix.nearest import NearestStates
from bitgolf.mix.ngram import InterpolatedNgrams, NgramCache
from bitgolf.mix.ppm import BytePpm
from bitgolf.mix.tilt import TokenTilt
from bitgolf.recipes.baseline import baseline
from bitgolf.score.mixer import Mixer
from bitgolf.study.design import Study, changed

READING = ""
TOKENS = 65_536  # of the validation text; mixers take one at a time
LAMBDAS = (0.005, 0.02, 0.08, 0.3)


def study() -> Study:
    """The baseline after a minute of training, alone and with each mixer; all arms share their trainings."""
    plain = a_minute(baseline()).replace({"score.limit_tokens": TOKENS})

    def mixed(name: str, *mixers: Mixer):
        return changed(plain, name, {"score.mixers": mixers})

    return Study(
        name="mixers",
        question="What do mixers add, and is the loss monotone in the weight of a fixed n-gram cache?",
        baseline=plain,
        arms=(
            *(mixed(f"bigram cache, weight {weight}", NgramCache(weight=weight)) for weight in LAMBDAS),
            mixed("interpolated n-grams", InterpolatedNgrams()),
            mixed("byte PPM", BytePpm()),
            mixed("nearest states", NearestStates()),
            mixed("token tilt", TokenTilt()),
            mixed("token tilt, order 4", TokenTilt(order=4)),
            mixed("longest match", LongestMatch()),
            mixed("n-grams, PPM and match", InterpolatedNgrams(), BytePpm(), LongestMatch()),
        ),
        seeds=(1, 2, 3),
        reading=READING,
    )
