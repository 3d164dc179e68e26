"""Mixers beside lanes: scored, coded and read back alike, from the tokens of earlier steps alone."""

import dataclasses
import zlib
from collections import Counter

import numpy as np
import pytest
import torch

from bitgolf.base.errors import ArtifactError, CheckpointError
from bitgolf.base.events import finish
from bitgolf.base.tensors import read_tensors, write_tensors
from bitgolf.mix.match import LongestMatch
from bitgolf.mix.nearest import NearestStates
from bitgolf.mix.ngram import InterpolatedNgrams, NgramCache
from bitgolf.mix.ppm import BytePpm
from bitgolf.mix.tilt import TokenTilt
from bitgolf.proof import file, frames, mixed_frames
from bitgolf.proof.adapted import AdaptedPlan
from bitgolf.proof.crew import Crew
from bitgolf.proof.file import compress_adapted, decompress, read_header
from bitgolf.proof.frames import active_lanes, in_lanes, parallel_nats
from bitgolf.proof.mixed import MixedLanes
from bitgolf.proof.prove import Text, check, prove
from bitgolf.score.mixer import Mixer, mixture_of
from bitgolf.score.score import ScorePlan
from tests.mix.tokenizers import VOCABULARY, Pieces
from tests.proof.test_adapted import LEARNS, PLANS, SLIDING
from tests.proof.test_proof import ODD_TEXTS, coder, encoded  # noqa: F401

MIXERS = {
    "a cache": (NgramCache(order=3, weight=0.3),),
    "n-grams of all and of each document": (
        InterpolatedNgrams(order=4, start=0.1, per_document=True),
        InterpolatedNgrams(order=3, start=0.1),
    ),
    "a tilt": (TokenTilt(order=2, share=0.1),),
    "a match": (LongestMatch(start=0.3),),
    "states": (NearestStates(states=50, neighbours=3, certain=1.0, start=0.3),),
    "bytes": (BytePpm(order=2, start=0.3),),
}
LANES, STEPS = 3, 60
TEXT = ODD_TEXTS["text"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneLane(Mixer):
    """A mixer of a user's own that knows no lanes."""

    def memory(self, vocabulary_size, tokenizer):
        memory = NgramCache(order=1, weight=0.3).memory(vocabulary_size, tokenizer)
        memory.beside = lambda: None
        return memory


@pytest.fixture(autouse=True)
def short_lanes(monkeypatch):
    """Lanes of some tokens, and some frames of them."""
    monkeypatch.setattr(frames, "LANE_TOKENS", 10)
    monkeypatch.setattr(mixed_frames, "MIXED_LANES", LANES)
    monkeypatch.setattr(mixed_frames, "MIXED_LANE_TOKENS", 15)


def ways_of(mixers):
    return AdaptedPlan.of(ScorePlan(windows=SLIDING, mixers=mixers))


@pytest.mark.parametrize("name", MIXERS)
def test_mixers_in_lanes_are_scored_coded_and_read_back_alike(coder, name):  # noqa: F811
    ways, tokens = ways_of(MIXERS[name]), encoded(coder, TEXT)
    packed = finish(compress_adapted(coder, ways, tokens, TEXT))
    assert packed.layout.lanes == LANES and len(packed.layout.frames()) > 2
    assert finish(decompress(coder, packed.data)) == TEXT
    mixture, nats, alone = mixed_frames.mixture_for(coder, ways), 0.0, 0.0
    for start, end in packed.layout.frames():
        given = coder.model, tokens[start:end], packed.layout
        nats += parallel_nats(*given, MixedLanes(mixture, LANES)).sum()
        alone += parallel_nats(*given).sum()
    assert packed.nats == pytest.approx(nats, rel=1e-4)
    assert abs(nats - alone) > 0.1, "mixers change the score"
    bits = sum(len(job.frame.data) for job in file.frames_of(packed.data, read_header(packed.data), ""))
    assert bits == pytest.approx(nats / np.log(2) / 8, abs=4 * len(packed.layout.frames()) + 2)


def shown(mixers, tokens, kind=MixedLanes):
    """Distributions (steps, lanes, vocabulary) that lanes give on tokens (lanes, steps)."""
    mixed, given = kind(mixture_of(mixers, VOCABULARY, Pieces()), len(tokens)), []
    draw = torch.Generator().manual_seed(1)
    for step in tokens.T.tolist():
        logits = torch.randn(len(tokens), VOCABULARY, generator=draw)
        given.append(mixed.logits(logits, torch.zeros(len(tokens), 4)).exp().numpy())
        mixed.observe(step)
    return np.array(given)


class InTurns(MixedLanes):
    """Observes what came in a lane before the next one is asked."""

    def logits(self, logits, states):
        rows = []
        for lane, row, token in zip(self.lanes, logits, self.coming.pop(0), strict=True):
            own = torch.softmax(row.double(), 0).numpy()
            rows.append(np.log(lane.distribution(own, np.zeros(4))))
            lane.observe(token)
        return torch.from_numpy(np.array(rows))

    def observe(self, tokens):
        pass


def known_too_early(mixers, kind=MixedLanes):
    """Whether a distribution moves with a token of its step, or of a later one."""
    tokens = np.random.default_rng(2).integers(0, 5, (LANES, STEPS))
    for lane in range(LANES):
        changed = tokens.copy()
        changed[lane, 40:] = (changed[lane, 40:] + 1) % 5
        found = []
        for each in (tokens, changed):
            InTurns.coming = each.T.tolist()
            found.append(shown(mixers, each, kind))
        if not np.array_equal(found[0][:41], found[1][:41]):
            return True
        assert not np.array_equal(found[0][41:], found[1][41:])
    return False


@pytest.mark.parametrize("name", MIXERS)
def test_no_lane_knows_a_token_of_its_step(name):
    assert not known_too_early(MIXERS[name])


def test_lanes_that_are_observed_in_turns_are_seen():
    assert known_too_early(MIXERS["n-grams of all and of each document"], InTurns)


def test_lanes_count_together_and_remember_apart():
    tokens = np.random.default_rng(3).integers(0, 4, (LANES, STEPS))
    given = shown((NgramCache(order=2, weight=0.5, kappa=1.0),), tokens)
    own = np.array([torch.softmax(x.double(), 1).numpy() for x in logits_of_probe()])
    for step in (1, 7, 30, STEPS - 1):
        pairs = Counter(
            pair for lane in tokens[:, :step].tolist() for pair in zip(lane, lane[1:], strict=False)
        )
        for lane in range(LANES):
            found = np.array([pairs[tokens[lane, step - 1], token] for token in range(VOCABULARY)])
            expected = 0.5 * own[step, lane] + 0.5 * (found + 1) / (found.sum() + VOCABULARY)
            np.testing.assert_allclose(given[step, lane], expected, rtol=1e-9)


def logits_of_probe():
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(LANES, VOCABULARY, generator=draw) for _ in range(STEPS)]


def test_documents_are_counted_lane_by_lane():
    tokens = np.random.default_rng(3).integers(2, 5, (LANES, STEPS))
    other = tokens.copy()
    other[0] = (other[0] - 1) % 3 + 2
    mixer = InterpolatedNgrams(order=2, start=0.5, per_document=True)
    first = [shown((mixer,), each)[:2, 1] for each in (tokens, other)]
    assert np.array_equal(*first), "nothing was learnt yet, and counts are not shared"
    shared = [shown((mixer.replace(per_document=False),), each)[:2, 1] for each in (tokens, other)]
    assert not np.array_equal(*shared)


def test_a_coder_that_knows_a_token_too_early_is_not_read_back(coder, monkeypatch):  # noqa: F811
    ways, tokens = ways_of(MIXERS["a cache"]), encoded(coder, TEXT)
    layout = mixed_frames.mixed_layout(coder, ways, len(tokens))
    monkeypatch.setattr(InTurns, "coming", [], raising=False)
    for start, end in layout.frames():
        rows = in_lanes(tokens[start:end], LANES)
        active = active_lanes(end - start, rows.shape[1])
        InTurns.coming += [step[:count].tolist() for step, count in zip(rows.T, active, strict=True)]
    with monkeypatch.context() as planted:
        planted.setattr(mixed_frames, "MixedLanes", InTurns)
        planted.setattr(InTurns, "logits", ahead)
        packed = finish(compress_adapted(coder, ways, tokens, TEXT))
    assert not InTurns.coming
    with pytest.raises(ArtifactError, match="frame 1 .* other tokens"):
        finish(decompress(coder, packed.data))


def ahead(self, logits, states):
    """Observes what comes before it is asked."""
    MixedLanes.observe(self, InTurns.coming.pop(0))
    return MixedLanes.logits(self, logits, states)


@pytest.mark.parametrize("name", ["n-grams of all and of each document", "a match", "states", "bytes"])
def test_what_was_killed_goes_on_at_its_frames_to_the_same_bytes(coder, tmp_path, name):  # noqa: F811
    ways = ways_of(MIXERS[name])
    tokens, part = encoded(coder, TEXT), tmp_path / "proof.part"
    crew = Crew(part=part)
    whole = finish(compress_adapted(coder, ways, tokens, TEXT))
    size = whole.layout.lanes * whole.layout.lane_tokens

    def way(encodes):
        coding = compress_adapted(coder, ways, tokens, TEXT, crew)
        return coding if encodes else decompress(coder, whole.data, "", crew)

    for encodes in (True, False):
        steps = way(encodes)
        while next(steps)[0] < 2 * size + 5:  # in the third frame
            pass
        steps.close()
        done = []
        assert finish(way(encodes), done.append) == (whole if encodes else TEXT)
        assert done[0][0] == 2 * size + LANES, "nothing is done twice"
    tensors, facts = read_tensors(part)
    write_tensors(part, {name: each for name, each in tensors.items() if "decode/array/0" not in name}, facts)
    with pytest.raises(CheckpointError, match="proof.part: does not fit.*delete it"):
        finish(way(False))


def test_what_reads_one_lane_alone_stays_in_one(coder):  # noqa: F811
    tokens = encoded(coder, TEXT)
    for plan in (PLANS["learns"], PLANS["both"], ScorePlan(windows=SLIDING, mixers=(OneLane(),))):
        assert mixed_frames.mixed_layout(coder, AdaptedPlan.of(plan), len(tokens)) is None
        packed = finish(compress_adapted(coder, AdaptedPlan.of(plan), tokens[:60], TEXT))
        assert packed.layout.lanes == 1


def test_a_head_that_puts_them_in_lanes_is_refused(coder):  # noqa: F811
    ways, tokens = ways_of(MIXERS["a cache"]), encoded(coder, TEXT)
    packed = finish(compress_adapted(coder, ways, tokens, TEXT))
    body = packed.data[read_header(packed.data).body :]

    def with_head(plan):
        return file._head(file.ADAPTED, TEXT, coder.identity, packed.layout, AdaptedPlan.of(plan)) + body

    assert with_head(ways.plan) == packed.data
    with pytest.raises(ArtifactError, match="what learns has one lane"):
        read_header(with_head(ScorePlan(windows=SLIDING, adapter=LEARNS)))
    with pytest.raises(ArtifactError, match="know but one lane"):
        finish(decompress(coder, with_head(ScorePlan(windows=SLIDING, mixers=(OneLane(),)))))


def test_files_of_older_versions_are_read(coder, monkeypatch):  # noqa: F811
    """One lane, and a head that spells all words out."""
    ways, tokens = ways_of(MIXERS["a cache"]), encoded(coder, TEXT)
    new = finish(compress_adapted(coder, ways, tokens, TEXT))
    with monkeypatch.context() as older:
        older.setattr(file, "deflated_plan", zlib.compress)
        older.setattr(file, "mixed_layout", lambda *given: None)
        old = finish(compress_adapted(coder, ways, tokens, TEXT))
    assert old.layout.lanes == 1 and read_header(old.data).body > read_header(new.data).body + 40
    assert finish(decompress(coder, old.data)) == TEXT


def test_a_certificate_of_lanes_holds_and_a_score_without_mixers_is_an_alarm(coder, tmp_path, monkeypatch):  # noqa: F811
    tokens, ways = encoded(coder, TEXT), ways_of(MIXERS["n-grams of all and of each document"])
    text = Text(np.concatenate(([coder.first], tokens)), TEXT, "a text")
    certificate = finish(prove(coder, text, tmp_path, adapted=ways))
    assert "in 3 lanes" in certificate["windows"] and "alarm" not in certificate
    scores = certificate["stepwise_bits_per_byte"], certificate["parallel_bits_per_byte"]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    coded = (tmp_path / "coded.bin").read_bytes()
    assert finish(check(coder, coded, certificate))["tokens_decoded"] == len(tokens)
    monkeypatch.setattr("bitgolf.proof.prove.nats_in_parallel", lambda *given: parallel_nats(*given[:3]))
    assert "parallel" in finish(prove(coder, text, tmp_path / "planted", adapted=ways))["alarm"]
