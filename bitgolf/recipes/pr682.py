"""Pull request #682 (gthgomez): local ablations on a GTX 1650 with 4 GB, 200 steps; all features together.

bitgolf run pr682-laptop
bitgolf run pr682 --env EMA_DECAY=0 --data challenge:sp1024
"""

from bitgolf.net.layers import LnScale
from bitgolf.net.position import Rope
from bitgolf.recipe import Recipe
from bitgolf.recipes.baseline import baseline
from bitgolf.score.windows import Chunked
from bitgolf.train.average import Ema

STEP_SECONDS = 1.0405  # on its card, by its log


def pr682() -> Recipe:
    """The baseline with EMA 0.97, partial RoPE and LN scale; live 2.6845, EMA 2.5274, int8 2.5273 bpb.

    Batches of 4,096 tokens in sequences of 512, and the baseline's clock: 600 s with a warm-down of 1,200
    steps, of which 200 were run. So rates fall from 0.57 to 0.31 of their value with the seconds of its card,
    which are counted here in place of those of this machine. Its committed script is the unpatched baseline;
    settings are those of its log and README. Weight decay, in its list of features, is in no run of its
    table: the log names EMA, partial RoPE and LN scale, and live scores with and without EMA are equal.
    Its comparison at export, 6.7 MB of int6 against 11.0 at +0.0046 bpb, is
    `bitgolf pack RUN --compare public-int8,public-int6`.
    """
    return baseline().replace(
        {
            "name": "pr682",
            "data.sequence_length": 512,
            "model.position": Rope(dims=16),
            "model.input_scale": LnScale(),
            "average": Ema(decay=0.97),
            "train.steps": 200,
            "train.step_seconds": STEP_SECONDS,
            "train.batch_tokens": 4096,
            "train.priming_steps": 10,
            "score.windows": Chunked(length=512),
            "score.limit_tokens": 256 * 512,
        }
    )
