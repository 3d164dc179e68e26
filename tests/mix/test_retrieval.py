"""Retrieval by text and by hidden states, against looking everywhere."""

import numpy as np

from bitgolf.catalog.mixtures import distributions, probe
from bitgolf.mix.match import LongestMatch
from bitgolf.mix.nearest import NearestStates
from bitgolf.mix.trust import Trust, odds_level

SIZE = 9


def longest_match(prefix: list[int], shortest: int, longest: int, tries: int) -> tuple[int, int]:
    """Length and follower of the longest earlier match, the latest of equal ones, by comparing all places."""
    end, found = len(prefix), []
    for place in range(end - 1, shortest - 1, -1):
        length = 0
        while length < min(place, longest) and prefix[place - 1 - length] == prefix[end - 1 - length]:
            length += 1
        if length >= shortest:
            found.append((length, prefix[place]))
    return max(found[:tries], key=lambda one: one[0], default=(0, -1))


def test_a_match_is_the_longest_there_is():
    tokens, owns, states = probe(SIZE)
    for shortest, longest, tries in ((2, 24, 1000), (1, 6, 1000), (3, 5, 2), (1, 1, 1)):
        plan = LongestMatch(shortest=shortest, longest=longest, tries=tries, start=0.2)
        given = distributions(plan.memory(SIZE, None), tokens, owns, states)
        trust, lengths = Trust(0.2), set()
        for place, own in enumerate(owns):
            length, follower = longest_match(tokens[:place].tolist(), shortest, longest, tries)
            if length:
                situation = length, odds_level(own[follower])
                weight = trust.of(situation)
                own = (1 - weight) * own + weight * np.eye(SIZE)[follower]
                target = int(tokens[place])
                trust.learn(situation, owns[place][target], float(target == follower))
            np.testing.assert_allclose(given[place], own, rtol=1e-12)
            lengths.add(length)
        assert 0 in lengths and max(lengths) <= longest


def test_the_nearest_states_are_the_nearest():
    tokens, owns, states = probe(SIZE)
    draw = np.random.default_rng(1)
    states = states + 0.1 * draw.standard_normal(states.shape).astype(np.float32)
    plan = NearestStates(states=50, neighbours=7, bandwidth=0.4, certain=0.97, start=0.3)
    given = distributions(plan.memory(SIZE, None), tokens, owns, states)
    trust, asked = Trust(0.3), 0
    for place, own in enumerate(owns):
        if place >= 7 and own.max() <= 0.97:
            asked += 1
            kept = range(max(0, place - 50), place)
            distances = [float(((states[i] - states[place]).astype(float) ** 2).sum()) for i in kept]
            chosen = np.argsort(distances)[:7]
            kernel = np.exp(-np.array(distances)[chosen] / (0.4 * states.shape[1]))
            shares = np.zeros(SIZE)
            for weight, index in zip(kernel / kernel.sum(), chosen, strict=True):
                shares[tokens[kept[index]]] += weight
            weight = trust.of(odds_level(own.max()))
            trust.learn(odds_level(own.max()), own[tokens[place]], shares[tokens[place]])
            own = (1 - weight) * own + weight * shares
        np.testing.assert_allclose(given[place], own, rtol=1e-4)
    assert 50 < asked < len(tokens) - 8
