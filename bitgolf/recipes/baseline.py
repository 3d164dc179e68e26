"""The public challenge's baseline at full size: 17,059,912 parameters, its optimizers, int8 and zlib.

bitgolf show baseline
bitgolf run baseline --data challenge:sp1024
"""

from bitgolf.net.backend import BackendPlan
from bitgolf.recipe import DataPlan, Recipe
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Chunked
from bitgolf.squeeze.quantize import public_int8


def baseline() -> Recipe:
    """Nine layers of width 512, sequences of 1024 tokens, 600 seconds; scored in chunks."""
    return Recipe(
        name="baseline",
        data=DataPlan(sequence_length=1024),
        quantize=public_int8(),
        score=ScorePlan(windows=Chunked(length=1024)),
        backend=BackendPlan(attention="sdpa"),
    )
