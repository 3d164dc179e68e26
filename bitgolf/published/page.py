"""Logs as one page without network or script: figures, curves in one frame, two of them compared."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from bitgolf.base.files import write_bytes
from bitgolf.published.log import Curve, Published, compared
from bitgolf.report.charts import padded, round_numbers, short
from bitgolf.report.screen import number
from bitgolf.report.templates import templates

POINTS = 240  # of a curve on the page; more are averaged
EARLY = 0.1  # of the steps, in which the loss falls so far that the rest would be flat
FIGURES = {"train_loss": "training loss, nats per token", "val_bpb": "validation, bits per byte"}
AXES = {"step": "steps", "seconds": "seconds of training"}
SHOWN = (
    "seed",
    "bits_per_byte",
    "nats_per_token",
    "scored_as",
    "steps",
    "train_seconds",
    "step_ms",
    "evaluation_seconds",
    "parameters",
    "total_bytes",
    "code_bytes",
)


def write_page(logs: Sequence[Published], path: Path) -> None:
    """Write the page. Raises BitgolfError where that fails."""
    write_bytes(path, page(logs).encode(errors="backslashreplace"))


def page(logs: Sequence[Published]) -> str:
    """The page of some logs; of exactly two with their differences."""
    plots = [_plot(logs, figure, axis) for figure in FIGURES for axis in AXES]
    return _template().render(
        logs=[(each.name, {name: number(each.facts[name]) for name in SHOWN}) for each in logs],
        columns=SHOWN,
        plots=[plot for plot in plots if plot],
        compared=compared(*logs) if len(logs) == 2 else None,
        number=number,
    )


def _plot(logs: Sequence[Published], figure: str, axis: str) -> dict[str, Any] | None:
    """Every log's curve in one frame of 1000 x 1000, that of what comes after the first steps."""
    curves = {each.name: _drawn(each.curves[figure], axis) for each in logs}
    curves = {name: pair for name, pair in curves.items() if len(pair[0]) > 1}
    if not curves:
        return None
    last = max(float(x[-1]) for x, _ in curves.values())
    late = np.concatenate([y[x > EARLY * last] for x, y in curves.values()])
    low, high = padded(late if len(late) else np.concatenate([y for _, y in curves.values()]))
    across, up = _onto(0.0, last), _onto(low, high)
    return {
        "title": FIGURES[figure],
        "label": AXES[axis],
        "x_ticks": [(across(tick), short(tick)) for tick in round_numbers(0.0, last)],
        "y_ticks": [(up(tick), short(tick)) for tick in round_numbers(low, high, about=4)],
        "lines": [
            {"name": each.name, "colour": index % 6, "path": _path(*curves[each.name], across, up)}
            for index, each in enumerate(logs)
            if each.name in curves
        ],
    }


def _drawn(curve: Curve, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve over an axis, at most POINTS."""
    x: np.ndarray = getattr(curve, axis)
    finite = np.isfinite(x)
    x, y = x[finite], curve.value[finite]
    groups = np.array_split(np.arange(len(x)), max(1, min(POINTS, len(x))))
    pairs = [(float(x[group].mean()), float(y[group].mean())) for group in groups if len(group)]
    return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])


def _path(
    x: np.ndarray, y: np.ndarray, across: Callable[[float], float], up: Callable[[float], float]
) -> str:
    return "M" + "L".join(f"{10 * across(a):.0f} {1000 - 10 * up(b):.0f}" for a, b in zip(x, y))


def _onto(low: float, high: float) -> Callable[[float], float]:
    """The map of [low, high] onto percent, held a little beyond it."""
    return lambda value: round(min(max(100 * (value - low) / max(high - low, 1e-12), -50.0), 150.0), 2)


@functools.cache
def _template() -> jinja2.Template:
    return templates("published").get_template("log.html.jinja")
