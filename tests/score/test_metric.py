import dataclasses
import math

import numpy as np
import pytest

from bitgolf.base.errors import DataError
from bitgolf.score.metric import bits_per_byte, summary
from bitgolf.score.score import Scores


def make_scores(nats, token_bytes, file_bytes=None) -> Scores:
    rows = len(nats)
    zeros = np.zeros(rows, np.int32)
    return Scores(
        target=np.arange(rows).astype(np.uint16),
        nats=np.asarray(nats, np.float32),
        bytes=np.asarray(token_bytes, np.int32),
        document=zeros,
        position=zeros,
        context=zeros,
        windows="chunked 8",
        complete=True,
        file_bytes=file_bytes,
    )


def test_a_uniform_model_over_bytes_needs_eight_bits():
    assert bits_per_byte(make_scores([math.log(256)] * 1000, [1] * 1000)) == pytest.approx(8, abs=1e-6)


def test_a_uniform_model_over_tokens():
    scores = make_scores([math.log(1024)] * 300, [2, 3, 4] * 100)
    assert bits_per_byte(scores) == pytest.approx(10 * 300 / 900, rel=1e-7)


def test_it_is_a_ratio_of_sums_not_a_mean_of_ratios():
    assert bits_per_byte(make_scores([math.log(2) * 6, math.log(2) * 2], [1, 3])) == pytest.approx(2)


def test_sums_are_float64():
    rows = 3_000_000
    scores = make_scores(np.full(rows, 1.0001), np.ones(rows))
    assert bits_per_byte(scores) == pytest.approx(float(np.float32(1.0001)) / math.log(2), rel=1e-12)


def test_tokens_without_bytes_still_cost():
    assert bits_per_byte(make_scores([1.0, 1.0], [0, 1])) == pytest.approx(2 / math.log(2))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.5])
def test_what_is_no_probability_is_refused_by_place(wrong):
    with pytest.raises(DataError, match="scored token 3: 1 of 5 scores are not finite or negative"):
        bits_per_byte(make_scores([1, 1, 1, wrong, 1], [1] * 5))


@pytest.mark.parametrize("token_bytes", [[], [0, 0]])
def test_nothing_scored_is_refused(token_bytes):
    with pytest.raises(DataError, match="nothing was scored"):
        bits_per_byte(make_scores([1.0] * len(token_bytes), token_bytes))


def test_summary():
    scores = make_scores([2.0, 4.0], [1, 3], file_bytes=4)
    assert summary(scores) == {
        "windows": "chunked 8",
        "bits_per_byte": pytest.approx(6 / math.log(2) / 4),
        "nats_per_token": 3.0,
        "tokens": 2,
        "text_bytes": 4,
        "complete": True,
        "tokens_sha256": scores.tokens_sha256,
    }


def test_summary_names_both_denominators_where_they_differ():
    scores = make_scores([2.0, 4.0], [1, 3], file_bytes=5)
    figures = summary(scores)
    assert (figures["text_bytes"], figures["file_bytes"]) == (4, 5)
    assert figures["bits_per_file_byte"] == pytest.approx(6 / math.log(2) / 5)


def test_too_good_to_be_true_is_said():
    assert "warning" in summary(make_scores([0.4], [1]))
    assert "warning" not in summary(make_scores([0.5], [1]))


def test_the_hash_names_tokens_in_order():
    scores = make_scores([1.0, 1.0], [1, 1])
    swapped = dataclasses.replace(scores, target=scores.target[::-1])
    assert scores.tokens_sha256 != swapped.tokens_sha256
