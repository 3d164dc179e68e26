"""Numbers of a study as words and table cells; unknown values are a dash."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from bitgolf.study.stats import MOST_SEEDS
from bitgolf.study.terms import VERDICTS
from bitgolf.study.verdicts import SIDE_METRICS

NOTHING = "–"
UNPAIRED = "Welch's where seeds do not move both sides together"
TESTS = {
    "welch": "Welch's t test",
    "paired": f"paired t test, seed by seed; {UNPAIRED}",
    "sign-flip": f"exact sign-flip test, seed by seed; {UNPAIRED}",
}
CORRECTIONS = {"holm": "Holm", "benjamini-hochberg": "Benjamini-Hochberg"}
View = dict[str, Any]


def shown(metric: str, value: float | None, *, sign: bool = False) -> str:
    """A value of a metric: four decimals of bits, one of seconds, whole bytes and steps."""
    digits = 0 if metric.endswith(("bytes", "steps")) else 1 if metric.endswith("seconds") else 4
    return text_of(value, f"{'+' if sign else ''}z,.{digits}f")


def finite_or_none(value: float | None) -> float | None:
    """A number, or None for what is not known yet."""
    return value if value is not None and math.isfinite(value) else None


def text_of(value: float | None, form: str) -> str:
    """A number in a format with a true minus; a dash for none."""
    return NOTHING if finite_or_none(value) is None else format(value, form).replace("-", "−")


def in_words(metric: str) -> str:
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
        ("margin", margin_in_words(study, "margin")),
        ("equivalent within", margin_in_words(study, "equivalent_within")),
        ("noise of one run", _noise(study)),
    ]
    if noise["detectable"] is not None:
        difference = shown(metric, noise["detectable"])
        rows.append(("smallest detectable difference", f"{difference} with 80% power, by Welch's t test"))
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


def margin_in_words(study: View, which: str) -> str:
    """A margin as it was declared and in the metric's unit; empty where none was."""
    margin = study[which]
    if not margin["value"]:
        return ""
    inside = shown(study["metric"], margin["in_metric"])
    return inside if margin["unit"] == "metric" else f"{margin['value']:g} {margin['unit']}, here {inside}"


def _noise(study: View) -> str:
    noise = study["noise"]
    if not noise["degrees_of_freedom"]:
        return "not known: no arm has two runs yet"
    metric = study["metric"]
    freedom = f"{noise['degrees_of_freedom']} degrees of freedom"
    pooled = f"standard deviation {shown(metric, noise['deviation'])}, {freedom}"
    spreads = [arm["metrics"].get(metric, {}).get("deviation") for arm in study["arms"]]
    spreads = [spread for spread in spreads if spread is not None]
    if len(spreads) < 2:
        return pooled
    return f"{pooled}; by arm {shown(metric, min(spreads))} to {shown(metric, max(spreads))}"


def _scale(scale: View) -> str:
    parts = [f"{scale['parameters']:,} parameters"]
    for key, unit in (("steps", "steps"), ("train_tokens", "tokens of training")):
        parts += [f"{scale[key]:,} {unit}"] if scale[key] else []
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
        (moment(amendment["written"]), each["path"], _text(each["before"]), _text(each["after"]))
        for amendment in study["amendments"]
        for each in amendment["changes"]
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def comparison_table(study: View) -> View:
    """Every comparison in words."""
    rows = [table_row(study, row) for row in study["comparisons"]]
    return {
        "rows": rows,
        "documents": any(row["documents"] for row in rows),
        "sides": [metric for metric in SIDE_METRICS if metric != study["metric"]],
        "unbounded": any("∞" in row["interval"] for row in rows),
    }


def table_row(study: View, row: View) -> View:
    """One comparison in words, cell by cell."""
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
            side: (shown(side, figures.get("effect"), sign=True), interval(side, figures))
            for side, figures in sides.items()
        },
        "verdict": row["verdict"],
        "why": "; ".join(filter(None, (row["why"], "stopped early" if row["stopped_early"] else ""))),
    }


def interval(metric: str, figures: View) -> str:
    """[low, high] of a difference; a side that is not bounded is infinite."""
    if figures.get("effect") is None:
        return ""
    ends = ((figures["low"], "−∞"), (figures["high"], "∞"))
    low, high = (none if end is None else shown(metric, end, sign=True) for end, none in ends)
    return f"[{low}, {high}]"


def chance(p: float | None) -> str:
    """A p-value to four decimals."""
    return "< 0.0001" if p is not None and p < 0.0001 else text_of(p, ".4f")


def _documents(figures: View | None) -> tuple[str, str] | None:
    if figures is None:
        return None
    effect = shown("bits_per_byte", figures["effect"], sign=True)
    return effect, f"{interval('bits_per_byte', figures)}, {figures['documents']:,} documents"


def metric_table(study: View, metrics: Iterable[str]) -> View:
    """Mean and standard deviation of some metrics by arm; those that no arm has are left out."""
    kept = [metric for metric in metrics if any(metric in arm["metrics"] for arm in study["arms"])]
    if not kept:
        return {"missing": "No run is done yet."}
    rows = [(arm["name"], arm["n"], [mean_cell(arm, metric) for metric in kept]) for arm in study["arms"]]
    return {"metrics": kept, "rows": rows}


def mean_cell(arm: View, metric: str) -> tuple[str, str]:
    """A mean, and its standard deviation if there is one."""
    summary = arm["metrics"].get(metric) or {"mean": None, "deviation": None}
    spread = summary["deviation"]
    return shown(metric, summary["mean"]), "" if spread is None else f"± {shown(metric, spread)}"


def original_table(study: View) -> View:
    """The table of those who did it first: in each cell the mean of the runs here, and what was published."""
    cells, arms = study.get("original", []), {arm["name"]: arm for arm in study["arms"]}
    columns = dict.fromkeys(cell["column"] for cell in cells)
    rows: dict[str, dict[str, tuple[str, str]]] = {}
    for cell in cells:
        published = cell["published"]
        theirs = f"published {shown(cell['metric'], published)}" if published is not None else ""
        ours = " ".join(mean_cell(arms[cell["arm"]], cell["metric"])).strip()
        rows.setdefault(cell["row"], {})[cell["column"]] = (ours, theirs)
    return {
        "columns": [*columns],
        "rows": [(name, [row.get(column, ("", "")) for column in columns]) for name, row in rows.items()],
    }


def failures(study: View) -> list[tuple[str, int, str, str]]:
    """Runs that failed or went over budget: arm, seed, status, error."""
    return [
        (arm["name"], run["seed"], run["status"], run["error"] or "")
        for arm in study["arms"]
        for run in arm["runs"]
        if run["status"] not in (None, "ok")
    ]
