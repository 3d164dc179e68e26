"""A recipe at a glance, or its single file."""

import math
import sys
from typing import Annotated, Any

import torch
import typer

from bitgolf.base.plan import diff, to_json
from bitgolf.cli.options import Changes, Json, RecipeName, Variables
from bitgolf.cli.shown import changed_recipe
from bitgolf.net.model import count_parameters, parameter_shapes
from bitgolf.public.variables import parse_variables
from bitgolf.recipe import Recipe
from bitgolf.report import screen
from bitgolf.report.tensors import nominal_bits
from bitgolf.script.counted import script_of
from bitgolf.script.flatten import flatten
from bitgolf.squeeze.quantize import Quantizer
from bitgolf.train.optim import assign_parameters
from bitgolf.train.schedule import Progress


def show(
    recipe: RecipeName,
    changes: Changes = None,
    variables: Variables = None,
    script: Annotated[bool, typer.Option("--script", help="Print the single file that it becomes.")] = False,
    packed: Annotated[bool, typer.Option("--packed", help="With --script: self-extracting.")] = False,
    as_json: Json = False,
) -> None:
    """A recipe at a glance, or the one file that it becomes.

    Example: bitgolf show demo --script > train_gpt.py
    """
    given = parse_variables(variables or [])
    chosen = changed_recipe(recipe, given, changes, quiet=as_json or script)
    if script:
        sys.stdout.buffer.write(script_of(chosen) if packed else flatten(chosen).encode())
        return
    tables = ("optim.rows", "quantize.rules")
    changes_made = [(path, right) for path, _, right in diff(Recipe(), chosen) if not path.startswith(tables)]
    title = f"{chosen.name}: what differs from the defaults"
    screen.table(title, ("setting", "value"), changes_made, as_json=as_json)
    header = ("who", "update rule", "rate", "tensors", "parameters")
    screen.table("Parameters, first match wins", header, parameter_table(chosen), as_json=as_json)
    header = ("who", "quantizer", "bits", "tensors", "parameters")
    screen.table("Quantization, first match wins", header, quantization_table(chosen), as_json=as_json)
    facts = {
        "recipe": chosen.name,
        "recipe_identity": chosen.identity(),
        "parameters": count_parameters(chosen.model),
        "settings": to_json(chosen),
    }
    screen.close(facts | ({"public_variables": given} if given else {}), as_json=as_json)


def parameter_table(recipe: Recipe) -> list[tuple[Any, ...]]:
    """Pattern, rule, rate, and how much of the model each row of the parameter table takes."""
    shapes = parameter_shapes(recipe.model)
    taken = assign_parameters(recipe.optim, {n: torch.empty(s, device="meta") for n, s in shapes.items()})
    return [
        (
            row.pattern,
            type(row.rule).__name__,
            row.rule.rates(1.0, Progress(0, 1))["lr"],
            len(names),
            sum(math.prod(shapes[name]) for name in names),
        )
        for row, names in zip(recipe.optim.rows, taken)
    ]


def quantization_table(recipe: Recipe) -> list[tuple[Any, ...]]:
    """Patterns, quantizer, bits, and how much of the model each quantization rule takes."""
    shapes = parameter_shapes(recipe.model)
    chosen = recipe.quantize.assign({n: torch.empty(s, device="meta") for n, s in shapes.items()})
    return [
        (
            rule.patterns,
            type(rule.quantizer).__name__,
            bits_of(rule.quantizer),
            len(names),
            sum(math.prod(shapes[name]) for name in names),
        )
        for i, rule in enumerate(recipe.quantize.rules)
        for names in [[name for name, place in chosen.items() if place == i]]
    ]


def bits_of(quantizer: Quantizer) -> float | str:
    """Bits of each number before any entropy coding, where a grid sets them and not a rate."""
    one = torch.ones(1, 1)
    bits = nominal_bits(quantizer, one, quantizer.quantize(one))
    return bits if bits > 0 else "by rate"
