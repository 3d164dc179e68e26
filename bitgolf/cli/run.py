"""Train, squeeze, reload and score a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.cli.options import LARGEST_SEED, Data, Json, Out, Overrides, RecipeName, Variables
from bitgolf.cli.shown import changed_recipe, like_script, show_result
from bitgolf.pipeline.work import work
from bitgolf.public.names import parse_variables, seed_of
from bitgolf.report import screen


def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    variables: Variables = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like",
            metavar="SCRIPT",
            help="Take the defaults of a public train_gpt.py's variables; --env wins. It is only read.",
        ),
    ] = None,
    data: Data = "sotu",
    out: Out = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=LARGEST_SEED, help="Seed of the initial weights; 1337 if not given."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Train, squeeze, reload and score a recipe; all results go into a run folder.

    Example: bitgolf run demo --set train.train_seconds=60 --out runs/short
    Example: bitgolf run baseline --like train_gpt.py
    """
    given = parse_variables(variables or [])
    seed = seed_of(given, seed)
    if like:
        given = like_script(recipe, like, given, quiet=as_json)
    chosen = changed_recipe(recipe, given, overrides, quiet=as_json)
    folder = out or Path("runs") / f"{chosen.name}-{chosen.identity()[:8]}-{seed}"
    result = screen.follow(work(chosen, data, folder, seed, resume=resume, variables=given))
    show_result(result, as_json, f"bitgolf score {folder}")
