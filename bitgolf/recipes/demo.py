"""Three minutes of training on two cores, one million bytes for everything: code, weights and tokenizer.

bitgolf demo
bitgolf run demo --set train.train_seconds=60
bitgolf demo --train-tokens 1024000   # as far on every machine: a score to compare between machines
"""

from bitgolf.mix.ngram import InterpolatedNgrams
from bitgolf.net.embed import BigramHash, SmearGate
from bitgolf.net.heads import AttentionOutputGate
from bitgolf.net.mlp import LeakyReluSquared
from bitgolf.net.model import ModelPlan
from bitgolf.net.values import ValueResidual
from bitgolf.recipe import BudgetPlan, DataPlan, Recipe
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Sliding
from bitgolf.squeeze.artifact import PackPlan
from bitgolf.squeeze.fill import FillBudget
from bitgolf.squeeze.presets import entropy_coded, rate_aware
from bitgolf.text.batches import ShuffledBlocks
from bitgolf.train.loop import TrainPlan
from bitgolf.train.optim import AdamRule, MuonRule, OptimPlan, ParameterRow
from bitgolf.train.schedule import WarmdownFraction


def demo() -> Recipe:
    """Four layers of width 192 on a vocabulary of 4096, packed to fill a million bytes.

    Word pairs, gates and a share of the first layer's values: found by a search at equal tokens (log.md). So
    is the decay: the text is seen twice, and weights that decay learn less of it by heart.
    N-grams of the text that is scored, of its document and of all of it, are mixed in: no bytes but code.
    """
    return Recipe(
        name="demo",
        data=DataPlan(sequence_length=256, order=ShuffledBlocks()),
        model=ModelPlan(
            vocabulary_size=4096,
            layers=4,
            width=192,
            heads=6,
            kv_heads=1,
            embed=(SmearGate(), BigramHash(buckets=16384, dimension=32)),
            values=(ValueResidual(),),
            heads_out=(AttentionOutputGate(),),
            activation=LeakyReluSquared(),
        ),
        optim=OptimPlan(
            rows=(
                ParameterRow(
                    pattern="tok_emb.weight", rule=AdamRule(lr=0.015, beta2=0.99, weight_decay=0.05)
                ),
                ParameterRow(
                    pattern="blocks.*.weight",
                    minimum_ndim=2,
                    maximum_ndim=2,
                    rule=MuonRule(lr=0.025, warmup_steps=300, weight_decay=0.05, row_normalize=True),
                ),
                ParameterRow(pattern="*", rule=AdamRule(lr=0.02, weight_decay=0.05)),
            ),
            schedule=WarmdownFraction(fraction=0.6),
        ),
        train=TrainPlan(steps=100_000, train_seconds=180.0, batch_tokens=2560, accumulation=1, log_steps=10),
        quantize=rate_aware().replace(rate=FillBudget()),
        pack=PackPlan(codec=entropy_coded()),
        score=ScorePlan(
            windows=Sliding(length=256, stride=64),
            mixers=(InterpolatedNgrams(per_document=True), InterpolatedNgrams()),
        ),
        budget=BudgetPlan(budget_bytes=1_000_000, count_tokenizer=True),
    )
