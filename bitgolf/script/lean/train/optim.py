"""The parameter table: which update rule, at which rate, for every parameter."""

from typing import Any

from bitgolf.train.optim import OptimPlan


def assign_parameters(plan: OptimPlan, parameters: dict[str, Any]) -> list[list[str]]:
    """The names that each row takes."""
    taken: list[list[str]] = [[] for _ in plan.rows]
    for name, parameter in parameters.items():
        taken[next(i for i, row in enumerate(plan.rows) if row.matches(name, parameter))].append(name)
    return taken
