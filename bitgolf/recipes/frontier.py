"""What held up best: the techniques that public records kept to the end (2026-05-01), put together.

bitgolf run frontier-laptop
bitgolf compare pr1718 frontier
"""

from bitgolf.adapt.documents import PhasedLora
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.net.embed import SmearGate
from bitgolf.net.heads import SparseGate, Xsa
from bitgolf.net.layers import LnScale, TwoLanes
from bitgolf.net.mlp import LeakyReluSquared
from bitgolf.net.model import ModelPlan
from bitgolf.net.position import Rope
from bitgolf.net.route import GatedSkips, Looped
from bitgolf.recipe import DataPlan, Recipe
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Growing, PerDocument
from bitgolf.squeeze.artifact import PackPlan
from bitgolf.squeeze.fill import FillBudget
from bitgolf.squeeze.presets import entropy_coded, rate_aware
from bitgolf.train.average import Ema
from bitgolf.train.loop import Stage, TrainPlan
from bitgolf.train.optim import AdamRule, MuonRule, OptimPlan, SgdRule, public_rows
from bitgolf.train.schedule import WarmdownFraction


def frontier() -> Recipe:
    """SP8192 with loops, lanes, gates and Polar Express Muon, adapted as it is scored, as #2135 (1.0565 bpb).

    With it: a context that grows while it trains (#2014), a slope of 0.3 (#1987), a longer memory of small
    tensors (modded-nanogpt #321), our packing with 64 states. Left out: the tilt by n-grams (mixers take 24
    minutes for this text, bench/frontier.toml), bigram tables and value embeddings (dropped by the records at
    this vocabulary), attention inside documents (needs scoring of the same kind).
    """
    adapter = PhasedLora(
        rank=80,
        alpha=144.0,
        targets=("q", "v", "o", "mlp", "head"),
        rule=AdamRule(lr=8e-5, beta1=0.0, beta2=0.99, weight_decay=2.0),
        longest_first=True,
        warm=True,
        lanes=8,  # as many as processes, each of which keeps its own in public
        prefix_documents=2500,
        globally=ScoreFirst(epochs=1, rule=SgdRule(lr=0.001), caps=SgdRule(lr=0.001)),
    )
    return Recipe(
        name="frontier",
        data=DataPlan(sequence_length=3072, case_ops=True),
        model=ModelPlan(
            vocabulary_size=8192,
            layers=11,
            mlp_multiplier=4.0,
            qk_gain=5.0,
            position=Rope(dims=16),
            embed=(SmearGate(boundary=True),),
            input_scale=LnScale(),
            heads_out=(Xsa(last=11), SparseGate(channels=12, scale=0.5)),
            activation=LeakyReluSquared(slope=0.3),
            residual=TwoLanes(first=8),
            recurrence=Looped(first=3, last=5, loops=2, enable_at=0.35),
            route=GatedSkips(),
        ),
        optim=OptimPlan(
            rows=public_rows(
                embedding=AdamRule(lr=0.03, beta2=0.99, weight_decay=0.085),
                matrices=MuonRule(
                    lr=0.028,
                    momentum=0.97,
                    warmup_start=0.92,
                    warmup_steps=1500,
                    weight_decay=0.095,
                    row_normalize=True,
                    polar_express=True,
                    taper_start=0.7,
                    taper_final=0.5,
                ),
                rest=AdamRule(lr=0.02, beta2=0.997, weight_decay=0.02),
            ),
            schedule=WarmdownFraction(fraction=0.85, minimum=0.1),
        ),
        train=TrainPlan(
            steps=4900,
            train_seconds=588.0,
            batch_tokens=786_432,
            grad_clip_norm=0.3,
            priming_steps=20,
            stages=(Stage(until=0.1, sequence_length=1024), Stage(until=0.7, sequence_length=2048)),
        ),
        average=Ema(decay=0.9965),
        quantize=rate_aware(states=64).replace(rate=FillBudget()),
        pack=PackPlan(codec=entropy_coded(states=64)),
        score=ScorePlan(windows=PerDocument(within=Growing(length=2560, stride=48)), adapter=adapter),
    )
