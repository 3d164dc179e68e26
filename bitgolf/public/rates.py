"""The parameter table by its public groups: tables of ids, head, matrices, and the rest."""

from collections.abc import Mapping, Sequence

import torch

from bitgolf.base.errors import PlanError
from bitgolf.base.plan import field_types
from bitgolf.net.model import parameter_shapes
from bitgolf.public.names import RATES, UNUSED, Given
from bitgolf.recipe import Recipe
from bitgolf.train.optim import AdamRule, MuonRule, OptimPlan, ParameterRow, Rule, baseline_rows, public_rows
from bitgolf.train.schedule import Progress

Shapes = Mapping[str, tuple[int, ...]]

# A rule of its own marks the rows of each group of public_rows.
GROUPS = ("embedding", "head", "matrices", "rest")
_MARKS: dict[Rule, str] = {AdamRule(lr=number): group for number, group in enumerate(GROUPS)}
_PUBLIC = public_rows(**{group: mark for mark, group in _MARKS.items()})
# What a row is there for that takes nothing in this model.
_OF_PARTS: Shapes = {
    "bigram.embed.weight": (1, 1),
    "lm_head.weight": (1, 1),
    "blocks.0.attn.attn_gate_proj.weight": (1, 1),
    "bigram.proj.weight": (1, 1),
    "smear_lambda": (1,),
}


def row_groups(rows: Sequence[ParameterRow], shapes: Shapes) -> list[set[str]]:
    """The groups of the parameters that each row takes, or is there to take; Muon is for matrices."""
    groups: list[set[str]] = [{"matrices"} if isinstance(row.rule, MuonRule) else set() for row in rows]
    for names in (shapes, _OF_PARTS):
        unknown = {index for index, group in enumerate(groups) if not group}
        group_of = _group_of(names)
        for name, index in _taken(rows, names).items():
            if index in unknown:
                groups[index].add(group_of[name])
    return groups


def regrouped(optim: OptimPlan, before: Shapes, after: Shapes) -> OptimPlan:
    """The table for a model with other parameters than before.

    Where it has no row for the group of a new parameter, it becomes that of public_rows, with the same rules.
    Raises PlanError if that would change the rule of any other parameter.
    """
    groups, taken, group_of = row_groups(optim.rows, before), _taken(optim.rows, after), _group_of(after)
    new = [name for name in after if name not in before]
    lost = [name for name in new if name not in taken or group_of[name] not in groups[taken[name]]]
    if not lost:
        used = set(taken.values())
        rows = tuple(row for index, row in enumerate(optim.rows) if index in used or row.may_be_idle)
        return optim.replace(rows=rows)
    # Of several rows of a group the last is the widest.
    rows = public_rows(**{group: row.rule for row, owned in zip(optim.rows, groups) for group in owned})
    for name, index in _taken(rows, {name: after[name] for name in after if name in before}).items():
        if name not in taken or rows[index].rule != optim.rows[taken[name]].rule:
            problem = f"there is no row for {lost[0]}, and the public groups have none for {name}"
            way_out = "which this table treats apart; add the rows to the recipe"
            raise PlanError([f"optim.rows: {problem}, {way_out}"])
    return optim.replace(rows=rows)


def with_rates(before: Recipe, after: Recipe, given: Given) -> Recipe:
    """The changed recipe with a row for each of its parameters and the given rates.

    Raises PlanError, by the names of the variables, where no row of their groups has such a setting, or one
    takes other groups as well.
    """
    old, shapes = parameter_shapes(before.model), parameter_shapes(after.model)
    optim = after.optim if old.keys() == shapes.keys() else regrouped(after.optim, old, shapes)
    values = {name: value for name, value in given.items() if name not in UNUSED[after.model.tied]}
    values["TIE_EMBEDDINGS"] = None
    if after.model.tied != before.model.tied:
        values["TIE_EMBEDDINGS"] = baseline_rows(after.model.tied)[0].rule.rates(1.0, Progress(0, 1))["lr"]
    overrides: dict[str, object] = {"optim": optim}
    problems = []
    groups_of = row_groups(optim.rows, shapes)
    rates = [(row, *pair) for row in RATES for pair in row.fields.items() if values.get(pair[0]) is not None]
    for row, name, field in rates:
        groups = row.groups_with(name, given)
        own = [index for index, own_groups in enumerate(groups_of) if not own_groups.isdisjoint(groups)]
        having = [index for index in own if field in field_types(type(optim.rows[index].rule))]
        if not having:
            named = " and ".join(groups)
            problems.append(f"{name}: no row of optim.rows for {named} has the setting {field!r}")
        for index in having:
            overrides[f"optim.rows.{index}.rule.{field}"] = values[name]
            if other := " and ".join(sorted(groups_of[index].difference(groups))):
                problems.append(f"{name}: optim.rows.{index} is for {other} too; give them a row")
    if problems:
        raise PlanError(dict.fromkeys(problems))
    return after.replace(overrides)


def _taken(rows: Sequence[ParameterRow], shapes: Shapes) -> dict[str, int]:
    """The index of the row that takes each parameter, of those that one takes."""
    taken: dict[str, int] = {}
    for name, shape in shapes.items():
        parameter = torch.empty(shape, device="meta")
        index = next((i for i, row in enumerate(rows) if row.matches(name, parameter)), None)
        if index is not None:
            taken[name] = index
    return taken


def _group_of(shapes: Shapes) -> dict[str, str]:
    """The public group of each parameter."""
    return {name: _MARKS[_PUBLIC[index].rule] for name, index in _taken(_PUBLIC, shapes).items()}
