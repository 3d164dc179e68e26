"""Pull request #1718: test-time training on a record stack, and what it does to models trained under QAT.

bitgolf study studies/pr1718_ttt.py

The model is narrower than in the other studies of it, and has fewer pieces: eighteen arms take half an hour.
"""

from typing import Any

from bitgolf.adapt.documents import LoraDocuments
from bitgolf.forecast.laptop import SEQUENCE_LENGTH, a_minute
from bitgolf.net.position import AttentionWindow
from bitgolf.recipe import Recipe
from bitgolf.recipes.pr1718_ttt import pr1718_ttt
from bitgolf.score.adapter import NoAdapter
from bitgolf.score.windows import Growing, PerDocument, Sliding
from bitgolf.squeeze.grid import Grid
from bitgolf.squeeze.quantize import AbsMax, QuantRule, SdClip
from bitgolf.study.design import BASELINE, Arm, Cell, Study, changed, factorial
from bitgolf.train.optim import AdamRule
from bitgolf.train.qat import FakeQuantize

READING = """
Agrees: test-time training gains, 0.0116 after three epochs, and a fourth adds 0.0029 (published 0.0013
and 0.0001). Windows of half the length, in training or scoring, and twice the length with twice the
stride change its result no more than they change the model (no evidence).

Does not: models trained under QAT gain as much from it (0.0113, 0.0116, 0.0114) as the one without; the
loss of 0.40 that v3 had does not come. So its two cures have nothing to cure, and cost what they take
from the training: frozen matrices leave 0.001 of the gain, noise kept on leaves all of it (v1), 0.002
(v2) and 0.005 (v3).

Documents alone cost nothing here, and LoRA on them gains 0.0062, half of what all weights gain.

Cannot tell: whether the collapse needs a model near its end. This one is 64 wide, had 120 steps, and
learns 93 steps on the way; the published one 3,711. QAT itself: v2 leans to a loss (+0.005), v1 and v3
to nothing.
"""

STEPS, TOKENS = 120, 16_384
CHUNK_TOKENS = 512  # two sequences, one step an epoch: 93 steps on the way; published were 16, and 3,711

# Bits per byte, one seed; of those under QAT the published differences from the first row.
PUBLISHED = (
    ("3 epochs", BASELINE, 1.08584, 1.09678, 1.08014, 1.07886),
    ("4 epochs", "4 epochs", None, None, None, 1.07878),
    ("EVAL_SEQ_LEN=4096, stride x2", "scoring length and stride x2", 1.08075, 1.09344, 1.08569, 1.07919),
    ("scoring window 1,024", "training window all, scoring window half", 1.08737, 1.09829, 1.08491, 1.08321),
    ("both windows 1,024", "training window half, scoring window half", 1.08602, 1.09704, 1.08293, 1.08163),
    ("QAT v1", "QAT v1", 1.08594, 1.09688, None, None),
    ("QAT v2", "QAT v2", 1.109, 1.0894, None, None),
    ("QAT v3", "QAT v3", 1.101, 1.111, None, 1.48169),
)
COLUMNS = {
    "in chunks, float": "float_bits_per_byte",
    "in chunks, packed": "quantized_bits_per_byte",
    "sliding": "fixed_bits_per_byte",
    "test-time training": "adapted_bits_per_byte",
}

MATRICES = ("blocks.*.attn.c_?.weight", "blocks.*.attn.proj.weight", "blocks.*.mlp.*.weight")
SCALED = QuantRule(patterns=MATRICES, quantizer=SdClip(sigmas=12.85))
TABLE = QuantRule(patterns=("tok_emb.weight",), quantizer=SdClip(grid=Grid(bits=8), sigmas=20.0))
QAT = {
    "v1": FakeQuantize(patterns=MATRICES, rules=(QuantRule(patterns=MATRICES, quantizer=AbsMax()),)),
    "v2": FakeQuantize(patterns=(*MATRICES, *TABLE.patterns), rules=(SCALED, TABLE)),
    "v3": FakeQuantize(patterns=MATRICES, rules=(SCALED,)),
}
# The public rate of 0.01 is for documents of a thousand tokens; these have more.
LORA = LoraDocuments(rule=AdamRule(lr=0.003, beta1=0.9, beta2=0.95, eps=1e-10))


def study() -> Study:
    """Three epochs are the baseline; arms that only score otherwise share its training."""
    base, half = _base(), SEQUENCE_LENGTH // 2
    windows, factors = factorial(
        base,
        {
            "training window": {"all": {}, "half": {"model.scope.0.tokens": half}},
            "scoring window": {"all": {}, "half": {"model.scope.0.evaluation_tokens": half}},
        },
    )
    fixed = changed(base, "fixed", {"score.adapter": NoAdapter()})
    alone = {"score.windows": PerDocument(within=Growing(length=SEQUENCE_LENGTH, stride=half))}
    documents = changed(fixed.recipe, "documents alone", alone, against=fixed.name)
    longer = {"score.windows": Sliding(length=2 * SEQUENCE_LENGTH, stride=SEQUENCE_LENGTH)}
    return Study(
        name="pr1718_ttt",
        question="What does test-time training gain, and what does it do to models trained under QAT?",
        baseline=base,
        arms=(
            *windows,
            fixed,
            changed(base, "4 epochs", {"score.adapter.epochs": 4}),
            changed(base, "scoring length and stride x2", longer, bundle="as many passes over the text"),
            *(arm for name, noise in QAT.items() for arm in _under_qat(base, f"QAT {name}", noise)),
            documents,
            changed(documents.recipe, "LoRA", {"score.adapter": LORA}, against=documents.name),
        ),
        factors=factors,
        test="paired",  # arms that only score otherwise move with their reference from seed to seed
        seeds=(1, 2, 3),
        original=tuple(
            Cell(row=row, column=column, arm=arm, metric=metric, published=value)
            for row, arm, *values in PUBLISHED
            for (column, metric), value in zip(COLUMNS.items(), values)
        ),
        reading=READING,
    )


def _base() -> Recipe:
    return a_minute(pr1718_ttt(), STEPS, TOKENS).replace(
        {
            "model.vocabulary_size": 1024,
            "model.width": 64,
            "model.heads": 2,
            "model.kv_heads": 1,
            "model.scope": (AttentionWindow(tokens=0, evaluation_tokens=0),),
            "train.batch_tokens": 2048,
            "quantize.calibration.sequences": 16,
            "score.windows": Sliding(length=SEQUENCE_LENGTH, stride=SEQUENCE_LENGTH // 2),
            "score.adapter.chunk_tokens": CHUNK_TOKENS,
            "backend.dtype": "float32",
        }
    )


def _under_qat(base: Recipe, name: str, noise: FakeQuantize) -> tuple[Arm, ...]:
    """A model trained so, adapted as published, and with either cure that #1718 proposes."""
    trained = changed(base, name, {"noise": noise})
    cures: dict[str, dict[str, Any]] = {
        "matrices frozen": {"score.adapter.frozen": ("*.weight",)},
        "kept on": {"score.adapter.noise": noise},
    }
    own = (changed(trained.recipe, f"{name}, {cure}", change, against=name) for cure, change in cures.items())
    return trained, *own
