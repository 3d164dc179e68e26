"""Recipes that ship with bitgolf: each a function that returns one value."""

import pkgutil


def recipe_names() -> list[str]:
    """The recipes that ship, by name, without importing any."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
