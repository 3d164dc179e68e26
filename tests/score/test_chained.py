"""Chained scoring against one pass over the whole stream in which every query sees what its span may see."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.base.errors import PlanError
from bitgolf.catalog.probes import CHUNK, PLAIN, perturbed
from bitgolf.net.model import Model, ModelPlan
from bitgolf.net.position import Alibi, AttentionWindow, NoPosition, RelativeBuckets, Rope, Scope
from bitgolf.score.chained import Chained
from bitgolf.score.score import ScorePlan, Scores, score
from bitgolf.score.windows import Chunked, PerDocument, Sliding
from tests.score.test_score import BOS, Bytes
from tests.test_behaviour import FACTORS, ROWS, model_of

PLAN = ModelPlan(vocabulary_size=257, layers=3, width=32, heads=4, kv_heads=2)
CHAIN = Chained(history=12, stride=4, lanes=1)
TOKENS = 150


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spans(Scope):
    """A query sees the tokens of its span and `history` before it; the first span is the first window."""

    history: int
    stride: int

    def limit(self, mask, inputs, bos_id, training):
        def hide(scores, first, start):
            queries, keys = (torch.arange(n) for n in scores.shape[-2:])
            spans = (queries + start) // self.stride * self.stride - self.history
            return scores.masked_fill(keys + first < spans[:, None], -math.inf)

        return mask._replace(score_mods=(*mask.score_mods, hide))


def stream(size: int = 256, tokens: int = TOKENS) -> np.ndarray:
    found = np.random.default_rng(3).integers(2, size, tokens).astype(np.uint16)
    found[[0, 40, 41, 80]] = BOS if size == 256 else 1
    return found


def scored(model: Model, windows, tokens: np.ndarray | None = None) -> Scores:
    return score(model, stream() if tokens is None else tokens, Bytes(), ScorePlan(windows=windows))


def one_pass(plan: ModelPlan, backend, tokens: np.ndarray) -> np.ndarray:
    row = torch.from_numpy(tokens.astype(np.int64))[None]
    with torch.inference_mode():
        return perturbed(plan).use(backend).eval().nats(row[:, :-1], row[:, 1:])[0].numpy()


@pytest.mark.parametrize("backend", [PLAIN, CHUNK], ids=["plain", "fused"])
@pytest.mark.parametrize(
    "position", [Rope(), Rope(dims=2), NoPosition(), Alibi(), RelativeBuckets(buckets=4, longest=6)]
)
def test_windowed_attention_in_one_lane_is_one_pass_over_the_stream(position, backend):
    plan = PLAN.replace(position=position, scope=(AttentionWindow(tokens=12),))
    nats = scored(perturbed(plan).use(backend).eval(), CHAIN).nats
    np.testing.assert_allclose(nats, one_pass(plan, backend, stream()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_every_two_techniques_see_what_their_span_may_see(number):
    level = {name: FACTORS[name][i] for name, i in ROWS[number].items()}
    level["documents"] = tuple(part.replace(longest=0) for part in level["documents"])
    plan = model_of(level, 64)
    if plan.position == Rope(dims=6, reference_length=8):  # a whole pass would turn by another base
        plan = plan.replace(position=Rope(dims=6))
    tokens = stream(64, 90)
    spans = plan.replace(scope=(*plan.scope, Spans(history=12, stride=4)))
    nats = scored(perturbed(plan).use(PLAIN).eval(), CHAIN, tokens).nats
    np.testing.assert_allclose(nats, one_pass(spans, PLAIN, tokens), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("tokens", [150, 151, 64, 18, 17, 16, 3, 2])
@pytest.mark.parametrize("lanes", [2, 3, 5, 40])
def test_lanes_change_nothing_where_their_first_tokens_are_context_enough(lanes, tokens):
    model = perturbed(PLAN.replace(scope=(AttentionWindow(tokens=5),))).use(CHUNK).eval()
    one, several = (scored(model, CHAIN.replace(lanes=n), stream(256, 151)[:tokens]) for n in (1, lanes))
    np.testing.assert_allclose(several.nats, one.nats, rtol=1e-4, atol=1e-4)
    assert several.complete and (several.context == one.context).all()


def test_without_history_it_is_chunked_scoring_to_the_bit():
    model = perturbed(PLAN).use(CHUNK).eval()
    for batch_tokens in (16, 16384):
        chained, chunked = (
            score(model, stream(), Bytes(), ScorePlan(windows=windows, batch_tokens=batch_tokens))
            for windows in (CHAIN.replace(history=0, lanes=7), Chunked(length=4))
        )
        assert (chained.nats == chunked.nats).all()


def test_with_room_for_the_whole_stream_it_is_the_plain_pass():
    nats = scored(perturbed(PLAN).use(PLAIN).eval(), CHAIN.replace(history=TOKENS)).nats
    np.testing.assert_allclose(nats, one_pass(PLAN, PLAIN, stream()), rtol=1e-5, atol=1e-5)


def test_a_kept_token_has_seen_further_back_than_a_window():
    model = perturbed(PLAN).use(PLAIN).eval()
    chained, sliding = scored(model, CHAIN), scored(model, Sliding(length=16, stride=4))
    assert (chained.nats[:16] == sliding.nats[:16]).all() and (chained.nats[16:] != sliding.nats[16:]).any()
    assert chained.windows == "chained 12+4" and CHAIN.replace(lanes=2).label() == "chained 12+4, 2 lanes"


@pytest.mark.parametrize("place", [1, 17, 80, 149])
def test_nothing_sees_the_future(place):
    model, changed = perturbed(PLAN).use(CHUNK).eval(), stream()
    changed[place:] = (changed[place:] + 7) % 256
    for windows in (CHAIN, CHAIN.replace(lanes=4)):
        before, after = scored(model, windows).nats, scored(model, windows, changed).nats
        np.testing.assert_array_equal(after[: place - 1], before[: place - 1])
        assert before[place - 1] != after[place - 1]


def test_weights_that_change_are_refused():
    for adapted in ({"adapter": ScoreFirst()},):
        with pytest.raises(PlanError, match="Chained keeps what older weights made"):
            ScorePlan(windows=CHAIN, **adapted)
    with pytest.raises(PlanError, match="does not end with a document"):
        PerDocument(within=CHAIN)
