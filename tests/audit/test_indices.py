"""Paths of slices: which lead to the same tokens."""

import pytest

from bitgolf.audit.indices import meeting, span


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ids[None, 1:]", "ids[1:]"),
        ("ids[a:b + 1][1:]", "ids[a + 1:b + 1]"),
        ("ids[a + 1:b + 1][i, s:n]", "ids[a + s + 1:a + n + 1]"),
        ("ids[1:][t]", "ids[t + 1]"),
    ],
)
def test_the_same_tokens(one, other):
    assert meeting(frozenset((one,)), frozenset((other,))) == {one}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ids[:-1]", "ids[1:]"),
        ("ids[:-1][1:]", "ids[1:]"),  # inputs put one place on are no targets
        ("ids[a:b][:, 1:]", "ids[a + 1:b + 1]"),
        ("ids[a:b]", "ids[a + 1:b + 1]"),
        ("ids[1:]", "other[1:]"),
        ("ids[::2]", "ids[::3]"),
    ],
)
def test_other_tokens(one, other):
    assert not meeting(frozenset((one,)), frozenset((other,)))


def test_a_path_that_is_no_code_is_itself():
    assert span("ids[") == ("ids[", frozenset(), frozenset())
