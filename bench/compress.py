"""Bytes that files take: by a packed model with `bitgolf compress`, and by general compressors.

python -m bench.compress RUN|ARTIFACT FILE... [--json]
xz, zstd and brotli as the demo has them; PPMd (order 16, 64 MB) where `pip install 'bitgolf[ppmd]'` was made.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bitgolf import load
from bitgolf.base.events import finish
from bitgolf.pipeline.coding import open_coder
from bitgolf.proof.crew import Coder
from bitgolf.proof.file import compress, decompress
from bitgolf.public.optional import is_installed
from bitgolf.report.compressors import compressed_size, rivals_here

PPMD_ORDER, PPMD_BYTES = 16, 64 << 20


def ppmd_size(text: bytes) -> int | None:
    """Bytes by PPMd, variant H; None where it is not installed."""
    if not is_installed("pyppmd"):
        return None
    import pyppmd

    return len(pyppmd.compress(text, max_order=PPMD_ORDER, mem_size=PPMD_BYTES))


def row_of(coder: Coder, path: Path) -> dict[str, Any]:
    """The sizes of one file; ours is read back."""
    text = path.read_bytes()
    packed = finish(compress(coder, text))
    assert finish(decompress(coder, packed.data)) == text, "other bytes came back"
    row: dict[str, Any] = {"file": path.name, "bytes": len(text), "bitgolf": len(packed.data)}
    row["way"] = "model" if packed.layout else "LZMA or stored"
    row |= {name: compressed_size(name, text) for name in rivals_here()}
    return row | {"PPMd": ppmd_size(text)}


def main() -> None:
    """Measure the files asked for; a Markdown table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    load()
    coder, _ = open_coder(options.model)
    rows = []
    for path in options.files:
        rows.append(row_of(coder, path))
        cells = [f"{value:,}" if isinstance(value, int) else str(value) for value in rows[-1].values()]
        if not options.json:
            head = "" if rows[1:] else f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}\n"
            print(f"{head}| {' | '.join(cells)} |", flush=True)
    if options.json:
        json.dump(rows, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
