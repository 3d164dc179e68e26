"""The rate that fills a byte budget, found by packing several times.

One factor multiplies all steps. With rate-aware rules every tensor then has the same slope of damage against
bytes, so no exchange of bytes between tensors helps.
"""

import dataclasses
from collections.abc import Callable, Generator, Iterator
from typing import Any

from bitgolf.base.errors import BudgetError
from bitgolf.base.plan import setting
from bitgolf.squeeze.quantize import QuantizePlan, Rate

LEAST_SHARE = 0.999  # of the budget
TRIES = 30
LOG2_RESOLUTION = 1 / 4096  # of an octave, to which a factor is rounded
COARSEST, FINEST = 24.0, -12.0  # octaves from the given steps: all codes are zero, or nothing is left to gain
LONGEST_MOVE, SHORTEST_MOVE = 4.0, 1 / 1024  # octaves between two tries


@dataclasses.dataclass(frozen=True, kw_only=True)
class FillBudget(Rate):
    """Multiplies all steps by one factor, so that code and artifact fill the budget.

    What: quantizes, packs and counts until the total is between 99.9% and 100% of budget.budget_bytes,
        usually three or four times. Changes the step of RateAware and the deviations of SdClip.
    Source: public records changed their clips by hand or cut the smallest codes (PR #609) until it fit
    Cost: the time of these packings: two seconds each for a million weights
    Not for: a budget that even many bits per weight do not fill: the total then stays below it
    Neutral: use Fixed
    """

    least_share: float = setting(LEAST_SHARE, above=0, at_most=1)

    def validate_for(self, plan: QuantizePlan) -> Iterator[str]:
        if all(rule.quantizer.coarser(2.0) == rule.quantizer for rule in plan.rules):
            yield "rate: FillBudget needs a rule with a rate to set, such as RateAware or SdClip"

    def allocate(
        self, plan: QuantizePlan, budget_bytes: int, total_bytes: Callable[[QuantizePlan], int]
    ) -> Generator[dict[str, Any], None, QuantizePlan]:
        tried: dict[float, int] = {}
        log2_factor = 0.0
        while len(tried) < TRIES and log2_factor not in tried:
            tried[log2_factor] = num_bytes = total_bytes(coarser(plan, 2.0**log2_factor))
            yield {"rate_factor": 2.0**log2_factor, "total_bytes": num_bytes}
            if self.least_share * budget_bytes <= num_bytes <= budget_bytes or log2_factor == FINEST:
                break
            if num_bytes > budget_bytes and log2_factor == COARSEST:
                raise BudgetError(
                    "no rate makes this model fit",
                    where="budget.budget_bytes",
                    value=budget_bytes,
                    way_out=f"the smallest feasible budget is {num_bytes:,} bytes",
                )
            log2_factor = next_log2_factor(tried, budget_bytes, (1 + self.least_share) / 2 * budget_bytes)
        fitting = [log2_factor for log2_factor, num_bytes in tried.items() if num_bytes <= budget_bytes]
        return coarser(plan, 2.0 ** min(fitting))


def coarser(plan: QuantizePlan, factor: float) -> QuantizePlan:
    """The table with all steps longer by a factor."""
    rules = tuple(rule.replace(quantizer=rule.quantizer.coarser(factor)) for rule in plan.rules)
    return plan.replace(rules=rules)


def next_log2_factor(tried: dict[float, int], budget_bytes: int, aim: float) -> float:
    """Octaves to try next: by interpolation between the two nearest tries, or halfway if that is too slow.

    Sizes fall as the factor rises.
    """
    fitting = [log2_factor for log2_factor, num_bytes in tried.items() if num_bytes <= budget_bytes]
    failing = [log2_factor for log2_factor, num_bytes in tried.items() if num_bytes > budget_bytes]
    if fitting and failing:
        low, high = max(failing), min(fitting)
        share = (tried[low] - aim) / (tried[low] - tried[high])
        share = share if len(tried) % 3 else 0.5  # on a curved function interpolation stays on one side
        return round((low + min(0.95, max(0.05, share)) * (high - low)) / LOG2_RESOLUTION) * LOG2_RESOLUTION
    # Bytes go down by a near constant for each octave, then ever slower.
    log2_factor = min(fitting) if fitting else max(failing)
    others = [other for other in tried if other != log2_factor]
    if others:
        other = min(others, key=lambda each: abs(each - log2_factor))
        slope = (tried[other] - tried[log2_factor]) / (log2_factor - other)
    else:
        slope = tried[log2_factor] / 4
    move = (tried[log2_factor] - aim) / max(slope, 1.0)
    least = SHORTEST_MOVE if others else 0.25
    move = min(LONGEST_MOVE, max(least, move)) if failing else max(-LONGEST_MOVE, min(-least, move))
    return round(min(COARSEST, max(FINEST, log2_factor + move)) / LOG2_RESOLUTION) * LOG2_RESOLUTION
