"""All runs below a folder as one offline page: sortable table, curves, scores against costs.

Whatever a folder lacks is said in its row; one that cannot be read is a row with the reason.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import is_number, read_json, write_bytes
from bitgolf.report.charts import padded, round_numbers, short
from bitgolf.report.screen import number
from bitgolf.report.templates import templates

POINTS, CURVES, COLOURS = 160, 24, 6  # of a curve; drawn at most, the best; that differ
EARLY = 0.1  # of the seconds, in which the loss falls so far that the rest would be flat
CHANGES, SHORT = 4, 40  # of a recipe, that are shown; letters of one
CLASS = ".class"  # of a part, among settings by their path
FIGURES = ("bits_per_byte", "total_bytes", "budget_bytes", "train_seconds", "parameters", "steps", "seed")
COSTS = {"total_bytes": "bytes, code and tokenizer included", "train_seconds": "seconds of training"}


class Row(NamedTuple):
    """A run. figures: those of FIGURES that are known, and `proven`. reason: why it has no score, or ''."""

    name: str
    status: str
    figures: dict[str, float]
    changes: str
    reason: str
    curve: tuple[np.ndarray, np.ndarray]  # seconds, bits per byte of training batches
    text: str = ""  # what was scored, '' where that is not known

    def text_in_short(self) -> str:
        """Without the end of the dataset's name, which is a hash."""
        return re.sub(r"-[0-9a-f]{12}(?=,)", "", self.text) or "-"


def rows_below(folder: Path) -> list[Row]:
    """Every run below a folder, or the folder itself, the best first. Raises BitgolfError where none is."""
    folders = sorted({path.parent for name in ("recipe.json", "result.json") for path in folder.rglob(name)})
    if not folders:
        raise BitgolfError(
            "no run below this folder", where=str(folder), way_out="give the folder that holds run folders"
        )
    first: dict[Path, tuple[str, dict[str, Any]]] = {}
    rows = []
    for run in folders:
        name = str(run.relative_to(folder)) if run != folder else folder.resolve().name
        recipe = flat(mapping(run / "recipe.json"))
        beside, other = first.setdefault(run.parent, (run.name, recipe))
        rows.append(row_of(run, name, differing(recipe, other, beside) if beside != run.name else ""))
    return sorted(rows, key=lambda row: (row.figures.get("bits_per_byte", math.inf), row.name))


def row_of(run: Path, name: str, changes: str) -> Row:
    """What a run folder says of itself."""
    result = mapping(run / "result.json")
    figures = {key: float(result[key]) for key in FIGURES if is_number(result.get(key))}
    proof = mapping(run / "proof" / "certificate.json").get("bits_per_byte")
    if is_number(proof):
        figures["proven"] = float(proof)
    status = result.get("status")
    if not isinstance(status, str):
        status = "unreadable" if (run / "result.json").exists() else "not finished"
    reason = str(result.get("error") or result.get("warning") or "")
    if status == "over budget" and not reason:
        reason = f"{number(result.get('total_bytes'))} of {number(result.get('budget_bytes'))} bytes"
    if status == "not finished":
        steps = list(metrics(run / "metrics.jsonl"))
        reason = f"{steps[-1]['progress']:.0%} of the training" if steps else "nothing is trained yet"
    return Row(name, status, figures, changes, reason, curve_of(run, result), text_of(result))


def text_of(result: Mapping[str, Any]) -> str:
    """The folder of the dataset that a run was scored on, by its name, and how much of it."""
    dataset, num_bytes = result.get("dataset"), result.get("text_bytes")
    if not isinstance(dataset, str) or not is_number(num_bytes):
        return ""
    return f"{Path(dataset).name}, {number(num_bytes)} bytes"


def mapping(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        data = read_json(path)
    except (BitgolfError, OSError):
        return {}
    return data if isinstance(data, dict) else {}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Settings by their path."""
    if isinstance(value, dict):
        return {k: v for name in value for k, v in flat(value[name], f"{path}.{name}".strip(".")).items()}
    return {path: value}


def differing(recipe: Mapping[str, Any], other: Mapping[str, Any], beside: str) -> str:
    """Where a recipe differs from that of the first run beside it, in words; another class is one."""
    paths = [p for p in {**other, **recipe} if recipe.get(p) != other.get(p) and p != "name"]
    parts = [p.removesuffix(CLASS) for p in paths if p.endswith(CLASS)]
    told = [
        p for p in paths if p.removesuffix(CLASS) in parts or not p.startswith(tuple(f"{q}." for q in parts))
    ]
    differences = [f"{path.removesuffix(CLASS)} {in_short(recipe.get(path))}" for path in told[:CHANGES]]
    more = f" and {len(told) - CHANGES:,} more" if len(told) > CHANGES else ""
    return f"{', '.join(differences)}{more}; beside {beside}" if differences else f"as {beside}"


def in_short(value: Any) -> str:
    """A setting in a few letters; of several parts the names of their classes."""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(each, dict) and "class" in each for each in value)
    ):
        return f"({', '.join(str(each['class'])[:SHORT] for each in value[:CHANGES])})"
    return value[:SHORT] if isinstance(value, str) else json.dumps(value)[:SHORT]


def metrics(path: Path) -> Iterator[dict[str, float]]:
    """The lines of metrics that can be drawn."""
    try:
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    except OSError:
        return
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a power cut leaves half a line
        needed = ("seconds", "nats_per_token", "progress")
        if isinstance(row, dict) and all(is_number(row.get(name)) for name in needed):
            yield row


def curve_of(run: Path, result: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Bits per byte of training batches over seconds; empty where bytes of the tokens are not known."""
    facts: Any = result.get("data")
    for name in ("splits", "train"):
        facts = facts.get(name) if isinstance(facts, dict) else None
    is_known = (
        isinstance(facts, dict) and is_number(facts.get("tokens")) and is_number(facts.get("text_bytes"))
    )
    if not is_known or facts["text_bytes"] <= 0:
        return np.zeros(0), np.zeros(0)
    nats_to_bpb = facts["tokens"] / facts["text_bytes"] / math.log(2)
    pairs = np.array(
        [(row["seconds"], nats_to_bpb * row["nats_per_token"]) for row in metrics(run / "metrics.jsonl")]
    )
    groups = np.array_split(np.arange(len(pairs)), max(1, min(POINTS, len(pairs))))
    means = [pairs[group].mean(0) for group in groups if len(group)]
    return np.array([a for a, _ in means]), np.array([b for _, b in means])


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which (cost, score) no other beats in both, by rising cost."""
    best, front = math.inf, []
    for index in sorted(range(len(points)), key=lambda each: points[each]):
        if points[index][1] < best:
            best = points[index][1]
            front.append(index)
    return front


def write_board(folder: Path, path: Path, refresh_seconds: int = 0) -> dict[str, Any]:
    """Write the page of all runs below a folder; figures for the reader. refresh_seconds: of the page."""
    rows = rows_below(folder)
    columns, alike = columns_of(rows)
    scatters = [each for cost in COSTS if (each := scatter(rows, cost))]
    texts = sorted({row.text for row in rows if row.text})
    page = (
        templates("study")
        .get_template("board.html.jinja")
        .render(
            root=str(folder),
            rows=rows,
            columns=columns,
            alike=alike,
            shown=shown,
            scatters=scatters,
            curves=curves(rows),
            texts=texts if len(texts) > 1 else [],
            colours=COLOURS,
            refresh=refresh_seconds,
        )
    )
    write_bytes(path, page.encode(errors="backslashreplace"))
    scored = [row for row in rows if "bits_per_byte" in row.figures]
    return {
        "board": str(path),
        "runs": len(rows),
        "without_score": len(rows) - len(scored),
        "best": scored[0].name if scored else None,
        "bits_per_byte": scored[0].figures["bits_per_byte"] if scored else None,
        **({"texts": len(texts)} if len(texts) > 1 else {}),
    }


def columns_of(rows: Sequence[Row]) -> tuple[list[str], dict[str, str]]:
    """The figures that tell runs apart, and those that all of several runs have alike, in words."""
    held = {name: {row.figures.get(name) for row in rows} for name in (*FIGURES, "proven")}
    measured = [name for name in held if held[name] != {None}]
    alike = [name for name in measured if len(rows) > 1 and len(held[name]) == 1 and name != "bits_per_byte"]
    return [name for name in measured if name not in alike], {name: shown(name, rows[0]) for name in alike}


def shown(name: str, row: Row) -> str:
    """A figure of a run as its column has it."""
    value = row.figures.get(name)
    if value is None:
        return "-"
    if name == "train_seconds":
        return f"{value:,.1f}"
    return str(int(value)) if name == "seed" else number(value)


def scatter(rows: Sequence[Row], cost: str) -> dict[str, Any] | None:
    """Scores against a cost, in percent of a frame, and the line of those that nothing beats."""
    shown = [row for row in rows if cost in row.figures and "bits_per_byte" in row.figures]
    if not shown:
        return None
    points = [(row.figures[cost], row.figures["bits_per_byte"]) for row in shown]
    frame = Frame.around([x for x, _ in points], [y for _, y in points])
    one_text = len({row.text for row in shown if row.text}) < 2
    best = pareto(points) if one_text else []  # bits of two texts do not compare
    return {
        "title": f"Bits per byte against {COSTS[cost]}",
        "label": COSTS[cost],
        **frame.ticks(),
        "dots": [
            {"name": row.name, "x": frame.across(x), "y": frame.up(y), "best": index in best,
             "said": f"{row.name}: {y:.4f} bits per byte, {number(x)} {cost.replace('_', ' ')}"}
            for index, (row, (x, y)) in enumerate(zip(shown, points))
        ],
        "line": frame.path([points[index] for index in best]) if best else "",
    }  # fmt: skip


def curves(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The training curves of the best runs in one frame."""
    drawn = [(index, row) for index, row in enumerate(rows) if len(row.curve[0]) > 1][:CURVES]
    if not drawn:
        return None
    last = max(float(row.curve[0][-1]) for _, row in drawn)
    late = [y for _, row in drawn for x, y in zip(*row.curve) if x > EARLY * last]
    frame = Frame.around([0.0, last], late or [y for _, row in drawn for y in row.curve[1]])
    lines = [
        {"name": row.name, "colour": index % COLOURS, "path": frame.path(list(zip(*row.curve)))}
        for index, row in drawn
    ]
    return {**frame.ticks(), "lines": lines, "label": "seconds of training"}


class Frame(NamedTuple):
    """A frame that holds some points."""

    left: float
    right: float
    low: float
    high: float

    @classmethod
    def around(cls, x: Sequence[float], y: Sequence[float]) -> "Frame":
        """With a margin at each side."""
        return cls(*padded(np.array(x)), *padded(np.array(y)))

    def across(self, x: float) -> float:
        """In percent from the left, held a little beyond the frame."""
        return inside(100 * (x - self.left) / max(self.right - self.left, 1e-12))

    def up(self, y: float) -> float:
        """In percent from below."""
        return inside(100 * (y - self.low) / max(self.high - self.low, 1e-12))

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """A line through points on a square of 1000 x 1000."""
        return "M" + "L".join(f"{10 * self.across(x):.0f} {1000 - 10 * self.up(y):.0f}" for x, y in points)

    def ticks(self) -> dict[str, list[tuple[float, str]]]:
        """Round numbers along both sides, and where they stand."""
        return {
            "x_ticks": [(self.across(t), short(t)) for t in round_numbers(self.left, self.right)],
            "y_ticks": [(self.up(t), short(t)) for t in round_numbers(self.low, self.high, about=4)],
        }


def inside(percent: float) -> float:
    """Not far out of the frame."""
    return round(min(max(percent, -50.0), 150.0), 2)
