"""Pull request #1718 (himanshudongre): the stack of #1716, whose levers it ablates; SP8192, 1.0801 bpb.

bitgolf run pr1718-laptop
bitgolf run pr1718 --set data.sequence_length=4096 --data challenge:sp8192
"""

from bitgolf.net.embed import BigramHash, SmearGate
from bitgolf.net.heads import AttentionOutputGate, Xsa
from bitgolf.net.layers import LnScale, ParallelResidual
from bitgolf.net.mlp import LeakyReluSquared
from bitgolf.net.model import ModelPlan
from bitgolf.net.position import Rope
from bitgolf.net.route import GatedSkips, Looped
from bitgolf.net.start import OrthogonalStart
from bitgolf.recipe import DataPlan, Recipe
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Sliding
from bitgolf.squeeze.artifact import PackPlan
from bitgolf.squeeze.codec import Brotli
from bitgolf.squeeze.gptq import Gptq
from bitgolf.squeeze.grid import Grid, PerTensor
from bitgolf.squeeze.hessian import TrainText
from bitgolf.squeeze.presets import CONTROLS, PRODUCTS
from bitgolf.squeeze.quantize import AbsMax, Keep, QuantizePlan, QuantRule, SdClip
from bitgolf.text.batches import ShuffledBlocks
from bitgolf.train.average import Ema
from bitgolf.train.loop import TrainPlan
from bitgolf.train.optim import AdamRule, Frozen, MuonRule, OptimPlan, ParameterRow, public_rows
from bitgolf.train.schedule import WarmdownFraction


def pr1718() -> Recipe:
    """36,486,278 parameters: layers 3 to 5 three times, gates, a bigram branch that adds nothing.

    As the script of #1716 runs: the bigram table starts at zero and is in no optimizer, so that it stays zero
    and packs into a few bytes, and its projection only decays. Control tensors are int8 by tensor, small
    matrices int8 by row ("path A v3"). Its log: 15,991,203 bytes, 1.0801 bpb sliding; 1.0789 with test-time
    training, which is not in this recipe. Twelve of its 600 seconds are kept for the calibration.
    """
    matrices = MuonRule(
        lr=0.022,
        momentum=0.99,
        warmup_start=0.92,
        warmup_steps=1500,
        weight_decay=0.095,
        row_normalize=True,
    )
    return Recipe(
        name="pr1718",
        data=DataPlan(sequence_length=2048, order=ShuffledBlocks()),
        model=ModelPlan(
            vocabulary_size=8192,
            layers=11,
            mlp_multiplier=4.0,
            qk_gain=5.0,
            start=OrthogonalStart(),
            position=Rope(dims=16, reference_length=2048),
            embed=(BigramHash(buckets=16_384, dimension=32), SmearGate(after_norm=True, boundary=False)),
            input_scale=LnScale(),
            heads_out=(Xsa(last=11), AttentionOutputGate(channels=12)),
            activation=LeakyReluSquared(slope=0.5),
            residual=ParallelResidual(first=7),
            recurrence=Looped(first=3, last=5, loops=2, enable_at=0.35),
            route=GatedSkips(),
        ),
        optim=OptimPlan(
            rows=(
                ParameterRow(pattern="bigram.embed.weight", rule=Frozen(), may_be_idle=True),
                ParameterRow(pattern="smear_gate.weight", rule=matrices, may_be_idle=True),
                *public_rows(
                    embedding=AdamRule(lr=0.03, weight_decay=0.085),
                    matrices=matrices,
                    rest=AdamRule(lr=0.02, weight_decay=0.02),
                ),
            ),
            schedule=WarmdownFraction(fraction=0.72),
        ),
        train=TrainPlan(
            train_seconds=588.0,
            expected_steps=4393,
            batch_tokens=786_432,
            grad_clip_norm=0.3,
            priming_steps=20,
        ),
        average=Ema(decay=0.9965),
        quantize=QuantizePlan(
            rules=(
                QuantRule(
                    patterns=("tok_emb.weight",),
                    quantizer=Gptq(scales=(SdClip(grid=Grid(bits=8), sigmas=20.0),)),
                ),
                QuantRule(patterns=PRODUCTS, quantizer=Gptq(scales=(SdClip(sigmas=12.85),))),
                QuantRule(
                    patterns=CONTROLS,
                    quantizer=AbsMax(grid=Grid(bits=8, granularity=PerTensor(), scale_dtype="float32")),
                ),
                QuantRule(
                    patterns=("bigram.proj.weight", "*.attn_gate_proj.weight", "smear_gate.weight"),
                    quantizer=AbsMax(grid=Grid(bits=8)),
                    may_be_idle=True,
                ),
                QuantRule(
                    patterns=("bigram.embed.weight",), quantizer=AbsMax(grid=Grid(bits=6)), may_be_idle=True
                ),
                QuantRule(quantizer=Keep(dtype="float16")),
            ),
            calibration=TrainText(sequences=3072),  # 64 batches of the first of eight processes
        ),
        pack=PackPlan(codec=Brotli()),
        score=ScorePlan(windows=Sliding(length=2048, stride=64)),
    )
