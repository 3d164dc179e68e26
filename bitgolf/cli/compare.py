"""Recipes and runs beside each other."""

import math
import string
from pathlib import Path
from typing import Annotated, Any

import typer

from bitgolf.base.errors import BitgolfError, nearest
from bitgolf.base.plan import Plan, diff, to_json
from bitgolf.catalog.shipped import shipped_recipe, stand_in
from bitgolf.cli.options import BITS, Json, Variables
from bitgolf.report import screen
from bitgolf.study.receipt import is_study
from bitgolf.study.status import run_folders
from bitgolf.study.terms import METRICS

LONGEST_NAME = 30  # of a set of runs that is written out in sentences


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="A B...", help="Two recipes; or runs, sets of them (r1,r2), folders, STUDY/ARM."
        ),
    ],
    variables: Variables = None,
    metric: Annotated[str, typer.Option(help="For runs: which figure, e.g. quantized_bits_per_byte.")] = BITS,
    against: Annotated[
        float | None, typer.Option(help="Test one set of runs against a published figure.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show where two recipes differ, or what can be claimed of runs, in a sentence.

    Runs are compared with the first: by seeds if both sides have several, by documents if the weights are
    equal. For one folder its recipes are compared, for a study its arms. Public variables are given to the
    second recipe.

    Example: bitgolf compare baseline demo
    Example: bitgolf compare runs/a1,runs/a2,runs/a3 runs/b1,runs/b2,runs/b3
    Example: bitgolf compare runs/a1,runs/a2,runs/a3 --against 1.2244
    Example: bitgolf compare runs/studies/mine/baseline "runs/studies/mine/EMA 0.97"
    """
    if against is not None:
        if len(names) != 1:
            raise BitgolfError("expected one set of runs", where="--against", value=names)
        show_against(names[0], against, metric, as_json)
        return
    if all(run_folders(name) or is_study(name) for name in names):
        show_comparison(names, metric, as_json)
        return
    if len(names) != 2:
        raise BitgolfError(
            "expected two recipes, or finished runs of two or more", where="compare", value=names
        )
    left, right = names
    differences = diff(*_both(left, right, variables or []))
    screen.table(f"{left} against {right}", ("setting", left, right), differences, as_json=as_json)
    facts: dict[str, Any] = {"left": left, "right": right, "differences": len(differences)}
    facts["changes"] = [{"path": p, "left": to_json(a), "right": to_json(b)} for p, a, b in differences]
    screen.close(facts, as_json=as_json)


def _both(left: str, right: str, variables: list[str]) -> tuple[Plan, Plan]:
    """Two recipes: as stand-ins where both ship and are not changed, which no technique is imported for."""
    recipes = [shipped_recipe(name) for name in (left, right)]
    if recipes[0] and recipes[1] and not variables:
        return stand_in(recipes[0]["settings"]), stand_in(recipes[1]["settings"])
    from bitgolf.inputs.resolve import find_recipe
    from bitgolf.public.names import parse_variables
    from bitgolf.public.variables import apply_variables

    return find_recipe(left), apply_variables(find_recipe(right), parse_variables(variables))


def show_against(name: str, published: float, metric: str, as_json: bool) -> None:
    """`bitgolf compare RUNS --against FIGURE`."""
    from bitgolf.study.compare import against_constant, read_run_set

    if metric not in METRICS:
        raise BitgolfError("no such figure", where="--metric", value=metric, way_out=nearest(metric, METRICS))
    if not math.isfinite(published):
        raise BitgolfError("not a number", where="--against", value=published, way_out="e.g. 1.2244")
    result = against_constant(read_run_set(name), published, metric)
    if not as_json:
        print("\n".join([screen.escaped(result["claim"]), result.get("units", "")]).strip() + "\n")
    plain = (
        "metric",
        "against",
        "n",
        "mean",
        "deviation",
        "effect",
        "low",
        "high",
        "t",
        "freedom",
        "p",
        "p_lower",
    )
    screen.close(result if as_json else {key: result[key] for key in plain}, as_json=as_json)


def show_comparison(names: list[str], metric: str, as_json: bool) -> None:
    """`bitgolf compare` of finished runs."""
    from bitgolf.study.compare import claim, compare_runs, read_run_set, sets_within
    from bitgolf.study.receipt import test_of

    if metric not in METRICS:
        raise BitgolfError("no such figure", where="--metric", value=metric, way_out=nearest(metric, METRICS))
    sets = sets_within(names[0]) if len(names) == 1 else [read_run_set(name) for name in names]
    in_a_study = len(names) == 1 and is_study(names[0])
    result = compare_runs(sets, metric, test_of(Path(names[0])) if in_a_study else "paired")
    letters = _letters([each.name for each in sets])
    if letters and not as_json:
        print("\n".join(f"{letter}: {screen.escaped(name)}" for name, letter in letters.items()) + "\n")
    first = letters.get(sets[0].name, sets[0].name)
    for other, row in zip(sets[1:], result["comparisons"]):
        name = letters.get(other.name, other.name)
        differences = row["changes"]
        row["changes"] = [{"path": p, "left": to_json(a), "right": to_json(b)} for p, a, b in differences]
        sides = (first, name) if letters else ("left", "right")
        screen.table(f"{first} against {name}", ("setting", *sides), differences, as_json=as_json)
        if not as_json:
            repeated = {letters.get(each, each): seeds for each, seeds in row["repeated_seeds"].items()}
            said = claim({**row, "name": name, "repeated_seeds": repeated}, first, metric)
            print(screen.escaped(said) + "\n")
    if not as_json:
        result["against"] = first
    lines = {"metric": metric, "against": result["against"], "comparisons": len(result["comparisons"])}
    screen.close(result if as_json else lines, as_json=as_json)


def _letters(names: list[str]) -> dict[str, str]:
    """A letter for each set of runs where their names are too long to be read in a sentence."""
    if max(map(len, names)) <= LONGEST_NAME or len(names) > len(string.ascii_uppercase):
        return {}
    return dict(zip(names, string.ascii_uppercase))
