"""The plots of a study as positions in percent, so that the page needs no script and can stretch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from bitgolf.report.charts import Ticks, padded, round_numbers
from bitgolf.study.formatting import View, finite_or_none, interval, mean_cell, shown, table_row, text_of

Curves = Mapping[str, Sequence[Sequence[float]]]
EARLY = 0.1  # of the training, in which the loss falls so far that the rest would be flat
FAR = 5.0  # times as far off as all others: beyond the frame, or the others would be one point
LABEL = 6.5  # percent of a plot's height that a line of text takes


class Axis(NamedTuple):
    """A range of values, laid over a plot from 0 to 100 percent."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> "Axis":
        """The range of some values with a little air."""
        return cls(*padded(np.array([*values], float)))

    @classmethod
    def near(cls, anchor: float, groups: Iterable[Sequence[float]]) -> "Axis":
        """The range of groups of values and an anchor, without groups that are FAR from it."""
        reaches = sorted((max(abs(value - anchor) for value in group), list(group)) for group in groups)
        while len(reaches) > 2 and reaches[-1][0] > FAR * reaches[-2][0] > 0:
            reaches.pop()
        return cls.over([anchor, *(value for _, group in reaches for value in group)])

    def at(self, value: float) -> float:
        """The place of a value in percent."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def held(self, value: float) -> float:
        """The same, at the edge for what is beyond."""
        return min(100.0, max(0.0, self.at(value)))

    def beyond(self, groups: Mapping[str, Sequence[float]]) -> list[str]:
        """The names of those that are not wholly on the plot."""
        return [name for name, group in groups.items() if min(group) < self.low or max(group) > self.high]

    def ticks(self, about: int = 4) -> Ticks:
        """Two round numbers or more with their places; as many decimals as tell them apart."""
        several = (round_numbers(self.low, self.high, n) for n in range(about, about + 9))
        numbers = next(numbers for numbers in several if len(numbers) > 1)
        digits = max(0, math.ceil(-math.log10(numbers[1] - numbers[0]) - 1e-9))
        return [(self.at(number), text_of(number, f"z,.{digits}f")) for number in numbers]


def forest(study: View) -> View:
    """Every difference with its interval, beside zero and the margin."""
    rows = [row for row in study["comparisons"] if row.get("effect") is not None]
    if not rows:
        return {"missing": "No comparison has two runs on each side yet."}
    metric, margin = study["metric"], finite_or_none(study["margin"]["in_metric"]) or 0.0
    ends = [[row[key] for key in ("effect", "low", "high") if row[key] is not None] for row in rows]
    axis = Axis.near(0.0, [[margin, -margin], *ends])
    return {
        "zero": axis.at(0.0),
        "margin": (axis.at(-margin), axis.at(margin)) if margin else None,
        "ticks": axis.ticks(),
        "beyond": axis.beyond({row["name"]: group for row, group in zip(rows, ends)}),
        "rows": [
            {
                "name": row["name"],
                "verdict": row["verdict"],
                "point": axis.held(row["effect"]),
                "low": 0.0 if row["low"] is None else axis.held(row["low"]),
                "high": 100.0 if row["high"] is None else axis.held(row["high"]),
                "text": f"{shown(metric, row['effect'], sign=True)} {interval(metric, row)}",
            }
            for row in rows
        ],
    }


def dots(study: View) -> View:
    """Every run of every arm at its value, and the arms' means."""
    arms = [arm for arm in study["arms"] if arm["n"]]
    if not arms:
        return {"missing": "No run is done yet."}
    metric = study["metric"]
    values = [[run["value"] for run in arm["runs"] if run["value"] is not None] for arm in arms]
    axis = Axis.near(arms[0]["mean"], values)
    return {
        "level": axis.at(arms[0]["mean"]) if arms[0]["against"] is None else None,
        "ticks": axis.ticks(),
        "beyond": axis.beyond({arm["name"]: group for arm, group in zip(arms, values)}),
        "rows": [
            {
                "name": arm["name"],
                "mean": axis.held(arm["mean"]),
                "text": " ".join(mean_cell(arm, metric)),
                "runs": [
                    (axis.held(run["value"]), f"seed {run['seed']}: {shown(metric, run['value'])}")
                    for run in arm["runs"]
                    if run["value"] is not None
                ],
            }
            for arm in arms
        ],
    }


def learning(study: View, curves: Curves) -> View:
    """Each arm's curve over that of the arm it is compared with, all in one frame."""
    finite = {arm: [pair for pair in pairs if math.isfinite(pair[1])] for arm, pairs in curves.items()}
    late = [loss for pairs in finite.values() for progress, loss in pairs if progress > EARLY]
    if not late:
        return {"missing": "No run has come far enough to show its loss."}
    across, up = Axis(0.0, 1.0), Axis.over(late)
    lines = {arm: line(across, up, pairs) for arm, pairs in finite.items() if pairs}
    drawn = [arm for arm in study["arms"] if arm["name"] in lines]
    compared = [arm for arm in drawn if arm["against"] is not None]
    return {
        "ticks": up.ticks(3),
        "panels": [
            {
                "name": arm["name"],
                "against": arm["against"],
                "line": lines[arm["name"]],
                "reference": lines.get(arm["against"], ""),
            }
            for arm in compared or drawn
        ],
    }


def line(across: Axis, up: Axis, pairs: Iterable[Sequence[float]]) -> str:
    """A path on the square of 1000 by 1000 that the page stretches."""
    return "M" + "L".join(f"{10 * across.at(x):.0f} {1000 - 10 * up.at(y):.0f}" for x, y in pairs)


def scatter(study: View, side: str) -> View:
    """The metric against what it costs, a point for each arm; names in a column beside, never overlapping."""
    measured = [arm["metrics"] | {"name": arm["name"]} for arm in study["arms"]]
    measured = [arm for arm in measured if side in arm and study["metric"] in arm]
    if not measured:
        return {"missing": "No run is done yet."}
    pairs = [(arm[side]["mean"], arm[study["metric"]]["mean"]) for arm in measured]
    across, up = Axis.over(x for x, _ in pairs), Axis.near(pairs[0][1], [[y] for _, y in pairs])
    points = [(across.at(x), up.held(y)) for x, y in pairs]
    height = max(100.0, LABEL * len(points))  # in percent of the usual height
    labels = apart([y for _, y in points], 100 * LABEL / height)
    return {
        "height": height,
        "x_ticks": across.ticks(2),
        "y_ticks": up.ticks(),
        "beyond": up.beyond({arm["name"]: [y] for arm, (_, y) in zip(measured, pairs)}),
        "points": [
            {"name": arm["name"], "x": x, "y": y, "label": label, "first": not i}
            for i, (arm, (x, y), label) in enumerate(zip(measured, points, labels))
        ],
    }


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Places in the same order, pushed up until they are a gap apart, and down where they left the plot."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    moved = np.maximum.accumulate(np.asarray(heights)[order] - steps)
    moved = np.minimum(moved, 100.0 - steps[-1]) + steps
    result = np.empty(len(heights))
    result[order] = moved
    return [round(float(height), 2) for height in result]


def interactions(study: View) -> View:
    """Means by cell, levels of the last factor across; of two factors also as lines that may cross."""
    *down, last = study["factors"]
    firsts = tuple(factor["levels"][0] for factor in study["factors"])
    arms = {tuple(arm["levels"]) or firsts: arm for arm in study["arms"] if _is_cell(arm)}
    rows = [
        (levels, [arms[*levels, level] for level in last["levels"]])
        for levels in product(*(factor["levels"] for factor in down))
    ]
    return {
        "down": [factor["name"] for factor in down],
        "last": last,
        "rows": [(levels, [mean_cell(arm, study["metric"]) for arm in cells]) for levels, cells in rows],
        "effects": [table_row(study, row) for row in study["comparisons"] if row["kind"] != "arm"],
        "plot": _crossing(rows, last["levels"]) if len(down) == 1 else None,
    }


def _is_cell(arm: View) -> bool:
    return bool(arm["levels"]) or arm["against"] is None


def _crossing(rows: Sequence[tuple[tuple[str, ...], list[View]]], levels: Sequence[str]) -> View | None:
    """A line for each level of the first factor, over the levels of the second."""
    if any(arm["mean"] is None for _, cells in rows for arm in cells):
        return None
    up, across = Axis.over(arm["mean"] for _, cells in rows for arm in cells), Axis(0, len(levels))
    ends = apart([up.at(cells[-1]["mean"]) for _, cells in rows], LABEL)
    return {
        "ticks": up.ticks(),
        "levels": [(across.at(i + 0.5), level) for i, level in enumerate(levels)],
        "lines": [
            {
                "level": name,
                "end": end,
                "line": line(across, up, [(i + 0.5, arm["mean"]) for i, arm in enumerate(cells)]),
                "points": [(across.at(i + 0.5), up.at(arm["mean"])) for i, arm in enumerate(cells)],
            }
            for ((name,), cells), end in zip(rows, ends)
        ],
    }
