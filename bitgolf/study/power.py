"""The costs and the statistical power of a study, before any run."""

import math
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np

from bitgolf.base.plan import diff
from bitgolf.forecast.budget import flops_per_token, forecast_seconds
from bitgolf.net.model import count_parameters
from bitgolf.recipe import Recipe
from bitgolf.report import screen
from bitgolf.study.design import Study
from bitgolf.study.runner import Prepared
from bitgolf.study.runs import Job
from bitgolf.study.stats import detectable, seeds_needed
from bitgolf.study.status import RunStatus, run_status
from bitgolf.study.terms import BASELINE, IN_BITS
from bitgolf.study.values import CHALLENGE_NATS, value_of
from bitgolf.study.verdicts import in_metric_of
from bitgolf.text.shards import Dataset

PUBLIC_DEVIATION = 0.0026  # bits per byte, five seeds of PR #212 on eight H100s
MOST_LETTERS = 60  # of a setting in the table of changes
COPIES = 7  # of the weights in a run folder: live, averaged, and the training state
WHOLE_RUN = 1.4  # times the seconds of its training, where nothing was measured
# Seconds of any run besides, however small: on two cores of a Zen 5, runs of three steps took 1.75 s each.
FIXED_SECONDS = 1.0
UNCOUNTED_SECONDS = 0.5  # of those, what no stage counts: the trial before the training, and the files


class Noise(NamedTuple):
    """The standard deviation of one run that a plan reckons with, and where it is from."""

    deviation: float
    source: str


def plan_facts(prepared: Prepared, runs_at_once: int = 1) -> dict[str, Any]:
    """Runs, seconds, disk, noise, and what this many seeds can find."""
    study, jobs = prepared.study, prepared.jobs
    statuses = {job.folder: run_status(job.folder) for job in jobs.values()}
    waiting = {job.folder: job for job in jobs.values() if statuses[job.folder].state != "done"}
    seconds = seconds_of(jobs, statuses)
    left = sum(seconds[job.recipe.identity()] for job in waiting.values())
    noise = noise_of(prepared)
    n, m = len(study.seeds), study.comparisons_at_most
    margin = in_metric_of(study.margin, _some_result(statuses))
    facts: dict[str, Any] = {
        "study": study.name,
        "arms": len(study.names),
        "seeds": n,
        "runs": len(statuses),
        "runs_to_do": len(waiting),
        "seconds_to_do": left / runs_at_once,
        "disk_bytes": sum(_disk_bytes(job, statuses) for job in waiting.values()),
        "noise_assumed": noise.deviation,
        "noise_from": noise.source,
        "comparisons": m,
        "detectable": detectable(noise.deviation, n, m, study.alpha) if noise.deviation > 0 else None,
    }
    if study.test == "sign-flip":
        facts["least_p"] = 2 / 2**n
    if study.metric in IN_BITS and noise.deviation > 0:
        facts["seeds_for_0.005_bits"] = seeds_needed(noise.deviation, CHALLENGE_NATS, m, study.alpha)
        if margin > 0:
            facts["margin"] = margin
            facts["seeds_for_the_margin"] = seeds_needed(noise.deviation, margin, m, study.alpha)
    return facts


def disturbances(study: Study, runs_at_once: int, device: str) -> list[str]:
    """What makes runs of this study change one another, in sentences."""
    plans = {name: recipe.train for name, recipe in study.recipes().items()}
    timed = [name for name, plan in plans.items() if plan.train_seconds > 0 and not plan.step_seconds]
    if not timed or runs_at_once < 2 or device != "cpu":
        return []
    return [f"{', '.join(timed)}: ends by the clock, sooner beside other runs; use --processes 1"]


def change_rows(study: Study) -> list[tuple[str, str, str, str]]:
    """Each arm as its difference: arm, against, setting, and from what to what."""
    recipes, rows = study.recipes(), []
    for arm in study.arms:
        differences = diff(recipes[arm.against], recipes[arm.name])
        for row, (path, before, after) in enumerate(differences):
            names = (arm.name, arm.against) if row == 0 else ("", "")
            sides = (
                shorten(screen.number(value), MOST_LETTERS, placeholder=" ...") for value in (before, after)
            )
            rows.append((*names, path, " -> ".join(sides)))
    return rows


def seconds_of(jobs: dict[tuple[str, int], Job], statuses: dict[Path, RunStatus]) -> dict[str, float]:
    """Seconds of a run by recipe: measured of its own runs, else of others here, else forecast."""
    seconds: dict[str, list[float]] = {}
    for job in jobs.values():
        if result := statuses[job.folder].result:
            spent = sum(result.get("seconds", {}).values()) + UNCOUNTED_SECONDS
            seconds.setdefault(job.recipe.identity(), []).append(spent)
    recipes = {job.recipe.identity(): job.recipe for job in jobs.values()}
    means = {identity: float(np.mean(spent)) for identity, spent in seconds.items()}
    if means:
        return {identity: means.get(identity, max(means.values())) for identity in recipes}
    return {identity: forecast_run_seconds(recipe) for identity, recipe in recipes.items()}


def forecast_run_seconds(recipe: Recipe) -> float:
    """Seconds of a run that nothing like it has been measured for."""
    flops = flops_per_token(recipe.model, recipe.data.sequence_length) * recipe.train.batch_tokens
    return FIXED_SECONDS + WHOLE_RUN * forecast_seconds(recipe, flops)["train_seconds"]


def _disk_bytes(job: Job, statuses: dict[Path, RunStatus]) -> int:
    done = [folder for folder, each in statuses.items() if each.state == "done"]
    if done:
        return sum(path.stat().st_size for path in done[0].rglob("*") if path.is_file())
    return COPIES * 4 * count_parameters(job.recipe.model)


def _some_result(statuses: dict[Path, RunStatus]) -> dict[str, Any] | None:
    return next((each.result for each in statuses.values() if each.state == "done"), None)


def noise_of(prepared: Prepared) -> Noise:
    """From at least two runs of the baseline in the store, whatever study made them; else a public figure."""
    study = prepared.study
    job = prepared.jobs[BASELINE, study.seeds[0]]
    values = earlier_values(job, study.metric)
    if len(values) >= 2:
        return Noise(float(np.std(values, ddof=1)), f"{len(values)} earlier runs of the same baseline")
    if study.metric in IN_BITS:
        return Noise(PUBLIC_DEVIATION, "assumed: five public seeds of PR #212")
    return Noise(0.0, "unknown: no run of the baseline yet")


def earlier_values(job: Job, metric: str) -> list[float]:
    """The metric of every finished run of this recipe on this text, one for each seed."""
    text = Dataset.open(job.dataset).passport
    by_seed: dict[int, float] = {}
    for folder in job.folder.parent.glob(f"{job.recipe.name}-*"):
        status = run_status(folder)
        result = status.result or {}
        if result.get("recipe_identity") == job.recipe.identity() and result.get("data") == text:
            by_seed[result["seed"]] = value_of(status, metric)
    return [value for value in by_seed.values() if not math.isnan(value)]
