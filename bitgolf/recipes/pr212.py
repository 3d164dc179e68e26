"""Pull request #212 (mrdavtan): int6, MLP three times as wide, 1.1708 bpb after 12,507 steps; nine ablations.

bitgolf run pr212-laptop
bitgolf run pr212 --data challenge:sp1024
"""

from bitgolf.core.artifact import PackPlan
from bitgolf.core.codec import Zstd
from bitgolf.core.grid import Grid
from bitgolf.core.optim import AdamRule, MuonRule, public_rows
from bitgolf.core.quantize import AbsMax, Keep, QuantizePlan, QuantRule
from bitgolf.core.recipe import Recipe
from bitgolf.core.schedule import WarmdownClock
from bitgolf.core.windows import Sliding
from bitgolf.recipes.baseline import baseline


def pr212() -> Recipe:
    """21,778,504 parameters; a warm-down longer than the training, fp16 embedding, int6 by row, zstd-22.

    Published: five seeds, mean 1.1724, 15,175,136 bytes. Its script and tuned rates are not; those here are
    what records of the same days used.
    """
    rows = public_rows(embedding=AdamRule(lr=0.03), matrices=MuonRule(lr=0.02), rest=AdamRule(lr=0.02))
    rules = (
        QuantRule(patterns=("tok_emb.weight",), quantizer=Keep(dtype="float16")),
        QuantRule(patterns=("blocks.*.weight",), axes=2, quantizer=AbsMax(grid=Grid(bits=6))),
        QuantRule(quantizer=Keep(dtype="float16")),
    )
    return baseline().but(
        {
            "name": "pr212",
            "model.mlp_multiplier": 3.0,
            "optim.rows": rows,
            "optim.schedule": WarmdownClock(warmdown_steps=20_000),
            "train.steps": 12_507,
            "quantize": QuantizePlan(rules=rules),
            "pack": PackPlan(codec=Zstd()),
            "score.windows": Sliding(length=1024, stride=64),
        }
    )
