"""Ready tables of quantization rules, beside those in `quantize`: those of public records, and mixtures."""

from bitgolf.squeeze.between import Between
from bitgolf.squeeze.clip import ClipSearch
from bitgolf.squeeze.codec import Codec, Deflate, RowColumn, Smallest
from bitgolf.squeeze.gptq import Gptq
from bitgolf.squeeze.grid import Grid
from bitgolf.squeeze.hessian import TrainText
from bitgolf.squeeze.quantize import (
    AbsMax,
    Keep,
    NoCalibration,
    QuantizePlan,
    Quantizer,
    QuantRule,
    SdClip,
    public_int8,
)
from bitgolf.squeeze.rate import RateAware
from bitgolf.squeeze.tune import TuneByTensor, TuneControls

EMBEDDINGS = ("tok_emb.weight", "lm_head.weight")
MLP = ("blocks.*.mlp.*.weight",)
# Matrices that multiply hidden states; gates and similar tensors are with the rest.
PRODUCTS = ("blocks.*.attn.c_?.weight", "blocks.*.attn.proj.weight", *MLP)

TABLES = ("bigram.*.weight", "ve_shared.*.weight")  # looked up by token, and their projections
CONTROLS = ("*attn_scale", "*mlp_scale", "*resid_mix", "skip_weights", "skip_gates")


def entropy_coded(states: int = 8) -> Codec:
    """The codec for rate-aware rounding: matrices by row and column, all else by zlib."""
    return Smallest(among=(Deflate(), RowColumn(states=states)))


def by_part(matrices: Quantizer, embeddings: Quantizer, mlp: Quantizer | None = None) -> QuantizePlan:
    """A quantizer for the matrices of the blocks, one for embeddings, and float16 for all else.

    mlp: a quantizer for the matrices of the MLP. If one needs a curvature, it comes from training text.
    """
    all_three = (matrices, embeddings, mlp or matrices)
    asking, outputs = (
        any(each.needs_hessian() for each in all_three),
        any(each.needs_output_grads() for each in all_three),
    )
    return QuantizePlan(
        rules=(
            QuantRule(patterns=EMBEDDINGS, quantizer=embeddings),
            *(() if mlp is None else (QuantRule(patterns=MLP, quantizer=mlp),)),
            QuantRule(patterns=PRODUCTS, quantizer=matrices),
            QuantRule(quantizer=Keep(dtype="float16")),
        ),
        calibration=TrainText(outputs=outputs) if asking else NoCalibration(),
    )


def clip_searched(bits: int = 6, choice: str = "row") -> QuantizePlan:
    """Matrices by clip search, int8 embeddings."""
    return by_part(ClipSearch(grid=Grid(bits=bits), choice=choice), AbsMax(grid=Grid(bits=8)))


def public_int6() -> QuantizePlan:
    """As public_int8, but large matrices in six bits by clip search in each row (PR #682).

    Steps are never below 1/31, as in the record it is from; that makes it 6.7 MB instead of 11.0.
    """
    matrices, *rest = public_int8().rules
    six = ClipSearch(grid=Grid(bits=6, scale_floor=1 / 31))
    return QuantizePlan(rules=(matrices.replace(quantizer=six), *rest))


def int5_mlp() -> QuantizePlan:
    """int5 in the MLP, int6 in attention, int8 embeddings (record 2026-03-20, PR #488)."""
    return by_part(AbsMax(grid=Grid(bits=6)), AbsMax(grid=Grid(bits=8)), mlp=AbsMax(grid=Grid(bits=5)))


def deviations(sigmas: float = 12.85, embedding_sigmas: float = 20.0) -> QuantizePlan:
    """SdClip for matrices and embeddings, rounding to nearest (record 2026-04-05 without error feedback)."""
    return by_part(SdClip(sigmas=sigmas), SdClip(grid=Grid(bits=8), sigmas=embedding_sigmas))


def feedback_rows(bits: int = 6) -> QuantizePlan:
    """GPTQ on steps from the largest weight of each row; int8 embeddings rounded to nearest."""
    return by_part(Gptq(scales=(AbsMax(grid=Grid(bits=bits)),)), AbsMax(grid=Grid(bits=8)))


def feedback_deviations(sigmas: float = 12.85, embedding_sigmas: float = 20.0) -> QuantizePlan:
    """GPTQ on SdClip steps, embeddings by the hidden states they multiply (record 2026-04-05)."""
    embeddings = SdClip(grid=Grid(bits=8), sigmas=embedding_sigmas)
    return by_part(Gptq(scales=(SdClip(sigmas=sigmas),)), Gptq(scales=(embeddings,)))


def rate_aware(step: float = 0.0002, states: int = 8) -> QuantizePlan:
    """Matrices, embeddings and tables at one expected damage a weight; `step` sets the rate of all.

    states: of the trellis, equal to those of `entropy_coded`. Control tensors are tuned and get eight bits
    (PR #1716) between the ends of their rows; smaller tensors stay float16.
    """
    matrices = RateAware(step=step, states=states)
    return QuantizePlan(
        rules=(
            QuantRule(patterns=(*EMBEDDINGS, *PRODUCTS, *TABLES), quantizer=matrices),
            QuantRule(patterns=CONTROLS, quantizer=Between(), may_be_idle=True),
            QuantRule(quantizer=Keep(dtype="float16")),
        ),
        calibration=TrainText(outputs=True),
        tuning=TuneControls(),
    )


def fine_tuned(step: float = 0.0002, states: int = 8) -> QuantizePlan:
    """`rate_aware` with fine-tuning after each tensor that is rounded: fewer bytes, and minutes of work."""
    return rate_aware(step, states).replace(tuning=TuneByTensor())
