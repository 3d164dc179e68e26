"""Search over settings under a time budget, on seeds that the claim about the winner never uses.

Optuna proposes; each trial is a run in the store, so a search that was stopped goes on where it was: the same
proposals come again and their runs are there. The winner becomes the one arm of a study on the fresh seeds.
"""

import dataclasses
import math
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.base.events import Event
from bitgolf.base.plan import diff, parse_overrides
from bitgolf.inputs.resolve import find_dataset
from bitgolf.recipe import Recipe
from bitgolf.study.design import Arm, Study
from bitgolf.study.runs import Task, make_job, run_task
from bitgolf.study.status import run_status
from bitgolf.study.values import metric_of

SEARCH_SEED = 100_000  # search seeds are the first ones from here that the study does not name
LOG_RATIO = 10.0  # a range as wide as this is searched by factors
SAMPLER_SEED = 0


class Choice(NamedTuple):
    """The values that one setting may take: a range, or a list of texts as after `--set PATH=`."""

    path: str
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    texts: tuple[str, ...] = ()


class Trial(NamedTuple):
    """One proposal and what it scored; nan where it could not run."""

    overrides: tuple[str, ...]
    value: float
    error: str = ""


class Found(NamedTuple):
    """All trials, and the study that measures the best of them on seeds of its own."""

    trials: list[Trial]
    claim: Study


def parse_space(recipe: Recipe, texts: Sequence[str]) -> list[Choice]:
    """`PATH=LOW..HIGH` or `PATH=A|B|C`. Raises BitgolfError for what is neither, or does not fit."""
    return [_parse(recipe, text) for text in texts]


def _parse(recipe: Recipe, text: str) -> Choice:
    path, _, values = text.partition("=")
    low, dots, high = values.partition("..")
    if dots:
        try:
            choice = Choice(path, float(low), float(high), whole="." not in low + high and "e" not in values)
        except ValueError:
            choice = Choice(path)
        if choice.low < choice.high:
            parse_overrides(recipe, [f"{path}={_said(choice, choice.low)}"])
            return choice
    elif len(options := tuple(filter(None, values.split("|")))) > 1:
        for option in options:
            parse_overrides(recipe, [f"{path}={option}"])
        return Choice(path, texts=options)
    raise BitgolfError(
        "not a range or a list of values",
        where="--search",
        value=text,
        way_out="write model.layers=3..6, train.grad_clip_norm=0.1..2.0, or average=NoAverage()|Ema()",
    )


def search(study: Study, space: Sequence[Choice], out: Path, seconds: float) -> Generator[Event, None, Found]:
    """Try settings around the study's baseline until the time is over, at least two; lower is better.

    A trial is begun only if as much time is left as trials have taken. Raises BitgolfError where none ran.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=SAMPLER_SEED)
    optuna_study = optuna.create_study(sampler=sampler)
    baseline = study.recipes()["baseline"]
    seed = next(n for n in range(SEARCH_SEED, SEARCH_SEED + len(study.seeds) + 1) if n not in study.seeds)
    trials: list[Trial] = []
    spent: list[float] = []
    started = time.monotonic()
    while len(trials) < 2 or time.monotonic() - started + _mean(spent) < seconds:
        proposal = optuna_study.ask()
        overrides = tuple(f"{choice.path}={_proposed(choice, proposal)}" for choice in space)
        began = time.monotonic()
        trial = yield from _tried(study, baseline, overrides, seed, out)
        spent.append(time.monotonic() - began)
        trials.append(trial)
        state = optuna.trial.TrialState
        bad = math.isnan(trial.value)
        optuna_study.tell(proposal, None if bad else trial.value, state.FAIL if bad else state.COMPLETE)
        best = min((each.value for each in trials if not math.isnan(each.value)), default=math.nan)
        share = min(1.0, (time.monotonic() - started) / seconds) if seconds else 1.0
        yield Event("search", share, 1, {"trials": len(trials), "best": best})
    return Found(trials, claim_of(study, trials))


def claim_of(study: Study, trials: Sequence[Trial]) -> Study:
    """The best trial as the only arm, against the baseline, on the study's seeds, which no trial used."""
    good = [trial for trial in trials if not math.isnan(trial.value)]
    if not good:
        raise BitgolfError("no trial could run", where="--search", value=trials[0].error if trials else None)
    recipe = parse_overrides(study.baseline, min(good, key=lambda trial: trial.value).overrides)
    several = len(diff(study.baseline, recipe)) > 1
    why = f"the best of {len(trials)} trials" if several else ""
    if recipe == study.baseline:
        raise BitgolfError("the baseline was the best trial", where="--search", way_out="search elsewhere")
    winner = Arm(name="winner of the search", recipe=recipe, bundle=why)
    name = f"{study.name}_search"
    return dataclasses.replace(study, name=name, arms=(winner,), factors=(), reading="")


def _tried(
    study: Study, baseline: Recipe, overrides: tuple[str, ...], seed: int, out: Path
) -> Generator[Event, None, Trial]:
    try:
        recipe = parse_overrides(baseline, overrides)
    except PlanError as error:
        return Trial(overrides, math.nan, "; ".join(error.problems))
    dataset = yield from find_dataset(study.data, recipe.model.vocabulary_size, recipe.data.case_ops)
    job = make_job(recipe, seed, dataset, out / "runs", study.processes)
    yield from run_task(Task((job,)))
    status = run_status(job.folder)
    if status.state != "done" or not status.result or status.stage == "over budget":
        return Trial(overrides, math.nan, status.stage)
    return Trial(overrides, metric_of(status.result, study.metric))


def _proposed(choice: Choice, proposal: Any) -> str:
    if choice.texts:
        return str(proposal.suggest_categorical(choice.path, choice.texts))
    log = choice.low > 0 and choice.high / choice.low >= LOG_RATIO
    if choice.whole:
        return _said(choice, proposal.suggest_int(choice.path, int(choice.low), int(choice.high), log=log))
    return _said(choice, proposal.suggest_float(choice.path, choice.low, choice.high, log=log))


def _said(choice: Choice, value: float) -> str:
    return str(int(value)) if choice.whole else f"{value:.6g}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
