"""From the folders of a study's runs to what may be claimed: the content of study.json.

Verdicts, in the order in which they are asked for: unfinished (runs are missing), invalid (a run failed, went
over budget, scored another part of the text or exactly as its reference, or too few are left), better and
worse (the corrected p is below alpha; lower is better for every metric), equivalent (inside the declared
bound, corrected as well), no evidence (at this number of seeds).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitgolf.base.errors import BitgolfError
from bitgolf.base.plan import diff
from bitgolf.inputs.typed import Receipt, Step, read_lines
from bitgolf.net.model import count_parameters
from bitgolf.recipe import Recipe
from bitgolf.report import screen
from bitgolf.study.design import Margin, Study
from bitgolf.study.documents import over_pairs
from bitgolf.study.receipt import MOVE_AWAY, RECEIPT, receipt_of
from bitgolf.study.runner import losers, study_of
from bitgolf.study.stats import (
    Contrast,
    contrast,
    corrected,
    detectable,
    pooled_deviation,
    seeds_needed,
)
from bitgolf.study.status import UNREADABLE, RunStatus, run_status
from bitgolf.study.terms import BASELINE, IN_BITS, METRICS
from bitgolf.study.values import (
    CHALLENGE_NATS,
    bytes_per_token,
    challenge_margin,
    figures,
    metric_of,
    other_texts,
    repeats,
    value_of,
)

SIDE_METRICS = ("total_bytes", "train_seconds")
FAILURES = {"crash": "crashed", "diverged": "diverged", UNREADABLE: "left no readable result"}


class Comparison(NamedTuple):
    """A contrast of arms: one weight per arm of the study, the baseline first."""

    name: str
    kind: str
    weights: tuple[float, ...]
    arms: tuple[str, ...]


class Runs(NamedTuple):
    """All runs of a study as they stand, (arms, seeds)."""

    names: tuple[str, ...]
    folders: dict[tuple[str, int], Path]
    statuses: dict[tuple[str, int], RunStatus]

    def values(self, study: Study, metric: str) -> np.ndarray:
        """One metric of every run, (arms, seeds) float64; nan where there is none."""
        rows = [[value_of(self.statuses[arm, seed], metric) for seed in study.seeds] for arm in self.names]
        return np.array(rows, float).reshape(len(self.names), len(study.seeds))


def analyse(folder: Path) -> dict[str, Any]:
    """What a study's runs say so far, from their folders alone. folder: that of the study."""
    receipt, study = receipt_of(folder), study_of(folder)
    runs, names = runs_of(study, receipt, folder), study.names
    columns = {metric: runs.values(study, metric) for metric in METRICS}
    values = columns[study.metric]
    good = [status.result for status in runs.statuses.values() if status.state == "done" and status.result]
    some = good[0] if good else None
    margin, within = (in_metric_of(threshold, some) for threshold in (study.margin, study.equivalent_within))
    dropped = stopped_arms(study, values)
    rows = [
        comparison_row(study, runs, columns, each, margin, within, dropped) for each in comparisons(study)
    ]
    decide(rows, study)
    return {
        "study": study.name,
        "question": study.question,
        "reading": study.reading,
        "status": "finished" if not any(row["verdict"] == "unfinished" for row in rows) else "unfinished",
        "metric": study.metric,
        "metric_in_words": METRICS[study.metric],
        "test": study.test,
        "correction": study.correction,
        "alpha": study.alpha,
        "comparisons": rows,
        "seeds": [*study.seeds],
        "margin": {"value": study.margin.value, "unit": study.margin.unit, "in_metric": _number(margin)},
        "equivalent_within": {
            "value": study.equivalent_within.value,
            "unit": study.equivalent_within.unit,
            "in_metric": _number(within),
        },
        "challenge_margin": challenge_margin(good),
        "noise": noise_of(study, values),
        "arms": [arm_row(study, runs, name, values[i]) for i, name in enumerate(names)],
        "original": [dataclasses.asdict(cell) for cell in study.original],
        "factors": [{"name": f.name, "levels": [*f.levels]} for f in study.factors],
        "scale": scale_of(study.baseline, good),
        "machines": sorted({machine(result) for result in good}),
        "plan_written": receipt["written"],
        "amendments": receipt["amendments"],
    }


def runs_of(study: Study, receipt: Receipt, folder: Path) -> Runs:
    """The runs that a receipt names. Raises BitgolfError where one of the study is not among them."""
    folders = {(row["arm"], row["seed"]): (folder / row["folder"]).resolve() for row in receipt["runs"]}
    for arm, seed in product(study.names, study.seeds):
        if (arm, seed) not in folders:
            raise BitgolfError(
                f"names no run of arm {arm!r}, seed {seed}", where=str(folder / RECEIPT), way_out=MOVE_AWAY
            )
    return Runs(study.names, folders, {cell: run_status(path) for cell, path in folders.items()})


def noise_of(study: Study, values: np.ndarray) -> dict[str, Any]:
    """How far runs of one arm lie apart, and what could be seen behind that. values: (arms, seeds)."""
    deviation, freedom = pooled_deviation(values)
    m, in_bits = study.comparisons_at_most, study.metric in IN_BITS
    least = detectable(deviation, len(study.seeds), m, study.alpha) if freedom else None
    wanted = freedom and deviation > 0 and in_bits
    seeds = seeds_needed(deviation, CHALLENGE_NATS, m, study.alpha) if wanted else None
    return {
        "deviation": _number(deviation),
        "degrees_of_freedom": freedom,
        "detectable": _number(least),
        "seeds_for_the_challenge": seeds,
    }


def comparisons(study: Study) -> list[Comparison]:
    """Every arm against its reference, then every effect and interaction of the factors."""
    names = study.names
    comparisons = []
    for arm in study.arms:
        if not arm.levels:
            weights = tuple(float(n == arm.name) - float(n == arm.against) for n in names)
            comparisons.append(Comparison(arm.name, "arm", weights, (arm.name, arm.against)))
    return comparisons + effects(study)


def effects(study: Study) -> list[Comparison]:
    """Main effects, averaged over the other factors, and interactions: how effects depend on each other."""
    if not study.factors:
        return []
    firsts = tuple(factor.levels[0] for factor in study.factors)
    cells = {arm.levels: arm.name for arm in study.arms if arm.levels} | {firsts: BASELINE}
    names = study.names
    comparisons = []
    choices = product(*((None, *factor.levels[1:]) for factor in study.factors))
    for chosen in sorted(choices, key=lambda each: sum(level is not None for level in each)):
        moved = [(f, level) for f, level in zip(study.factors, chosen) if level is not None]
        if not moved:
            continue
        weights = dict.fromkeys(names, 0.0)
        for cell, name in cells.items():
            weight = 1.0
            for factor, level, at in zip(study.factors, chosen, cell):
                if level is None:
                    weight /= len(factor.levels)
                else:
                    weight *= float(at == level) - float(at == factor.levels[0])
            weights[name] = weight
        title = " x ".join(f"{factor.name}: {level}" for factor, level in moved)
        kind = "main effect" if len(moved) == 1 else "interaction"
        comparisons.append(Comparison(title, kind, tuple(weights.values()), tuple(cells.values())))
    return comparisons


def comparison_row(
    study: Study,
    runs: Runs,
    columns: Mapping[str, np.ndarray],
    each: Comparison,
    margin: float,
    within: float,
    dropped: set[str],
) -> dict[str, Any]:
    """One line of the table before verdicts, which need all lines."""
    values = columns[study.metric]
    test = contrast(values, each.weights, test=study.test, margin=margin, within=within)
    row: dict[str, Any] = {
        "name": each.name,
        "kind": each.kind,
        "against": each.arms[1] if each.kind == "arm" else None,
        "weights": {name: w for name, w in zip(runs.names, each.weights) if w},
        "verdict": "",
        "why": problem_with(study, runs, values, each) or ("" if test else "too few runs"),
        "unfinished": is_unfinished(study, runs, each, dropped),
        "stopped_early": each.name in dropped,
        **({} if test is None else {key: _number(v) for key, v in dataclasses.asdict(test).items()}),
        "p_corrected": None,
        "p_within_corrected": None,
        "detectable": _detectable(test, study, values, each),
        "documents": document_row(study, runs, each),
    }
    sides = [metric for metric in (*IN_BITS, *SIDE_METRICS) if metric != study.metric]
    row["other_metrics"] = {}
    for metric in sides:
        other = contrast(columns[metric], each.weights)
        if other is not None:
            row["other_metrics"][metric] = {k: _number(getattr(other, k)) for k in ("effect", "low", "high")}
    return row


def _detectable(test: Contrast | None, study: Study, values: np.ndarray, each: Comparison) -> float | None:
    """The smallest difference that this line would have shown, from its own noise."""
    if test is None or test.n < 2:
        return None
    m = study.comparisons_at_most
    if test.test == "welch":
        noise_factor = math.sqrt(sum(w * w for w in each.weights) / 2)  # of a difference of two arms it is 1
        deviation, _ = pooled_deviation(values[np.asarray(each.weights) != 0])
        return _number(noise_factor * detectable(deviation, test.n, m, study.alpha))
    return _number(detectable(test.error * math.sqrt(test.n), test.n, m, study.alpha, paired=True))


def decide(rows: list[dict[str, Any]], study: Study) -> None:
    """Correct the p-values of all lines together and write the verdicts."""
    tested = [row for row in rows if row.get("p") is not None]
    for row, p in zip(tested, corrected([row["p"] for row in tested], study.correction)):
        row["p_corrected"] = p
    bounded = [row for row in tested if row.get("p_within") is not None]
    for row, p in zip(bounded, corrected([row["p_within"] for row in bounded], study.correction)):
        row["p_within_corrected"] = p
    for row in rows:
        row["verdict"] = verdict_of(row, study.alpha)


def verdict_of(row: Mapping[str, Any], alpha: float) -> str:
    """One of VERDICTS."""
    if row["unfinished"]:
        return "unfinished"
    if row["why"] or row["p_corrected"] is None:
        return "invalid"
    if row["p_corrected"] < alpha:
        return "better" if row["effect"] < 0 else "worse"
    if row["p_within_corrected"] is not None and row["p_within_corrected"] < alpha:
        return "equivalent"
    return "no evidence"


def problem_with(study: Study, runs: Runs, values: np.ndarray, each: Comparison) -> str:
    """Why nothing can be claimed of these arms, in words; empty if nothing is wrong."""
    problems = []
    scored: list[dict[str, Any]] = []
    for arm in each.arms:
        statuses = [runs.statuses[arm, seed] for seed in study.seeds]
        for state, word in FAILURES.items():
            if n := sum(f.state == "failed" and f.stage == state for f in statuses):
                problems.append(f"{arm}: {n} of {len(statuses)} runs {word}")
        if n := sum(f.stage == "over budget" for f in statuses):
            problems.append(f"{arm}: {n} of {len(statuses)} runs are over the byte budget")
        done = [
            (seed, f.result, runs.folders[arm, seed])
            for seed, f in zip(study.seeds, statuses)
            if f.state == "done" and f.result
        ]
        if same := repeats(done):
            problems.append(
                f"{arm}: seeds {', '.join(map(str, same))} scored alike to the last bit, as one run would"
            )
        scored += [result for _, result, _ in done]
    if differing := other_texts(scored):
        problems.append(f"scored on {differing}")
    if each.kind == "arm" and study.metric in IN_BITS:
        arm, reference = (values[runs.names.index(name)] for name in each.arms)
        if np.array_equal(arm, reference) and len(arm) > 1:
            problems.append(
                f"every run scored as {each.arms[1]} does, to the last bit: the change does nothing"
            )
    return "; ".join(dict.fromkeys(problems))


def is_unfinished(study: Study, runs: Runs, each: Comparison, dropped: set[str]) -> bool:
    """Whether runs of these arms are still to come."""
    return any(
        runs.statuses[arm, seed].state not in ("done", "failed")
        for arm in each.arms
        if arm not in dropped
        for seed in study.seeds
    )


def stopped_arms(study: Study, values: np.ndarray) -> set[str]:
    """Arms that the stop rule has ended: they had lost, and were not run on."""
    return {
        name
        for seeds in range(len(study.seeds))
        for name in losers(study, values[:, :seeds])
        if np.isnan(values[study.names.index(name), seeds:]).all()
    }


def document_row(study: Study, runs: Runs, each: Comparison) -> dict[str, Any] | None:
    """What documents say where both arms have the same weights: the change is in packing or scoring alone."""
    recipes = study.recipes()
    if each.kind != "arm" or study.metric not in IN_BITS:
        return None
    arm, reference = each.arms
    if recipes[arm].training() != recipes[reference].training():
        return None
    pairs = [(runs.folders[arm, seed], runs.folders[reference, seed]) for seed in study.seeds]
    try:
        difference = over_pairs(pairs)
    except BitgolfError:  # scores that cannot be read: the seeds still speak
        return None
    return (
        None if difference is None else {key: _number(v) for key, v in dataclasses.asdict(difference).items()}
    )


def arm_row(study: Study, runs: Runs, name: str, values: np.ndarray) -> dict[str, Any]:
    """An arm: what it changes, its runs, its means."""
    recipes = study.recipes()
    arm = next((arm for arm in study.arms if arm.name == name), None)
    against = arm.against if arm else None
    changes = [] if against is None else diff(recipes[against], recipes[name])
    statuses = [(seed, runs.statuses[name, seed]) for seed in study.seeds]
    finished = values[~np.isnan(values)]
    metrics: dict[str, Any] = {}
    for metric in METRICS:
        column = [metric_of(f.result, metric) for _, f in statuses if f.state == "done" and f.result]
        column = [value for value in column if not math.isnan(value)]
        if column:
            spread = float(np.std(column, ddof=1)) if len(column) > 1 else None
            metrics[metric] = {"mean": float(np.mean(column)), "deviation": spread}
    return {
        "name": name,
        "against": against,
        "bundle": arm.bundle if arm else "",
        "levels": [*arm.levels] if arm else [factor.levels[0] for factor in study.factors],
        "changes": [
            {"path": p, "before": screen.number(a), "after": screen.number(b)} for p, a, b in changes
        ],
        "parameters": count_parameters(recipes[name].model.shipped()),
        "recipe_identity": recipes[name].identity(),
        "n": len(finished),
        "mean": _number(finished.mean()) if len(finished) else None,
        "deviation": _number(finished.std(ddof=1)) if len(finished) > 1 else None,
        "metrics": metrics,
        "runs": [run_row(seed, runs.folders[name, seed], f, study.metric) for seed, f in statuses],
    }


def run_row(seed: int, folder: Path, status: RunStatus, metric: str) -> dict[str, Any]:
    """One run: where it is, how it ended, all its figures."""
    result = status.result or {}
    done = status.state == "done"
    return {
        "seed": seed,
        "folder": folder.name,
        "state": status.state,
        "status": result.get("status"),
        "error": result.get("error"),
        "value": _number(metric_of(result, metric)) if done else None,
        "figures": figures(result) if done else {},
        "seconds": sum(result.get("seconds", {}).values()) if done else None,
    }


def in_metric_of(margin: Margin, result: dict[str, Any] | None) -> float:
    """A margin in the metric's unit: nats per byte or per token as bits per byte of a run's scored text."""
    if margin.unit == "metric" or not margin.value:
        return margin.value
    if margin.unit == "nats per byte":
        return margin.value / math.log(2)
    return math.nan if result is None else margin.value / math.log(2) / bytes_per_token(result)


def scale_of(baseline: Recipe, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How small or large the runs are."""
    first = results[0] if results else {}
    seconds = [sum(result.get("seconds", {}).values()) for result in results]
    return {
        "parameters": count_parameters(baseline.model.shipped()),
        "train_tokens": first.get("train_tokens"),
        "steps": first.get("steps"),
        "data": (first.get("data") or {}).get("name"),
        "scored_tokens": first.get("tokens"),
        "windows": first.get("windows"),
        "runs": len(results),
        "seconds_per_run": float(np.mean(seconds)) if seconds else None,
    }


def machine(result: dict[str, Any]) -> str:
    """The machine of a run in a line; figures in seconds compare only within one."""
    environment = result.get("environment") or {}
    device = (environment.get("backend") or {}).get("device", "cpu").partition(":")[0]
    processor, cores, torch_version = (environment.get(key) for key in ("processor", "cores", "torch"))
    return f"{processor}, {cores} cores, {device}, torch {torch_version}"


def curves(folder: Path) -> dict[str, list[list[float]]]:
    """Learning curves by arm for the report: (progress, nats per token) pairs, the mean over seeds."""
    receipt = receipt_of(folder)
    read: dict[str, list[np.ndarray]] = {}
    for row in receipt["runs"]:
        lines = read_lines(folder / row["folder"] / "metrics.jsonl", Step)
        pairs = [(x["progress"], x["nats_per_token"]) for x in lines if x["nats_per_token"] is not None]
        if pairs:
            read.setdefault(row["arm"], []).append(np.array(pairs))
    return {arm: mean_curve(curves) for arm, curves in read.items()}


def mean_curve(curves: Sequence[np.ndarray], points: int = 60) -> list[list[float]]:
    """The mean of several curves at evenly spaced progress, each smoothed over one step of that."""
    edges = np.linspace(0, 1, points + 1)
    rows = []
    for low, high in zip(edges, edges[1:]):
        inside = [c[(c[:, 0] > low) & (c[:, 0] <= high), 1] for c in curves]
        means = [part.mean() for part in inside if len(part)]
        if means:
            rows.append([float((low + high) / 2), float(np.mean(means))])
    return rows


def _number(value: Any) -> Any:
    """A number that JSON can say."""
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
