"""Bytes that files take: by a packed model with `bitgolf compress`, and by general compressors.

python -m bench.compress RUN|ARTIFACT FILE... [--json]
All general compressors that are installed: `pip install 'bitgolf[rivals]' zpaq`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bitgolf import import_core
from bitgolf.base.events import finish
from bitgolf.pipeline.coding import open_coder
from bitgolf.proof.crew import Coder
from bitgolf.proof.file import compress, decompress
from bitgolf.rivals.compressors import COMPRESSORS


def row_of(coder: Coder, path: Path) -> dict[str, Any]:
    """The sizes of one file; ours is read back."""
    text = path.read_bytes()
    packed = finish(compress(coder, text))
    assert finish(decompress(coder, packed.data)) == text, "other bytes came back"
    row: dict[str, Any] = {"file": path.name, "bytes": len(text), "bitgolf": len(packed.data)}
    row["way"] = "model" if packed.layout else "LZMA or stored"
    return row | {one.name: one.compressed_bytes(text) for one in COMPRESSORS.values() if one.is_here}


def main() -> None:
    """Measure the files asked for; a Markdown table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    import_core()
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
