"""Pull request #1718: levers of training and scoring on a record stack.

bitgolf study studies/pr1718.py
bitgolf study studies/pr1718.py:context     # those of the context again, with almost four times the steps
"""

from typing import Any

from bitgolf.forecast.laptop import MINUTE_TOKENS, SEQUENCE_LENGTH, a_minute
from bitgolf.net.position import AttentionWindow
from bitgolf.recipe import Recipe
from bitgolf.recipes.pr1718 import pr1718
from bitgolf.score.windows import Chunked, Sliding
from bitgolf.squeeze.rotate import Rotated
from bitgolf.study.design import BASELINE, Arm, Cell, Study, add_one, changed, factorial
from bitgolf.train.qat import FakeQuantize

READING = """
Agrees: nothing that the pull request dismissed helps. BIGRAM_DIM, rotated GPTQ, QAT of matrices and of
matrices and table: no evidence over seeds, and over documents rotated GPTQ gains 0.0001. QAT leans to a
loss (+0.003), as published. Its bigram table was in no optimizer; trained here, it adds 29,570 bytes
and no gain that shows.

Cannot tell here: what a longer context does in training or scoring, the point of the pull request.
After 80 steps the model hardly uses it: chunks cost 0.001 against a sliding window, and twice the
length changes 0.0000. Training on twice the length leans to a loss (+0.005, published +0.004). The
study `positions` answers its open question.

The arms share one core with other work beside it; nothing here is by the clock.
"""

CONTEXT_READING = """
Agrees in direction: scored at twice its length a model loses in sliding windows, 0.0014 with the stride
doubled too (published 0.0056), and one trained at twice the length loses 0.008 (published 0.0044, at
equal time; here at equal steps). Chunks cost 0.0020 against sliding windows (published 0.0057).

Does not: in chunks, twice the length gained 0.0051 there; here it changes 0.0002, which is no evidence.
Windows of half the length lost 0.0048 in scoring and 0.0028 in both; here 0.0007 or less.

So the inversion of signs that #1718 is about does not come in this model: what is more than 128 tokens
away is worth nothing to it yet, as the half windows show. The study `positions` has the inversion.
"""

# Bits per byte, one seed: sliding after packing, and in chunks before and after it.
PUBLISHED = (
    ("2,048 tokens", BASELINE, 1.08014, 1.08584, 1.09678),
    ("EVAL_SEQ_LEN=4096, stride x2", "scoring length and stride x2", 1.08569, 1.08075, 1.09344),
    ("TRAIN_SEQ_LEN=4096", "training length x2", 1.08449, 1.08388, 1.09439),
    ("scoring window 1,024", "training window all, scoring window half", 1.08491, 1.08737, 1.09829),
    ("both windows 1,024", "training window half, scoring window half", 1.08293, 1.08602, 1.09704),
    ("both, EVAL_SEQ_LEN=4096", "half windows, scoring length and stride x2", 1.08830, 1.08239, 1.09480),
)

COLUMNS = (
    ("sliding", "bits_per_byte"),
    ("in chunks, float", "float_bits_per_byte"),
    ("in chunks, packed", "quantized_bits_per_byte"),
)

MATRICES = ("blocks.*.attn.c_?.weight", "blocks.*.attn.proj.weight", "blocks.*.mlp.*.weight")


def study() -> Study:
    """Its levers without test-time training.

    The bigram table of its script is in no optimizer, so "BIGRAM_DIM" compared nothing there. Here it is
    trained first.
    """
    base = _base(steps=80, tokens=65_536)
    gptq, embedding = base.quantize.rules[1].quantizer, "tok_emb.weight"
    trained = changed(base, "bigram table trained", {"optim.rows": base.optim.rows[1:]})
    wider = changed(trained.recipe, "BIGRAM_DIM 48", {"model.embed.0.dimension": 12}, against=trained.name)
    levers: dict[str, dict[str, Any]] = {
        "QAT of matrices": {"noise": FakeQuantize(patterns=MATRICES)},
        "QAT of matrices and table": {"noise": FakeQuantize(patterns=(*MATRICES, embedding))},
        "rotated GPTQ": {"quantize.rules.1.quantizer": Rotated(quantizer=gptq)},
    }
    question = "Which levers of the late records move the score?"
    return _study("pr1718", question, base, (trained, wider, *add_one(base, levers)), READING)


def context() -> Study:
    """Its levers of context alone: after 80 steps a model hardly uses its context, and all are the same."""
    question = "What is a longer context worth, in training and in scoring?"
    return _study("pr1718_context", question, _base(steps=300), (), CONTEXT_READING)


def _base(steps: int, tokens: int = MINUTE_TOKENS) -> Recipe:
    return a_minute(pr1718(), steps, tokens).replace(
        {
            "model.scope": (AttentionWindow(tokens=0, evaluation_tokens=0),),
            "score.windows": Sliding(length=SEQUENCE_LENGTH, stride=SEQUENCE_LENGTH // 2),
        }
    )


def _study(name: str, question: str, base: Recipe, levers: tuple[Arm, ...], reading: str) -> Study:
    """Some levers, and those of context: attention windows of half a sequence as a 2x2, and other lengths.

    Windows longer than the reference length of the positions, that of the training, rescale them (NTK), as
    its EVAL_SEQ_LEN=4096 does. Its TRAIN_SEQ_LEN=4096 had that reference length and was scored at it.
    """
    length = SEQUENCE_LENGTH
    half, double = length // 2, 2 * length
    windows, factors = factorial(
        base,
        {
            "training window": {"all": {}, "half": {"model.scope.0.tokens": half}},
            "scoring window": {"all": {}, "half": {"model.scope.0.evaluation_tokens": half}},
        },
    )
    halves = windows[-1]
    longer = {"score.windows": Sliding(length=double, stride=half)}
    both = {"score.windows": Sliding(length=double, stride=length)}
    trained = {"data.sequence_length": double, "model.position.reference_length": double, **longer}
    chunks = changed(base, "in chunks", {"score.windows": Chunked(length=length)})
    passes = "as many passes over the text"
    return Study(
        name=name,
        question=question,
        baseline=base,
        arms=(
            *windows,
            *levers,
            changed(base, "training length x2", trained, bundle="scored at the length of its training"),
            changed(base, "scoring length x2", longer),
            changed(base, "scoring length and stride x2", both, bundle=passes),
            changed(
                halves.recipe,
                "half windows, scoring length and stride x2",
                both,
                against=halves.name,
                bundle=passes,
            ),
            chunks,
            changed(base, "in chunks x2", {"score.windows": Chunked(length=double)}, against=chunks.name),
        ),
        factors=factors,
        test="paired",  # arms that only score otherwise move with their reference from seed to seed
        seeds=(1, 2, 3),
        original=tuple(
            Cell(row=row, column=column, arm=arm, metric=metric, published=value)
            for row, arm, *values in PUBLISHED
            for (column, metric), value in zip(COLUMNS, values)
        ),
        reading=reading,
    )
