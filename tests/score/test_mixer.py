import numpy as np
import pytest
import torch

from bitgolf.base.errors import PlanError
from bitgolf.mix.ngram import InterpolatedNgrams, NgramCache
from bitgolf.score.adapter import Adapter
from bitgolf.score.exam import RuleError
from bitgolf.score.mixer import Memory, Mixer
from bitgolf.score.score import ScorePlan, score
from bitgolf.score.windows import Chunked, PerDocument, Sliding
from tests.score.test_score import SLIDING, Bytes, make_model, plan


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 9, 230).astype(np.uint16)


class Whole(Mixer):
    """A mixer that keeps every distribution it gives."""

    def memory(self, vocabulary_size, tokenizer):
        return Recorder(vocabulary_size)


class Recorder(Memory):
    seen: list = []

    def __init__(self, size):
        self.size, self.history = size, []
        Recorder.seen.clear()

    def mix(self, own, state):
        assert abs(own.sum() - 1) < 1e-12
        Recorder.seen.append(list(self.history))
        return own + 1 / self.size

    def observe(self, token):
        self.history.append(token)


def test_a_mixer_sees_the_prefix_and_no_more(tokens):
    score(make_model(), tokens, Bytes(), plan(SLIDING, mixers=(Whole(),), batch_tokens=64))
    assert Recorder.seen == [tokens[1 : place + 1].tolist() for place in range(len(tokens) - 1)]


def test_off_is_the_model_alone(tokens):
    model = make_model()
    alone = score(model, tokens, Bytes(), plan(SLIDING)).nats
    mixed = score(model, tokens, Bytes(), plan(SLIDING, mixers=(NgramCache(weight=0.0),))).nats
    np.testing.assert_allclose(mixed, alone, atol=2e-5)


def test_an_ngram_cache_is_the_formula_on_the_prefix(tokens):
    model, cache = make_model(), NgramCache(order=3, weight=0.3, kappa=0.5)
    scores = score(model, tokens, Bytes(), plan(Chunked(length=64), mixers=(cache,)))
    alone = score(model, tokens, Bytes(), plan(Chunked(length=64)))
    for place in (5, 100, 228):
        prefix, target = tokens[1 : place + 1].tolist(), int(tokens[place + 1])
        context = prefix[-2:]
        following = [c for a, b, c in zip(prefix, prefix[1:], prefix[2:], strict=False) if [a, b] == context]
        expected = (following.count(target) + 0.5) / (len(following) + 0.5 * 257)
        mixed = 0.7 * np.exp(-float(alone.nats[place])) + 0.3 * expected
        assert scores.nats[place] == pytest.approx(-np.log(mixed), abs=2e-5)


def test_documents_apart_keep_the_order_of_the_stream(tokens):
    documents = tokens.copy()
    documents[[0, 40, 41, 170]] = 256
    windows = PerDocument(within=SLIDING)
    score(make_model(), documents, Bytes(), plan(windows, mixers=(Whole(),)))
    assert Recorder.seen[-1] == documents[1:-1].tolist()


@pytest.mark.parametrize("weights", [-1.0, np.nan, 0.0])
def test_what_is_no_distribution_is_refused(tokens, monkeypatch, weights):
    monkeypatch.setattr(Recorder, "mix", lambda self, own, state: np.full(len(own), weights))
    with pytest.raises(RuleError, match="no distribution"):
        score(make_model(), tokens, Bytes(), plan(SLIDING, mixers=(Whole(),)))


@pytest.mark.parametrize("flattery", [0.5, 0.05])
def test_a_score_that_is_no_distributions_is_caught(tokens, monkeypatch, flattery):
    model = make_model()
    honest = model.nats_of
    monkeypatch.setattr(model, "nats_of", lambda *given: honest(*given) - flattery)
    with pytest.raises(RuleError, match="normalised distribution"):
        score(model, tokens, Bytes(), plan(SLIDING))


def test_mixers_need_the_order_of_the_stream():
    class Elsewhere(Adapter):
        in_order = False

    with pytest.raises(PlanError, match="order"):
        plan(SLIDING, adapter=Elsewhere(), mixers=(NgramCache(),))


def test_nothing_is_left_of_a_stream_in_the_next(tokens):
    model = make_model()
    twice = [score(model, tokens, Bytes(), plan(SLIDING, mixers=(NgramCache(weight=0.4),))) for _ in "12"]
    assert (twice[0].nats == twice[1].nats).all()
    assert torch.is_grad_enabled()


def test_two_mixers_of_a_kind_are_told_apart_by_what_differs():
    windows = Sliding(length=8, stride=4)
    mixers = InterpolatedNgrams(per_document=True), InterpolatedNgrams(), NgramCache(order=3)
    label = ScorePlan(windows=windows, mixers=mixers).label()
    both = "InterpolatedNgrams(per_document=True), InterpolatedNgrams(per_document=False)"
    assert label == f"sliding 8/4, {both}, NgramCache"
    alike = ScorePlan(windows=windows, mixers=(NgramCache(), NgramCache())).label()
    assert alike == "sliding 8/4, NgramCache, NgramCache"
