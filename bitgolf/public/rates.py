"""The parameter table by its public groups: tables of ids, head, matrices, and the rest."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from bitgolf.base.errors import PlanError
from bitgolf.base.plan import field_types
from bitgolf.net.model import parameter_shapes
from bitgolf.public.names import RATES, Given, Row
from bitgolf.recipe import Recipe
from bitgolf.train.optim import (
    AdamRule,
    MuonRule,
    OptimPlan,
    ParameterRow,
    Rule,
    baseline_rows,
    public_rows,
)
from bitgolf.train.schedule import Progress

Shapes = Mapping[str, tuple[int, ...]]

# A rule of its own marks the rows of each group of public_rows.
_MARKS: dict[Rule, str] = {
    AdamRule(lr=float(n)): group for n, group in enumerate(("embedding", "head", "matrices", "rest"))
}
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
        open_rows = {index for index, known in enumerate(groups) if not known}
        group_of = _group_of(names)
        for name, index in _taken(rows, names).items():
            if index in open_rows:
                groups[index].add(group_of[name])
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
    groups, taken, group_of = row_groups(optim.rows, before), _taken(optim.rows, after), _group_of(after)
    new = [name for name in after if name not in before]
    lost = [name for name in new if name not in taken or group_of[name] not in groups[taken[name]]]
    if not lost:
        used = set(taken.values())
        rows = tuple(row for index, row in enumerate(optim.rows) if index in used or row.may_be_idle)
        return optim.replace(rows=rows)
    rules = group_rules(optim, before)
    three = {group: rules[group] for group in ("embedding", "matrices", "rest")}
    rows = public_rows(**three, head=rules.get("head"))
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
    optim, old, shapes = after.optim, parameter_shapes(before.model), parameter_shapes(after.model)
    if old.keys() != shapes.keys():
        optim = regrouped(optim, old, shapes)
    rows, problems = list(optim.rows), []
    groups_of = row_groups(rows, shapes)
    for name, value, field, groups in _rates(before, after, given):
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
    return after.replace({"optim": optim.replace(rows=tuple(rows))})


def _rates(before: Recipe, after: Recipe, given: Given) -> Iterator[tuple[str, Any, str, Sequence[str]]]:
    """What is given for rules: the variable, its value, the field, and the groups."""
    if after.model.tied != before.model.tied:  # a table that is no head learns at another rate
        public = baseline_rows(after.model.tied)[0].rule.rates(1.0, Progress(0, 1))
        yield "TIE_EMBEDDINGS", public["lr"], "lr", ("embedding",)
    for row in RATES:
        for name, field in row.fields.items():
            if name in given and name not in unused_rates(after):
                yield name, given[name], field, groups_with(row, name, given)
            elif name in given and "TIE_EMBEDDINGS" not in given:
                tied = "the head" if after.model.tied else "not the head"
                problem = f"{name}: the token table of this recipe is {tied}; give TIE_EMBEDDINGS too"
                raise PlanError([problem])


def unused_rates(recipe: Recipe) -> tuple[str, ...]:
    """The variables of rates that public scripts do not use with this recipe's token table, tied or not."""
    return ("EMBED_LR", "HEAD_LR") if recipe.model.tied else ("TIED_EMBED_LR",)


def groups_with(row: Row, name: str, given: Iterable[str]) -> Sequence[str]:
    """The groups of a rate; those that decay with a variable of their own are left to it."""
    return ("rest",) if name == "ADAM_WD" and "EMBED_WD" in given else row.groups


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


def _words(groups: Iterable[str]) -> str:
    return " and ".join(sorted(groups))
