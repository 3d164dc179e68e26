"""A study from its file to finished runs: read, checked, plan saved, run, losing arms stopped."""

import datetime
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitgolf import import_core
from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.base.events import Event, finish
from bitgolf.base.files import write_json
from bitgolf.base.plan import diff, from_json, to_json
from bitgolf.inputs.recorded import record, techniques_of
from bitgolf.inputs.resolve import find_dataset, from_python
from bitgolf.inputs.typed import Change, Receipt
from bitgolf.net.backend import choose_backend
from bitgolf.recipe import Recipe
from bitgolf.run.preflight import preflight, refuse_unfit
from bitgolf.study.design import AllSeeds, DropLosers, Study
from bitgolf.study.executors import Executor, Look
from bitgolf.study.receipt import RECEIPT, RUNS, receipt_of
from bitgolf.study.runs import Job, Task, forget_failures, make_job, tasks_of
from bitgolf.study.stats import contrast
from bitgolf.study.status import run_status
from bitgolf.study.values import value_of

Cell = tuple[str, int]  # an arm and a seed


class Prepared(NamedTuple):
    """A study with the run that each arm and seed needs. folder: where its report goes."""

    study: Study
    folder: Path
    jobs: dict[Cell, Job]


def find_study(text: str) -> Study:
    """A study by `file.py` (its function `study`), `file.py:function`, or the folder of one begun before."""
    if Path(text).is_dir():
        return study_of(Path(text))
    name, _, function = text.partition(":")
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise BitgolfError(
            "no such study",
            where=text,
            way_out="give a file such as studies/pr682.py, or the folder of a study",
        )
    return from_python(path, function or "study", Study)


def prepare(
    study: Study, out: Path, device: str = "", *, only_planned: bool = False
) -> Generator[Event, None, Prepared]:
    """Datasets, scripts and folders of all runs, and one try of what has runs to do.

    device: the kind of device of a cluster, where it is not that of this machine; nothing is tried here then.
    only_planned: nothing is tried, and scripts are made only where the store has runs of that name.
    Raises BitgolfError for what could not run. Nothing is written but datasets and the number type.
    """
    recipes = study.recipes()
    jobs: dict[Cell, Job] = {}
    tried: list[Any] = []
    for done, (arm, recipe) in enumerate(recipes.items()):
        yield Event("prepare", done, len(recipes), {"arm": arm})
        dataset = yield from find_dataset(study.data, recipe.model.vocabulary_size, recipe.data.case_ops)
        made_for = (study.seeds[0], dataset, out / "runs", study.processes, device)
        first = make_job(recipe, *made_for, only_planned=only_planned)
        for seed in study.seeds:
            folder = first.folder.with_name(first.folder.name.rpartition("-")[0] + f"-{seed}")
            jobs[arm, seed] = first._replace(seed=seed, folder=folder)
        begun = all(run_status(jobs[arm, seed].folder).state != "waiting" for seed in study.seeds)
        if not (begun or device) and (trial := _tried(recipe)) not in tried:
            tried.append(trial)
            try:
                if only_planned:
                    refuse_unfit(first.recipe, dataset)
                else:
                    finish(preflight(first.recipe, dataset, choose_backend(first.recipe.backend), first.seed))
            except BitgolfError as error:
                raise BitgolfError(f"cannot run: {error}", where=f"arm {arm!r}") from error
    yield Event("prepare", 1, 1, {})
    return Prepared(study, out / study.name, jobs)


def _tried(recipe: Recipe) -> dict[str, Any]:
    """The settings that a try before the training depends on; arms that differ in others share one try."""
    return {name: value for name, value in to_json(recipe).items() if name not in ("average", "train")}


def keep_plan(prepared: Prepared) -> None:
    """Write the receipt: the plan before the first run, and what was changed of it since, with the time."""
    path, study = prepared.folder / RECEIPT, prepared.study
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    begun: Receipt = {"written": now, "plan": to_json(study), "amendments": [], "runs": []}
    receipt = receipt_of(prepared.folder) if path.is_file() else begun
    before, after = _plan_in(receipt, prepared.folder), study
    changes = [change for change in diff(before, after) if change[0] not in ("reading", "question")]
    if changes:
        amended = [Change(path=p, before=brief(a), after=brief(b)) for p, a, b in changes]
        receipt["amendments"].append({"written": now, "changes": amended})
    receipt["plan"] = to_json(study)
    receipt["runs"] = [
        {"arm": arm, "seed": seed, "folder": RUNS + job.folder.name}
        for (arm, seed), job in prepared.jobs.items()
    ]
    write_json(path, receipt)
    record(study, prepared.folder)


def brief(value: Any) -> Any:
    """A changed setting in a line: of arms and factors their names alone."""
    if isinstance(value, tuple):
        return [brief(item) for item in value]
    return getattr(value, "name", None) or to_json(value)


def study_of(folder: Path) -> Study:
    """The plan in a study's folder."""
    return _plan_in(receipt_of(folder), folder)


def _plan_in(receipt: Receipt, folder: Path) -> Study:
    import_core()
    with techniques_of(folder):
        try:
            return from_json(Study, receipt["plan"])
        except PlanError as error:
            raise PlanError(f"{folder / RECEIPT}: {problem}" for problem in error.problems) from None


def run_study(prepared: Prepared, executor: Executor, look: Look, *, retry: bool = False) -> None:
    """Do all runs that are not done. `look` is called now and then, and once at the end.

    retry: failed runs are begun again; otherwise they stay as they are.
    """
    keep_plan(prepared)
    if retry:
        forget_failures([*prepared.jobs.values()])
    executor(tasks(prepared), look)
    look()


def tasks(prepared: Prepared) -> Iterator[Task]:
    """What is to be run, seed by seed, so that all arms stay equally far; decided as late as possible."""
    for seeds_done, seed in enumerate(prepared.study.seeds):
        dropped = dropped_arms(prepared, seeds_done)
        wanted = [job for (arm, s), job in prepared.jobs.items() if s == seed and arm not in dropped]
        for task in tasks_of(wanted):
            if task.unfinished():
                yield task


def dropped_arms(prepared: Prepared, seeds_done: int) -> set[str]:
    """Arms that have lost for certain after so many seeds; they get no further ones."""
    study = prepared.study
    if isinstance(study.stop, AllSeeds):
        return set()
    seeds = study.seeds[:seeds_done]
    statuses = [[run_status(prepared.jobs[arm, seed].folder) for seed in seeds] for arm in study.names]
    values = [[value_of(each, study.metric) for each in row] for row in statuses]
    return losers(study, np.array(values, float))


def losers(study: Study, values: np.ndarray) -> set[str]:
    """Arms that the stop rule ends after these seeds, (arms, seeds). References and cells never are."""
    if not isinstance(study.stop, DropLosers) or values.shape[1] < study.stop.after_seeds:
        return set()
    names = study.names
    needed = {arm.against for arm in study.arms}
    rest = [arm for arm in study.arms if arm.name not in needed and not arm.levels]
    return {
        arm.name
        for arm in rest
        if _has_lost(values[names.index(arm.name)], values[names.index(arm.against)], study.stop.p)
    }


def _has_lost(arm: np.ndarray, reference: np.ndarray, p: float) -> bool:
    """Never while a run of either is missing, still running or failed."""
    pair = np.stack([arm, reference])
    test = None if np.isnan(pair).any() else contrast(pair, (1.0, -1.0))
    return test is not None and test.p_worse < p
