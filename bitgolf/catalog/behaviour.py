"""What every technique has to keep, as checks of any class in any slot, ours or a user's.

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
from torch import Tensor

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event, finish
from bitgolf.base.plan import Plan, from_json, members, parse_changes, to_json
from bitgolf.base.tensors import read_tensors
from bitgolf.catalog.mixtures import mixture_faults
from bitgolf.catalog.own import example_of, faults_of
from bitgolf.catalog.techniques import Technique, card_of, slots, value_at
from bitgolf.corpus.build import build_dataset
from bitgolf.corpus.sources import source_from
from bitgolf.net.backend import Backend, BackendPlan
from bitgolf.net.model import Model, ModelPlan, build_model, keyed_generator
from bitgolf.net.position import DocumentAttention
from bitgolf.recipe import DataPlan, Recipe
from bitgolf.run.stages import run
from bitgolf.score.mixer import Mixer
from bitgolf.score.score import ScorePlan, scoring
from bitgolf.score.windows import Chunked
from bitgolf.script.flatten import flatten, pack_script, prove_scripts
from bitgolf.script.own import is_own_codec
from bitgolf.squeeze.artifact import unpack
from bitgolf.squeeze.hessian import TrainText
from bitgolf.squeeze.presets import feedback_rows, rate_aware
from bitgolf.squeeze.quantize import int6_rows
from bitgolf.text.shards import Dataset
from bitgolf.train.loop import TrainPlan
from bitgolf.train.optim import OptimPlan
from bitgolf.train.schedule import Constant, WarmdownFraction

PLAIN, CHUNK = Backend(attention="math"), Backend(attention="chunk", fused=True)
PROBED = (0, 1, 19, 38)  # tokens after which the future is exchanged
TIME, DOCUMENT = 40, 17  # tokens of a probe, and where its second document opens
COMMON = ("tok_emb.weight", "blocks.0.attn.c_v.weight", "blocks.0.mlp.fc.weight")  # of every model
WORDS = "the people of this nation and their government shall keep peace with all for many years".split()
# Where a slot of a table stands in the row that takes matrices, and what a slot needs around it.
AT = {
    "optim.rows.0.rule": "optim.rows.1.rule",
    "quantize.rules.0.quantizer": "quantize.rules.1.quantizer",
    "quantize.rules.0.quantizer.grid.granularity": "quantize.rules.1.quantizer.grid.granularity",
}
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


class BrokenError(Exception):
    """A technique does not keep what a check asks."""


class LeftOutError(Exception):
    """A check asks nothing of this technique."""


# ---- probes ----


def perturbed(plan: ModelPlan, seed: int = 1) -> Model:
    """A model none of whose tensors is at a special value; equal names get equal values."""
    model = build_model(plan, seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=keyed_generator(seed, "shake " + name))
            tensor.add_(noise * (0.1 if name.endswith("weight") else 0.2))
    return model


def stream(plan: ModelPlan, rows: int = 2, time: int = TIME) -> Tensor:
    """Token ids (rows, time + 1) without BOS."""
    ids = torch.randint(2, 95, (rows, time + 1), generator=torch.Generator().manual_seed(5))
    return ids % (plan.vocabulary_size - 2) + 2


def results(model: Model, ids: Tensor) -> tuple[Tensor, ...]:
    """Training loss, nats, and the gradients of the tensors that every model has."""
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    nats = model.nats(ids[:, :-1], ids[:, 1:])
    model.zero_grad()
    loss.backward()
    gradients = (dict(model.named_parameters())[name].grad for name in COMMON)
    return loss.detach(), nats.detach(), *(torch.zeros(()) if each is None else each for each in gradients)


def starts_equal(off: Model, base: Model) -> None:
    """Give both the same numbers where projections start at zero, which would hide a difference."""
    shared = dict(off.named_parameters())
    with torch.no_grad():
        for name, tensor in base.named_parameters():
            if name.endswith("proj.weight"):
                tensor.normal_(0, 0.2, generator=keyed_generator(0, name))
                shared[name].copy_(tensor)


def _moves(model: Model, ids: Tensor, changed: Tensor, part: Any) -> bool:
    """Both alike: with gradients where the model trains, and with the same random numbers."""
    outputs = []
    for x in (ids, changed):
        with torch.random.fork_rng(devices=()), torch.set_grad_enabled(model.training):
            torch.manual_seed(0)
            outputs.append(model.nats(x[:, :-1], x[:, 1:])[part])
    return not torch.equal(*outputs)


def probes(plan: ModelPlan) -> Iterator[tuple[str, Model]]:
    """A perturbed model as it scores and as it trains, at both ends of a training, by each attention."""
    for backend in (PLAIN, CHUNK):
        yield "scores", perturbed(plan).use(backend).eval()
        for progress in (0.0, 1.0):
            model = perturbed(plan).use(backend).train()
            model.at(progress)
            yield "in training, predictions", model


def sees_the_future(model: Model, ids: Tensor, token: int) -> bool:
    """Whether nats up to a token move when the tokens after it are replaced."""
    changed = ids.clone()
    changed[:, token + 1 :] = (ids[:, token + 1 :] + 7) % 60 + 2
    return _moves(model, ids, changed, (slice(None), slice(token)))


def sees_other_documents(model: Model, ids: Tensor, start: int) -> bool:
    """Whether nats of the document that opens at `start` move with the tokens before it."""
    ids = ids.clone()
    ids[:, start] = 1
    changed = ids.clone()
    changed[:, :start] = (ids[:, :start] + 7) % 60 + 2
    return _moves(model, ids, changed, (slice(None), slice(start, None)))


def sees_other_rows(model: Model, ids: Tensor) -> bool:
    """Whether nats of a sequence move with the other sequences of its batch."""
    changed = ids.clone()
    changed[1:] = (ids[1:] + 7) % 60 + 2
    return _moves(model, ids, changed, (slice(1),))


def end_differs(model: Model, ids: Tensor) -> bool:
    """Whether final states of the last positions alone are others than those of a whole pass."""
    with torch.inference_mode():
        whole = model.hidden(ids)
        ends = ((last, model.hidden(ids, last)) for last in (1, 7, ids.shape[1] - 1))
        return not all(torch.allclose(end, whole[:, -last:], rtol=0, atol=1e-4) for last, end in ends)


# ---- a small run of a technique ----


def make_dataset(folder: Path) -> Dataset:
    """A few generated documents, tokenized with 320 pieces."""
    rng = np.random.default_rng(0)
    texts = folder / "texts"
    texts.mkdir()
    for number in range(20):
        lines = (" ".join(rng.choice(WORDS, rng.integers(5, 15))).capitalize() + "." for _ in range(30))
        (texts / f"{number:02}.txt").write_text("\n".join(lines) + "\n")
    for _ in build_dataset(source_from(str(texts)), folder / "dataset", vocabulary_size=320):
        pass
    return Dataset.open(folder / "dataset")


def small_recipe() -> Recipe:
    """Four layers of width 48, three steps, one value in every slot."""
    return Recipe(
        name="check",
        data=DataPlan(sequence_length=32),
        model=ModelPlan(vocabulary_size=320, layers=4, width=48, heads=4, kv_heads=2),
        optim=OptimPlan(schedule=Constant()),
        train=TrainPlan(steps=3, train_seconds=0, batch_tokens=128, accumulation=1),
        quantize=int6_rows(),
        score=ScorePlan(windows=Chunked(length=32)),
        backend=BackendPlan(dtype="float32", threads=1),
    )


def base_of(technique: Technique) -> Recipe:
    """The small recipe with what the slot of a technique needs around it; its neutral one needs nothing."""
    neutral = _is_neutral(technique.card.neutral)
    return small_recipe().replace({} if neutral else AROUND_IT.get(technique.slot, dict)())


def with_technique(recipe: Recipe, technique: Technique, member: Plan | None) -> Recipe:
    """The recipe with a member in the slot of a technique; in a slot of many as the only one, or none."""
    path = AT.get(technique.path, technique.path)
    many = isinstance(value_at(recipe, path), tuple)
    if many:
        return recipe.replace({path: () if member is None else (member,)})
    return recipe if member is None else recipe.replace({path: member})


class Small:
    """Small runs on one generated text; equal recipes run once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.dataset = folder, make_dataset(folder)
        self.results: dict[Recipe, dict[str, Any]] = {}

    def run(self, recipe: Recipe) -> dict[str, Any]:
        """What a run comes to: losses, weights, averages, reloaded weights, scores, and packed bytes."""
        if recipe not in self.results:
            out = self.folder / f"run{len(self.results)}"
            finish(run(recipe, self.dataset, out, 1, code=b""))
            self.results[recipe] = self._read(out)
        return self.results[recipe]

    def _read(self, out: Path) -> dict[str, Any]:
        result = json.loads((out / "result.json").read_text())
        if result["status"] not in ("ok", "over budget"):
            raise BrokenError(f"a run of three steps ends as {result['status']}: {result.get('error')}")
        stored, _ = read_tensors(out / "weights.safetensors")
        live = {n.removeprefix("live/"): t for n, t in stored.items() if n.startswith("live/")}
        averaged = {n.removeprefix("averaged/"): t for n, t in stored.items() if n.startswith("averaged/")}
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        packed = (out / "model.bin").read_bytes()
        with np.load(out / "scores.npz") as scores:
            nats = {name: torch.from_numpy(scores[name].astype(np.float64)) for name in ("nats", "context")}
        return {
            "losses": {str(i): torch.tensor(line["nats_per_token"]) for i, line in enumerate(lines)},
            "weights": live,
            "averaged weights": averaged or live,
            "packed weights": dict(unpack(packed).weights),
            "scores": nats,
            "packed bytes": {"bytes": torch.frombuffer(bytearray(packed), dtype=torch.uint8)},
        }


def difference(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The first part of two runs in which tensors that both have differ; '' where none does."""
    for part in ("losses", "weights", "averaged weights", "packed weights", "scores"):
        common = first[part].keys() & second[part].keys()
        for name in sorted(common):
            if not torch.equal(first[part][name], second[part][name]):
                return f"{part} ({name})" if part not in ("losses", "scores") else part
    return ""


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
    quiet = parse_changes(case.on, [f"{held_at}.{setting}" for setting in off.settings])
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
        member = parse_changes(member, overrides)
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
