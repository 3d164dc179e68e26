"""Three sizes of model on which ways of packing are compared; a minute of training is one core's."""

from bitgolf.core.average import Ema
from bitgolf.core.backend import BackendPlan
from bitgolf.core.batches import ShuffledBlocks
from bitgolf.core.model import ModelPlan
from bitgolf.core.optim import AdamRule, MuonRule, OptimPlan, public_rows
from bitgolf.core.quantize import int6_rows
from bitgolf.core.recipe import BudgetPlan, DataPlan, Recipe
from bitgolf.core.schedule import WarmdownFraction
from bitgolf.core.score import ScorePlan
from bitgolf.core.train import TrainPlan
from bitgolf.core.windows import Chunked


def trained(name: str, model: ModelPlan, train_seconds: float, decay: float) -> Recipe:
    """The public baseline's optimizers with decoupled decay, a long warm-down and an average."""
    rows = public_rows(
        embedding=AdamRule(lr=0.02, weight_decay=0.04),
        matrices=MuonRule(lr=0.02, weight_decay=0.04),
        rest=AdamRule(lr=0.02),
    )
    return Recipe(
        name=name,
        data=DataPlan(sequence_length=256, order=ShuffledBlocks()),
        model=model,
        optim=OptimPlan(rows=rows, schedule=WarmdownFraction(fraction=0.65)),
        train=TrainPlan(steps=100_000, train_seconds=train_seconds, batch_tokens=4096, accumulation=1),
        average=Ema(decay=decay),
        quantize=int6_rows(),
        score=ScorePlan(windows=Chunked(length=256)),
        budget=BudgetPlan(budget_bytes=16_000_000),
        backend=BackendPlan(threads=1),
    )


def one_million() -> Recipe:
    """Eight layers of width 128."""
    return trained("pack-1m", ModelPlan(layers=8, width=128, heads=4, kv_heads=2), 600.0, 0.99)


def three_million() -> Recipe:
    """Six layers of width 256."""
    return trained("pack-3m", ModelPlan(layers=6, width=256, heads=4, kv_heads=2), 600.0, 0.98)


def seventeen_million() -> Recipe:
    """The shape of the public baseline."""
    return trained("pack-17m", ModelPlan(), 3600.0, 0.98)
