"""Screens in README and tutorial, written from results of runs: `python -m docs.screens demo runs/demo`.

`screens.json` keeps of each run what its screens show. Without a run the pages are written again from that.
"""

import argparse
import contextlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import typer

from bitgolf.base.files import read_json, write_bytes, write_json
from bitgolf.cli.shown import meaning_of, show_result
from bitgolf.pipeline.demo import SHOWN
from bitgolf.report.screen import in_words
from bitgolf.run.result import RunResult

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "screens.json"
FACTS = (
    *("status", "bits_per_byte", "text_bytes", "artifact_bytes", "total_bytes", "parameters", "budget_bytes"),
    *("train_seconds", "tokens_per_second", "code_bytes", "gap", "gap_error", "predicted_gap", "alarms"),
)
BESIDES = ("steps", "train_tokens", "seconds", "chosen")  # told around the screens
OF_VARIANTS = ("name", "windows", "bits_per_byte", "nats_per_token", "seconds")
OF_RIVALS = ("name", "budget_bits_per_byte", "primed_bits_per_byte", "alone_bits_per_byte")
PROGRESS = (0.04, 0.5, 1.0)  # of the training, where its lines are taken
Kept = Mapping[str, Any]  # JSON of a run


def kept_of(run: Path) -> Kept:
    """What the screens of a run show."""
    result = read_json(run / "result.json")
    kept = {name: result[name] for name in (*FACTS, *BESIDES) if name in result}
    for name, keys in (("variants", OF_VARIANTS), ("rivals", OF_RIVALS)):
        kept[name] = [{key: row[key] for key in keys if key in row} for row in result[name]]
    certificate = read_json(run / "proof" / "certificate.json")
    kept["proof"] = {name: certificate[name] for name in SHOWN if name in certificate}
    return kept | {"training": training_lines(run / "metrics.jsonl", result["data"]["splits"]["train"])}


def training_lines(metrics: Path, text: Mapping[str, Any]) -> list[str]:
    """Lines of progress as a pipe shows them. text: the split that was trained on, as its passport has it."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    bits_per_nat, lines = text["tokens"] / text["text_bytes"] / math.log(2), []
    for share in PROGRESS:
        at = next((i for i, row in enumerate(rows) if row["progress"] >= share), len(rows) - 1)
        row, gone = rows[at], rows[at]["seconds"]
        facts = {
            "nats": row["nats_per_token"],
            "bits_per_byte": bits_per_nat * row["nats_per_token"],
            "tokens_per_second": round(row["tokens_per_second"]),
        }
        validated = [each["val_bits_per_byte"] for each in rows[: at + 1] if "val_bits_per_byte" in each]
        facts |= {"val_bits_per_byte": validated[-1]} if validated else {}
        left = gone * (1 - row["progress"]) / row["progress"]
        lines.append(
            f"{'train':<10} {row['progress']:4.0%}  {gone:4.0f} s gone, {left:.0f} s left  {in_words(facts)}"
        )
    return lines


def demo(kept: Kept) -> str:
    """The end of `bitgolf demo`, without what it means in a sentence, alarms and the sample."""
    facts = {name: kept[name] for name in ("variants", "rivals", "proof", *FACTS) if name in kept}
    report = {"report": "runs/demo/report.html"}
    shown = printed(facts | report, "bitgolf sample runs/demo --prompt 'My fellow citizens'")
    return re.sub(r"^query_positions:.*\n", "", shown.partition("\n\n")[2], flags=re.MULTILINE)


def compared(kept: Kept) -> str:
    """What a score means, and the compressors beside it."""
    rivals = {name: kept[name] for name in ("status", "bits_per_byte", "rivals")}
    table = printed(rivals, "").partition("\n\n")[2].partition("\n\n")[0]
    return f"{meaning_of(cast(RunResult, rivals))}\n\n{table}"


def printed(facts: Kept, following: str) -> str:
    """A result as the command line prints it where no terminal says how wide it is."""
    columns = os.environ.pop("COLUMNS", None)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(typer.Exit):
            show_result(cast(RunResult, dict(facts)), as_json=False, following=following)
    finally:
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return out.getvalue()


# The screens of each page: the run that they are of, and how each is made of what is kept of it.
SCREENS: dict[str, tuple[str, str, Callable[[Kept], str]]] = {
    "demo": ("README.md", "demo", demo),
    "plan": ("docs/tutorial.md", "tutorial", lambda kept: "\n".join(f"note: {x}" for x in kept["chosen"])),
    "training": ("docs/tutorial.md", "tutorial", lambda kept: "\n".join(kept["training"])),
    "compared": ("docs/tutorial.md", "tutorial", compared),
}


def with_screens(page: str, text: str, kept: Kept) -> str:
    """A page with its screens written again, each between two comments."""
    for name, (place, run, made) in SCREENS.items():
        if place == page:
            lines = made(kept[run]).rstrip().splitlines()
            block = "\n".join(f"    {line}".rstrip() for line in lines)
            pattern = rf"(<!-- screen {name} -->\n\n).*?(\n\n<!-- end of screen -->)"
            safe = block.replace("\\", r"\\")
            text, count = re.subn(pattern, rf"\g<1>{safe}\g<2>", text, flags=re.DOTALL)
            assert count == 1, f"{page} has no place for the screen {name}"
    return text


def main() -> None:
    """Keep a run's screens where one is given, and write the pages."""
    parser = argparse.ArgumentParser(prog="python -m docs.screens", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted({run for _, run, _ in SCREENS.values()}))
    parser.add_argument("run", nargs="?", type=Path, help="a finished run folder")
    words = parser.parse_args()
    kept = read_json(KEPT) if KEPT.is_file() else {}
    if words.run:
        write_json(KEPT, kept | {words.name: kept_of(words.run)})
    for page in {page for page, _, _ in SCREENS.values()}:
        path = ROOT / page
        write_bytes(path, with_screens(page, path.read_text(), read_json(KEPT)).encode())


if __name__ == "__main__":
    main()
