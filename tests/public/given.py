"""Recipes with public variables as one would type them."""

import pytest

from bitgolf.base.errors import PlanError
from bitgolf.public.names import (
    parse_variables,
)
from bitgolf.public.variables import (
    apply_variables,
)
from bitgolf.recipe import Recipe
from bitgolf.recipes.baseline import baseline


def given(text: str, recipe: Recipe | None = None) -> Recipe:
    """A recipe, the baseline if none is named, with variables as one would type them."""
    return apply_variables(recipe or baseline(), parse_variables(text.split()))


def refused(text: str, *words: str, recipe: Recipe | None = None) -> None:
    """One PlanError, with these words in it."""
    with pytest.raises(PlanError) as caught:
        given(text, recipe)
    for word in words:
        assert word in str(caught.value)
