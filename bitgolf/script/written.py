"""Removes defaults of settings that the recipe always gives, and classes that only they name."""

import ast
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence

from bitgolf.base.plan import Plan
from bitgolf.script.edits import Edit, edited, source_of
from bitgolf.script.kinds import Kinds
from bitgolf.script.names import COPIES
from bitgolf.script.source import Definition, Module
from bitgolf.script.syntax import CACHED, walked, written


def without_defaults(modules: Sequence[Module], plans: Iterable[Plan]) -> list[Module]:
    """The modules without defaults that are objects of a class, where nothing ever takes them.

    plans: all that the recipe holds. A setting that differs from its default in each of them is written out.
    It keeps its default where a function makes an object of its class without it. So it does where a copy
    changes it, perhaps to the default, which an artifact leaves out.
    """
    definitions = [d for module in modules for d in module.definitions]
    kinds, items = Kinds(modules), [item for d in definitions for item in d.items]
    calls = [item for item in items if isinstance(item, ast.Call)]
    copied = {
        word.arg for call in calls if getattr(call.func, "attr", "") in COPIES for word in call.keywords
    }
    calls_of: dict[str, list[ast.Call]] = {}
    for call in calls:
        calls_of.setdefault(written(call.func), []).append(call)
    handed_on = set[str]().union(*map(_handed_on, definitions))
    held: dict[str, list[Plan]] = {}
    for plan in plans:
        held.setdefault(type(plan).__name__, []).append(plan)
    edits = []
    for definition in definitions:
        for name, field in _made_defaults(definition):
            family = set(kinds.below(name))
            made = [call for one in family for call in calls_of.get(one, ())]
            key, each = written(field.target), [plan for one in family for plan in held.get(one, ())]
            always = all(key in {word.arg for word in call.keywords} for call in made)
            if each and always and key not in copied and not family & handed_on and _differs(each, key):
                edits.append([_without_value(definition, field)])
    return edited(modules, edits)


def _made_defaults(definition: Definition) -> Iterator[tuple[str, ast.AnnAssign]]:
    """The fields of a class whose defaults are made by calls, with the name of the class."""
    node = definition.tree
    if not isinstance(node, ast.ClassDef):
        return
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and not written(field.annotation).startswith("ClassVar"):
            calls = [part for part in walked(field) if isinstance(part, ast.Call)]
            yield from [(node.name, field)] if calls else ()


def _without_value(definition: Definition, field: ast.AnnAssign) -> Edit:
    source = source_of(definition)
    assert field.value is not None
    return Edit(source, source.end(field.annotation), source.end(field.value), "")


def _differs(plans: Iterable[Plan], field: str) -> bool:
    """Whether a setting has its default in none of these."""
    return all(
        own.default is not dataclasses.MISSING and repr(getattr(plan, field)) != repr(own.default)
        for plan in plans
        for own in dataclasses.fields(plan)
        if own.name == field
    )


@functools.lru_cache(maxsize=CACHED)
def _handed_on(definition: Definition) -> frozenset[str]:
    """Names that stand for themselves, so that anything may be made of them: not called, no type."""
    items = definition.items
    spared = {id(item.func) for item in items if isinstance(item, ast.Call)}
    for item in items:
        types = [
            getattr(item, "annotation", None),
            getattr(item, "returns", None),
            *getattr(item, "bases", ()),
        ]
        if isinstance(item, ast.Call) and written(item.func) == "isinstance":
            types.append(item.args[1])
        spared |= {id(part) for kind in types if isinstance(kind, ast.AST) for part in walked(kind)}
    return frozenset(item.id for item in items if isinstance(item, ast.Name) and id(item) not in spared)
