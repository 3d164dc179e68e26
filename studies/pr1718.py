"""Pull request #1718: levers of training and scoring on a record stack.

bitgolf study studies/pr1718.py
"""

from bitgolf.core.noise import FakeQuantize
from bitgolf.core.position import AttentionWindow
from bitgolf.core.rotate import Rotated
from bitgolf.core.windows import Chunked, Sliding
from bitgolf.lab.laptop import SEQUENCE_LENGTH, a_minute
from bitgolf.recipes.pr1718 import pr1718
from bitgolf.study.design import Study, add_one, changed, factorial

MATRICES = ("blocks.*.attn.c_?.weight", "blocks.*.attn.proj.weight", "blocks.*.mlp.*.weight")


def study() -> Study:
    """Its levers without test-time training; attention windows are half a sequence, as a 2x2.

    The bigram table of its script was never trained, so "BIGRAM_DIM" compared nothing there; here it is.
    """
    half, double = SEQUENCE_LENGTH // 2, 2 * SEQUENCE_LENGTH
    neutral = {
        "model.scope": (AttentionWindow(tokens=0, evaluation_tokens=0),),
        "quantize.rules.4.may_be_idle": True,  # without a bigram table it is
    }
    base = a_minute(pr1718(), steps=80, sequences=512).but(neutral)
    windows, factors = factorial(
        base,
        {
            "training window": {"all": {}, "half": {"model.scope.0.tokens": half}},
            "scoring window": {"all": {}, "half": {"model.scope.0.evaluation_tokens": half}},
        },
    )
    gptq, embedding = base.quantize.rules[1].quantizer, "tok_emb.weight"
    chunks = {"score.windows": Chunked(length=SEQUENCE_LENGTH)}
    return Study(
        name="pr1718",
        question="Which levers of the late records move the score?",
        baseline=base,
        arms=(
            *windows,
            *add_one(
                base,
                {
                    "BIGRAM_DIM 48": {"model.embed.0.dimension": 12},
                    "no bigram table": {"model.embed": base.model.embed[1:]},
                    "scoring length x2": {"score.windows": Sliding(length=double, stride=half)},
                    "in chunks": chunks,
                    "training length x2": {"data.sequence_length": double},
                    "QAT of matrices": {"noise": FakeQuantize(patterns=MATRICES)},
                    "QAT of matrices and table": {"noise": FakeQuantize(patterns=(*MATRICES, embedding))},
                    "rotated GPTQ": {"quantize.rules.1.quantizer": Rotated(quantizer=gptq)},
                },
            ),
            changed(
                base,
                "scoring length and stride x2",
                {"score.windows": Sliding(length=double, stride=SEQUENCE_LENGTH)},
                bundle="as published: 4096/128 against 2048/64",
            ),
            changed(base, "in chunks x2", {"score.windows": Chunked(length=double)}, against="in chunks"),
        ),
        factors=factors,
        seeds=(1, 2, 3),
    )
