"""Pull request #543 (rarce): eleven layers, partial RoPE, XSA, value embeddings, tight SWA; 1.1804 bpb.

bitgolf run pr543-laptop
bitgolf forecast pr543 --set model.mlp_hidden=1536
"""

from bitgolf.core.artifact import PackPlan
from bitgolf.core.average import TightSwa
from bitgolf.core.clip import ClipSearch
from bitgolf.core.codec import Zstd
from bitgolf.core.embed import SmearVector
from bitgolf.core.grid import Grid
from bitgolf.core.heads import Xsa
from bitgolf.core.layers import LnScale
from bitgolf.core.model import ModelPlan
from bitgolf.core.noise import FakeQuantize
from bitgolf.core.optim import AdamRule, MuonRule, OptimPlan, public_rows
from bitgolf.core.position import Rope
from bitgolf.core.quantize import AbsMax, Keep, QuantizePlan, QuantRule
from bitgolf.core.recipe import DataPlan, Recipe
from bitgolf.core.schedule import WarmdownClock
from bitgolf.core.score import ScorePlan
from bitgolf.core.start import OrthogonalStart
from bitgolf.core.train import TrainPlan
from bitgolf.core.values import ValueEmbedding
from bitgolf.core.windows import Sliding


def pr543() -> Recipe:
    """The whole stack. 25,224,283 of the 25,224,291 published parameters; eight are unexplained.

    Published: 15,949,473 bytes. What the pull request does not say is that of its parent, #374: rates, decay,
    batch, warm-down, the smear, a RoPE base rescaled from 1024, and scales that never go below 1/31, under
    which its clip search ("GPTQ-lite") does nothing for most rows.
    """
    eight = AbsMax(grid=Grid(bits=8, scale_floor=1 / 127))
    six = ClipSearch(grid=Grid(bits=6, scale_floor=1 / 31), choice="tensor")
    rules = (
        QuantRule(patterns=("tok_emb.weight", "ve_shared.embed.weight"), quantizer=eight),
        QuantRule(patterns=("blocks.0.*.weight", "blocks.10.*.weight"), axes=2, quantizer=eight),
        QuantRule(patterns=("blocks.*.weight",), axes=2, quantizer=six),
        QuantRule(quantizer=Keep(dtype="float16")),
    )
    return Recipe(
        name="pr543",
        data=DataPlan(sequence_length=2048),
        model=ModelPlan(
            layers=11,
            mlp_hidden=1408,
            start=OrthogonalStart(),
            position=Rope(dims=16, reference_length=1024),
            embed=(SmearVector(),),
            input_scale=LnScale(),
            values=(ValueEmbedding(dimension=128, layers=(9, 10)),),
            heads_out=(Xsa(last=4),),
        ),
        optim=OptimPlan(
            rows=public_rows(
                embedding=AdamRule(lr=0.035, weight_decay=0.04),
                matrices=MuonRule(
                    lr=0.025, momentum=0.99, warmup_start=0.92, warmup_steps=1500, weight_decay=0.04
                ),
                rest=AdamRule(lr=0.025, weight_decay=0.04),
            ),
            schedule=WarmdownClock(warmdown_steps=3000),
        ),
        train=TrainPlan(
            steps=4071, train_seconds=615.0, batch_tokens=786_432, grad_clip_norm=0.3, priming_steps=20
        ),
        average=TightSwa(every=50),
        noise=FakeQuantize(under_scale=0.1, patterns=("blocks.*.weight",)),
        quantize=QuantizePlan(rules=rules),
        pack=PackPlan(codec=Zstd()),
        score=ScorePlan(windows=Sliding(length=2048, stride=64)),
    )
