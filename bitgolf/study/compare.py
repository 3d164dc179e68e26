"""Finished runs, or sets of them, compared by the test that fits, and in one sentence what can be claimed."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitgolf.core.errors import BitgolfError
from bitgolf.core.files import read_json
from bitgolf.core.plan import from_json
from bitgolf.core.recipe import Recipe
from bitgolf.study.runs import run_folders, standing
from bitgolf.study.stats import Contrast, OverDocuments, contrast, corrected
from bitgolf.study.values import metric_of
from bitgolf.study.verdicts import other_parts, over_pairs

ALPHA = 0.05


class RunSet(NamedTuple):
    """Runs of one recipe that differ in their seeds."""

    name: str
    folders: list[Path]
    results: list[dict[str, Any]]

    @property
    def recipe(self) -> Recipe:
        """What they ran."""
        return from_json(Recipe, read_json(self.folders[0] / "recipe.json"))

    def by_seed(self, metric: str) -> dict[int, float]:
        """The metric of each seed."""
        return {result["seed"]: metric_of(result, metric) for result in self.results}

    def by_folder(self) -> dict[int, Path]:
        """The folder of each seed."""
        return {result["seed"]: folder for result, folder in zip(self.results, self.folders)}


def read_run_set(text: str) -> RunSet:
    """The finished runs that a word names. Raises BitgolfError for unfinished ones, and for mixed recipes."""
    folders = run_folders(text)
    if not folders:
        raise BitgolfError(
            "no finished run", where=text, way_out="name run folders, with commas between them"
        )
    results = []
    for folder in folders:
        found = standing(folder)
        if found.state != "done" or not found.result:
            raise BitgolfError("this run has no score", where=str(folder), value=found.stage or found.state)
        results.append(found.result)
    identities = {result["recipe_identity"] for result in results}
    if len(identities) != 1:
        raise BitgolfError(
            "a set of runs is one recipe with several seeds",
            where=text,
            value=f"{len(identities)} recipes",
            way_out="name the runs of each recipe, with commas between them",
        )
    seeds = [result["seed"] for result in results]
    if len(set(seeds)) < len(seeds):
        raise BitgolfError("two runs of one seed in a set", where=text, value=sorted(seeds))
    return RunSet(text, folders, results)


def compare_runs(sets: Sequence[RunSet], metric: str = "bits_per_byte") -> dict[str, Any]:
    """Every set against the first: by seeds where both have two or more, by documents for equal weights.

    Raises BitgolfError for scores of different texts.
    """
    first, *others = sets
    for other in others:
        _refuse_other_text(first, other)
    rows = [_compared(first, other, metric) for other in others]
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, corrected([row["p"] for row in tested], "holm")):
        row["p_corrected"] = p
    for row in rows:
        row["claim"] = claim(row, first.name, metric)
    return {"metric": metric, "against": first.name, "runs": len(first.results), "comparisons": rows}


def _compared(first: RunSet, other: RunSet, metric: str) -> dict[str, Any]:
    seeds = _by_seeds(first, other, metric)
    documents = _by_documents(first, other)
    means = [float(np.mean([*each.by_seed(metric).values()])) for each in (first, other)]
    return {
        "name": other.name,
        "runs": len(other.results),
        "mean": means[1],
        "reference": means[0],
        "effect": means[1] - means[0],
        "test": seeds.test if seeds else None,
        "low": seeds.low if seeds else None,
        "high": seeds.high if seeds else None,
        "p": seeds.p if seeds else None,
        "p_corrected": None,
        "same_weights": _same_weights(first, other),
        "documents": dataclasses.asdict(documents) if documents else None,
    }


def _by_seeds(first: RunSet, other: RunSet, metric: str) -> Contrast | None:
    """Welch's test, or the paired t test over the seeds of both where they move together."""
    left, right = first.by_seed(metric), other.by_seed(metric)
    if min(len(left), len(right)) < 2:
        return None
    seeds = sorted(left.keys() | right.keys())
    values = np.array([[each.get(seed, np.nan) for seed in seeds] for each in (left, right)])
    return contrast(values, (-1.0, 1.0), test="paired")


def _by_documents(first: RunSet, other: RunSet) -> OverDocuments | None:
    """The paired bootstrap over documents, over the seeds that both sets have (all pairs, if one each)."""
    left, right = first.by_folder(), other.by_folder()
    pairs = [(right[seed], left[seed]) for seed in sorted(left.keys() & right.keys())]
    if not pairs and len(left) == len(right) == 1:
        pairs = [(other.folders[0], first.folders[0])]
    return over_pairs(pairs)


def _same_weights(first: RunSet, other: RunSet) -> bool:
    """Whether both were trained alike: then only packing or scoring differs, and seeds are not the noise."""
    return first.recipe.training() == other.recipe.training() and [*first.by_seed("steps")] == [
        *other.by_seed("steps")
    ]


def _refuse_other_text(first: RunSet, other: RunSet) -> None:
    results = [*first.results, *other.results]
    whole = {result["data"]["splits"]["val"]["text_bytes"] for result in results}
    if len(whole) > 1 or other_parts(results):
        raise BitgolfError(
            "these runs were scored on different texts",
            where=f"{first.name} and {other.name}",
            value=sorted({result["text_bytes"] for result in results}),
            way_out="score both on one dataset, and as much of it",
        )


def claim(row: dict[str, Any], reference: str, metric: str) -> str:
    """What can be said, in one sentence."""
    size = f"{abs(row['effect']):.4f} {metric.replace('_', ' ')}"
    side = "lower" if row["effect"] < 0 else "higher"
    head = f"{row['name']} is {size} {side} than {reference}"
    documents = row["documents"]
    if row["same_weights"] and documents:
        apart = documents["low"] > 0 or documents["high"] < 0
        verdict = "a real change of these weights" if apart else "no evidence of a change"
        return (
            f"{head}; the weights are the same, and over {documents['documents']} documents the 95% interval "
            f"is {documents['low']:+.4f} to {documents['high']:+.4f}: {verdict} on text like this."
        )
    if row["p_corrected"] is None:
        return f"{head}, from one run on a side: that may be the seed alone, and nothing can be claimed."
    verdict = "can be claimed" if row["p_corrected"] < ALPHA else "no evidence at this number of seeds"
    return (
        f"{head} (95% interval {row['low']:+.4f} to {row['high']:+.4f} over seeds, {row['test']} test, "
        f"corrected p {row['p_corrected']:.3g}): {verdict}."
    )
