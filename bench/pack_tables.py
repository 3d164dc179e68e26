"""What `bench.pack` measured, as tables and a plot: `python -m bench.pack_tables RUN ... [--plot FILE.svg]`.

Runs of one recipe and as many steps are seeds of one model; a figure is their mean.
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from bitgolf.base.files import read_json

Lines = dict[str, dict[str, Any]]  # of one run, by the name of the way
GROUPS = ("a ", "b ", "c ", "d ", "n ", "e ", "t ")  # of ways that are compared
OURS = {"e": "rate-aware", "t": "fine-tuned"}  # by the first letter of their names
SMALLEST_GAP = 1e-5  # bits per byte; below this a logarithm says nothing


def sizes_in(folders: Sequence[Path]) -> dict[str, list[Lines]]:
    """The measured lines of runs by the name of their recipe and their steps."""
    found: dict[str, list[Lines]] = {}
    for folder in folders:
        steps = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]
        name = f"{read_json(folder / 'recipe.json')['name']}, {steps:,} steps"
        found.setdefault(name, []).append(read_json(folder / "pack.json"))
    return found


def curve(lines: Lines, letter: str) -> list[tuple[int, float]]:
    """(bytes, gap) of the ways whose names start with a letter."""
    return [(line["artifact_bytes"], line["gap"]) for name, line in lines.items() if name.startswith(letter)]


def bytes_at_gap(points: Sequence[tuple[int, float]], gap: float) -> float:
    """The bytes at which a curve of (bytes, gap) has a gap: linear in its logarithm between two points."""
    levels = sorted((math.log(max(each, SMALLEST_GAP)), size) for size, each in points)
    at = math.log(max(gap, SMALLEST_GAP))
    for (low, more), (high, less) in zip(levels, levels[1:]):
        if low <= at <= high:
            return more + (less - more) * (at - low) / (high - low)
    return math.nan


def gap_at_bytes(points: Sequence[tuple[int, float]], size: float) -> float:
    """The gap that a curve of (bytes, gap) has at some bytes."""
    levels = sorted((each, math.log(max(gap, SMALLEST_GAP))) for each, gap in points)
    for (low, more), (high, less) in zip(levels, levels[1:]):
        if low <= size <= high:
            return math.exp(more + (less - more) * (size - low) / (high - low))
    return math.nan


def ways_table(seeds: Sequence[Lines]) -> Iterator[str]:
    """Bytes, bits a weight, gap and seconds of every way that all seeds have."""
    yield "| way | bytes | bits a weight | gap, bpb | +- | seconds |"
    yield "|---|---|---|---|---|---|"
    for name in seeds[0]:
        lines = [seed[name] for seed in seeds if name in seed]
        if len(lines) < len(seeds) or name[:2] not in GROUPS:
            continue
        error = math.sqrt(mean(line["gap_error"] ** 2 for line in lines) / len(lines))
        figures = [mean(line[key] for line in lines) for key in ("artifact_bytes", "bits_per_weight", "gap")]
        seconds = mean(line["seconds"] for line in lines)
        yield (
            f"| {name} | {figures[0]:,.0f} | {figures[1]:.2f} | {figures[2]:.5f} | {error:.5f} "
            f"| {seconds:.0f} |"
        )


def savings_table(seeds: Sequence[Lines]) -> Iterator[str]:
    """The bytes of ours at the gap of each other way, and its gap at their bytes; a value for each seed."""
    yield "| against | ours | fewer bytes at equal bpb | share of its gap at equal bytes |"
    yield "|---|---|---|---|"
    for name in seeds[0]:
        if name[:2] not in ("b ", "c ", "d ", "n ") or any(name not in seed for seed in seeds):
            continue
        for letter, title in OURS.items():
            saved, ratio = [], []
            for seed in seeds:
                size, gap = seed[name]["artifact_bytes"], seed[name]["gap"]
                saved.append(100 * (1 - bytes_at_gap(curve(seed, letter), gap) / size))
                ratio.append(gap_at_bytes(curve(seed, letter), size) / gap)
            if math.isnan(mean(saved)) and math.isnan(mean(ratio)):
                continue
            each = ", ".join(f"{value:.1f}" for value in saved)
            fewer = "not covered" if math.isnan(mean(saved)) else f"{mean(saved):.1f}% ({each})"
            share = "not covered" if math.isnan(mean(ratio)) else f"{mean(ratio):.2f}"
            yield f"| {name} | {title} | {fewer} | {share} |"


def parts_table(seeds: Sequence[Lines]) -> Iterator[str]:
    """Each ingredient: bytes, gap, and the bits a weight that it is worth against the line before it.

    A quarter of the gap counts as one bit.
    """
    yield "| way | bytes | bits a weight | gap, bpb | worth, bits |"
    yield "|---|---|---|---|---|"
    before, whole = math.nan, math.nan
    for name in seeds[0]:
        if not name.startswith("part") or any(name not in seed for seed in seeds):
            continue
        size, bits, gap = (
            mean(seed[name][key] for seed in seeds) for key in ("artifact_bytes", "bits_per_weight", "gap")
        )
        cost = bits + math.log2(gap) / 2
        against = before if math.isnan(whole) else whole
        whole = cost if "trellis" in name else whole
        worth = "" if math.isnan(against) else f"{against - cost:+.2f}"
        yield f"| {name.removeprefix('part: ')} | {size:,.0f} | {bits:.2f} | {gap:.5f} | {worth} |"
        before = cost


def predicted_table(sizes: dict[str, list[Lines]]) -> Iterator[str]:
    """What the curvature predicted of each rate, as a share of what was measured."""
    yield "| model | measured gap | predicted | share |"
    yield "|---|---|---|---|"
    for recipe, seeds in sizes.items():
        for lines in seeds:
            for name, line in lines.items():
                if name.startswith("e ") and line.get("predicted_gap") and line["gap"] > 0.0005:
                    share = line["predicted_gap"] / line["gap"]
                    yield f"| {recipe} | {line['gap']:.5f} | {line['predicted_gap']:.5f} | {share:.2f} |"


def plot(sizes: dict[str, list[Lines]], path: Path) -> None:
    """The gap against bytes, both logarithmic, a panel for each size; dots are seeds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    marks = {"a": "v", "b": "s", "c": "D", "d": "o", "n": "x", "e": ".", "t": "+"}
    words = {
        "a": "int8, zlib",
        "b": "int6, zstd-22",
        "c": "int5 and int6, zstd-22",
        "d": "SDClip, GPTQ, brotli",
        "n": "NNCodec",
        **OURS,
    }
    figure = Figure(figsize=(4.2 * len(sizes), 4.4), layout="constrained")
    for axes, (recipe, seeds) in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes.items()):
        for i, (letter, mark) in enumerate(marks.items()):
            for number, lines in enumerate(seeds):
                points = sorted(point for point in curve(lines, letter) if point[1] > SMALLEST_GAP)
                if points:
                    label = words[letter] if number == 0 else None
                    style = "-" if letter in OURS else "none"
                    axes.plot(*zip(*points), mark, linestyle=style, color=f"C{i}", label=label, markersize=5)
        axes.set(xscale="log", yscale="log", title=recipe, xlabel="bytes of the artifact")
        axes.xaxis.set_minor_formatter(ScalarFormatter())
        axes.tick_params(axis="x", which="both", rotation=45, labelsize=8)
        axes.grid(alpha=0.3, which="both")
    figure.axes[0].set_ylabel("gap to the float model, bits per byte")
    figure.axes[0].legend()
    figure.savefig(path)


def main() -> None:
    """Print the tables of runs that were measured, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    sizes = sizes_in(chosen.runs)
    for recipe, seeds in sizes.items():
        print(f"\n### {recipe}, {len(seeds)} seeds\n")
        for table in (ways_table, savings_table, parts_table):
            print("\n".join(table(seeds)) + "\n")
    print("\n".join(predicted_table(sizes)))
    if chosen.plot:
        plot(sizes, chosen.plot)


if __name__ == "__main__":
    main()
