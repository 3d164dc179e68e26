"""What every mixer keeps: a distribution, from the prefix alone, from an empty start; off is exactly off."""

import copy
import dataclasses
import importlib

import numpy as np
import pytest

from bitgolf import READING_ORDER
from bitgolf.base.errors import PlanError
from bitgolf.base.plan import members, parse_overrides
from bitgolf.catalog.behaviour import off_of
from bitgolf.catalog.mixtures import distributions, mixture_faults, probe
from bitgolf.catalog.techniques import techniques
from bitgolf.mix.match import LongestMatch
from bitgolf.mix.nearest import NearestStates
from bitgolf.mix.ngram import InterpolatedNgrams, NgramCache
from bitgolf.mix.ppm import BytePpm
from bitgolf.mix.tilt import TokenTilt
from bitgolf.score.exam import RuleError
from bitgolf.score.mixer import Memory, Mixer, mixture_of
from bitgolf.score.score import ScorePlan, score
from bitgolf.score.windows import Chunked, Sliding
from tests.mix.tokenizers import VOCABULARY, Pieces
from tests.score.test_score import Bytes, make_model

MEMBERS = {
    name: kind
    for name, kind in members(Mixer).items()
    if kind.__module__.startswith("bitgolf.") and importlib.import_module(kind.__module__)
}
BITING = {
    NgramCache: NgramCache(order=3, weight=0.2),
    InterpolatedNgrams: InterpolatedNgrams(order=4),
    LongestMatch: LongestMatch(),
    NearestStates: NearestStates(states=64, neighbours=5, certain=1.0),
    TokenTilt: TokenTilt(order=3),
    BytePpm: BytePpm(order=3),
}
CARDS = {one.kind: one for one in techniques() if one.slot == "Mixer"}


class AllBytes(Bytes):
    pieces = [bytes([byte]) for byte in range(256)] + [b""]


def test_every_member_is_tried():
    modules = [name for name in READING_ORDER if name.startswith("mix.")]
    assert {kind.__module__.removeprefix("bitgolf.") for kind in MEMBERS.values()} <= set(modules)
    assert set(MEMBERS.values()) == set(BITING)


@pytest.mark.parametrize("kind", BITING)
def test_a_member_is_a_distribution_that_knows_the_prefix_alone(kind):
    assert list(mixture_faults(BITING[kind], VOCABULARY, Pieces())) == []
    tokens, owns, states = probe(VOCABULARY)
    given = distributions(BITING[kind].memory(VOCABULARY, Pieces()), tokens, owns, states)
    assert (given != owns).any()  # it does something on the probe
    assert len(given) == len(tokens) and given.min() >= 0


@pytest.mark.parametrize("kind", BITING)
def test_off_is_the_model_to_the_bit(kind):
    off = parse_overrides(BITING[kind], off_of(CARDS[kind]).settings)
    assert not off.on and BITING[kind].on
    tokens = np.random.default_rng(3).integers(0, 9, 230).astype(np.uint16)
    for windows in (Sliding(length=32, stride=8), Chunked(length=64)):
        plain = ScorePlan(windows=windows, batch_tokens=100)
        nats = [
            score(make_model(), tokens, AllBytes(), plain.replace(mixers=mixers)).nats
            for mixers in ((), (off,), (BITING[kind],))
        ]
        assert np.array_equal(nats[0], nats[1]) and not np.array_equal(nats[0], nats[2])


@pytest.mark.parametrize("kind", BITING)
def test_a_member_keeps_within_its_limits(kind):
    field = {NgramCache: "kappa=0", TokenTilt: "share=1.1"}.get(kind, "start=1")
    with pytest.raises(PlanError, match=field.partition("=")[0]):
        parse_overrides(BITING[kind], [field])


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(PlanError, match="longest: at least shortest 5"):
        LongestMatch(shortest=5, longest=4)
    with pytest.raises(PlanError, match="states: at least neighbours 32"):
        NearestStates(states=31)
    with pytest.raises(PlanError, match="a token may be scored once only"):
        ScorePlan(windows=Sliding(length=32, stride=8, public_tail=True), mixers=(NgramCache(),))


def test_mixers_join_in_their_order():
    tokens, owns, states = probe(VOCABULARY)
    order = BITING[TokenTilt], NgramCache(weight=0.0), BITING[BytePpm]
    both = mixture_of(order, VOCABULARY, Pieces())
    alone = [mixture_of((mixer,), VOCABULARY, Pieces()) for mixer in order]
    assert alone[1] is None
    turned = mixture_of(order[::-1], VOCABULARY, Pieces())
    differs = False
    for token, own, state in zip(tokens.tolist(), owns, states, strict=True):
        expected = alone[2].distribution(alone[0].distribution(own, state), state)
        assert np.array_equal(both.distribution(own, state), expected)
        differs |= not np.array_equal(turned.distribution(own, state), expected)
        for mixture in (both, turned, alone[0], alone[2]):
            mixture.observe(token)
    assert differs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planted(Mixer):
    """A mixer that breaks one rule."""

    fault: str = ""

    def memory(self, vocabulary_size, tokenizer):
        return Broken(self.fault)


class Broken(Memory):
    left: list = []

    def __init__(self, fault):
        self.fault, self.asked = fault, 0

    def mix(self, own, state):
        self.asked += 1
        if self.fault == "writes":
            own *= 0.5
        return {
            "counts questions": own + self.asked,
            "leaves something": own + len(self.left),
            "negative": own - 0.5,
            "too short": own[:-1],
            "one number": np.array(0.5),
            "no number": own * np.nan,
            "nothing": own * 0,
        }.get(self.fault, own)

    def observe(self, token):
        self.left.append(token)


FAULTS = {
    "": [],
    "writes": ["writes into"],
    "counts questions": ["asked twice"],
    "leaves something": ["moves with", "something is left"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_said_in_words(fault):
    Broken.left.clear()
    found = list(mixture_faults(Planted(fault=fault), VOCABULARY, Pieces()))
    assert bool(found) == bool(fault)
    assert all(any(words in each for each in found) for words in FAULTS[fault]), found


@pytest.mark.parametrize("fault", ["negative", "too short", "one number", "no number", "nothing"])
def test_weights_that_are_no_distribution_are_refused(fault):
    with pytest.raises(RuleError, match="no distribution"):
        list(mixture_faults(Planted(fault=fault), VOCABULARY, Pieces()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class InLanes(Mixer):
    """Bigrams whose lanes break one rule; in one lane they keep all."""

    fault: str = ""

    def memory(self, vocabulary_size, tokenizer):
        return Bigrams(self.fault, np.zeros((vocabulary_size, vocabulary_size)))


class Bigrams(Memory):
    last_time: dict = {}

    def __init__(self, fault, counts):
        self.fault, self.counts, self.last, self.lanes, self.own = fault, counts, -1, [], None

    def beside(self):
        if self.fault == "two lanes" and len(self.lanes) == 2:
            return None
        lane = self if self.fault == "one for all" else copy.copy(self)
        self.lanes.append(lane)
        if self.fault == "knows the last stream":
            lane.counts = self.last_time.setdefault(len(self.counts), self.counts)
        return lane

    def mix(self, own, state):
        if not self.lanes:
            return own + self.counts[self.last] * (self.last >= 0)
        if self.fault == "writes":
            own *= 0.5
        if self.fault == "hears others ask":
            self.last_time["own"], own = own, own + self.last_time.get("own", 0)
        reset = self.fault == "forgets its context"
        return own + self.counts[self.last] * (self.last >= 0 and not reset)

    def observe(self, token):
        self.counts[self.last, token] += self.last >= 0
        self.last = token


IN_LANES = {
    "": "",
    "two lanes": "makes 2 lanes and then no more",
    "one for all": "two lanes are the same object",
    "writes": "a lane writes into",
    "knows the last stream": "know tokens of lane 0 at step 1 or later before they came",
    "hears others ask": "depends on which lanes were asked",
    "forgets its context": "one lane of its own gives other",
}


@pytest.mark.parametrize("fault", IN_LANES)
def test_a_fault_planted_in_lanes_is_said_in_words(fault):
    Bigrams.last_time.clear()
    found = list(mixture_faults(InLanes(fault=fault), VOCABULARY, Pieces()))
    assert bool(found) == bool(fault)
    assert any(IN_LANES[fault] in each for each in found) or not fault, found


@pytest.mark.parametrize("kind", BITING)
def test_every_member_goes_on_in_lanes_that_share_what_is_learnt(kind):
    tokens, owns, states = probe(VOCABULARY)
    own, state, given = owns[0], states[0], []
    for first in (0, 120):  # what the other lane has seen
        memory = BITING[kind].memory(VOCABULARY, Pieces())
        other, lane = memory.beside(), memory.beside()
        for token, *asked in zip(tokens[first:120].tolist(), owns[:120], states[:120], strict=False):
            other.mix(*asked)
            other.observe(token)
        for token in tokens[:8].tolist():
            lane.mix(own, state)
            lane.observe(token)
        given.append(lane.mix(own, state))
    assert not np.array_equal(*given)
