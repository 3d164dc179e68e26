"""What would fill a budget, all else equal: the largest width, most layers, or most bits per weight."""

from collections.abc import Callable
from typing import Any, NamedTuple

from bitgolf.base.errors import PlanError
from bitgolf.forecast.budget import tensor_rows
from bitgolf.recipe import Recipe

SENSIBLE_BITS = (2.5, 5.0)  # of a weight: below them the loss grows fast, above it hardly falls


class Largest(NamedTuple):
    """The largest value of a setting that fits, None if none does, and what else there is to say."""

    value: int | None
    note: str = ""


def largest_fit(recipe: Recipe, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for the width, the depth and the bits of a weight that fill the budget of a forecast recipe.

    The bits are those that `bitgolf pack --budget-bytes` would come to.
    """
    model, num_bytes = recipe.model, sum(row["bytes"] for row in facts["tensors"])
    free, fits_now = num_bytes + facts["headroom_bytes"], facts["headroom_bytes"] >= 0

    def fits(setting: str) -> Callable[[int], bool]:
        return lambda value: (
            sum(row["bytes"] for row in tensor_rows(recipe.replace({setting: value}))) <= free
        )

    # The width of a head is even.
    width = largest(fits("model.width"), model.width, 2 * model.heads, fits_now)
    layers = largest(fits("model.layers"), model.layers, 1, fits_now)
    now, bits = 8 * num_bytes / facts["parameters"], 8 * free / facts["parameters"]
    return [
        {"name": "widest", "setting": "model.width", "now": model.width, **width._asdict()},
        {"name": "deepest", "setting": "model.layers", "now": model.layers, **layers._asdict()},
        {
            "name": "filling_bits",
            "setting": "bits a weight",
            "now": now,
            "value": bits,
            "note": bits_in_words(bits),
        },
    ]


def bits_in_words(bits: float) -> str:
    """Whether so many bits a weight are sensible."""
    low, high = SENSIBLE_BITS
    if bits < low:
        return f"below {low:g}: too large a model for this budget"
    return f"above {high:g}: a larger model would do better" if bits > high else ""


def largest(fits: Callable[[int], bool], now: int, step: int, fits_now: bool) -> Largest:
    """The largest multiple of a step that fits, found by longer and longer leaps from now, then by bisection.

    fits: raises PlanError for a value that other settings do not allow. The search then goes on nearer to the
    value of now, and if nothing else is found the note says why.
    """
    notes: dict[int, str] = {}

    def fits_or_leads_back(count: int) -> bool:
        try:
            return fits(count * step)
        except PlanError as error:
            notes[count] = error.problems[0]
            return count * step < now

    below = above = now // step
    leap = 1
    if fits_now:
        while fits_or_leads_back(above := below + leap):
            below, leap = above, 2 * leap
    else:
        while (below := max(0, above - leap)) and not fits_or_leads_back(below):
            above, leap = below, 2 * leap
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits_or_leads_back(middle) else (below, middle)
    if below == 0 or below in notes:
        return Largest(None, notes.get(below, f"no multiple of {step} fits"))
    return Largest(below * step, notes.get(above, ""))
