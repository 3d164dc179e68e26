"""Positions in the window of scored tokens, and which of them training has never predicted."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitgolf.recipe import Recipe
from bitgolf.score.score import Scores

BANDS = 8  # of the window, or of the trained length where that is longer
UNSEEN = 0.01  # of the scored tokens may stand outside the trained positions without a word


def query_positions(scores: Scores, trained: int) -> dict[str, Any]:
    """For result.json: shares of the scored tokens by position, and a sentence where training lacks them.

    trained: tokens of a sequence in training, 0 if nobody knows. Sliding asks for the last positions of its
    windows alone: where these are longer than what was trained on, nearly all tokens stand where no step has
    been (PR #1718).
    """
    positions = scores.context - 1  # the first of a window is 0
    longest = max(int(positions.max()) + 1, trained)
    edges = np.unique(np.linspace(0, longest, BANDS + 1).astype(int))
    counts, _ = np.histogram(positions, edges)
    bands = zip(edges.tolist(), (edges[1:] - 1).tolist(), (counts / len(positions)).tolist())
    facts: dict[str, Any] = {"query_positions": {f"{first}-{last}": share for first, last, share in bands}}
    outside = positions >= trained
    if trained and outside.mean() > UNSEEN:
        first, last = positions[outside].min(), positions[outside].max()
        facts["position_warning"] = (
            f"{outside.mean():.1%} of the scored tokens were asked for at positions {first:,} to {last:,}; "
            f"training ended at {trained - 1:,}"
        )
    return facts


def trained_length(recipe: Recipe) -> int:
    """Tokens of the longest sequence that a recipe trains on."""
    return max(recipe.data.sequence_length, *(stage.sequence_length for stage in recipe.train.stages), 0)


def positions_in_words(result: Mapping[str, Any]) -> str:
    """The bands that tokens were asked for in, as a line; '' where a result.json says nothing of them."""
    shares = result.get("query_positions")
    bands = shares.items() if isinstance(shares, dict) else ()
    return ", ".join(f"{band}: {share:.1%}" for band, share in bands if type(share) is float and share)
