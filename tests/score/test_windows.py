import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.base.errors import PlanError
from bitgolf.base.plan import from_json, to_json
from bitgolf.score.chained import Chained
from bitgolf.score.windows import Chunked, PerDocument, Sliding, Window, Windows

LENGTHS = st.integers(1, 40)
TOKENS = st.integers(0, 300)


def scored(plan: Windows, tokens: int, documents=None) -> list[int]:
    return [i for w in plan.windows(tokens, documents) for i in range(w.first_scored, w.end)]


@st.composite
def sliding(draw) -> Sliding:
    length = draw(LENGTHS)
    return Sliding(length=length, stride=draw(st.integers(1, length)))


CHAINED = st.builds(Chained, history=LENGTHS, stride=LENGTHS, lanes=LENGTHS)


@given(TOKENS, st.one_of(sliding(), st.builds(Chunked, length=LENGTHS), CHAINED))
def test_every_target_once_in_order(tokens, plan):
    assert scored(plan, tokens) == list(range(max(0, tokens - 1)))


@given(TOKENS, st.one_of(sliding(), st.builds(Chunked, length=LENGTHS)), st.sets(st.integers(0, 299)))
def test_every_target_once_in_order_document_by_document(tokens, within, starts):
    starts = sorted(start for start in starts if start < tokens)
    plan = PerDocument(within=within)
    assert scored(plan, tokens, starts) == list(range(max(0, tokens - 1)))
    for window in plan.windows(tokens, starts):
        assert not any(window.start < start < window.end for start in starts)


@given(TOKENS, sliding())
def test_windows_are_sound_and_counted_by_the_closed_form(tokens, plan):
    windows = list(plan.windows(tokens))
    targets = max(0, tokens - 1)
    more = -(-max(0, targets - plan.length) // plan.stride)
    assert len(windows) == (1 + more if targets else 0)
    for w in windows:
        assert 0 <= w.start <= w.first_scored < w.end <= targets
        assert w.end - w.start <= plan.length
    for w in windows[1:]:  # the promise of sliding: nobody after the first window is short of context
        assert w.first_scored - w.start == plan.length - plan.stride


@given(TOKENS, LENGTHS)
def test_neutral_settings_are_chunked(tokens, length):
    chunked = list(Chunked(length=length).windows(tokens))
    assert list(Sliding(length=length, stride=length).windows(tokens)) == chunked
    assert list(PerDocument(within=Chunked(length=length)).windows(tokens, [0])) == chunked
    assert len(chunked) == -(-max(0, tokens - 1) // length)


@given(TOKENS, LENGTHS)
def test_public_truncation_keeps_whole_windows(tokens, length):
    windows = list(Chunked(length=length, tail=False).windows(tokens))
    assert len(windows) == max(0, tokens - 1) // length
    assert all(w.end - w.start == length for w in windows)


def test_public_tail_scores_the_end_again():
    early = Sliding(length=32, stride=8, public_tail=True)
    extra = scored(early, 257)[256:]
    assert extra == 3 * list(range(248, 256))
    assert scored(early, 257)[:256] == scored(early.replace(public_tail=False), 257)


def test_public_tail_of_a_stream_shorter_than_the_stride():
    assert list(Sliding(length=32, stride=8, public_tail=True).windows(6)) == [Window(0, 5, 0)]


def test_settings():
    with pytest.raises(PlanError, match="would skip targets"):
        Sliding(length=64, stride=65)
    with pytest.raises(PlanError, match="at least 1"):
        Chunked(length=0)
    plan = PerDocument(within=Sliding(length=512, stride=64))
    assert from_json(Windows, to_json(plan)) == plan
    assert plan.label() == "sliding 512/64, each document alone"
    assert Chunked(length=256).label() == "chunked 256"
