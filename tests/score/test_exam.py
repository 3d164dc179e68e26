import numpy as np
import pytest

from bitgolf.score.exam import Exam, RuleError
from bitgolf.score.windows import Sliding, Window

TOKENS = np.arange(100, 121).astype(np.uint16)


def exam(**options) -> Exam:
    return Exam(TOKENS, [Window(0, 8, 0), Window(4, 12, 8), Window(12, 20, 12)], **options)


def answered(taken: Exam, *indices: int) -> None:
    for index in indices:
        taken.ask([index])
        window = taken.windows[index]
        taken.answer(np.ones((1, window.end - window.first_scored)))


def test_gives_the_tokens_of_a_window_and_nothing_after_them():
    assert exam().ask([1]).tolist() == [list(range(104, 113))]


def test_releases_what_has_been_scored_and_nothing_else():
    taken = exam()
    answered(taken, 0)
    assert taken.released(0, 8).tolist() == list(range(100, 109))
    for start, end in [(0, 9), (8, 9), (12, 20), (-1, 4), (0, 21)]:
        with pytest.raises(RuleError, match="not released"):
            taken.released(start, end)
    answered(taken, 1)
    assert len(taken.released(0, 12)) == 13


def test_what_was_only_asked_for_is_not_released():
    taken = exam()
    taken.ask([0])
    with pytest.raises(RuleError, match="not released"):
        taken.released(0, 8)


def test_every_target_is_scored_once():
    taken = exam()
    answered(taken, 0)
    with pytest.raises(RuleError, match="already"):
        taken.ask([0])
    overlapping = Exam(TOKENS, [Window(0, 8, 0), Window(2, 10, 6)])
    answered(overlapping, 0)
    with pytest.raises(RuleError, match="already"):
        overlapping.ask([1])


def test_the_public_tail_scores_again_only_where_it_is_said():
    windows = list(Sliding(length=8, stride=4, public_tail=True).windows(len(TOKENS)))
    taken = Exam(TOKENS, windows, again=True)
    answered(taken, *range(len(windows)))
    assert np.isfinite(taken.nats).all()
    assert len(taken.nats) > len(TOKENS) - 1


def test_questions_and_answers_take_turns():
    taken = exam()
    with pytest.raises(RuleError, match="another question"):
        taken.answer(np.ones((1, 8)))
    taken.ask([0])
    with pytest.raises(RuleError, match="no answer yet"):
        taken.ask([1])
    with pytest.raises(RuleError, match="another question"):
        taken.answer(np.ones((1, 7)))


def test_nats_stand_in_the_order_of_the_windows():
    taken = exam()
    for index in (2, 0, 1):
        taken.ask([index])
        taken.answer(np.full((1, taken.windows[index].end - taken.windows[index].first_scored), index))
    assert taken.nats.tolist() == [0] * 8 + [1] * 4 + [2] * 8
