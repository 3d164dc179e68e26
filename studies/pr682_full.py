"""Pull request #682 at its true size: 17,059,912 parameters, 4,096 tokens a step, 200 steps.

bitgolf study studies/pr682_full.py --processes 2     # half an hour a training on one core
"""

from bitgolf.net.layers import LnScale, Unscaled
from bitgolf.recipes.pr682 import pr682
from bitgolf.squeeze.presets import public_int6
from bitgolf.study.design import Arm, Cell, Study, changed
from bitgolf.study.terms import BASELINE
from bitgolf.train.average import Ema, Several

SCORED_TOKENS = 32_768  # a quarter of its own 256 sequences: scoring takes as long as a third of training

# Bits per byte of live and averaged weights, bytes in int8 and int6; one seed, FineWeb, 1,024 pieces.
PUBLISHED = (
    ("baseline", 2.6964, None, 11.1e6, 7.0e6),
    ("EMA 0.97", 2.6333, 2.4661, 11.1e6, None),
    ("EMA 0.997", 2.6943, 3.1025, None, None),
    ("partial RoPE + LN scale", 2.6845, None, 11.2e6, 7.0e6),
    ("all features", 2.6845, 2.5274, 11_028_065.0, 6_706_360.0),
)
FINAL = (2.5273, 2.5319)  # all features, reloaded from int8 and from int6

READING = """\
Three seeds, 30 runs of six trainings, 200 steps of 4,096 tokens.

Agrees: EMA 0.97 gains (0.018 here, 0.230 there), EMA 0.997 is a catastrophe (0.85 worse here, 0.41 worse
there): at 200 steps more than half of it is the untrained model. Int6 saves near half of the bytes (9.64 to
5.17 million here, 11.1 to 7.0 there) and costs some score (0.018 to 0.024 here, 0.005 there). The last line,
all features, is worse than EMA 0.97 alone: by 0.096 here, and by 0.061 in its own table (2.5274 against
2.4661).

Does not agree: partial RoPE with LN scale costs 0.064 here, its interval excludes zero, and gained 0.012
there. The live scores of one and the same training differ by 0.063 in its table, so one run there could not
show 0.012. On top of both features EMA 0.97 costs 0.015 here and gained 0.157 there.

Why, as far as can be told: the text is another (State of the Union, not FineWeb), so even the live score is
1.57 and not 2.69; every line there is one run of one seed; and an average gains by how far the weights still
move, which 200 steps at falling rates on an easier text leave less of. How much of it is the text and how
much is chance cannot be told from here.
"""


def study() -> Study:
    """Its table, every line packed in int8 and in int6.

    Averages only watch a training, so lines that differ in them share one, as live and EMA of one log do.
    """
    averages = (Ema(decay=0.97), Ema(decay=0.997))
    baseline = pr682().replace(
        {
            "name": "pr682-full",
            "model.position.dims": 0,
            "model.input_scale": Unscaled(),
            "average": Several(averages=averages),
            "train.priming_steps": 0,  # undone before the first step, and there is nothing to compile
            "score.limit_tokens": SCORED_TOKENS,
        }
    )
    both = {"model.position.dims": 16, "model.input_scale": LnScale()}
    first, second = {"average.shipped": 0}, {"average.shipped": 1}
    lines = (
        changed(baseline, "EMA 0.97", first),
        changed(baseline, "EMA 0.997", second),
        changed(baseline, "partial RoPE + LN scale", both, bundle="one line of its table"),
        changed(baseline, "all features", both | first, bundle="the last line of its table"),
    )
    int8 = (Arm(name=BASELINE, recipe=baseline), *lines)
    int6 = tuple(
        changed(line.recipe, f"{line.name}, int6", {"quantize": public_int6()}, against=line.name)
        for line in int8
    )

    def cell(row: str, column: str, metric: str, published: float | None, packed: str = "") -> Cell:
        return Cell(row=row, column=column, arm=row + packed, metric=metric, published=published)

    table = []
    for name, live, averaged, int8_bytes, int6_bytes in PUBLISHED:
        table.append(cell(name, "live", "live_bits_per_byte", live))
        if "EMA" in name or "all" in name:
            table.append(cell(name, "averaged", "float_bits_per_byte", averaged))
        end = FINAL if name == "all features" else (None, None)
        table += [
            cell(name, "int8", "bits_per_byte", end[0]),
            cell(name, "int6", "bits_per_byte", end[1], ", int6"),
            cell(name, "int8 bytes", "artifact_bytes", int8_bytes),
            cell(name, "int6 bytes", "artifact_bytes", int6_bytes, ", int6"),
        ]
    return Study(
        name="pr682_full",
        question="What do its features do at its own size, and what do int8 and int6 make of each?",
        baseline=baseline,
        arms=(*lines, *int6),
        seeds=(1, 2, 3),
        original=tuple(table),
        reading=READING,
    )
