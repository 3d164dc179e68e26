"""What held up best: the techniques that public records kept to the end (2026-04-27), put together.

bitgolf run frontier-laptop
bitgolf compare pr1718 frontier
"""

from bitgolf.net.embed import SmearGate
from bitgolf.net.heads import SparseGate, Xsa
from bitgolf.net.layers import LnScale, TwoLanes
from bitgolf.net.mlp import LeakyReluSquared
from bitgolf.net.model import ModelPlan
from bitgolf.net.position import Rope
from bitgolf.net.route import GatedSkips, Looped
from bitgolf.recipe import DataPlan, Recipe
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Sliding
from bitgolf.squeeze.artifact import PackPlan
from bitgolf.squeeze.fill import FillBudget
from bitgolf.squeeze.presets import entropy_coded, rate_aware
from bitgolf.train.average import Ema
from bitgolf.train.loop import TrainPlan
from bitgolf.train.optim import AdamRule, MuonRule, OptimPlan, public_rows
from bitgolf.train.schedule import WarmdownFraction


def frontier() -> Recipe:
    """SP8192 with loops, lanes, gates and Polar Express Muon; the best public stack scored 1.0611 bpb.

    Left out: bigram tables and value embeddings (dropped by the records at this vocabulary), case operators
    (worse on this project's own corpus), attention inside documents (needs scoring of the same kind).
    """
    rest = {"beta2": 0.99}
    return Recipe(
        name="frontier",
        data=DataPlan(sequence_length=2048),
        model=ModelPlan(
            vocabulary_size=8192,
            layers=11,
            mlp_multiplier=4.0,
            qk_gain=5.0,
            position=Rope(dims=16),
            embed=(SmearGate(boundary=True),),
            input_scale=LnScale(),
            heads_out=(Xsa(last=11), SparseGate(channels=12, scale=0.5)),
            activation=LeakyReluSquared(slope=0.5),
            residual=TwoLanes(first=8),
            recurrence=Looped(first=3, last=5, loops=2, enable_at=0.35),
            route=GatedSkips(),
        ),
        optim=OptimPlan(
            rows=public_rows(
                embedding=AdamRule(lr=0.03, weight_decay=0.085, **rest),
                matrices=MuonRule(
                    lr=0.026,
                    momentum=0.97,
                    warmup_start=0.92,
                    warmup_steps=1500,
                    weight_decay=0.095,
                    row_normalize=True,
                    polar_express=True,
                    taper_start=0.7,
                    taper_final=0.5,
                ),
                rest=AdamRule(lr=0.02, weight_decay=0.02, **rest),
            ),
            schedule=WarmdownFraction(fraction=0.85, minimum=0.1),
        ),
        train=TrainPlan(
            steps=4500, train_seconds=588.0, batch_tokens=786_432, grad_clip_norm=0.3, priming_steps=20
        ),
        average=Ema(decay=0.9965),
        quantize=rate_aware().replace(rate=FillBudget()),
        pack=PackPlan(codec=entropy_coded()),
        score=ScorePlan(windows=Sliding(length=2048, stride=64)),
    )
