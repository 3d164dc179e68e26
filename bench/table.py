"""One table of what a machine reaches, by the class of its processor: `make bench`.

python -m bench.table [--quick] [--out FIGURES.json]      measure here, and print
python -m bench.table FIGURES.json [MORE.json ...]        a column for each machine that was measured before
Each benchmark runs in a process of its own, one after another; rows are the figures that goals are set for.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Figures = dict[str, str]  # by what they are of
Result = dict[str, Any]

COMMANDS = {  # whole, and quick
    "bench.train": (["--threads", "1"], ["--threads", "1", "--shapes", "tiny,demo", "--rounds", "3"]),
    "bench.score": ([], ["--shapes", "tiny", "--rounds", "2"]),
    "bench.prove": (["--lanes", "64"], ["--lanes", "64", "--shapes", "tiny", "--rounds", "1"]),
    "bench.start": ([], ["--rounds", "1"]),
    "bench.growth": ([], ["--axes", "length", "--steps", "1"]),
}


def measured(quick: bool) -> list[Result]:
    """What all benchmarks say."""
    results = []
    for name, options in COMMANDS.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", name, *options[quick], "--json"]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results += [result | {"from": name} for result in json.loads(ran.stdout)]
    return results


def title_of(results: Sequence[Result]) -> str:
    """The class of the machine, its processor, and how busy it was with others."""
    machines = [result for result in results if "cores_busy_with_others" in result]
    if not machines:
        return "unknown"
    busy = max(result["cores_busy_with_others"] for result in machines)
    return f"{machines[0]['class']} ({machines[0]['processor']}; others kept {busy:.1f} cores busy)"


def of_step(result: Result) -> Iterator[tuple[str, str]]:
    median, low, high = (result[key] for key in ("tokens_per_second", "low_quarter", "high_quarter"))
    for name in ("plain float32", "ours float32", "ours bfloat16"):
        yield f"{name}, tokens/s (quarters)", f"{median[name]:,.0f} ({low[name]:,.0f} to {high[name]:,.0f})"
    yield "best over plain float32", f"{result['best_over_plain_float32']:.2f}"
    yield (
        "share of the ceiling",
        f"{result['share_of_ceiling']:.2f} of {result['ceiling_gigaflops']:,.0f} GFLOP/s",
    )


def of_ratio(result: Result) -> Iterator[tuple[str, str]]:
    yield "times as fast", f"{result['times_as_fast']:.2f}"


def of_score(result: Result) -> Iterator[tuple[str, str]]:
    for kind, ratio in result["sliding_over_public"].items():
        yield f"sliding over public, {kind}", f"{ratio:.2f}"
    yield "chained over sliding, float32", f"{result['chained_over_sliding']['float32']:.2f}"


def of_decoding(result: Result) -> Iterator[tuple[str, str]]:
    yield "tokens/s", f"{result['tokens_per_second']:,.0f}"


def of_start(result: Result) -> Iterator[tuple[str, str]]:
    for name, seconds in result["least_seconds"].items():
        yield f"{name}, s", f"{seconds:.2f}"


def of_growth(result: Result) -> Iterator[tuple[str, str]]:
    for value, rate in result["tokens_per_second"].items():
        yield f"{value}: tokens/s, MiB", f"{rate:,.0f}, {result['MiB'][value]:,.0f}"


ROWS: dict[str, Callable[[Result], Iterator[tuple[str, str]]]] = {
    "step": of_step,
    "attention": of_ratio,
    "muon": of_ratio,
    "score": of_score,
    "decoding": of_decoding,
    "start": of_start,
    "growth": of_growth,
}


def figures_of(results: Sequence[Result]) -> Figures:
    """The rows of a machine's column."""
    found: Figures = {}
    for result in results:
        kind = result["bench"].split()[0]
        rows = ROWS.get("decoding" if result.get("from") == "bench.prove" and kind != "machine" else kind)
        found |= {f"{result['bench']}: {name}": text for name, text in (rows(result) if rows else ())}
    return found


def table(columns: dict[str, Figures]) -> str:
    """Markdown: a row for each figure, a column for each machine."""
    names = dict.fromkeys(name for figures in columns.values() for name in figures)
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(figures.get(name, "") for figures in columns.values())] for name in names]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure or read, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", nargs="*", type=Path, help="written by --out, here or elsewhere")
    parser.add_argument("--quick", action="store_true", help="the smallest shapes, few rounds: two minutes")
    parser.add_argument("--out", type=Path, help="keep the figures as JSON")
    options = parser.parse_args()
    machines = [json.loads(path.read_text()) for path in options.figures] or [measured(options.quick)]
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(machines[0], indent=2))
    print(table({title_of(results): figures_of(results) for results in machines}))


if __name__ == "__main__":
    main()
