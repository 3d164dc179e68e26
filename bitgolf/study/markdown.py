"""A study as Markdown, for a pull request."""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bitgolf.report.screen import escaped
from bitgolf.study.formatting import (
    View,
    amendments,
    challenge,
    comparison_table,
    facts,
    failures,
    in_words,
    metric_table,
    original_table,
    paragraphs,
    tally,
)
from bitgolf.study.verdicts import SIDE_METRICS

SCORES = ("adapted", "fixed", "quantized", "float")
ARM_METRICS = (*(f"{name}_bits_per_byte" for name in SCORES), *SIDE_METRICS)


def markdown(study: View) -> str:
    """The report for a pull request."""
    return "\n\n".join(_markdown(study)) + "\n"


def _markdown(study: View) -> Iterator[str]:
    metric = study["metric"]
    yield f"## {plain(study['study'])}"
    yield from map(plain, paragraphs(study["question"]))
    yield from map(plain, paragraphs(study["reading"]))
    original = original_table(study)
    if original["rows"]:
        lines = [
            (name, *("; ".join(filter(None, cell)) for cell in cells)) for name, cells in original["rows"]
        ]
        yield _grid(("the original's table, mean ± sd here", *original["columns"]), lines)
    yield f"Study {study['status']}: {tally(study)}. Differences in {in_words(metric)}; lower is better."
    rows = comparison_table(study)["rows"]
    heads = ("comparison", "against", "n", "difference [95% interval]", "p, corrected", "detectable")
    yield _grid((*heads, "total bytes", "verdict"), [_line(row) for row in rows])
    by_document = [f"{row['name']} {' '.join(row['documents'])}" for row in rows if row["documents"]]
    if by_document:
        yield plain(f"Over documents, with the same weights, apart from seeds: {'; '.join(by_document)}.")
    table = metric_table(study, dict.fromkeys((metric, *ARM_METRICS)))
    if "missing" not in table:
        means = [(name, n, *map(" ".join, cells)) for name, n, cells in table["rows"]]
        yield _grid(("arm, mean ± sd", "n", *map(in_words, table["metrics"])), means)
    yield "### Changes"
    yield from (_changes(arm) for arm in study["arms"] if arm["changes"] or arm["bundle"])
    yield "### Failures"
    yield (
        _list(
            plain(f"{arm}, seed {seed}: {status}{': ' if error else ''}{error}")
            for arm, seed, status, error in failures(study)
        )
        or "No run failed."
    )
    yield "### How it was run"
    yield _list(plain(f"{name}: {text}") for name, text in facts(study))
    after = [plain(f"{when}: {path} from {a} to {b}") for when, path, a, b in amendments(study)]
    yield f"Changed after the plan was written:\n\n{_list(after)}" if after else "The plan was not changed."
    yield challenge(study)


def _line(row: View) -> list[str]:
    """A comparison as a line of the table."""
    used = f" ({row['test']})" if row["test"] else ""
    within = f", within bound {row['within']}" if row["within"] else ""
    verdict = f"{row['verdict']}: {row['why']}" if row["why"] else row["verdict"]
    difference = f"{row['effect']} {row['interval']}".strip()
    chances, total_bytes = f"{row['p']}{used}{within}", row["sides"]["total_bytes"][0]
    return [
        row["name"],
        row["against"],
        row["n"],
        difference,
        chances,
        row["detectable"],
        total_bytes,
        verdict,
    ]


def _changes(arm: View) -> str:
    why = f"; {arm['bundle']}" if arm["bundle"] else ""
    head = f"**{plain(arm['name'])}**, against {plain(arm['against'] + why)}"
    return f"{head}\n\n{_list(plain('{path}: {before} → {after}'.format(**each)) for each in arm['changes'])}"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _grid(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plain(text: Any) -> str:
    """Text on one line that GitHub shows as it is, in cells of tables as well."""
    safe = html.escape(escaped(" ".join(str(text).split())), quote=False)
    return re.sub(r"([\\`*|~$]|(?<!\w)_|_(?!\w)|\](?=[(\[]))", r"\\\1", safe)
