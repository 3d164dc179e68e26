"""A study as one page, one file for a pull request and one for programs: the same numbers three times.

The numbers come from `verdicts`; here they are put into words and places, in percent of a plot, so that the
page needs no script and stretches to any width. Whatever is not known yet is a dash, or a sentence.
"""

import functools
import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from bitgolf.core.files import write_bytes, write_json
from bitgolf.lab.charts import Ticks, padded, round_numbers
from bitgolf.study.design import METRICS
from bitgolf.study.stats import MOST_SEEDS
from bitgolf.study.verdicts import SIDE_METRICS, VERDICTS, analyse, curves

View = dict[str, Any]
Curves = Mapping[str, Sequence[Sequence[float]]]

NOTHING = "–"
ARM_METRICS = ("quantized_bits_per_byte", "float_bits_per_byte", *SIDE_METRICS)
UNPAIRED = "Welch's where seeds do not move both sides together"
TESTS = {
    "welch": "Welch's t test",
    "paired": f"paired t test, seed by seed; {UNPAIRED}",
    "sign-flip": f"exact sign-flip test, seed by seed; {UNPAIRED}",
}
CORRECTIONS = {"holm": "Holm", "benjamini-hochberg": "Benjamini-Hochberg"}
EARLY = 0.1  # of the training, in which the loss falls so far that the rest would be flat
LABEL = 6.5  # percent of a plot's height that a line of text takes


def write_report(folder: Path, reading: str = "") -> View:
    """Write study.json, study.md and study.html from the runs as they stand; returns the first.

    reading: in plain words what the numbers say, if it is newer than the plan's.
    """
    study = analyse(folder)
    study["reading"] = reading or study["reading"]
    write_json(folder / "study.json", study)
    write_bytes(folder / "study.md", markdown(study).encode())
    write_bytes(folder / "study.html", page(study, curves(folder)).encode())
    return study


def page(study: View, curves: Curves) -> str:
    """The HTML page. curves: `verdicts.curves`."""
    return _template().render(
        study=study,
        facts=facts(study),
        tally=tally(study),
        paragraphs=paragraphs(study["reading"]),
        table=comparison_table(study),
        forest=forest(study),
        dots=dots(study),
        learning=learning(study, curves),
        scatters=[(metric, scatter(study, metric)) for metric in SIDE_METRICS if metric != study["metric"]],
        interactions=interactions(study) if study["factors"] else None,
        metrics=metric_table(study, METRICS),
        changed=[arm for arm in study["arms"] if arm["changes"] or arm["bundle"]],
        failures=failures(study),
        challenge=challenge(study),
        amendments=amendments(study),
    )


def shown(metric: str, value: float | None, *, sign: bool = False) -> str:
    """A value of a metric: four decimals of bits, one of seconds, whole bytes and steps."""
    digits = 0 if metric.endswith(("bytes", "steps")) else 1 if metric.endswith("seconds") else 4
    return _text(value, f"{'+' if sign else ''}z,.{digits}f")


def known(value: float | None) -> float | None:
    """A number, or None for what is not known yet."""
    return value if value is not None and math.isfinite(value) else None


def _text(value: float | None, form: str) -> str:
    return NOTHING if known(value) is None else format(value, form).replace("-", "−")


def spoken(metric: str) -> str:
    """A metric's name in words."""
    return metric.replace("_", " ")


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, each on one line."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def tally(study: View) -> str:
    """How many comparisons have which verdict."""
    counts = Counter(row["verdict"] for row in study["comparisons"])
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


def facts(study: View) -> list[tuple[str, str]]:
    """How it was run and decided, as names and words."""
    metric, noise, scale = study["metric"], study["noise"], study["scale"]
    compared = len(study["comparisons"])
    rows = [
        ("metric", f"{study['metric_in_words']}; lower is better"),
        ("seeds", ", ".join(map(str, study["seeds"]))),
        ("test", TESTS[study["test"]]),
        ("correction", f"{CORRECTIONS[study['correction']]}, {compared} comparison{'s' * (compared != 1)}"),
        ("alpha", f"{study['alpha']:g}"),
        ("margin", _size(study, "margin")),
        ("equivalent within", _size(study, "equivalent_within")),
        ("noise of one run", _noise(study)),
    ]
    if noise["detectable"] is not None:
        size = shown(metric, noise["detectable"])
        rows.append(("smallest detectable difference", f"{size} with 80% power, by Welch's t test"))
    if seeds := noise["seeds_for_the_challenge"]:
        more = " or more" if seeds >= MOST_SEEDS else ""
        rows.append(("seeds to detect 0.005 bits per byte", f"{seeds:,}{more} an arm"))
    runs = [run for arm in study["arms"] for run in arm["runs"]]
    each = f", {scale['seconds_per_run']:,.1f} s each" if scale["seconds_per_run"] else ""
    rows += [
        ("scale", _scale(scale)),
        ("runs", f"{sum(run['state'] == 'done' for run in runs)} of {len(runs)} done{each}"),
        ("machines" if len(study["machines"]) > 1 else "machine", "; ".join(study["machines"]) or NOTHING),
        ("plan written", moment(study["plan_written"])),
    ]
    return [(name, text) for name, text in rows if text]


def _size(study: View, which: str) -> str:
    """A margin as it was declared and in the metric's unit; empty where none was."""
    size = study[which]
    if not size["value"]:
        return ""
    inside = shown(study["metric"], size["in_metric"])
    return inside if size["unit"] == "metric" else f"{size['value']:g} {size['unit']}, here {inside}"


def _noise(study: View) -> str:
    noise = study["noise"]
    if not noise["degrees_of_freedom"]:
        return "not known: no arm has two runs yet"
    deviation = shown(study["metric"], noise["deviation"])
    return f"standard deviation {deviation}, {noise['degrees_of_freedom']} degrees of freedom"


def _scale(scale: View) -> str:
    parts = [f"{scale['parameters']:,} parameters"]
    for key, words in (("steps", "steps"), ("train_tokens", "tokens of training")):
        parts += [f"{scale[key]:,} {words}"] if scale[key] else []
    parts += [f"text {scale['data']}"] if scale["data"] else []
    if scale["scored_tokens"]:
        parts.append(f"{scale['scored_tokens']:,} tokens scored ({scale['windows']})")
    return ", ".join(parts)


def moment(written: str) -> str:
    """A time stamp for readers: to the minute."""
    return written.replace("T", " ")[:16] + (" UTC" if written.endswith("+00:00") else "")


def challenge(study: View) -> str:
    """The public challenge's margin in bits per byte, however it is read."""
    read = [f"{bits:.4f} if read as {unit}" for unit, bits in study["challenge_margin"].items()]
    return f"A record of the public challenge had to be 0.005 better; in bits per byte: {', '.join(read)}."


def amendments(study: View) -> list[tuple[str, str, str, str]]:
    """What was changed after the plan was written: time, setting, before, after."""
    return [
        (moment(found["written"]), each["path"], _said(each["before"]), _said(each["after"]))
        for found in study["amendments"]
        for each in found["changes"]
    ]


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def comparison_table(study: View) -> View:
    """Every comparison in words."""
    rows = [_row(study, row) for row in study["comparisons"]]
    return {
        "rows": rows,
        "documents": any(row["documents"] for row in rows),
        "sides": [metric for metric in SIDE_METRICS if metric != study["metric"]],
        "unbounded": any("∞" in row["interval"] for row in rows),
    }


def _row(study: View, row: View) -> View:
    metric = study["metric"]
    within = row["p_within_corrected"]
    sides = {side: row["other_metrics"].get(side) or {} for side in SIDE_METRICS}
    return {
        "name": row["name"],
        "against": row["against"] or row["kind"],
        "n": str(row.get("n") or NOTHING),
        "effect": shown(metric, row.get("effect"), sign=True),
        "interval": interval(metric, row),
        "p": chance(row["p_corrected"]),
        "test": row.get("test") or "",
        "within": "" if within is None else chance(within),
        "detectable": shown(metric, row["detectable"]),
        "documents": _documents(row["documents"]),
        "sides": {
            side: (shown(side, found.get("effect"), sign=True), interval(side, found))
            for side, found in sides.items()
        },
        "verdict": row["verdict"],
        "why": "; ".join(filter(None, (row["why"], "stopped early" if row["stopped_early"] else ""))),
    }


def interval(metric: str, found: View) -> str:
    """[low, high] of a difference; a side that is not bounded is infinite."""
    if found.get("effect") is None:
        return ""
    ends = ((found["low"], "−∞"), (found["high"], "∞"))
    low, high = (none if end is None else shown(metric, end, sign=True) for end, none in ends)
    return f"[{low}, {high}]"


def chance(p: float | None) -> str:
    """A p-value to four decimals."""
    return "< 0.0001" if p is not None and p < 0.0001 else _text(p, ".4f")


def _documents(found: View | None) -> tuple[str, str] | None:
    if found is None:
        return None
    effect = shown("bits_per_byte", found["effect"], sign=True)
    return effect, f"{interval('bits_per_byte', found)}, {found['documents']:,} documents"


def metric_table(study: View, metrics: Iterable[str]) -> View:
    """Mean and standard deviation of some metrics by arm; those that no arm has are left out."""
    kept = [metric for metric in metrics if any(metric in arm["metrics"] for arm in study["arms"])]
    if not kept:
        return {"missing": "No run is done yet."}
    rows = [(arm["name"], arm["n"], [_mean(arm, metric) for metric in kept]) for arm in study["arms"]]
    return {"metrics": kept, "rows": rows}


def _mean(arm: View, metric: str) -> tuple[str, str]:
    """A mean, and its standard deviation if there is one."""
    found = arm["metrics"].get(metric) or {"mean": None, "deviation": None}
    spread = found["deviation"]
    return shown(metric, found["mean"]), "" if spread is None else f"± {shown(metric, spread)}"


def failures(study: View) -> list[tuple[str, int, str, str]]:
    """Runs that failed or went over budget: arm, seed, status, error."""
    return [
        (arm["name"], run["seed"], run["status"], run["error"] or "")
        for arm in study["arms"]
        for run in arm["runs"]
        if run["status"] not in (None, "ok")
    ]


class Axis(NamedTuple):
    """A range of values, laid over a plot from 0 to 100 percent."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> "Axis":
        """The range of some values with a little air."""
        return cls(*padded(np.array([*values], float)))

    def at(self, value: float) -> float:
        """The place of a value in percent."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def ticks(self, about: int = 4) -> Ticks:
        """Two round numbers or more with their places; as many decimals as tell them apart."""
        several = (round_numbers(self.low, self.high, n) for n in range(about, about + 9))
        numbers = next(numbers for numbers in several if len(numbers) > 1)
        digits = max(0, math.ceil(-math.log10(numbers[1] - numbers[0]) - 1e-9))
        return [(self.at(number), _text(number, f"z,.{digits}f")) for number in numbers]


def forest(study: View) -> View:
    """Every difference with its interval, beside zero and the margin."""
    rows = [row for row in study["comparisons"] if row.get("effect") is not None]
    if not rows:
        return {"missing": "No comparison has two runs on each side yet."}
    metric, margin = study["metric"], known(study["margin"]["in_metric"]) or 0.0
    ends = [row[key] for row in rows for key in ("effect", "low", "high") if row[key] is not None]
    axis = Axis.over([0.0, margin, -margin, *ends])
    return {
        "zero": axis.at(0.0),
        "margin": (axis.at(-margin), axis.at(margin)) if margin else None,
        "ticks": axis.ticks(),
        "rows": [
            {
                "name": row["name"],
                "verdict": row["verdict"],
                "point": axis.at(row["effect"]),
                "low": 0.0 if row["low"] is None else axis.at(row["low"]),
                "high": 100.0 if row["high"] is None else axis.at(row["high"]),
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
    axis = Axis.over(run["value"] for arm in arms for run in arm["runs"] if run["value"] is not None)
    return {
        "level": axis.at(arms[0]["mean"]) if arms[0]["against"] is None else None,
        "ticks": axis.ticks(),
        "rows": [
            {
                "name": arm["name"],
                "mean": axis.at(arm["mean"]),
                "text": " ".join(_mean(arm, metric)),
                "runs": [
                    (axis.at(run["value"]), f"seed {run['seed']}: {shown(metric, run['value'])}")
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
    found = [arm["metrics"] | {"name": arm["name"]} for arm in study["arms"]]
    found = [arm for arm in found if side in arm and study["metric"] in arm]
    if not found:
        return {"missing": "No run is done yet."}
    pairs = [(arm[side]["mean"], arm[study["metric"]]["mean"]) for arm in found]
    across, up = Axis.over(x for x, _ in pairs), Axis.over(y for _, y in pairs)
    points = [(across.at(x), up.at(y)) for x, y in pairs]
    height = max(100.0, LABEL * len(points))  # in percent of the usual height
    labels = apart([y for _, y in points], 100 * LABEL / height)
    return {
        "height": height,
        "x_ticks": across.ticks(2),
        "y_ticks": up.ticks(),
        "points": [
            {"name": arm["name"], "x": x, "y": y, "label": label, "first": not i}
            for i, (arm, (x, y), label) in enumerate(zip(found, points, labels))
        ],
    }


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Places in the same order, pushed up until they are a gap apart, and down where they left the plot."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = np.maximum.accumulate(np.asarray(places)[order] - steps)
    moved = np.minimum(moved, 100.0 - steps[-1]) + steps
    result = np.empty(len(places))
    result[order] = moved
    return [round(float(place), 2) for place in result]


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
        "rows": [(levels, [_mean(arm, study["metric"]) for arm in cells]) for levels, cells in rows],
        "effects": [_row(study, row) for row in study["comparisons"] if row["kind"] != "arm"],
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


def markdown(study: View) -> str:
    """The report for a pull request."""
    return "\n\n".join(_markdown(study)) + "\n"


def _markdown(study: View) -> Iterator[str]:
    metric = study["metric"]
    yield f"## {plain(study['study'])}"
    yield from map(plain, paragraphs(study["question"]))
    yield from map(plain, paragraphs(study["reading"]))
    yield f"Study {study['status']}: {tally(study)}. Differences in {spoken(metric)}; lower is better."
    rows = comparison_table(study)["rows"]
    heads = ("comparison", "against", "n", "difference [95% interval]", "p, corrected", "detectable")
    yield _grid((*heads, "total bytes", "verdict"), [_line(row) for row in rows])
    said = [f"{row['name']} {' '.join(row['documents'])}" for row in rows if row["documents"]]
    if said:
        yield plain(f"Over documents, with the same weights, apart from seeds: {'; '.join(said)}.")
    found = metric_table(study, dict.fromkeys((metric, *ARM_METRICS)))
    if "missing" not in found:
        means = [(name, n, *map(" ".join, cells)) for name, n, cells in found["rows"]]
        yield _grid(("arm, mean ± sd", "n", *map(spoken, found["metrics"])), means)
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
    chances, size = f"{row['p']}{used}{within}", row["sides"]["total_bytes"][0]
    return [row["name"], row["against"], row["n"], difference, chances, row["detectable"], size, verdict]


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
    safe = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*|~$]|(?<!\w)_|_(?!\w)|\](?=[(\[]))", r"\\\1", safe)


@functools.cache
def _template() -> jinja2.Template:
    """The page, which escapes all that is put into it and refuses a name that is not there."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bitgolf", "study"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"spoken": spoken, "word": lambda verdict: verdict.replace(" ", "-")}
    return environment.get_template("study.html.jinja")
