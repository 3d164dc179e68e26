"""A dataset's validation text by all general compressors that are installed, the slow ones too.

python -m bench.rivals DATASET [--budget 1000000] [--json]        # pip install 'bitgolf[rivals]' zpaq
"""

import argparse
import json
import sys
from pathlib import Path

from bitgolf.base.events import finish
from bitgolf.rivals.compressors import COMPRESSORS, measure_compressors
from bitgolf.text.shards import Dataset

PARTS = ("budget", "primed", "alone")


def main() -> None:
    """Print a Markdown table, smallest within the budget first, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="a folder of shards, which a run names")
    parser.add_argument("--budget", type=int, default=1_000_000, help="bytes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    dataset = Dataset.open(options.dataset)
    train, val = (dataset.tokenizer.decode(stream.all()) for stream in (dataset.train, dataset.val))
    chosen = [one for one in COMPRESSORS.values() if one.is_here]
    steps = measure_compressors(train, val, options.budget, chosen)
    rows = finish(steps, lambda done: print(f"{done[0] / done[1]:.0%}", end=" ", file=sys.stderr, flush=True))
    rows.sort(key=lambda row: row["budget_bits_per_byte"])
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("| compressor | within the budget | text that fits | with the training text | alone | seconds |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        within, primed, alone = (f"{row[f'{part}_bits_per_byte']:.3f}" for part in PARTS)
        fits = f"{row['budget_text_bytes']:,} bytes in {row['budget_used_bytes']:,}"
        print(f"| {row['name']} | {within} | {fits} | {primed} | {alone} | {row['seconds']} |")


if __name__ == "__main__":
    main()
