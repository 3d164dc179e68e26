"""Artifacts that the tests of artifacts take apart."""

from pathlib import Path

from bitgolf.net.model import ModelPlan
from bitgolf.squeeze.artifact import (
    Artifact,
    PackPlan,
    pack,
)
from bitgolf.squeeze.codec import (
    Brotli,
    Deflate,
    Histogram,
    RowColumn,
    Smallest,
)
from bitgolf.squeeze.quantize import (
    QuantizePlan,
    int6_rows,
    quantize_weights,
)
from bitgolf.text.encoder import train_tokenizer
from tests.forgery import (
    TEXT,
    artifacts_of_all_forms,
    weights_of,
)

ROOT = Path(__file__).parents[2]
MODEL = ModelPlan(vocabulary_size=270, layers=2, width=16, heads=2, kv_heads=1)


def packed(
    model: ModelPlan = MODEL, rules: QuantizePlan | None = None, plan: PackPlan | None = None
) -> Artifact:
    tensors, _ = quantize_weights(rules or int6_rows(), weights_of(model))
    return pack(model, tensors, TOKENIZER, plan)


TOKENIZER = train_tokenizer([TEXT], MODEL.vocabulary_size).to_bytes()
GOOD = packed(plan=PackPlan(codec=Deflate()))
BROTLI = packed(plan=PackPlan(codec=Brotli()))
RANGE = packed(plan=PackPlan(codec=Smallest(among=(Deflate(), Histogram(), RowColumn()))))
ALL_RANGE = packed(plan=PackPlan(codec=RowColumn()))
ALL_FORMS = artifacts_of_all_forms()["all"]
