"""Pull request #1718: levers of training and packing on a record stack. Those of context: pr1718_context.py.

bitgolf study studies/pr1718.py
"""

from bitgolf.core.noise import FakeQuantize
from bitgolf.core.rotate import Rotated
from bitgolf.core.windows import Sliding
from bitgolf.lab.laptop import SEQUENCE_LENGTH, a_minute
from bitgolf.recipes.pr1718 import pr1718
from bitgolf.study.design import Study, add_one

READING = """\
"""

MATRICES = ("blocks.*.attn.c_?.weight", "blocks.*.attn.proj.weight", "blocks.*.mlp.*.weight")


def study() -> Study:
    """Its bigram table, its QAT and its rotated GPTQ.

    The bigram table of its script was never trained, so "BIGRAM_DIM" compared nothing there; here it is.
    """
    windows = Sliding(length=SEQUENCE_LENGTH, stride=SEQUENCE_LENGTH // 2)
    base = a_minute(pr1718(), steps=80, tokens=65_536).but(
        {"score.windows": windows, "quantize.rules.4.may_be_idle": True}  # without a bigram table it is
    )
    gptq, table = base.quantize.rules[1].quantizer, "tok_emb.weight"
    return Study(
        name="pr1718",
        question="Which levers of the late records move the score?",
        baseline=base,
        arms=add_one(
            base,
            {
                "BIGRAM_DIM 48": {"model.embed.0.dimension": 12},
                "no bigram table": {"model.embed": base.model.embed[1:]},
                "QAT of matrices": {"noise": FakeQuantize(patterns=MATRICES)},
                "QAT of matrices and table": {"noise": FakeQuantize(patterns=(*MATRICES, table))},
                "rotated GPTQ": {"quantize.rules.1.quantizer": Rotated(quantizer=gptq)},
            },
        ),
        test="paired",  # rotated GPTQ moves with its reference from seed to seed: they share their weights
        seeds=(1, 2, 3),
        reading=READING,
    )
