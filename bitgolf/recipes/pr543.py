"""Pull request #543 (rarce): eleven layers, partial RoPE, XSA, value embeddings, tight SWA; 1.1804 bpb.

bitgolf run pr543-laptop
bitgolf forecast pr543 --set model.mlp_hidden=1536
"""

from bitgolf.net.embed import SmearVector
from bitgolf.net.heads import Xsa
from bitgolf.net.layers import LnScale
from bitgolf.net.model import ModelPlan
from bitgolf.net.position import Rope
from bitgolf.net.values import ValueEmbedding
from bitgolf.recipe import DataPlan, Recipe
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Chunked
from bitgolf.squeeze.artifact import PackPlan
from bitgolf.squeeze.clip import ClipSearch, CoarseCodes
from bitgolf.squeeze.codec import Zstd
from bitgolf.squeeze.grid import Grid
from bitgolf.squeeze.quantize import (
    PUBLIC_CONTROLS,
    PUBLIC_PERCENTILE,
    AbsMax,
    Keep,
    QuantizePlan,
    QuantRule,
)
from bitgolf.train.average import TightSwa
from bitgolf.train.loop import TrainPlan
from bitgolf.train.optim import AdamRule, Frozen, MuonRule, OptimPlan, ParameterRow, public_rows
from bitgolf.train.qat import FakeQuantize
from bitgolf.train.schedule import WarmdownClock


def pr543() -> Recipe:
    """25,224,291 parameters as its script trains them; 15,949,473 bytes published, scored in chunks.

    The value embedding is in no optimizer there and stays as it starts; each layer has a scale for it, used
    in two of them. Adam has no decay (its README says 0.04). Late noise (plain int6, once rates are below a
    tenth) began after step 4,070; compiling anew took 55 s, and with one noisy step the clock had ended the
    training, after the last of the six snapshots that were shipped: `--set noise=NoNoise` is what they saw.
    In the script it also halves the rates, and Muon decays after its step; neither is done here.
    """
    eight = ClipSearch(
        grid=Grid(bits=8, round_scale_first=False, scale_floor=1 / 127),
        percentiles=(0.9999, 0.99999, 0.999999, PUBLIC_PERCENTILE, 1.0),
        choice="tensor",
        under_floor=True,
    )
    matrices = ("blocks.*.weight",)
    rules = (
        QuantRule(patterns=("tok_emb.weight", "ve_shared.proj.weight"), quantizer=Keep(dtype="float16")),
        QuantRule(patterns=("ve_shared.embed.weight",), quantizer=eight, may_be_idle=True),
        QuantRule(patterns=("blocks.0.*.weight", "blocks.10.*.weight"), axes=2, quantizer=eight),
        QuantRule(patterns=matrices, axes=2, quantizer=CoarseCodes(of=eight, step=4)),
        QuantRule(patterns=PUBLIC_CONTROLS, quantizer=Keep(dtype="float32")),
        QuantRule(quantizer=Keep(dtype="float16")),
    )
    return Recipe(
        name="pr543",
        data=DataPlan(sequence_length=2048),
        model=ModelPlan(
            layers=11,
            mlp_hidden=1408,
            position=Rope(dims=16),
            embed=(SmearVector(),),
            input_scale=LnScale(),
            values=(
                ValueEmbedding(
                    dimension=128, layers=(9, 10), std=1.0, shared_scale=False, zero_projection=False
                ),
            ),
            heads_out=(Xsa(last=4),),
        ),
        optim=OptimPlan(
            rows=(
                ParameterRow(pattern="ve_shared.*.weight", rule=Frozen(), may_be_idle=True),
                *public_rows(
                    embedding=AdamRule(lr=0.035),
                    matrices=MuonRule(
                        lr=0.025, momentum=0.99, warmup_start=0.92, warmup_steps=1500, weight_decay=0.04
                    ),
                    rest=AdamRule(lr=0.025),
                ),
            ),
            schedule=WarmdownClock(warmdown_steps=3000),
        ),
        train=TrainPlan(
            train_seconds=600.0,
            expected_steps=4071,
            batch_tokens=786_432,
            grad_clip_norm=0.3,
            priming_steps=20,
        ),
        average=TightSwa(every=50),
        noise=FakeQuantize(
            under_scale=0.1,
            patterns=(*matrices, "*proj.weight"),
            rules=(QuantRule(quantizer=AbsMax(grid=Grid(bits=6, scale_dtype="float32"))),),
        ),
        quantize=QuantizePlan(rules=rules),
        pack=PackPlan(codec=Zstd()),
        score=ScorePlan(windows=Chunked(length=2048)),
    )
