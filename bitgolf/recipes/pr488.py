"""Pull request #488 (pkim02): eleven layers, late int6 training noise, warm-down by clock, SWA; 1.3267 bpb.

bitgolf run pr488-laptop
bitgolf compare pr488 pr543
"""

from bitgolf.core.artifact import PackPlan
from bitgolf.core.average import SwaCount
from bitgolf.core.codec import Zstd
from bitgolf.core.grid import Grid, RowGroups
from bitgolf.core.model import ModelPlan
from bitgolf.core.noise import FakeQuantize
from bitgolf.core.optim import AdamRule, MuonRule, OptimPlan, public_rows
from bitgolf.core.quantize import AbsMax, Keep, QuantizePlan, QuantRule
from bitgolf.core.recipe import DataPlan, Recipe
from bitgolf.core.schedule import WarmdownFraction
from bitgolf.core.score import ScorePlan
from bitgolf.core.train import TrainPlan
from bitgolf.core.windows import Sliding


def pr488() -> Recipe:
    """Its best variant, "A + warmdown + SWA", for one H100: 26,501,720 parameters, about 950 steps in 600 s.

    One scale for eight rows, never below 1/31: the bytes follow the size of the weights, and 13.3 MB were
    published after so few steps.
    """
    six = AbsMax(grid=Grid(bits=6, symmetric=False, scale_floor=1 / 31, granularity=RowGroups(rows=8)))
    rules = (
        QuantRule(patterns=("tok_emb.weight",), quantizer=Keep(dtype="float16")),
        QuantRule(patterns=("blocks.*.weight",), axes=2, quantizer=six),
        QuantRule(quantizer=Keep(dtype="float16")),
    )
    return Recipe(
        name="pr488",
        data=DataPlan(sequence_length=2048),
        model=ModelPlan(layers=11, mlp_multiplier=3.0),
        optim=OptimPlan(
            rows=public_rows(
                embedding=AdamRule(lr=0.035, weight_decay=0.02),
                matrices=MuonRule(
                    lr=0.025, momentum=0.99, warmup_start=0.92, warmup_steps=1500, weight_decay=0.04
                ),
                rest=AdamRule(lr=0.025, weight_decay=0.02),
            ),
            schedule=WarmdownFraction(fraction=0.15),
        ),
        train=TrainPlan(steps=950, train_seconds=600.0, batch_tokens=524_288, grad_clip_norm=0.3),
        average=SwaCount(checkpoints=7, guard=0.5),
        noise=FakeQuantize(from_progress=0.85, patterns=("blocks.*.weight",)),
        quantize=QuantizePlan(rules=rules),
        pack=PackPlan(codec=Zstd()),
        score=ScorePlan(windows=Sliding(length=2048, stride=64)),
    )
