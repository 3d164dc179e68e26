"""Prediction by partial matching against a slow twin, and its mixture along the bytes of tokens."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from bitgolf.catalog.mixtures import distributions, probe
from bitgolf.mix.byte_contexts import (
    DEPTH,
    ContextTree,
    context_after,
    count_byte,
    counted_context,
    expect_bytes,
)
from bitgolf.mix.byte_tree import byte_tree, path_to
from bitgolf.mix.ppm import BytePpm
from tests.mix.tokenizers import VOCABULARY, Pieces

PIECES = [*Pieces.pieces, b""]


class SlowPpm:
    """Counts by the context itself, with update exclusion."""

    def __init__(self, order: int) -> None:
        self.order, self.text = order, b""
        self.counts: dict[bytes, Counter] = defaultdict(Counter)

    def contexts(self, text: bytes) -> list[bytes]:
        """From the longest on, those that something followed."""
        ends = (text[len(text) - size :] for size in range(min(self.order, len(text)), -1, -1))
        return [end for end in ends if self.counts[end]]

    def expected(self, text: bytes) -> np.ndarray:
        """Escape by escape: what is left after each context goes to the shorter ones."""
        result, passed = np.zeros(256), 1.0
        for context in self.contexts(text):
            found = self.counts[context]
            for byte, count in found.items():
                result[byte] += passed * (count - 0.5) / found.total()
            passed *= 0.5 * len(found) / found.total()
        return result + passed / 256

    def add(self, byte: int) -> None:
        for size in range(min(self.order, len(self.text)), -1, -1):
            found = self.counts[self.text[len(self.text) - size :]]
            found[byte] += 1
            if found[byte] > 1:
                break
        self.text += bytes([byte])

    def situation(self, text: bytes) -> tuple[int, int, int]:
        context = next(iter(self.contexts(text)), b"")
        found = self.counts[context]
        return len(context), *(min(len(bin(n)) - 2 if n else 0, 7) for n in (found.total(), len(found)))


@pytest.mark.parametrize("order", [0, 1, 3, 6])
def test_contexts_are_those_of_the_slow_twin(order):
    draw = np.random.default_rng(order)
    words = [draw.integers(97, 101, draw.integers(1, 6)).tolist() for _ in range(9)]
    nodes, used, node, slow = ContextTree(1 << 14).nodes, 1, 0, SlowPpm(order)
    expected = np.empty(256)
    for byte in [byte for _ in range(120) for byte in words[draw.integers(9)]]:
        used, node = count_byte(nodes, used, node, byte, order)
        slow.add(byte)
        assert nodes[node, DEPTH] == min(order, len(slow.text))
        ahead = counted_context(nodes, node)
        expect_bytes(nodes, ahead, expected)
        np.testing.assert_allclose(expected, slow.expected(slow.text), rtol=1e-12)
        assert expected.sum() == pytest.approx(1, abs=1e-12)
        for later in (97, 99, 122):
            after = context_after(nodes, ahead, later, order)
            expect_bytes(nodes, after, expected)
            text = slow.text + bytes([later])
            np.testing.assert_allclose(expected, slow.expected(text), rtol=1e-12)
            assert nodes[after, DEPTH] == len(next(iter(slow.contexts(text)), b""))


def test_the_tree_holds_every_start_once():
    tree = byte_tree(PIECES)
    starts = [b""]
    for node in range(1, len(tree.byte)):
        starts.append(starts[tree.parent[node]] + bytes([tree.byte[node]]))
    assert sorted(starts) == sorted({piece[:size] for piece in PIECES for size in range(len(piece) + 1)})
    for node, start in enumerate(starts):
        children = starts[tree.child[node] : tree.child[node + 1]]
        assert children == sorted(each for each in starts if each[:-1] == start and each)
        assert tree.ends[node] == (start != b"" and start in PIECES)
    for token, piece in enumerate(PIECES):
        assert [starts[node] for node in path_to(tree, token)] == [
            piece[:size] for size in range(len(piece) + 1)
        ]
        assert (tree.node_of[token] < 0) == (piece == b"")


def slow_mixture(slow, weights, own, floor=0.0):
    """Weights of all tokens by walking down from the empty start; and the events, for learning."""
    own = np.maximum(own, 1e-30)
    result, events = own.copy(), {}

    def walk(start: bytes, mass: float) -> None:
        begins = [token for token, piece in enumerate(PIECES) if piece[: len(start)] == start and piece]
        ends = [token for token in begins if PIECES[token] == start]
        following = sorted({PIECES[token][len(start)] for token in begins if token not in ends})
        all_of_it = sum(own[token] for token in begins)
        model = {None: sum(own[token] for token in ends) / all_of_it}
        for byte in following:
            longer = start + bytes([byte])
            model[byte] = sum(own[t] for t in begins if PIECES[t][: len(longer)] == longer) / all_of_it
        mixed = model
        if following and mass >= floor:
            bytes_ = slow.expected(slow.text + start)
            theirs = {byte: bytes_[byte] for byte in following}
            theirs[None] = max(1 - sum(theirs.values()), 0.0) if ends else 0.0
            total = sum(theirs.values())
            kind = slow.situation(slow.text + start)
            weight = weights.get(kind, (0.05, 8))[0]
            mixed = {e: (1 - weight) * model[e] + weight * theirs[e] / total for e in model}
            events[start] = kind, model, {event: share / total for event, share in theirs.items()}
        for token in ends:
            result[token] = mass * mixed[None] * own[token] / sum(own[t] for t in ends)
        for byte in following:
            walk(start + bytes([byte]), mass * mixed[byte])

    walk(b"", sum(own[token] for token, piece in enumerate(PIECES) if piece))
    return result, events


@pytest.mark.parametrize("order, floor", [(3, 0.0), (5, 0.02)])
def test_the_mixture_is_that_of_the_slow_twin(order, floor):
    tokens, owns, states = probe(VOCABULARY)
    given = distributions(
        BytePpm(order=order, floor=floor).memory(VOCABULARY, Pieces()), tokens, owns, states
    )
    slow, weights = SlowPpm(order), {}
    for place, (token, own) in enumerate(zip(tokens.tolist(), owns, strict=True)):
        expected, events = slow_mixture(slow, weights, own, floor)
        assert expected.sum() == pytest.approx(1, abs=1e-9)
        np.testing.assert_allclose(given[place], expected, rtol=1e-7)
        piece = PIECES[token]
        for size in range(len(piece) + 1):
            if piece and piece[:size] in events:
                kind, model, theirs = events[piece[:size]]
                event = piece[size] if size < len(piece) else None
                weight, seen = weights.get(kind, (0.05, 8))
                both = (1 - weight) * model[event] + weight * theirs[event]
                weights[kind] = weight + (weight * theirs[event] / both - weight) / (seen + 1), seen + 1
        for byte in piece:
            slow.add(byte)
    assert len(weights) > 20


def test_tokens_without_bytes_keep_the_models_share():
    tokens, owns, states = probe(VOCABULARY)
    given = distributions(BytePpm(order=3).memory(VOCABULARY, Pieces()), tokens, owns, states)
    for token in (0, 1, VOCABULARY - 1):
        np.testing.assert_allclose(given[:, token], owns[:, token], rtol=1e-9)


def test_two_ids_of_one_piece_share_as_the_model_has_it():
    tokens, owns, states = probe(VOCABULARY)
    given = distributions(BytePpm(order=3).memory(VOCABULARY, Pieces()), tokens, owns, states)
    first, second = (token for token, piece in enumerate(PIECES) if piece == b"a")
    np.testing.assert_allclose(
        given[:, first] / given[:, second], owns[:, first] / owns[:, second], rtol=1e-9
    )


def test_what_the_model_holds_impossible_can_come():
    memory, own = BytePpm(order=2, start=0.5).memory(VOCABULARY, Pieces()), np.zeros(VOCABULARY)
    own[4] = 1.0
    for _ in range(5):
        weights = memory.mix(own, np.zeros(2, np.float32))
        memory.observe(5)
    assert weights[5] > 0.3 and weights.sum() == pytest.approx(1) and np.isfinite(weights).all()


def test_the_tree_of_contexts_grows():
    memory = BytePpm(order=8).memory(VOCABULARY, Pieces())
    draw = np.random.default_rng(2)
    own = np.full(VOCABULARY, 1 / VOCABULARY)
    for token in draw.integers(2, VOCABULARY - 1, 900).tolist():
        memory.mix(own, np.zeros(2, np.float32))
        memory.observe(token)
    assert 1 << 12 < memory.followed.used <= len(memory.followed.nodes)
    np.testing.assert_allclose(memory.mix(own, np.zeros(2, np.float32)).sum(), 1)


def test_spreading_a_tokens_probability_over_its_bytes_is_no_distribution():
    """The counterexample: p ** (1 / n) for each of n bytes does not sum to one over what can come."""
    pieces, own = [b"th", b"the", b"a"], np.array([0.25, 0.5, 0.25])
    firsts = {ord("t"): max(0.25 ** (1 / 2), 0.5 ** (1 / 3)), ord("a"): 0.25}
    assert sum(firsts.values()) > 1.04
    spread = sum(p ** (1 / len(piece)) for p, piece in zip(own, pieces, strict=True))
    assert spread > 1.5
