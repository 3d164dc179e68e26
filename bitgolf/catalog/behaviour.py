"""The rules that every technique must keep, as checks of any class in any slot, ours or a user's.

Off is exact, on has an effect, nothing sees the future or another document, JSON says everything, a few steps
train each of its tensors, and the script computes the same. A failure is a sentence.
"""

import json
import re
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event, finish
from bitgolf.base.plan import Plan, from_json, members, parse_overrides, to_json
from bitgolf.catalog.mixtures import mixture_faults
from bitgolf.catalog.own import example_of, faults_of
from bitgolf.catalog.probes import (
    CHUNK,
    COMMON,
    DOCUMENT,
    PLAIN,
    end_differs,
    perturbed,
    probes,
    results,
    sees_other_documents,
    sees_other_rows,
    sees_the_future,
    starts_equal,
    stream,
)
from bitgolf.catalog.small import AT, BrokenError, Small, difference, small_recipe, with_technique
from bitgolf.catalog.techniques import Technique, card_of, slots, value_at
from bitgolf.net.model import build_model
from bitgolf.net.position import DocumentAttention
from bitgolf.recipe import Recipe
from bitgolf.score.mixer import Mixer
from bitgolf.score.score import scoring
from bitgolf.script.flatten import flatten, pack_script
from bitgolf.script.own import is_own_codec
from bitgolf.script.proofs import prove_scripts
from bitgolf.squeeze.hessian import TrainText
from bitgolf.squeeze.presets import feedback_rows, rate_aware
from bitgolf.train.schedule import WarmdownFraction

PROBED = (0, 1, 19, 38)  # tokens after which the future is exchanged
# What a slot needs around it.
AROUND_IT: dict[str, Callable[[], dict[str, Any]]] = {
    "Averager": lambda: {"optim.schedule": WarmdownFraction(fraction=1.0)},  # some wait for a falling rate
    "Quantizer": lambda: {"quantize.calibration": TrainText(outputs=True)},
    "Calibration": lambda: {"quantize": feedback_rows()},
    "Rate": lambda: {"quantize": rate_aware(), "budget.budget_bytes": 60_000},
}
BYTES_ONLY = ("Codec", "Layout")  # slots that change how bytes are written, and nothing that is computed


# What stands in a slot without any technique, where no card says so.
LIKE = {
    "Rule": "Frozen",
    "Route": "USkips",
    "Codec": "Deflate",
    "Calibration": "TrainText",
    "Layout": "ByName",
}


class Verdict(NamedTuple):
    """How a check of a technique ended: passed, failed, or left out; why, in a sentence."""

    technique: str
    check: str
    ended: str
    why: str = ""


class LeftOutError(Exception):
    """A check asks nothing of this technique."""


def base_of(technique: Technique) -> Recipe:
    """The small recipe with what the slot of a technique needs around it; its neutral one needs nothing."""
    neutral = _is_neutral(technique.card.neutral)
    return small_recipe().replace({} if neutral else AROUND_IT.get(technique.slot, dict)())


# ---- what a card says of off ----


class Off(NamedTuple):
    """What a card says is neutral: settings to change; at_start: only before the first step; like: which
    member of the slot that equals; always: the technique itself is the neutral one."""

    settings: tuple[str, ...] = ()
    at_start: bool = False
    like: str = ""
    always: bool = False
    none: bool = False


def off_of(technique: Technique) -> Off:
    """The neutral setting that a card names. Raises BrokenError where it names none and does not say so."""
    assert technique.kind is not None
    text = technique.card.neutral
    fields = technique.kind.__dataclass_fields__
    pairs = re.findall(r"(\w+) ?= ?(\([^)]*\)|True|False|-?\d[\w.]*\b)", text)
    settings = tuple(f"{name}={value}" for name, value in pairs if name in fields)
    slot = next(slot for slot in slots() if slot.__name__ == technique.slot)
    names = [
        word for word in re.findall(r"[A-Z]\w+", text) if word in members(slot) and word != technique.name
    ]
    start = "where it starts" in text
    if settings or start:
        return Off(settings, start, names[0] if names else "")
    if _is_neutral(text):
        return Off(always=True)
    if re.match(r"(none|use|choose)\b", text):
        return Off(none=True)
    raise BrokenError(
        f"its card says `Neutral: {text}`; name a setting (`name=value`), or say `where it starts`, "
        "`this is the neutral one`, or `none` and what to choose instead"
    )


def _is_neutral(says: str) -> bool:
    return re.match(r"(this is the neutral|always)", says) is not None


def neutral_of(technique: Technique, like: str = "") -> Plan | None:
    """The member of a slot that changes nothing: named, or the one whose card says so; None: the base's."""
    slot, like = (
        next(slot for slot in slots() if slot.__name__ == technique.slot),
        like or LIKE.get(technique.slot, ""),
    )
    for name, kind in members(slot).items():
        fits = name == like or (not like and _is_neutral(card_of(kind.__doc__ or "").neutral))
        if fits and kind is not technique.kind:
            return kind()
    return None


# ---- checks ----


class Case(NamedTuple):
    """A technique in its small recipe, and the runs that checks share."""

    technique: Technique
    member: Plan
    base: Recipe
    on: Recipe
    small: Small

    @property
    def in_model(self) -> bool:
        """Whether its slot is one of the network."""
        return self.technique.path.startswith("model.")


def check_card(case: Case) -> None:
    """The card has its lines and the class its form."""
    if faults := faults_of(case.technique):
        raise BrokenError("; ".join(faults))


def check_json(case: Case) -> None:
    """JSON says everything."""
    data = json.loads(json.dumps(to_json(case.on)))
    again = from_json(Recipe, data)
    if again != case.on or again.identity() != case.on.identity():
        raise BrokenError("what is read back from its JSON is not equal to it")
    if again.model != case.on.model or hash(again) != hash(case.on):
        raise BrokenError("what is read back from its JSON is another value")


def check_off(case: Case) -> None:
    """At its neutral setting every bit is as without it."""
    off = off_of(case.technique)
    if off.none:
        raise LeftOutError("its card says that no setting is neutral")
    neutral = with_technique(case.base, case.technique, neutral_of(case.technique, off.like))
    path = AT.get(case.technique.path, case.technique.path)
    held_at = f"{path}.0" if isinstance(value_at(case.on, path), tuple) else path
    quiet = parse_overrides(case.on, [f"{held_at}.{setting}" for setting in off.settings])
    setting = ", ".join(off.settings) or "its start"
    if case.in_model:
        models = build_model(quiet.network()).use(PLAIN), build_model(neutral.network()).use(PLAIN)
        starts_equal(*models)
        pairs = zip(*(results(model, stream(quiet.model)) for model in models), strict=True)
        for what, (first, second) in zip(("loss", "nats", *COMMON), pairs):
            if not torch.equal(first, second):
                most = float((first - second).abs().max())
                raise BrokenError(f"off ({setting}) is not exact: {what} differs by up to {most:.3g}")
        return  # what is off at its start may be trained away from there
    if part := difference(case.small.run(quiet), case.small.run(neutral)):
        raise BrokenError(
            f"off ({setting}) is not exact: after three steps the {part} differ from a run without it"
        )


def check_on(case: Case) -> None:
    """Switched on, something that is measured moves."""
    if _is_neutral(case.technique.card.neutral):
        raise LeftOutError("its card says that it is the neutral one")
    neutral = with_technique(case.base, case.technique, neutral_of(case.technique))
    first, second = case.small.run(case.on), case.small.run(neutral)
    moved = difference(first, second) or first["weights"].keys() ^ second["weights"].keys()
    key = "packed bytes"
    if case.technique.slot in BYTES_ONLY and not torch.equal(first[key]["bytes"], second[key]["bytes"]):
        moved = key
    if not moved:
        raise BrokenError(
            "on has no effect: a run of three steps is the same, bit for bit; give settings that have one in "
            "four layers of width 48 and 32 tokens, by --set"
        )


def check_causal(case: Case) -> None:
    """No score moves with later tokens."""
    plan = case.on.network()
    for what, model in probes(plan):
        for token in PROBED:
            if sees_the_future(model, stream(plan), token):
                raise BrokenError(
                    f"it sees the future: {what} up to token {token} move with the tokens after it"
                )
    tokens = case.small.dataset.scored_tokens()[:200].copy()
    changed = tokens.copy()
    changed[100:] = tokens[100:][::-1]
    model, seen = perturbed(plan).use(PLAIN).eval(), []
    for text in (tokens, changed):
        scores = finish(scoring(model, text, case.small.dataset.tokenizer, case.on.score, None))
        if len(scores.nats) != len(text) - 1 and case.technique.slot == "Windows":
            raise BrokenError(f"of {len(text) - 1} targets it scores {len(scores.nats)}")
        seen.append(scores.nats[:99])
    if not np.array_equal(seen[0], seen[1]):
        raise BrokenError("it sees the future: scores of the first 100 tokens move with those after them")


def check_end(case: Case) -> None:
    """Sliding windows pass only the scored positions through the last layer."""
    plan = case.on.network()
    for backend in (PLAIN, CHUNK):
        if end_differs(perturbed(plan).use(backend).eval(), stream(plan)):
            raise BrokenError(
                "the last positions alone have other states than in a whole pass; a part whose positions "
                "need each other says looks_back = True"
            )


def check_documents(case: Case) -> None:
    """No score moves with another document or sequence."""
    plan = case.on.network()
    apart = (
        plan
        if any(isinstance(each, DocumentAttention) for each in plan.scope)
        else plan.replace(scope=(*plan.scope, DocumentAttention()))
    )
    for what, model in probes(plan):
        if sees_other_rows(model, stream(plan)):
            raise BrokenError(f"it sees the other sequences of a batch: {what} of one move with another")
    for what, model in probes(apart):
        if sees_other_documents(model, stream(plan), DOCUMENT):
            raise BrokenError(
                f"it looks across documents: with DocumentAttention, {what} of a document move with the one "
                "before it"
            )


def check_mixture(case: Case) -> None:
    """A mixer gives a distribution that knows the prefix alone; other techniques give none of their own."""
    if not isinstance(case.member, Mixer):
        return
    tokenizer = case.small.dataset.tokenizer
    for fault in mixture_faults(case.member, tokenizer.vocabulary_size, tokenizer):
        raise BrokenError(fault)


def check_training(case: Case) -> None:
    """Three steps train, and move every tensor that it has."""
    result = case.small.run(case.on)
    for step, loss in result["losses"].items():
        if not bool(loss.isfinite()):
            raise BrokenError(f"the loss of step {int(step) + 1} is no number")
    if case.in_model:
        start = dict(build_model(case.on.network(), 1).named_parameters())
        common = dict(build_model(case.base.network(), 1).named_parameters())
        still = [
            n for n, t in result["weights"].items() if n not in common and torch.equal(t, start[n].detach())
        ]
        if still:
            raise BrokenError(f"three steps do not move its tensor {still[0]}; does the loss depend on it?")


def check_script(case: Case) -> None:
    """The script trains to the same bits."""
    scripts = {"the script": flatten(case.on)}
    prove_scripts(
        case.on,
        case.small.dataset.folder,
        {**scripts, "the packed script": pack_script(scripts["the script"])},
        seed=1,
    )


CHECKS: dict[str, Callable[[Case], None]] = {
    "card": check_card,
    "json": check_json,
    "trains": check_training,
    "off is exact": check_off,
    "on has an effect": check_on,
    "causal": check_causal,
    "end alone": check_end,
    "documents apart": check_documents,
    "a mixture": check_mixture,
    "script equal": check_script,
}


def check(
    technique: Technique, small: Small, names: Sequence[str] = tuple(CHECKS), overrides: Sequence[str] = ()
) -> Iterator[Verdict]:
    """The verdict of each check of these names on a technique at its example, else at its defaults.

    overrides: `setting=value` texts, of settings of the technique.
    """
    try:
        member, base = technique.example or example_of(technique), base_of(technique)
        member = parse_overrides(member, overrides)
        case = Case(technique, member, base, with_technique(base, technique, member), small)
    except BitgolfError as error:
        yield Verdict(technique.name, "fits the small recipe", "failed", _sentence(error))
        if faults := faults_of(technique):
            yield Verdict(technique.name, "card", "failed", "; ".join(faults))
        return
    for name in (
        names if not is_own_codec(type(member)) else ("card",)
    ):  # which says that nothing else can pass
        try:
            CHECKS[name](case)
        except LeftOutError as reason:
            yield Verdict(technique.name, name, "left out", str(reason))
        except Exception as error:  # a user's class may fail in any way
            yield Verdict(technique.name, name, "failed", _sentence(error))
        else:
            yield Verdict(technique.name, name, "passed")


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (
        text if isinstance(error, BitgolfError | BrokenError) else f"it raises {type(error).__name__}: {text}"
    )


def check_all(
    techniques: Sequence[Technique], overrides: Sequence[str] = ()
) -> Generator[Event, None, list[Verdict]]:
    """Every check on these techniques, see `check`; yields progress."""
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory() as folder:
        small = Small(Path(folder))
        for number, technique in enumerate(techniques):
            for done, verdict in enumerate(check(technique, small, overrides=overrides)):
                verdicts.append(verdict)
                share = number + (done + 1) / len(CHECKS)
                yield Event("check", share, len(techniques), {technique.name: verdict.check})
    return verdicts
