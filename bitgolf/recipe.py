"""A recipe as one value: model, data, training, packing and scoring."""

import dataclasses
from collections.abc import Iterator
from typing import Self

from bitgolf.base.errors import displayed
from bitgolf.base.files import NAME_RULE, is_plain_name
from bitgolf.base.plan import Plan, setting
from bitgolf.net.backend import BackendPlan
from bitgolf.net.model import ModelPlan
from bitgolf.score.score import ScorePlan
from bitgolf.squeeze.artifact import PackPlan
from bitgolf.squeeze.quantize import QuantizePlan
from bitgolf.text.batches import Order, PublicOrder
from bitgolf.train.average import Averager, NoAverage
from bitgolf.train.loop import Stage, TrainPlan
from bitgolf.train.optim import OptimPlan
from bitgolf.train.qat import Noise, NoNoise


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataPlan(Plan):
    """How the training tokens are made, cut and ordered. Lengths are in tokens.

    case_ops: a tokenizer made for this recipe separates case from letters; no effect on an existing dataset.
    """

    sequence_length: int = setting(1024, at_least=2)
    order: Order = PublicOrder()
    case_ops: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class BudgetPlan(Plan):
    """The byte budget and what counts towards it.

    The challenge counts code and model; its tokenizer is free. Our own demo counts every byte.
    code_codec: compresses the script; brotli is about 3% shorter, and the script then needs its package.
    """

    budget_bytes: int = setting(16_000_000, at_least=1)
    count_tokenizer: bool = False
    code_codec: str = setting("standard", one_of=("standard", "brotli"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Plan):
    """Everything a run depends on besides its data and its seed. Each stage gets only its own plan."""

    name: str = "recipe"
    data: DataPlan = DataPlan()
    model: ModelPlan = ModelPlan()
    optim: OptimPlan = OptimPlan()
    train: TrainPlan = TrainPlan()
    average: Averager = NoAverage()
    noise: Noise = NoNoise()
    quantize: QuantizePlan = QuantizePlan()
    pack: PackPlan = PackPlan()
    score: ScorePlan = ScorePlan()
    budget: BudgetPlan = BudgetPlan()
    backend: BackendPlan = BackendPlan()

    def network(self) -> ModelPlan:
        """The model plan with the training length in its position encoding."""
        lengths = (self.data.sequence_length, *(stage.sequence_length for stage in self.train.stages))
        return self.model.replace(position=self.model.position.trained_at(max(lengths)))

    def training(self) -> Self:
        """This recipe without settings that no training step uses: equal ones train to equal weights."""
        blind = isinstance(self.noise, NoNoise)  # only training noise uses the quantization rules
        unseen = {"pack": PackPlan(), "score": ScorePlan(), "budget": BudgetPlan()}
        unseen |= {
            "average": self.average.training(),
            "train": self.train.in_steps().replace(expected_steps=0, validate_steps=0),
        }
        return self.replace({"name": "training", **unseen, **({"quantize": QuantizePlan()} if blind else {})})

    def validate(self) -> Iterator[str]:
        """Yields problems between the stages, as sentences."""
        if not is_plain_name(self.name):  # it becomes the name of a folder
            yield f"name: {NAME_RULE}, found {displayed(self.name)}"
        for stage in (Stage(), *self.train.stages):
            tokens = stage.batch_tokens or self.train.batch_tokens
            length = stage.sequence_length or self.data.sequence_length
            if tokens % length:
                yield (
                    f"train.batch_tokens: must be a multiple of data.sequence_length {length}, "
                    f"found {tokens}; nearest {max(round(tokens / length), 1) * length}"
                )
