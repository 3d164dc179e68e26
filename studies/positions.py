"""The open question of pull request #1718: which positions stand windows longer than those of the training?

bitgolf study studies/positions.py --processes 2
"""

from typing import Any

from bitgolf.forecast.laptop import a_minute
from bitgolf.net.position import Alibi, NoPosition, Position, RelativeBuckets, Rope
from bitgolf.recipes.baseline import baseline
from bitgolf.score.windows import Chunked, Sliding
from bitgolf.study.design import Arm, Study, changed
from bitgolf.study.terms import BASELINE
from bitgolf.text.batches import ShuffledBlocks
from bitgolf.train.schedule import WarmdownFraction

LENGTH = 64  # so short that 1.6 million tokens teach a model to use all of it
STEPS, SCORED_TOKENS = 400, 65_536
POSITIONS: dict[str, Position] = {
    "RoPE": Rope(),
    "RoPE with NTK": Rope(reference_length=LENGTH),
    "ALiBi": Alibi(),
    "NoPE": NoPosition(),
    "T5 buckets": RelativeBuckets(longest=LENGTH),
}

READING = """\
Asked by #1718: its NTK windows of twice the length gained in chunks (0.005) and lost sliding (0.0056), and
it took the scored positions for the reason. Here windows are 64 tokens in training, and 64 and 128 in
scoring.

The same inversion with RoPE and NTK: 0.016 worse sliding, and 0.002 better in chunks (not shown). Without
NTK both lose, 0.051 and 0.007. Sliding windows score their last tokens alone, which lie at positions that
no training has seen; chunks score all positions, half of them known, and have fewer cold starts.

It vanishes where positions beyond the training do not matter. ALiBi, sliding twice as long: 0.0000
[-0.0008, +0.0007], in chunks 0.0065 better. T5 buckets: 0.0021 worse and 0.0058 better. So #1718 was right
about the reason.

The price: ALiBi is 0.051 worse than RoPE at the length of the training, T5 buckets 0.004 (not shown). With
windows of 128 in chunks T5 buckets come to 1.437, RoPE with NTK to 1.439; the best of all is RoPE sliding
at the length of its training, 1.425. NoPE is 0.26 worse, and its late positions are its worst: chunks are
0.019 better than sliding windows. It had 1.6 million tokens to learn an order from.

Five layers of 128, one length, one text; other sizes may differ.
"""


def study() -> Study:
    """Each trained at one length, and scored at it and at twice of it, sliding and in chunks."""
    step = LENGTH // 2
    base = a_minute(baseline(), STEPS, SCORED_TOKENS).replace(
        {
            "name": "positions",
            "data.sequence_length": LENGTH,
            "data.order": ShuffledBlocks(),
            "optim.schedule": WarmdownFraction(fraction=0.5),
            "score.windows": Sliding(length=LENGTH, stride=step),
        }
    )
    scores: dict[str, dict[str, Any]] = {
        "sliding, twice as long": {"score.windows": Sliding(length=2 * LENGTH, stride=step)},
        "chunks": {"score.windows": Chunked(length=LENGTH)},
        "chunks, twice as long": {"score.windows": Chunked(length=2 * LENGTH)},
    }
    arms: list[Arm] = []
    for name, position in POSITIONS.items():
        own = {} if position == Rope() else {"model.position": position}
        stretched = name == "RoPE with NTK"  # at the length of the training it is RoPE to the bit
        of, chunks = (BASELINE, "RoPE, chunks") if stretched or not own else (name, f"{name}, chunks")
        if of == name:
            arms.append(changed(base, name, own))
        for windows, change in scores.items():
            if stretched and windows == "chunks":
                continue
            against = chunks if windows == "chunks, twice as long" else of
            why = "a base for longer windows, and longer windows" if stretched else ""
            arms.append(changed(base, f"{name}, {windows}", own | change, against=against, bundle=why))
    return Study(
        name="positions",
        question="Which positions stand windows longer than those of the training, sliding and in chunks?",
        baseline=base,
        arms=tuple(arms),
        test="paired",
        seeds=(1, 2, 3),
        reading=READING,
    )
