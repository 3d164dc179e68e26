import numpy as np
import pytest

from bitgolf.recipe import Recipe
from bitgolf.run.positions import positions_in_words, query_positions, trained_length
from bitgolf.score.score import Scores
from bitgolf.score.windows import Chunked, Sliding, Windows
from bitgolf.train.loop import Stage, TrainPlan

TOKENS = 4001


def scores_of(plan: Windows) -> Scores:
    """Scores whose only column that counts is how many tokens the model saw."""
    windows = list(plan.windows(TOKENS))
    context = np.concatenate([np.arange(w.first_scored, w.end) - w.start + 1 for w in windows])
    blank = np.zeros(len(context), np.int32)
    return Scores(blank, blank, blank, blank, blank, context.astype(np.int32), plan.label(), True, None)


def test_sides_are_asked_for_evenly_and_sliding_asks_for_its_end():
    even = query_positions(scores_of(Chunked(length=400)), 400)
    assert even["query_positions"] == pytest.approx({f"{i * 50}-{i * 50 + 49}": 1 / 8 for i in range(8)})
    end = query_positions(scores_of(Sliding(length=400, stride=50)), 400)
    shares = list(end["query_positions"].values())
    assert shares[:7] == pytest.approx([50 / 4000] * 7) and sum(shares) == pytest.approx(1)
    assert "position_warning" not in even and "position_warning" not in end


def test_windows_longer_than_training_are_warned_of():
    sliding = query_positions(scores_of(Sliding(length=400, stride=50)), 200)["position_warning"]
    assert sliding.startswith("95.0% of the scored tokens were asked for at positions 200 to 399")
    assert sliding.endswith("training ended at 199")
    chunked = query_positions(scores_of(Chunked(length=400)), 200)["position_warning"]
    assert chunked.startswith("50.0% ")
    assert "position_warning" not in query_positions(scores_of(Chunked(length=400)), 0)


def test_windows_shorter_than_training_leave_bands_empty():
    found = query_positions(scores_of(Chunked(length=100)), 800)
    assert list(found["query_positions"].values()) == pytest.approx([1, 0, 0, 0, 0, 0, 0, 0])
    assert positions_in_words(found) == "0-99: 100.0%"


@pytest.mark.parametrize("odd", [None, [], "x", {"0-1": "x"}, {"0-1": None}])
def test_odd_files_say_nothing(odd):
    assert positions_in_words({"query_positions": odd}) == "" == positions_in_words({})


def test_the_longest_stage_counts():
    recipe = Recipe().replace({"data.sequence_length": 1024})
    stages = TrainPlan(stages=(Stage(until=0.5, sequence_length=2048),))
    assert (trained_length(recipe), trained_length(recipe.replace(train=stages))) == (1024, 2048)
