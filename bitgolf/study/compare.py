"""Comparisons of finished runs or sets of runs, by a fitting test, with the claim as a sentence."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitgolf.base.errors import BitgolfError
from bitgolf.base.plan import Plan, diff
from bitgolf.catalog.shipped import recipe_in
from bitgolf.inputs.typed import Named, read_outside, read_plan, typed
from bitgolf.report.screen import note
from bitgolf.study.documents import over_pairs
from bitgolf.study.receipt import folders_by_arm, is_study
from bitgolf.study.stats import Contrast, OneSample, OverDocuments, contrast, corrected, one_sample
from bitgolf.study.status import run_folders, run_status
from bitgolf.study.terms import IN_BITS
from bitgolf.study.values import (
    CHALLENGE_NATS,
    bytes_per_token,
    challenge_margin,
    metric_of,
    other_texts,
    repeats,
)

ALPHA = 0.05
# Settings that no step of a training sees; the rules of quantization neither, where there is no noise.
AFTER_TRAINING = ("name", "pack", "score", "budget", "average.shipped", "train.expected_steps")


class RunSet(NamedTuple):
    """Runs of one recipe that differ in their seeds."""

    name: str
    folders: list[Path]
    results: list[dict[str, Any]]

    def by_seed(self, metric: str) -> dict[int, float]:
        """The metric of each seed."""
        return {result["seed"]: metric_of(result, metric) for result in self.results}

    def runs(self) -> list[tuple[int, dict[str, Any], Path]]:
        """Seed, result and folder of each."""
        return [(result["seed"], result, folder) for result, folder in zip(self.results, self.folders)]

    def by_folder(self) -> dict[int, Path]:
        """The folder of each seed."""
        return {result["seed"]: folder for result, folder in zip(self.results, self.folders)}


def recipes_of(sets: Sequence[RunSet]) -> list[Plan]:
    """What each set ran; no technique is imported where all of their files agree with themselves."""
    paths = [each.folders[0] / "recipe.json" for each in sets]
    data = [read_outside(path) for path in paths]
    recipes = [recipe_in(each, runs.results[0]["recipe_identity"]) for each, runs in zip(data, sets)]
    if all(recipes):
        return [each for each in recipes if each]
    from bitgolf.recipe import Recipe

    return [read_plan(path, Recipe) for path in paths]


def trained_alike(left: Plan, right: Plan) -> bool:
    """Whether two recipes train to equal weights: `Recipe.training` says the same of recipes."""
    blind = {type(getattr(each, "noise", None)).__name__ for each in (left, right)} == {"NoNoise"}
    unseen = (*AFTER_TRAINING, *(("quantize",) if blind else ()))
    return all(
        f"{path}.".startswith(tuple(f"{each}." for each in unseen)) for path, _, _ in diff(left, right)
    )


def read_run_set(text: str) -> RunSet:
    """The finished runs that a word names. Raises BitgolfError for unfinished ones, and for mixed recipes."""
    folders = run_folders(text)
    if not folders:
        raise BitgolfError(
            "no finished run",
            where=text,
            way_out="name run folders with commas between them, a folder of runs, or STUDY/ARM",
        )
    return run_set(text, folders)


def run_set(name: str, folders: list[Path]) -> RunSet:
    """Finished runs as a set. Raises BitgolfError for unfinished ones, and for mixed recipes."""
    results = []
    for folder in folders:
        status = run_status(folder)
        if status.state != "done" or not status.result:
            error = (status.result or {}).get("error")
            raise BitgolfError(
                "this run has no score",
                where=str(folder),
                value=status.stage or status.state,
                way_out=str(error).strip().splitlines()[-1] if error else "finish it with --resume",
            )
        if origin := status.result.get("packed_from"):
            raise BitgolfError(
                "a run packed again, with windows and perhaps a text of its own",
                where=str(folder),
                value=origin,
                way_out="compare rules of one run with `bitgolf pack RUN --compare`",
            )
        typed(status.result, Named, folder / "result.json")
        results.append(status.result)
    identities = {result["recipe_identity"] for result in results}
    if len(identities) != 1:
        raise BitgolfError(
            "a set of runs is one recipe with several seeds",
            where=name,
            value=f"{len(identities)} recipes",
            way_out="name the runs of each recipe, with commas between them",
        )
    seeds = [result["seed"] for result in results]
    if len(set(seeds)) < len(seeds):
        raise BitgolfError("two runs of one seed in a set", where=name, value=sorted(seeds))
    return RunSet(name, folders, results)


def sets_within(text: str) -> list[RunSet]:
    """The sets of runs in one folder: the arms of a study, the baseline first; else its runs by recipe.

    Failed runs of a folder that is no study are left out, with a note. Raises BitgolfError for a single set.
    """
    if is_study(text):
        return [run_set(arm, folders) for arm, folders in folders_by_arm(Path(text)).items()]
    by_recipe: dict[str, list[Path]] = {}
    for each in run_folders(text):
        status = run_status(each)
        if status.state == "done" and status.result:
            identity = typed(status.result, Named, each / "result.json")["recipe_identity"]
            by_recipe.setdefault(identity, []).append(each)
        else:
            note(f"{each}: left out, it has no score ({status.stage or status.state})")
    if len(by_recipe) < 2:
        raise BitgolfError(
            "only one recipe has finished runs here",
            where=text,
            value=f"{sum(map(len, by_recipe.values()))} runs",
            way_out="name other runs as well, or --against a figure",
        )
    return [run_set(",".join(each.name for each in runs), runs) for runs in by_recipe.values()]


def compare_runs(
    sets: Sequence[RunSet], metric: str = "bits_per_byte", test: str = "paired"
) -> dict[str, Any]:
    """Every set against the first: by seeds where both have two or more, by documents for equal weights.

    test: one that a study may declare, so that its arms have the intervals of its own table.
    Raises BitgolfError for scores of different texts.
    """
    first, *others = sets
    for each in sets:
        _refuse_without(each, metric)
    for other in others:
        _refuse_other_text(first, other)
    recipe, *recipes = recipes_of(sets)
    rows = [
        _compared(first, other, metric, trained_alike(recipe, its_own), test)
        for other, its_own in zip(others, recipes)
    ]
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, corrected([row["p"] for row in tested], "holm")):
        row["p_corrected"] = p
    for row, its_own in zip(rows, recipes):
        row["changes"] = [change for change in diff(recipe, its_own) if change[0] != "name"]
        row["claim"] = claim(row, first.name, metric)
    return {"metric": metric, "against": first.name, "runs": len(first.results), "comparisons": rows}


def _compared(first: RunSet, other: RunSet, metric: str, alike: bool, test: str) -> dict[str, Any]:
    """alike: whether both were trained alike; then only packing or scoring differs, and no seed is noise."""
    same = {each.name: seeds_alike for each in (first, other) if (seeds_alike := repeats(each.runs()))}
    seeds = None if same else _by_seeds(first, other, metric, test)
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
        "repeated_seeds": same,
        "same_weights": alike and [*first.by_seed("steps")] == [*other.by_seed("steps")],
        "documents": dataclasses.asdict(documents) if documents else None,
    }


def _by_seeds(first: RunSet, other: RunSet, metric: str, test: str) -> Contrast | None:
    """Welch's test; or the one that is asked for, over the seeds of both where they move together."""
    left, right = first.by_seed(metric), other.by_seed(metric)
    if min(len(left), len(right)) < 2:
        return None
    seeds = sorted(left.keys() | right.keys())
    values = np.array([[each.get(seed, np.nan) for seed in seeds] for each in (left, right)])
    return contrast(values, (-1.0, 1.0), test=test)


def _by_documents(first: RunSet, other: RunSet) -> OverDocuments | None:
    """The paired bootstrap over documents, over the seeds that both sets have (all pairs, if one each)."""
    left, right = first.by_folder(), other.by_folder()
    pairs = [(right[seed], left[seed]) for seed in sorted(left.keys() & right.keys())]
    if not pairs and len(left) == len(right) == 1:
        pairs = [(other.folders[0], first.folders[0])]
    return over_pairs(pairs)


def _refuse_other_text(first: RunSet, other: RunSet) -> None:
    both = {folder.resolve() for folder in first.folders} & {folder.resolve() for folder in other.folders}
    if both:
        raise BitgolfError(
            "a run is on both sides",
            where=f"{first.name} and {other.name}",
            value=str(min(both)),
            way_out="name other runs on one side",
        )
    if differing := other_texts([*first.results, *other.results]):
        raise BitgolfError(
            "these runs were scored on different texts",
            where=f"{first.name} and {other.name}",
            value=differing,
            way_out="score both on one dataset, and as much of it",
        )


def _refuse_without(runs: RunSet, metric: str) -> None:
    for seed, value in runs.by_seed(metric).items():
        if not math.isfinite(value):
            raise BitgolfError(
                f"this run has no {metric}", where=f"{runs.name}, seed {seed}", way_out="another --metric"
            )


def claim(row: dict[str, Any], reference: str, metric: str) -> str:
    """What can be said, in one sentence."""
    difference = f"{abs(row['effect']):.4f} {metric.replace('_', ' ')}"
    side = "lower" if row["effect"] < 0 else "higher"
    head = f"{row['name']} is {difference} {side} than {reference}"
    documents = row["documents"]
    if row["same_weights"] and documents:
        apart = documents["low"] > 0 or documents["high"] < 0
        verdict = "a real change of these weights" if apart else "no evidence of a change"
        return (
            f"{head}; the weights are the same, and over {documents['documents']} documents the 95% interval "
            f"is {documents['low']:+.4f} to {documents['high']:+.4f}: {verdict} on text like this."
        )
    for name, seeds in row["repeated_seeds"].items():
        which = ", ".join(map(str, seeds))
        return (
            f"{head}, but seeds {which} of {name} scored alike to the last bit, as one run would: "
            "nothing can be claimed."
        )
    if row["effect"] == row["low"] == row["high"]:
        return f"{head}; no seed moves it, so there is nothing to test: it follows from the settings alone."
    if row["p_corrected"] is None:
        return f"{head}, from one run on a side: that may be the seed alone, and nothing can be claimed."
    verdict = "can be claimed" if row["p_corrected"] < ALPHA else "no evidence at this number of seeds"
    return (
        f"{head} (95% interval {row['low']:+.4f} to {row['high']:+.4f} over seeds, {row['test']} test, "
        f"corrected p {row['p_corrected']:.3g}): {verdict}."
    )


def against_constant(runs: RunSet, published: float, metric: str = "bits_per_byte") -> dict[str, Any]:
    """Runs against a published figure by the one-sample t test, in bits per byte and in both kinds of nats.

    The figure stands for itself: nothing is known of its own noise, text or tokenizer. Raises BitgolfError
    where a test would say nothing: one run, runs that are one, seeds that move nothing.
    """
    _refuse_without(runs, metric)
    values = [*runs.by_seed(metric).values()]
    way_out = "name finished runs of several seeds"
    if len(values) < 2:
        raise BitgolfError("one run shows no noise", where=runs.name, value=values, way_out=way_out)
    if same := repeats(runs.runs()):
        raise BitgolfError(
            "these runs scored alike to the last bit, as one run would",
            where=runs.name,
            value=f"seeds {', '.join(map(str, same))}",
            way_out=way_out,
        )
    if len(set(values)) < 2:
        raise BitgolfError(f"no seed moves {metric}", where=runs.name, value=values[0], way_out=way_out)
    if differing := other_texts(runs.results):
        raise BitgolfError("these runs were scored on different texts", where=runs.name, value=differing)
    test = one_sample(values, published)
    row: dict[str, Any] = {"metric": metric, "runs": runs.name, "against": published}
    row |= dataclasses.asdict(test)
    if metric not in IN_BITS or metric == "quantization_gap":
        return row | {"claim": _one_sample_claim(row, test)}
    rate = bytes_per_token(runs.results[0])
    nats = {"nats_per_byte": test.effect * math.log(2), "nats_per_token": test.effect * math.log(2) * rate}
    margins = challenge_margin(runs.results)
    beyond = {unit: one_sample(values, published - margin).p_lower for unit, margin in margins.items()}
    row |= nats | {"margin": margins, "p_beyond_margin": beyond, "bytes_per_token": rate}
    return row | {"claim": _one_sample_claim(row, test), "units": _units(row)}


def _one_sample_claim(row: dict[str, Any], test: OneSample) -> str:
    side = "below" if test.effect < 0 else "above"
    verdict = "can be claimed" if test.p < ALPHA else "no evidence at this number of seeds"
    return (
        f"{row['runs']}: the mean of {test.n} runs is {abs(test.effect):.4f} {side} {row['against']} (95% "
        f"interval {test.low:+.4f} to {test.high:+.4f}, t = {test.t:.1f} with {test.freedom} degrees of "
        f"freedom, p {test.p:.3g} two-sided, {min(test.p_lower, test.p_higher):.3g} one-sided): "
        f"{verdict}. A constant has no noise: that of the runs behind it is not counted."
    )


def _units(row: dict[str, Any]) -> str:
    """The trap in "0.005 nats", with the figures of these runs."""
    read = [
        f"{margin:.4f} if they are {unit} (p {row['p_beyond_margin'][unit]:.2g})"
        for unit, margin in row["margin"].items()
    ]
    sizes = row["margin"].values()
    return (
        f"mind the unit: this difference is {row['effect']:+.4f} bits per byte, {row['nats_per_byte']:+.4f} "
        f"nats per byte, {row['nats_per_token']:+.4f} nats per token; the challenge's {CHALLENGE_NATS} nats "
        f"are in bits per byte {', '.join(read)}, a factor of {max(sizes) / min(sizes):.1f}."
    )
