"""What a recipe will weigh and take."""

import typer

from bitgolf.cli.options import Json, Overrides, RecipeName, Variables
from bitgolf.cli.shown import changed_recipe
from bitgolf.forecast.budget import expected_tokenizer_bytes, forecast_seconds
from bitgolf.forecast.budget import forecast as forecast_recipe
from bitgolf.forecast.largest_fit import largest_fit
from bitgolf.public.names import parse_variables
from bitgolf.public.optional import is_installed
from bitgolf.report import screen
from bitgolf.script.counted import script_of


def forecast(
    recipe: RecipeName, overrides: Overrides = None, variables: Variables = None, as_json: Json = False
) -> None:
    """Forecast bytes, memory and time of a recipe before training, and what fills its budget.

    Bytes are within 5% of those of a trained run, and within 25% if a rate-aware step sets the rate. `widest`
    and `deepest` are the largest width and number of layers that should fit, all else equal. `filling_bits`
    are the bits per weight that would fill the budget.

    Example: bitgolf forecast baseline --set model.layers=11
    """
    chosen = changed_recipe(recipe, parse_variables(variables or []), overrides, quiet=as_json)
    facts = forecast_recipe(chosen, len(script_of(chosen)), expected_tokenizer_bytes(chosen))
    brotli = chosen.replace({"budget.code_codec": "brotli"})
    facts["code_bytes_with_brotli"] = len(script_of(brotli)) if is_installed("brotli") else None
    filling = largest_fit(chosen, facts)
    facts |= {row["name"]: row["value"] for row in filling} | {"filling": filling}
    facts |= forecast_seconds(chosen, facts["flops_per_step"])
    keys = ("name", "shape", "rule", "bits", "bytes")
    rows = [[row[key] for key in keys] for row in facts["tensors"]]
    screen.table(f"{chosen.name}: forecast", ("tensor", *keys[1:]), rows, as_json=as_json)
    title = f"What would fill the budget of {facts['budget_bytes']:,} bytes, all else equal"
    rows = [[row[key] for key in ("setting", "now", "value", "note")] for row in filling]
    screen.table(title, ("setting", "now", "fills it", "note"), rows, as_json=as_json)
    screen.close(facts, as_json=as_json)
    if facts["headroom_bytes"] < 0:
        raise typer.Exit(1)
