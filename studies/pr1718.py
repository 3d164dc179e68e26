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

READING = """\
Agrees: none of the levers helps. Rotated GPTQ, BIGRAM_DIM, QAT of matrices and of matrices and table,
and half the attention window in training or in scoring were dismissed in the pull request, and show
nothing here over seeds. Over documents rotated GPTQ gains 0.0002, too little to matter. QAT of the table
leans to a loss (+0.004), as published before quantization.

Cannot tell here: whether longer context hurts sliding scores and helps chunked ones, the point of the pull
request. After 80 steps the model hardly uses its context: scoring in chunks of 256 tokens costs 0.0004
against a sliding window, doubling the window changes 0.0001. The study `pr1718_context` asks again after
300 steps.

The columns in chunks were measured over as many windows as the arm scores, so other parts of the text:
compare the metric of the table, not those. Seconds were measured beside other jobs.
"""

MATRICES = ("blocks.*.attn.c_?.weight", "blocks.*.attn.proj.weight", "blocks.*.mlp.*.weight")


def study() -> Study:
    """Its levers without test-time training; attention windows are half a sequence, as a 2x2.

    The bigram table of its script was never trained, so "BIGRAM_DIM" compared nothing there; here it is.
    """
    length = SEQUENCE_LENGTH
    half, double = length // 2, 2 * length
    neutral = {
        "model.scope": (AttentionWindow(tokens=0, evaluation_tokens=0),),
        "quantize.rules.4.may_be_idle": True,  # without a bigram table it is
        "score.windows": Sliding(length=length, stride=half),
    }
    base = a_minute(pr1718(), steps=80, tokens=65_536).but(neutral)
    windows, factors = factorial(
        base,
        {
            "training window": {"all": {}, "half": {"model.scope.0.tokens": half}},
            "scoring window": {"all": {}, "half": {"model.scope.0.evaluation_tokens": half}},
        },
    )
    gptq, embedding = base.quantize.rules[1].quantizer, "tok_emb.weight"
    levers = {
        "BIGRAM_DIM 48": {"model.embed.0.dimension": 12},
        "no bigram table": {"model.embed": base.model.embed[1:]},
        "training length x2": {"data.sequence_length": double},
        "QAT of matrices": {"noise": FakeQuantize(patterns=MATRICES)},
        "QAT of matrices and table": {"noise": FakeQuantize(patterns=(*MATRICES, embedding))},
        "rotated GPTQ": {"quantize.rules.1.quantizer": Rotated(quantizer=gptq)},
        "scoring length x2": {"score.windows": Sliding(length=double, stride=half)},
    }
    both = {"score.windows": Sliding(length=double, stride=length)}
    chunks = changed(base, "in chunks", {"score.windows": Chunked(length=length)})
    return Study(
        name="pr1718",
        question="Which levers of the late records move the score?",
        baseline=base,
        arms=(
            *windows,
            *add_one(base, levers),
            changed(base, "scoring length and stride x2", both, bundle="as many passes over the text"),
            chunks,
            changed(base, "in chunks x2", {"score.windows": Chunked(length=double)}, against=chunks.name),
        ),
        factors=factors,
        test="paired",  # arms that only score otherwise move with their reference from seed to seed
        seeds=(1, 2, 3),
        reading=READING,
    )
