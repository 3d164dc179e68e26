"""A recipe at a glance, or its single file."""

import base64
import sys
from typing import Annotated, Any

import typer

from bitgolf.catalog.shipped import shipped_recipe
from bitgolf.cli.options import Json, Overrides, RecipeName, Variables
from bitgolf.report import screen


def show(
    recipe: RecipeName,
    overrides: Overrides = None,
    variables: Variables = None,
    script: Annotated[bool, typer.Option("--script", help="Print it as a single script.")] = False,
    packed: Annotated[bool, typer.Option("--packed", help="With --script: self-extracting.")] = False,
    as_json: Json = False,
) -> None:
    """Show a recipe at a glance, or as a single script.

    It has the parameter table, quantization rules, stages, and the differences to the parent recipe.

    Example: bitgolf show demo --script > train_gpt.py
    """
    if script:
        program = _script(recipe, overrides, variables, packed)
        if as_json:
            screen.close(_as_text(program) | {"bytes": len(program)}, as_json=True)
        else:
            sys.stdout.buffer.write(program)
        return
    entry = None if overrides or variables else shipped_recipe(recipe)
    facts = entry or _worked_out(recipe, overrides, variables, as_json)
    name = facts["recipe"]
    if not as_json:
        print(screen.escaped(f"{name}: {facts['changes']}") + "\n")
    header = ("who", "update rule", "rate", "tensors", "parameters")
    screen.table("Parameters, first match wins", header, facts["parameter_rows"], as_json=as_json)
    header = ("who", "quantizer", "bits", "tensors", "parameters")
    screen.table("Quantization, first match wins", header, facts["quantization_rows"], as_json=as_json)
    screen.card("Stages, in order", facts["stages"], as_json=as_json)
    shown = facts if as_json else {key: facts[key] for key in ("recipe_identity", "parameters")}
    screen.close(shown, as_json=as_json)


def _worked_out(
    recipe: str, overrides: list[str] | None, variables: list[str] | None, as_json: bool
) -> dict[str, Any]:
    """The same of any recipe; one that is changed here comes from the one that is named."""
    from bitgolf.catalog.glance import glance, glance_at
    from bitgolf.inputs.resolve import find_recipe

    if not (overrides or variables):
        return glance_at(recipe)
    if not variables:
        return glance(find_recipe(recipe, overrides or []), recipe, find_recipe(recipe))
    from bitgolf.cli.shown import changed_recipe
    from bitgolf.public.names import parse_variables

    given = parse_variables(variables)
    chosen = changed_recipe(recipe, given, overrides, quiet=as_json)
    return glance(chosen, recipe, find_recipe(recipe)) | {"public_variables": given}


def _script(recipe: str, overrides: list[str] | None, variables: list[str] | None, packed: bool) -> bytes:
    from bitgolf.cli.shown import changed_recipe
    from bitgolf.public.names import parse_variables
    from bitgolf.script.counted import script_of
    from bitgolf.script.flatten import flatten

    chosen = changed_recipe(recipe, parse_variables(variables or []), overrides, quiet=True)
    return script_of(chosen) if packed else flatten(chosen).encode()


def _as_text(program: bytes) -> dict[str, Any]:
    """A program under its name in JSON: a packed one is no text."""
    try:
        return {"script": program.decode()}
    except UnicodeDecodeError:
        return {"script_base64": base64.b64encode(program).decode()}
