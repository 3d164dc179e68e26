"""The parameter table by its public groups: tables of ids, head, matrices, and the rest."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from bitgolf.base.errors import PlanError
from bitgolf.base.plan import field_types
from bitgolf.train.optim import AdamRule, MuonRule, OptimPlan, ParameterRow, Rule, public_rows

Shapes = Mapping[str, tuple[int, ...]]

# The groups are the arguments of public_rows; a rule of its own marks the rows of each.
_MARKS = {
    group: AdamRule(lr=float(index))
    for index, group in enumerate(("embedding", "head", "matrices", "rest"), start=1)
}
_PUBLIC = public_rows(
    embedding=_MARKS["embedding"], head=_MARKS["head"], matrices=_MARKS["matrices"], rest=_MARKS["rest"]
)
# What a row is there for that takes nothing in this model.
_OF_PARTS: Shapes = {
    "bigram.embed.weight": (1, 1),
    "lm_head.weight": (1, 1),
    "blocks.0.attn.attn_gate_proj.weight": (1, 1),
    "bigram.proj.weight": (1, 1),
    "smear_lambda": (1,),
}


class Rate(NamedTuple):
    """A value for one setting of the rules of some groups."""

    value: Any
    field: str
    groups: tuple[str, ...]


def group_of(name: str, shape: tuple[int, ...]) -> str:
    """The public group of a parameter."""
    rule = _rule_of(_PUBLIC, name, shape)
    return next(group for group, mark in _MARKS.items() if mark == rule)


def row_groups(rows: tuple[ParameterRow, ...], shapes: Shapes) -> list[set[str]]:
    """The groups of the parameters that each row takes, or is there to take; Muon is for matrices."""
    groups: list[set[str]] = [{"matrices"} if isinstance(row.rule, MuonRule) else set() for row in rows]
    for names in (shapes, _OF_PARTS):
        found: list[set[str]] = [set() for _ in rows]
        for name, shape in names.items():
            if (index := _row_index(rows, name, shape)) is not None:
                found[index].add(group_of(name, shape))
        groups = [known or new for known, new in zip(groups, found)]
    return groups


def group_rules(optim: OptimPlan, shapes: Shapes) -> dict[str, Rule]:
    """The rule of each group, as far as the table tells the groups apart."""
    rules: dict[str, Rule] = {}
    for name, shape in shapes.items():
        if rule := _rule_of(optim.rows, name, shape):
            rules.setdefault(group_of(name, shape), rule)
    for row, groups in zip(optim.rows, row_groups(optim.rows, shapes)):
        rules = dict.fromkeys(groups, row.rule) | rules
    return rules


def regrouped(optim: OptimPlan, before: Shapes, after: Shapes) -> OptimPlan:
    """The table for a model with other parameters than before.

    Where it has no row for the group of a new parameter, it becomes that of public_rows, with the same rules.
    Raises PlanError if that would change the rule of any other parameter.
    """
    groups = row_groups(optim.rows, before)
    new = {name: shape for name, shape in after.items() if name not in before}
    indices = {name: _row_index(optim.rows, name, shape) for name, shape in new.items()}
    lost = [n for n, index in indices.items() if index is None or group_of(n, new[n]) not in groups[index]]
    if not lost:
        taking = {_row_index(optim.rows, name, shape) for name, shape in after.items()}
        idle = {row for row in optim.rows if row.may_be_idle}
        rows = tuple(row for index, row in enumerate(optim.rows) if index in taking or row in idle)
        return optim.replace(rows=rows)
    rules = group_rules(optim, before)
    rows = public_rows(
        embedding=rules["embedding"], matrices=rules["matrices"], rest=rules["rest"], head=rules.get("head")
    )
    moved = [
        n for n, s in before.items() if n in after and _rule_of(rows, n, s) != _rule_of(optim.rows, n, s)
    ]
    if moved:
        raise PlanError(
            [
                f"optim.rows: there is no row for {lost[0]}, and the public groups have none for {moved[0]}, "
                "which this table treats apart; add the rows to the recipe"
            ]
        )
    return optim.replace(rows=rows)


def with_rates(optim: OptimPlan, shapes: Shapes, rates: Mapping[str, Rate]) -> OptimPlan:
    """The table with settings of its rules changed; the keys name each change in errors.

    Raises PlanError where no row of the groups has such a setting, or one takes other groups as well.
    """
    rows, problems = list(optim.rows), []
    for name, (value, field, groups) in rates.items():
        wanted = set(groups)
        indices = [
            index
            for index, own in enumerate(row_groups(optim.rows, shapes))
            if own & wanted and field in field_types(type(rows[index].rule))
        ]
        if not indices:
            problems.append(f"{name}: no row of optim.rows for {_words(wanted)} has the setting {field!r}")
        for index in indices:
            other = row_groups(optim.rows, shapes)[index] - wanted
            if other:
                problems.append(f"{name}: optim.rows.{index} is for {_words(other)} too; give them a row")
                continue
            try:
                rows[index] = rows[index].replace(rule=rows[index].rule.replace({field: value}))
            except PlanError as error:
                problems += [f"{name}: {problem}" for problem in error.problems]
    if problems:
        raise PlanError(dict.fromkeys(problems))
    return optim.replace(rows=tuple(rows))


def _row_index(rows: tuple[ParameterRow, ...], name: str, shape: tuple[int, ...]) -> int | None:
    parameter = torch.empty(shape, device="meta")
    return next((index for index, row in enumerate(rows) if row.matches(name, parameter)), None)


def _rule_of(rows: tuple[ParameterRow, ...], name: str, shape: tuple[int, ...]) -> Rule | None:
    index = _row_index(rows, name, shape)
    return None if index is None else rows[index].rule


def _words(groups: set[str]) -> str:
    return " and ".join(sorted(groups))
