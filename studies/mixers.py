"""What do mixers and a KV chain add to a small model? PR #1718, #1740, #738, #780, #1420 and #1916.

bitgolf study studies/mixers.py
"""

from bitgolf.forecast.laptop import a_minute
from bitgolf.mix.match import LongestMatch
from bitgolf.mix.nearest import NearestStates
from bitgolf.mix.ngram import InterpolatedNgrams, NgramCache
from bitgolf.mix.ppm import BytePpm
from bitgolf.mix.tilt import TokenTilt
from bitgolf.recipes.baseline import baseline
from bitgolf.score.chained import Chained
from bitgolf.score.mixer import Mixer
from bitgolf.score.windows import Sliding
from bitgolf.study.design import Study, changed

READING = """
Every mixer that learns its weight gains after a minute of training: n-grams 0.105, longest match 0.071,
byte PPM 0.058, tilt of order 4 0.038, nearest states 0.036. Together n-grams, PPM and match gain 0.120:
the n-grams have most of what the others have.

Agrees with the pull requests of fixed caches: its weight only costs, and more the larger it is: -0.0003
(no evidence), +0.0013, +0.0128, +0.0786 at 0.005, 0.02, 0.08 and 0.3. Monotone from 0.02 on; below it
nothing is lost.

A KV chain is the sliding window at a fraction of the work: +0.00001 with 192 tokens kept, with one lane
or 16, and -0.0005 with 64 (no evidence for either).

A weak model: at 1.77 bits per byte a cache of its own text knows much that it does not. A better one
gains less.
"""
TOKENS = 32_768  # of the validation text; mixers take one at a time
LAMBDAS = (0.005, 0.02, 0.08, 0.3)
CHAINS = {
    "KV chain, 192 tokens": Chained(history=192, stride=64, lanes=1),
    "KV chain, 64 tokens": Chained(history=64, stride=64, lanes=1),
    "KV chain, 192 tokens, 16 lanes": Chained(history=192, stride=64),
}


def study() -> Study:
    """The baseline after a minute of training, alone and with each mixer; all arms share their trainings."""
    plain = a_minute(baseline()).replace({"score.limit_tokens": TOKENS, "backend.dtype": "float32"})
    slid = changed(plain, "sliding 256/64", {"score.windows": Sliding(length=256, stride=64)})

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
            slid,
            *(
                changed(slid.recipe, name, {"score.windows": windows}, against=slid.name)
                for name, windows in CHAINS.items()
            ),
        ),
        test="paired",  # all arms share their trainings
        seeds=(1, 2, 3),
        reading=READING,
    )
