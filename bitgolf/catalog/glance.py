"""A recipe on one screen: parameters, quantization, stages, and how it differs from its parent."""

import ast
import math
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from bitgolf import recipes
from bitgolf.base.plan import Plan, diff, to_json
from bitgolf.inputs.resolve import LAPTOP, find_recipe
from bitgolf.net.model import count_parameters, parameter_shapes
from bitgolf.recipe import Recipe
from bitgolf.recipes import recipe_names
from bitgolf.report import screen
from bitgolf.report.tensors import nominal_bits
from bitgolf.squeeze.quantize import Quantizer, QuantRule
from bitgolf.train.optim import assign_parameters
from bitgolf.train.schedule import Progress

ROOT = "baseline"  # what every recipe comes from that says nothing else
STAGES: dict[str, tuple[str, ...]] = {  # in their order, with the settings that each is given
    "data": ("data",),
    "model": ("model",),
    "train": ("train", "optim.schedule", "noise", "backend"),
    "average": ("average",),
    "quantize": ("quantize.calibration", "quantize.rate", "quantize.tuning"),
    "pack": ("pack", "budget"),
    "score": ("score",),
}
# Settings that are shown at their defaults too.
ALWAYS = (
    "sequence_length", "layers", "width", "heads", "kv_heads", "steps", "train_seconds", "codec", "windows",
    "budget_bytes",
)  # fmt: skip
LINE, VALUE = 90, 30  # letters of the line of changes, and of a value in it


def glance(recipe: Recipe, parent_name: str, parent: Recipe | None) -> dict[str, Any]:
    """All that `bitgolf show` prints, as JSON data. parent: what it was made from; None for the root."""
    return {
        "recipe": recipe.name,
        "recipe_identity": recipe.identity(),
        "parameters": count_parameters(recipe.model),
        "parameter_rows": parameter_rows(recipe),
        "quantization_rows": quantization_rows(recipe),
        "stages": {stage: settings_in(recipe, paths) for stage, paths in STAGES.items()},
        "changes": changes_in_words(parent_name, parent, recipe) if parent else "the defaults everywhere",
        "settings": to_json(recipe),
    }


def glance_at(text: str) -> dict[str, Any]:
    """The same of what a user typed, with the parent that its source names."""
    recipe = find_recipe(text)
    parent = parent_of(text, recipe.name)
    return glance(recipe, parent, find_recipe(parent) if parent else None)


def parameter_rows(recipe: Recipe) -> list[list[Any]]:
    """Pattern, rule, rate, and how much of the model each row of the parameter table takes."""
    shapes = parameter_shapes(recipe.model)
    taken = assign_parameters(recipe.optim, {n: torch.empty(s, device="meta") for n, s in shapes.items()})
    return [
        [
            row.pattern,
            type(row.rule).__name__,
            row.rule.rates(1.0, Progress(0, 1))["lr"],
            len(names),
            sum(math.prod(shapes[name]) for name in names),
        ]
        for row, names in zip(recipe.optim.rows, taken)
    ]


def quantization_rows(recipe: Recipe) -> list[list[Any]]:
    """Patterns, quantizer, bits, and how much of the model each quantization rule takes."""
    shapes = parameter_shapes(recipe.model)
    chosen = recipe.quantize.assign({n: torch.empty(s, device="meta") for n, s in shapes.items()})
    return [
        [
            _in_words(rule),
            type(rule.quantizer).__name__,
            bits_of(rule.quantizer),
            len(names),
            sum(math.prod(shapes[name]) for name in names),
        ]
        for i, rule in enumerate(recipe.quantize.rules)
        for names in [[name for name, row in chosen.items() if row == i]]
    ]


def _in_words(rule: QuantRule) -> str:
    """Which tensors a rule takes: their names, and what else is asked of them."""
    sizes = f"more than {rule.more_than:,} numbers" * bool(rule.more_than)
    axes = f"{rule.axes} {'axis' if rule.axes == 1 else 'axes'}" * bool(rule.axes)
    asked = " and ".join(filter(None, (sizes, axes)))
    return ", ".join(rule.patterns) + f" of {asked}" * bool(asked)


def bits_of(quantizer: Quantizer) -> float | str:
    """Bits of each number before any entropy coding, where a grid sets them and not a rate."""
    one = torch.ones(1, 1)
    bits = nominal_bits(quantizer, one, quantizer.quantize(one))
    return bits if bits > 0 else "by rate"


def settings_in(recipe: Recipe, paths: tuple[str, ...]) -> str:
    """The settings at some paths: what differs from the defaults, and what everybody asks for."""
    parts = []
    for path in paths:
        plan: Any = recipe
        for key in path.split("."):
            plan = getattr(plan, key)
        slotted = any(base.__dict__.get("abstract") for base in type(plan).__mro__)
        parts.append(screen.number(plan) if slotted else _differing(plan))
    return ", ".join(filter(None, parts))


def _differing(plan: Plan) -> str:
    plain = type(plan)()
    values = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    shown = {n: v for n, v in values.items() if n in ALWAYS or v != getattr(plain, n)}
    return ", ".join(f"{name}={screen.number(value)}" for name, value in shown.items())


def changes_in_words(parent_name: str, parent: Recipe, recipe: Recipe) -> str:
    """What differs from the parent in one line, by name as many settings as fit, one at least."""
    changes = [change for change in diff(parent, recipe) if change[0] != "name"]
    if not changes:
        return f"from {parent_name}, no change"
    line = f"from {parent_name}, {len(changes)} change{'s' * (len(changes) != 1)}: "
    for number, (path, left, right) in enumerate(changes):
        part = f"{path} {_brief(left)} -> {_brief(right)}"
        if number and len(line) + len(part) > LINE:
            return f"{line}and {len(changes) - number} more"
        line += part + "; "
    return line.removesuffix("; ")


def _brief(value: Any) -> str:
    if isinstance(value, tuple) and any(isinstance(item, Plan) for item in value):
        names = ", ".join(type(item).__name__ for item in value)
        return f"{len(value)} rows" if len(value) > 2 else names
    return shorten(screen.number(value), VALUE, placeholder=" ...")


def parent_of(text: str, name: str) -> str:
    """The recipe that another was made from, by what its source imports; empty for the root.

    text: what the user typed. name: of the recipe, which names the parent of a recipe.json or a run.
    """
    names = {*recipe_names(), *(each + LAPTOP for each in recipe_names())}
    if text in names and text.endswith(LAPTOP):
        return text.removesuffix(LAPTOP)
    path, _, function = text.rpartition(":")
    if text in names:
        path, function = f"{recipes.__path__[0]}/{text}.py", text
    if not path.endswith(".py"):
        return name if name in names else ROOT
    parents = recipes_used(Path(path).read_text(encoding="utf-8"), function)
    return next(iter(parents), "" if text == ROOT else ROOT)


def recipes_used(source: str, function: str) -> list[str]:
    """Shipped recipes that a source imports, those first that a function of it uses."""
    tree = ast.parse(source)
    package = f"{recipes.__name__}."
    imported = {
        alias.asname or alias.name: str(node.module).removeprefix(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package)
        for alias in node.names
    }
    bodies = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function]
    used = [n.id for body in bodies for n in ast.walk(body) if isinstance(n, ast.Name) and n.id in imported]
    return [imported[name] for name in dict.fromkeys([*used, *imported])]
