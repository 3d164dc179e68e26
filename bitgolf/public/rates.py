"""The parameter table by its public groups: tables of ids, head, matrices, and the rest."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from bitgolf.base.errors import PlanError
from bitgolf.base.plan import field_types
from bitgolf.train.optim import AdamRule, MuonRule, OptimPlan, ParameterRow, Rule, public_rows

Shapes = Mapping[str, tuple[int, ...]]

# A rule of its own marks the rows of each group of public_rows.
_MARKS = {group: AdamRule(lr=float(n)) for n, group in enumerate(("embedding", "head", "matrices", "rest"))}
_PUBLIC = public_rows(**_MARKS)
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
        open_rows = {index for index, known in enumerate(groups) if not known}
        for name, shape in names.items():
            if (index := _row_index(rows, name, shape)) in open_rows:
                groups[index].add(group_of(name, shape))
    return groups


def group_rules(optim: OptimPlan, shapes: Shapes) -> dict[str, Rule]:
    """The rule of each group, as far as the table tells the groups apart: of its last row, the widest."""
    rows = zip(optim.rows, row_groups(optim.rows, shapes))
    return {group: row.rule for row, groups in rows for group in groups}


def regrouped(optim: OptimPlan, before: Shapes, after: Shapes) -> OptimPlan:
    """The table for a model with other parameters than before.

    Where it has no row for the group of a new parameter, it becomes that of public_rows, with the same rules.
    Raises PlanError if that would change the rule of any other parameter.
    """
    groups = row_groups(optim.rows, before)
    indices = {name: _row_index(optim.rows, name, shape) for name, shape in after.items()}
    new = [name for name in after if name not in before]
    if lost := [n for n in new if (at := indices[n]) is None or group_of(n, after[n]) not in groups[at]]:
        rules = group_rules(optim, before)
        of_groups = {group: rules[group] for group in ("embedding", "matrices", "rest")}
        rows = public_rows(**of_groups, head=rules.get("head"))
        kept = [name for name in after if name in before]
        moved = [n for n in kept if _rule_of(rows, n, after[n]) != _rule_of(optim.rows, n, before[n])]
        if moved:
            problem = f"there is no row for {lost[0]}, and the public groups have none for {moved[0]}"
            way_out = "which this table treats apart; add the rows to the recipe"
            raise PlanError([f"optim.rows: {problem}, {way_out}"])
        return optim.replace(rows=rows)
    taking = {*indices.values()}
    rows = tuple(row for index, row in enumerate(optim.rows) if index in taking or row.may_be_idle)
    return optim.replace(rows=rows)


def with_rates(optim: OptimPlan, shapes: Shapes, rates: Mapping[str, Rate]) -> OptimPlan:
    """The table with settings of its rules changed; the keys name each change in errors.

    Raises PlanError where no row of the groups has such a setting, or one takes other groups as well.
    """
    rows, problems = list(optim.rows), []
    groups_of = row_groups(optim.rows, shapes)
    for name, (value, field, groups) in rates.items():
        own = [index for index, known in enumerate(groups_of) if not known.isdisjoint(groups)]
        having = [index for index in own if field in field_types(type(rows[index].rule))]
        if not having:
            problems.append(f"{name}: no row of optim.rows for {_words(groups)} has the setting {field!r}")
        for index in having:
            if other := groups_of[index].difference(groups):
                problems.append(f"{name}: optim.rows.{index} is for {_words(other)} too; give them a row")
                continue
            try:
                rows[index] = rows[index].replace({f"rule.{field}": value})
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


def _words(groups: Iterable[str]) -> str:
    return " and ".join(sorted(groups))
