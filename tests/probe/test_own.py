"""Our own scorer under the probes: any plan of ours passes, and faults planted in its slots are caught."""

import dataclasses
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import bitgolf
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.base.errors import PlanError
from bitgolf.base.events import finish
from bitgolf.base.plan import members
from bitgolf.catalog.probes import PLAIN, perturbed
from bitgolf.mix.ngram import NgramCache
from bitgolf.net.model import ModelPlan
from bitgolf.net.position import DocumentAttention
from bitgolf.probe.own import OwnScorer
from bitgolf.probe.probes import PROBES, Text, probing
from bitgolf.probe.together import Together
from bitgolf.score.adapter import Adaptation, Adapter
from bitgolf.score.chained import Chained
from bitgolf.score.exam import Exam
from bitgolf.score.mixer import Memory, Mixer
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Chunked, PerDocument, Sliding
from bitgolf.train.optim import SgdRule

bitgolf.import_core()
SLIDING = Sliding(length=32, stride=8)
PLAN = ModelPlan(vocabulary_size=320, layers=2, width=32, heads=2, kv_heads=1)


def scorer(dataset, plan: ScorePlan, network: ModelPlan = PLAN) -> OwnScorer:
    return OwnScorer(perturbed(network).use(PLAIN), dataset.tokenizer, plan, "ours")


def text_of(dataset, count: int = 150, size: int | None = None) -> Text:
    tokens = dataset.scored_tokens()[:count].astype(np.int64)
    size = len(dataset.tokenizer.decode(tokens)) if size is None else size
    return Text(tokens, dataset.tokenizer.bos, dataset.tokenizer, (tokens, size))


def ended(dataset, own: OwnScorer, positions: int = 3, **text) -> dict[str, str]:
    findings = finish(probing(own, text_of(dataset, **text), positions, own.not_apart()))
    return {each.probe: each.ended for each in findings}


def failed(dataset, own: OwnScorer, **text) -> set[str]:
    return {name for name, end in ended(dataset, own, **text).items() if end == "failed"}


HONEST = {
    "chunked": (ScorePlan(windows=Chunked(length=32)), {"documents apart"}),
    "sliding": (ScorePlan(windows=SLIDING, batch_tokens=100), {"documents apart"}),
    "each document alone": (ScorePlan(windows=PerDocument(within=SLIDING)), set()),
    "mixed": (
        ScorePlan(windows=SLIDING, mixers=(NgramCache(weight=0.2), NgramCache(order=3, weight=0.1))),
        {"documents apart", "processes equal"},
    ),
    "chained": (
        ScorePlan(windows=Chained(history=24, stride=8, lanes=2)),
        {"documents apart", "processes equal"},
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_our_scorer_passes(dataset, name):
    plan, left_out = HONEST[name]
    found = ended(dataset, scorer(dataset, plan))
    assert {probe for probe, end in found.items() if end == "left out"} == left_out
    assert {*found.values()} <= {"passed", "left out"}, found
    assert found.keys() == {"exam", *PROBES}


def test_attention_that_keeps_documents_apart_is_a_claim(dataset):
    own = scorer(dataset, ScorePlan(windows=SLIDING), PLAN.replace(scope=(DocumentAttention(),)))
    assert ended(dataset, own)["documents apart"] == "passed"


def test_the_distribution_that_is_watched_is_the_one_that_scores(dataset):
    tokens = text_of(dataset).tokens
    for plan in (HONEST["sliding"][0], HONEST["mixed"][0]):
        own, places = scorer(dataset, plan), [0, 31, 32, 77, 148]
        nats = own.rows(tokens).nats[places]
        shares = own.distributions(tokens, places)[np.arange(5), tokens[np.array(places) + 1]]
        np.testing.assert_allclose(-np.log(shares), nats, atol=1e-4)


SHAPES = (SLIDING, PerDocument(within=Sliding(length=24, stride=8)), PerDocument(within=Chunked(length=16)))


FEW = {"prefix_documents": 3, "batch_documents": 2, "globally.chunk_tokens": 24}  # of documents in a text
# Documents by their length, not as they come, and something passes from one to the next: in the order of the
# text that looks ahead, and the probe says so.
OUT_OF_ORDER = {"PhasedLora": {"causal"}}


def small(kind):
    """A technique at its defaults, its large whole numbers made small, so that it bites in a short text."""
    plan = kind()
    plan = plan.replace({name: size for name, size in FEW.items() if name.split(".")[0] in plan.__dict__})
    large = {f.name: 48 for f in dataclasses.fields(kind) if _is_large(getattr(plan, f.name))}
    return plan.replace({name: size for name, size in large.items() if fits(kind, {name: size})})


def _is_large(value: object) -> bool:
    return type(value) is int and value > 1000


def fits(kind, fields) -> bool:
    try:
        kind(**fields)
    except PlanError:
        return False
    return True


def plan_with(member) -> ScorePlan:
    """By the first windows that it can score by."""
    slot = {"adapter": member} if isinstance(member, Adapter) else {"mixers": (member,)}
    fitting = [windows for windows in SHAPES if fits(ScorePlan, {"windows": windows, **slot})]
    return ScorePlan(windows=fitting[0], **slot)


def shipped(slot) -> list[type]:
    return [kind for kind in members(slot).values() if kind.__module__.startswith("bitgolf.")]


@pytest.mark.parametrize("kind", [*shipped(Adapter), *shipped(Mixer)], ids=lambda kind: kind.__name__)
def test_every_adapter_and_mixer_that_ships_passes(dataset, kind):
    own = scorer(dataset, plan_with(small(kind)))
    tokens = text_of(dataset, count=200).tokens.copy()
    tokens[[0, 60, 85, 110, 180]] = dataset.tokenizer.bos
    text = Text(tokens, dataset.tokenizer.bos, dataset.tokenizer)
    findings = finish(probing(own, text, 2, own.not_apart()))
    caught = {each.probe for each in findings if each.ended == "failed"}
    assert caught == OUT_OF_ORDER.get(kind.__name__, set()), findings


# ---- faults planted in windows, adapters, mixers, parts and the model ----


def test_windows_that_skip_or_repeat_targets(dataset):
    dropped = scorer(dataset, ScorePlan(windows=Chunked(length=32, tail=False)))  # V17
    assert failed(dataset, dropped) == {"once"}
    again = scorer(dataset, ScorePlan(windows=SLIDING.replace(public_tail=True)))
    assert "once" in failed(dataset, again)


class Planted(Adapter):
    """An adapter of these tests: what its class `learner` does."""

    abstract = True
    learner = Adaptation

    def parts(self, windows, starts):
        yield from ([index] for index in range(len(windows)))

    @contextmanager
    def adapting(self, model, windows, starts):
        adaptation = self.learner(model)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        yield adaptation
        if self.restores:
            model.load_state_dict(before)

    restores = True


def planted(kind: type[Adaptation], **fields) -> Adapter:
    return dataclasses.dataclass(frozen=True, kw_only=True)(
        type("Plant", (Planted,), {"abstract": True, "learner": kind, "__annotations__": {}, **fields})
    )()


def step(model, ids) -> None:
    """One step of training on ids (rows, length)."""
    with torch.inference_mode(False), torch.enable_grad():
        ids = torch.as_tensor(ids).clone()
        model.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        with torch.no_grad():
            for tensor in model.parameters():
                if tensor.grad is not None:
                    tensor.sub_(0.1 * tensor.grad)
        model.zero_grad()


class Learns(Adaptation):
    """Score first, then learn: within the rules."""

    def learn(self, exam, part):
        window = exam.windows[part[0]]
        step(self.model, exam.released(window.first_scored, window.end)[None])


class LearnsFirst(Adaptation):
    """V04, V05: a window is learnt from before it is scored; its own tokens are its inputs."""

    def hidden(self, indices, inputs, scored):
        step(self.model, inputs)
        return super().hidden(indices, inputs, scored)


class Peeks(Adaptation):
    """Asks for the part that comes."""

    def learn(self, exam, part):
        window = exam.windows[part[0] + 1]
        step(self.model, exam.released(window.first_scored, window.end)[None])


class Rescores(Adaptation):
    """V03: a window is scored again by a model that has learnt from it."""

    def learn(self, exam, part):
        exam.ask(part)


def test_an_adapter_that_scores_first_passes(dataset):
    own = scorer(dataset, ScorePlan(windows=SLIDING, adapter=planted(Learns)))
    assert failed(dataset, own) == set()
    fixed = scorer(dataset, ScorePlan(windows=SLIDING))
    tokens = text_of(dataset).tokens
    assert np.abs(own.rows(tokens).nats - fixed.rows(tokens).nats).max() > 0.01  # or nothing was tried


@pytest.mark.parametrize(
    ("kind", "caught"), [(LearnsFirst, "causal"), (Peeks, "exam"), (Rescores, "exam")], ids=lambda x: str(x)
)
def test_an_adapter_that_looks_ahead_is_caught(dataset, kind, caught):
    own = scorer(dataset, ScorePlan(windows=SLIDING, adapter=planted(kind)))
    assert caught in failed(dataset, own)


def test_a_model_left_as_it_has_adapted_is_caught(dataset):
    """T17."""
    own = scorer(dataset, ScorePlan(windows=SLIDING, adapter=planted(Learns, restores=False)))
    assert {"state restored", "same again"} <= failed(dataset, own)


def test_a_window_that_does_not_wait_for_its_adapter(dataset):
    """The mode of a model is state as well."""

    class Trains(Adaptation):
        def __init__(self, model):
            super().__init__(model)
            model.blocks[0].requires_grad_(False)

    own = scorer(dataset, ScorePlan(windows=SLIDING, adapter=planted(Trains)))
    assert "state restored" in failed(dataset, own)


class PlantedMixer(Mixer):
    """A mixer of these tests."""

    abstract = True
    memories: tuple = ()

    def memory(self, vocabulary_size, tokenizer):
        return self.kept(vocabulary_size)


def mixer(kind) -> Mixer:
    return dataclasses.dataclass(frozen=True, kw_only=True)(
        type("Plant", (PlantedMixer,), {"abstract": True, "kept": staticmethod(kind), "__annotations__": {}})
    )()


class Counts(Memory):
    """Counts of single tokens that outlive the text, where `known` is given."""

    known = None

    def __init__(self, size):
        self.counts = np.ones(size) if self.known is None else self.known

    def mix(self, own, state):
        return own + self.counts  # sums to anything: it is divided by its sum

    def observe(self, token):
        self.counts[token] += 1


def test_a_mixture_that_sums_to_anything_is_made_to_sum_to_one(dataset):
    """V01, V10: no distribution goes in, one comes out; V02, V08, V09: the token is not there to look at."""
    assert failed(dataset, scorer(dataset, ScorePlan(windows=SLIDING, mixers=(mixer(Counts),)))) == set()


def test_a_memory_that_outlives_the_text_is_caught(dataset):
    kind = type("Kept", (Counts,), {"known": np.ones(320)})
    own = scorer(dataset, ScorePlan(windows=SLIDING, mixers=(mixer(kind),)))
    assert "same again" in failed(dataset, own)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_a_mixture_that_is_no_distribution_is_refused(dataset, weight):
    kind = type("Odd", (Counts,), {"mix": lambda self, own, state: own + weight})
    own = scorer(dataset, ScorePlan(windows=SLIDING, mixers=(mixer(kind),)))
    assert failed(dataset, own) == {"exam"}


def test_a_mixer_that_fails_is_a_finding(dataset):
    def fails(self, own, state):
        raise ValueError("of my own")

    own = scorer(dataset, ScorePlan(windows=SLIDING, mixers=(mixer(type("Bad", (Counts,), {"mix": fails})),)))
    finding = finish(probing(own, text_of(dataset), 3, ""))[0]
    assert (finding.probe, finding.ended, finding.why) == (
        "exam",
        "failed",
        "it raises ValueError: of my own",
    )


def changed_model(own: OwnScorer, name: str, change) -> OwnScorer:
    """The scorer with a method of its model changed: change(result, *arguments)."""
    method = getattr(own.model, name)
    setattr(own.model, name, lambda *given: change(method(*given), *given))
    return own


def test_a_model_that_sees_the_future_is_caught(dataset):
    own = scorer(dataset, ScorePlan(windows=SLIDING))
    seen = changed_model(own, "embedded", lambda x, inputs: x + 0.1 * x.flip(1).cumsum(1).flip(1))
    assert "causal" in failed(dataset, seen)


def test_a_smear_across_documents_is_caught(dataset):
    """V15."""
    network = PLAN.replace(scope=(DocumentAttention(),))
    own = scorer(dataset, ScorePlan(windows=SLIDING), network)
    smeared = changed_model(own, "embedded", lambda x, inputs: x + 0.2 * x.roll(1, 1))
    assert "documents apart" in failed(dataset, smeared)


def test_a_model_that_looks_across_its_batch_is_caught(dataset):
    """B11, V18: what is computed beside a window changes its score."""
    own = scorer(dataset, ScorePlan(windows=SLIDING))
    mixed = changed_model(own, "embedded", lambda x, inputs: x - 0.2 * x.mean(0, keepdim=True))
    assert "batch equal" in failed(dataset, mixed)


LEARNS = {
    "windows": SLIDING,
    "adapter": ScoreFirst(chunk_tokens=32, epochs=1, rule=SgdRule(lr=0.1), sequence_length=8),
}


@pytest.mark.parametrize("fields", [{"windows": SLIDING}, LEARNS], ids=["fixed", "learns"])
def test_a_share_that_is_lost_is_caught(dataset, monkeypatch, fields):
    """V18: one process's share is reported, and the second process has other weights."""
    own, share = scorer(dataset, ScorePlan(**fields, batch_tokens=64)), Exam.share
    monkeypatch.setattr(Together, "sum", lambda self, tensor: tensor)
    assert failed(dataset, own) == {"processes equal"}
    monkeypatch.undo()

    def shifted(exam, indices, world, device):
        exam.nats += 0.1 * world.rank
        share(exam, indices, world, device)

    monkeypatch.setattr(Exam, "share", shifted)
    assert failed(dataset, own) == {"processes equal"}


def test_processes_that_learn_apart_are_caught(dataset, monkeypatch):
    own = scorer(dataset, ScorePlan(**LEARNS))
    monkeypatch.setattr(Together, "each", lambda self, tensor: [tensor] * self.size)
    monkeypatch.setattr(Together, "sum", lambda self, tensor: tensor.clamp_(min=1))
    assert failed(dataset, own) == {"processes equal"}


def test_scores_that_are_not_of_a_distribution_are_refused(dataset):
    own = scorer(dataset, ScorePlan(windows=SLIDING))
    flattered = changed_model(own, "nats_of", lambda nats, *given: nats * 0.9)
    assert failed(dataset, flattered) == {"exam"}


def test_bytes_counted_twice_are_caught(dataset):
    """B01 to B03: a denominator that is not the size of the text."""
    assert failed(dataset, scorer(dataset, ScorePlan(windows=SLIDING)), size=700) == {"bytes counted"}


def test_enough_tokens_are_taken_for_a_few_windows_and_updates(dataset):
    whole = dataset.scored_tokens()
    assert scorer(dataset, ScorePlan(windows=Chunked(length=32))).tokens_needed(whole, 4096) == 100
    long = scorer(dataset, ScorePlan(windows=Chunked(length=1024)))
    assert long.tokens_needed(whole, 500) == 500
    learning = scorer(dataset, ScorePlan(windows=Chunked(length=64), adapter=planted(Learns)))
    assert len(learning.windows(whole[: learning.tokens_needed(whole, 4096)])) >= 4
