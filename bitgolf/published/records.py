"""Public record folders as rows of the ledger: cited with their conditions, not as measured here."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bitgolf.audit.folder import Record, bits_of, read_record
from bitgolf.audit.unwrap import unwrapped
from bitgolf.base.errors import BitgolfError
from bitgolf.public.names import KINDS, OTHER_NAMES, TECHNIQUES, read_variables
from bitgolf.report.screen import escaped
from bitgolf.study.cited import Cited

MOST_RECORDS = 5000
MOST_FOLDERS = 100_000  # looked into below the one that is given
MOST_LETTERS = 300  # of what an author says
SAME_BITS = 5e-4  # between a claim and the mean of the logs: printed to four places
# How public scripts read a variable, with what it is where nobody gives it.
DEFAULT = re.compile(
    r"\b(?:environ\.get|getenv|_e|env)\(\s*[\"'](\w{1,60})[\"']\s*,\s*(?:[\"']([^\"']{0,60})[\"']|([-+.\w]{1,30}))"
)
DELTA = re.compile(r"delta_vs_(\w{1,60})_bpb")
TRUTH = {"True": "1", "False": "0"}  # as logs print what was given as 1 or 0
COUNTED = ("bytes_total", "total_bytes", "artifact_bytes_max", "artifact_size_bytes", "artifact_bytes")


def imported(folder: Path) -> tuple[list[Cited], list[str]]:
    """Rows for every record in or below a folder, and what is wrong with those that are none.

    Raises BitgolfError where there is no record at all.
    """
    if not folder.is_dir():
        raise BitgolfError("no such folder", where=str(folder), way_out="give one with public records")
    rows: list[Cited] = []
    problems: list[str] = []
    for record in sorted(record_folders(folder)):
        name = str(record.relative_to(folder)) if record != folder else folder.resolve().name
        try:
            rows += cited_of(read_record(record), escaped(name))
        except BitgolfError as error:
            problems.append(str(error))
        except OverflowError:  # a number of hundreds of digits, wherever it stands
            problems.append(f"{record}: a number in it is beyond all bounds")
    if not rows:
        raise BitgolfError(
            "no record in it",
            where=str(folder),
            value=problems[:3] or None,
            way_out="a record is a folder with a submission.json, or with logs and a train_gpt.py",
        )
    return rows, problems


def record_folders(folder: Path) -> Iterator[Path]:
    """The outermost folders that hold a record; links are not followed."""
    count = 0
    for looked_at, (path, inner, names) in enumerate(os.walk(folder, followlinks=False)):
        if looked_at > MOST_FOLDERS or count > MOST_RECORDS:
            raise BitgolfError(
                f"more than {MOST_RECORDS:,} records or {MOST_FOLDERS:,} folders",
                where=str(folder),
                way_out="name a folder further in",
            )
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        claimed = any(re.fullmatch(r"submission\w*\.json", name) for name in names)
        if claimed or ("train_gpt.py" in names and any(name.endswith(".log") for name in names)):
            count += 1
            inner.clear()
            yield Path(path)


def cited_of(record: Record, source: str) -> list[Cited]:
    """The rows of one record: its score, its score before packing, and the differences that it states.

    Raises BitgolfError where neither its claims nor its logs have a score: one is above zero.
    """
    if record.unreadable:
        raise BitgolfError(record.unreadable[0])
    fields = record.claims.fields if record.claims else {}
    by_log = {log.path.name: log.final.bits for log in record.logs if log.final}
    logged = float(np.mean([*by_log.values()])) if by_log else None
    claimed = _score(record)
    value = claimed if claimed is not None else logged
    if value is None or not 0 < value < np.inf:
        raise BitgolfError(
            "neither its submission.json nor its logs have a score above zero",
            where=str(record.folder),
            value=value,
        )
    seeds = len(record.claims.seeds) if record.claims and record.claims.seeds else len(by_log)
    common: dict[str, Any] = {
        "source": source,
        "author": _text(fields, "author", "github_id"),
        "technique": _text(fields, "name") or source,
        "conditions": _conditions(record),
        "seeds": seeds or None,
        "artifact_bytes": _bytes(record),
        "uses": ", ".join(used_by(record)),
    }
    note = [_text(fields, "technique_summary", "blurb")]
    if claimed is None:
        note.append("score: mean of its logs")
    elif logged is not None and len(by_log) == seeds and abs(claimed - logged) > SAME_BITS:
        note.append(f"its logs end at {logged:.4f}, the mean of {len(by_log)}")
    rows = [
        Cited(
            metric="bits per byte",
            value=value,
            verdict="published",
            note="; ".join(filter(None, note)),
            **common,
        )
    ]
    before = record.claims.number("pre_quant_val_bpb") if record.claims else None
    if before is not None and 0 < before < np.inf:
        rows.append(Cited(metric="pre-quant bits per byte", value=before, verdict="published", **common))
    for key in fields:
        stated, effect = DELTA.fullmatch(key), record.claims.number(key) if record.claims else None
        if stated and effect is not None and np.isfinite(effect):
            against, verdict = stated[1].replace("_", " "), "better" if effect < 0 else "not better"
            row = Cited(
                metric="bits per byte", value=value, effect=effect, against=against, verdict=verdict, **common
            )
            rows.append(row)
    return rows


def used_by(record: Record) -> list[str]:
    """Techniques, by their names here, that the script's defaults and the log's settings switch on.

    What has no public variable of a known name is not seen.
    """
    variables = dict(_defaults(record))
    for log in record.logs[:1]:
        variables |= {name.upper(): value for name, (_, value) in log.settings.items()}
    recognised = {
        name: TRUTH.get(value, value)
        for name, value in variables.items()
        if OTHER_NAMES.get(name, name) in KINDS
    }
    given = read_variables(recognised)[0]
    return sorted({row.kind.__name__ for row in TECHNIQUES if row.state(given)})


def _defaults(record: Record) -> Iterator[tuple[str, str]]:
    """The variables of a script with their defaults; of a packed one, of the text inside."""
    if record.entry is None:
        return
    try:
        layers = unwrapped(record.entry.name, record.entry.read_bytes())
    except (BitgolfError, OSError):
        return
    for match in DEFAULT.finditer(layers[-1].text):
        yield match[1].upper(), match[2] if match[2] is not None else match[3]


def _score(record: Record) -> float | None:
    """The score that the claims state, else the mean of those of their seeds."""
    if record.claims is None:
        return None
    stated = record.claims.number("val_bpb", "mean_val_bpb", "val_bpb_mean", "mean_bpb")
    if stated is not None:
        return stated
    seeds = [bits for figures in record.claims.seeds.values() if (bits := bits_of(figures)) is not None]
    return float(np.mean(seeds)) if seeds else None


def _conditions(record: Record) -> str:
    """Hardware, steps and seconds, as the record states them."""
    fields = record.claims.fields if record.claims else {}
    parts = [_text(fields, "track"), _text(fields, "hardware", "gpu")]
    ends = [log.end for log in record.logs if log.end]
    if ends:
        parts.append(f"{round(np.mean([end.step for end in ends])):,} steps")
        parts.append(f"{np.mean([end.seconds for end in ends]):,.0f} s")
    return ", ".join(filter(None, parts))


def _bytes(record: Record) -> int | None:
    stated = record.claims.number(*COUNTED) if record.claims else None
    sizes = [total.bytes for log in record.logs for total in log.sizes_of("total")[-1:]]
    num_bytes = stated if stated is not None else max(sizes, default=None)
    return int(num_bytes) if num_bytes is not None and np.isfinite(num_bytes) and num_bytes >= 0 else None


def _text(fields: dict[str, Any], *names: str) -> str:
    """The first of these that is a text, on one line."""
    texts = (fields[name] for name in names if isinstance(fields.get(name), str))
    line = " ".join(escaped(next(texts, "")).split())
    return line if len(line) <= MOST_LETTERS else line[:MOST_LETTERS] + "..."
