"""Exact counts, and the n-gram caches that are made of them, against counting from scratch."""

import inspect
from collections import Counter

import numpy as np
import pytest

from bitgolf.base.errors import DataError
from bitgolf.catalog.mixtures import distributions, probe
from bitgolf.mix import counts, ngram
from bitgolf.mix.ngram import InterpolatedNgrams, NgramCache
from bitgolf.mix.tilt import TokenTilt
from bitgolf.mix.trust import LONGEST_MEMORY, PATIENCE, Trust, odds_level
from tests.mix.twin import PlainNgrams

SIZE = 14


class Beginning:
    """What is asked of a tokenizer here: the token before each document."""

    def __init__(self, bos: int) -> None:
        self.bos = bos


LONG = 2500  # tokens: memory of nodes, of slots and of rows grows on the way


def stream(size: int, count: int) -> tuple[list[int], np.ndarray]:
    """Tokens that repeat themselves, and a distribution before each (count, size)."""
    draw = np.random.default_rng(size)
    follows = draw.permutation(size)
    tokens = [0]
    for jump in (size * draw.random(count) ** 3).astype(int):
        tokens.append(int(jump if draw.random() < 0.5 else follows[tokens[-1]]))
    return tokens[1:], draw.dirichlet(np.full(size, 0.3), count)


def differs(order: int, size: int, bos: int = -1, count: int = LONG) -> bool:
    """Whether a bit of n-grams in arrays is another than of those in dictionaries."""
    kind = InterpolatedNgrams(order=order, start=0.1, per_document=bos >= 0)
    memory, twin = kind.memory(size, Beginning(bos)), PlainNgrams(order, 0.1, bos)
    state = np.zeros(0)
    for token, own in zip(*stream(size, count), strict=True):
        if not np.array_equal(memory.mix(own, state), twin.mix(own, state)):
            return True
        memory.observe(token)
        twin.observe(token)
    return False


@pytest.mark.parametrize("order, size, bos", [(1, 40, -1), (1, 40, 3), (2, 40, -1), (5, 40, 3), (5, 300, -1)])
def test_ngrams_in_arrays_are_those_in_dictionaries_to_the_bit(order, size, bos):
    assert not differs(order, size, bos)


FAULTS = {
    "by its hash alone": ("count_token", "nodes[child, PARENT] != node or ", ""),
    "the token knows itself": (
        "count_token",
        "times / max(nodes[node, FOLLOWED], 1)",
        "(times + 1) / (nodes[node, FOLLOWED] + 1)",
    ),
    "another of equal ones": ("count_token", "times >= nodes[top, CAME]", "times > nodes[top, CAME]"),
    "a row without the past": ("count_token", "] = nodes[other, CAME]", "] = 0"),
    "a node is lost as memory grows": ("fill_slots", "range(BEGINNING + 1", "range(BEGINNING + 9"),
    "one follower is left out": (
        "add_counts",
        "child = nodes[node, CHILD]",
        "child = nodes[nodes[node, CHILD], SIBLING]",
    ),
}


@pytest.mark.parametrize("fault", ["", *FAULTS])
def test_a_planted_fault_of_the_arrays_is_seen(fault, monkeypatch):
    """As plain Python, which a machine without numba runs."""
    for name in ("count_token", "fill_slots", "add_counts"):
        source = inspect.getsource(getattr(counts, name).function).removeprefix("@kept_compiled\n")
        changed, right, wrong = FAULTS.get(fault, ("", "", ""))
        assert changed != name or source.count(right) == 1
        code = source.replace(right, wrong) if changed == name else source
        made = vars(counts).copy()
        exec(code, made)
        for module in (counts, ngram):
            monkeypatch.setattr(module, name, made[name], raising=module is counts)
    assert differs(5, 40) == bool(fault)


def after(prefix: list[int], context: list[int], first: int = 0) -> Counter:
    """What followed each place in a prefix where these tokens stand, from the token `first` on."""
    size = len(context)
    ends = range(max(size, first), len(prefix))
    return Counter(prefix[end] for end in ends if prefix[end - size : end] == context)


def first_to_lead(prefix: list[int], context: list[int], first: int) -> int:
    """The most frequent of them; of equal ones the first that was."""
    ends = range(first, len(prefix) + 1)
    counted = [after(prefix[:end], context, first) for end in ends]
    most = max(counted[-1].values())
    return next(token for found in counted for token, count in found.items() if count == most)


def counted_shares(found: Counter) -> np.ndarray:
    return np.array([found[token] / found.total() for token in range(SIZE)])


def test_the_fixed_cache_is_its_formula():
    tokens, owns, states = probe(SIZE)
    cache = NgramCache(order=3, weight=0.3, kappa=0.5)
    given = distributions(cache.memory(SIZE, None), tokens, owns, states)
    for place, own in enumerate(owns):
        prefix = tokens[:place].tolist()
        found = after(prefix, prefix[-2:]) if place >= 2 else Counter()
        smoothed = np.array([found[token] + 0.5 for token in range(SIZE)]) / (found.total() + 0.5 * SIZE)
        np.testing.assert_allclose(given[place], 0.7 * own + 0.3 * smoothed, rtol=1e-12)


@pytest.mark.parametrize("bos", [-1, 3])
def test_interpolated_ngrams_are_their_recursion(bos):
    tokens, owns, states = probe(SIZE)
    mixer = InterpolatedNgrams(order=4, start=0.1, per_document=bos >= 0)
    given = distributions(mixer.memory(SIZE, Beginning(bos)), tokens, owns, states)
    learnt: dict[tuple, tuple[float, int]] = {}
    for place, own in enumerate(owns):
        prefix, target = tokens[:place].tolist(), int(tokens[place])
        if first := bos in prefix:
            prefix = prefix[len(prefix) - 1 - prefix[::-1].index(bos) :]
        mixed, moved = own, []
        for length in range(4):
            context = prefix[len(prefix) - length :]
            found = after(prefix, context, first)
            if length > len(prefix) or not found:
                break
            top = first_to_lead(prefix, context, first)
            kind = length, len(bin(found.total())) - 2, len(bin(len(found))) - 2, odds_level(own[top])
            weight, seen = learnt.get(kind, (0.1, 8))
            before, mixed = mixed, (1 - weight) * mixed + weight * counted_shares(found)
            credit = weight * counted_shares(found)[target] / mixed[target]
            moved.append((kind, (weight + (credit - weight) / (seen + 1), seen + 1)))
            assert before is not mixed
        np.testing.assert_allclose(given[place], mixed, rtol=1e-9)
        learnt.update(moved)
    assert len(learnt) > 10


def test_documents_without_a_beginning_are_refused():
    with pytest.raises(DataError, match="no BOS.*per_document=True"):
        InterpolatedNgrams(per_document=True).memory(SIZE, Beginning(-1))


def test_a_tilt_boosts_a_clear_hint_alone():
    tokens, owns, states = probe(SIZE)
    tilt = TokenTilt(order=3, share=0.6, boost=1.5)
    given, fired = distributions(tilt.memory(SIZE, None), tokens, owns, states), 0
    for place, own in enumerate(owns):
        prefix = tokens[:place].tolist()
        found = after(prefix, prefix[-2:]) if place >= 2 else Counter()
        hint, count = found.most_common(1)[0] if found else (0, 0)
        expected = own.copy()
        if found and count >= 0.6 * found.total():
            fired += 1
            expected[hint] *= np.exp(1.5)
        np.testing.assert_allclose(given[place], expected / expected.sum(), rtol=1e-12)
    assert 20 < fired < len(tokens) - 20


def test_trust_moves_to_the_credit_that_is_due():
    trust = Trust(0.2)
    assert trust.of("a") == 0.2
    assert trust.learn("a", 0.1, 0.5) == pytest.approx(0.8 * 0.1 + 0.2 * 0.5)
    assert trust.of("a") == pytest.approx(0.2 + (0.1 / 0.18 - 0.2) / (PATIENCE + 1))
    assert trust.of("b") == 0.2
    for _ in range(2 * LONGEST_MEMORY):
        trust.learn("right", 0.01, 0.9)
        trust.learn("wrong", 0.9, 0.01)
        trust.learn("never", 0.5, 0.0)
    assert trust.of("right") > 0.95 and trust.of("wrong") < 0.01 and 0 <= trust.of("never") < 0.01
    off = Trust(0.0)
    off.learn("a", 0.1, 0.9)
    assert off.of("a") == 0.0


def test_trust_finds_the_best_weight():
    draw = np.random.default_rng(0)
    trust, best = Trust(0.02), 0.3
    for _ in range(20_000):
        first, second = draw.dirichlet(np.ones(4)), draw.dirichlet(np.ones(4))
        token = draw.choice(4, p=(1 - best) * first + best * second)
        trust.learn(0, first[token], second[token])
    assert trust.of(0) == pytest.approx(best, abs=0.06)


def test_levels_of_odds():
    assert [odds_level(p) for p in (0.0, 0.1, 0.5, 0.8, 0.95, 1.0)] == [-5, -2, 0, 1, 2, 5]
