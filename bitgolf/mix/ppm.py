"""Prediction by partial matching (PPM) over bytes, mixed byte by byte with a model of tokens."""

import copy
import dataclasses
from typing import Self

import numpy as np

from bitgolf.base.compiled import compiled
from bitgolf.base.plan import setting
from bitgolf.mix.byte_contexts import (
    DEPTH,
    DISTINCT,
    TOTAL,
    ContextTree,
    context_after,
    count_byte,
    counted_context,
    expect_bytes,
)
from bitgolf.mix.byte_tree import ByteTree, byte_tree, path_to
from bitgolf.mix.trust import LONGEST_MEMORY, PATIENCE
from bitgolf.score.mixer import Memory, Mixer
from bitgolf.text.tokenizer import Tokenizer

LEAST_OWN = 1e-30  # so that tokens with probability zero stay possible
LEVELS = 8  # classes of counts and of distinct bytes of a context


@compiled
def situation_of(nodes: np.ndarray, context: int) -> int:
    """The class of a weight: length of a context, its count, and its number of distinct bytes."""
    situation = nodes[context, DEPTH]
    for number in (nodes[context, TOTAL], nodes[context, DISTINCT]):
        level = 0
        while number > 0 and level < LEVELS - 1:
            number, level = number >> 1, level + 1
        situation = situation * LEVELS + level
    return situation


@compiled
def expect_events(
    nodes: np.ndarray, context: int, tree: ByteTree, node: int, expected: np.ndarray
) -> tuple[float, float]:
    """Probabilities at a node of the vocabulary: `expected` (256,) of bytes; returns the end, and the sum.

    A token ends if the next byte does not extend it to a longer one: text is cut into the longest tokens.
    """
    expect_bytes(nodes, context, expected)
    going_on = 0.0
    for child in range(tree.child[node], tree.child[node + 1]):
        going_on += expected[tree.byte[child]]
    ending = max(1.0 - going_on, 0.0) if tree.ends[node] else 0.0
    return ending, going_on + ending


@compiled
def mix_bytes(
    nodes: np.ndarray,
    context: int,
    order: int,
    tree: ByteTree,
    own: np.ndarray,
    weights: np.ndarray,
    floor: float,
    shares: np.ndarray,
    contexts: np.ndarray,
) -> np.ndarray:
    """The mixed weight of each token (vocabulary,).

    own: float64 (vocabulary,). shares: float64 (4, tree), output: probabilities of each prefix by the model
    and the mixture, then of each as a whole token. contexts: int32 (tree,), output: of visited nodes.
    """
    whole, start, mixed_whole, mixed = shares[0], shares[1], shares[2], shares[3]
    whole[:] = 0.0
    for token in range(len(own)):
        if tree.node_of[token] >= 0:
            whole[tree.node_of[token]] += own[token]
    start[:] = whole
    for node in range(len(whole) - 1, 0, -1):
        start[tree.parent[node]] += start[node]
    mixed[0], expected = start[0], np.empty(256)
    for node in range(len(whole)):
        first, last = tree.child[node], tree.child[node + 1]
        if first == last or mixed[node] < floor:
            ratio = mixed[node] / start[node]
            mixed_whole[node] = whole[node] * ratio
            for child in range(first, last):
                mixed[child] = start[child] * ratio
            continue
        parent = tree.parent[node]
        if parent < 0:
            contexts[node] = counted_context(nodes, context)
        else:
            contexts[node] = context_after(nodes, contexts[parent], tree.byte[node], order)
        weight = weights[situation_of(nodes, contexts[node])]
        ending, total = expect_events(nodes, contexts[node], tree, node, expected)
        ours, theirs = mixed[node] * (1 - weight) / start[node], mixed[node] * weight / total
        mixed_whole[node] = ours * whole[node] + theirs * ending
        for child in range(first, last):
            mixed[child] = ours * start[child] + theirs * expected[tree.byte[child]]
    result = own.copy()
    for token in range(len(own)):
        end = tree.node_of[token]
        if end >= 0:
            result[token] *= mixed_whole[end] / whole[end]
    return result


@compiled
def learn_weights(
    nodes: np.ndarray,
    tree: ByteTree,
    path: np.ndarray,
    floor: float,
    shares: np.ndarray,
    contexts: np.ndarray,
    weights: np.ndarray,
    seen: np.ndarray,
) -> None:
    """Update the weight of each byte of the observed token, as `Trust` does. path: its nodes."""
    whole, start, mixed = shares[0], shares[1], shares[3]
    expected = np.empty(256)
    for step in range(len(path)):
        node = path[step]
        if tree.child[node] == tree.child[node + 1] or mixed[node] < floor:
            break
        ending, total = expect_events(nodes, contexts[node], tree, node, expected)
        if step + 1 < len(path):
            first, second = start[path[step + 1]], expected[tree.byte[path[step + 1]]]
        else:
            first, second = whole[node], ending
        first, second = first / start[node], second / total
        situation = situation_of(nodes, contexts[node])
        weight = weights[situation]
        both = (1 - weight) * first + weight * second
        seen[situation] = min(seen[situation] + 1, LONGEST_MEMORY)
        weights[situation] += (weight * second / both - weight) / seen[situation]


class _Bytes(Memory):
    def __init__(self, plan: "BytePpm", vocabulary_size: int, pieces: list[bytes]) -> None:
        self.plan, self.pieces = plan, [*pieces, *[b""] * vocabulary_size][:vocabulary_size]
        self.tree = byte_tree(self.pieces)
        self.followed, self.context = ContextTree(), 0
        situations = (plan.order + 1) * LEVELS**2
        self.weights = np.full(situations, plan.start)
        self.seen = np.full(situations, PATIENCE, np.int64)
        self.shares = np.zeros((4, len(self.tree.byte)))
        self.contexts = np.zeros(len(self.tree.byte), np.int32)

    def beside(self) -> Self:
        lane = copy.copy(self)
        lane.context, lane.shares, lane.contexts = 0, self.shares.copy(), self.contexts.copy()
        return lane

    def mix(self, own: np.ndarray, state: np.ndarray) -> np.ndarray:
        return mix_bytes(
            self.followed.nodes,
            self.context,
            self.plan.order,
            self.tree,
            np.maximum(own, LEAST_OWN),
            self.weights,
            self.plan.floor,
            self.shares,
            self.contexts,
        )

    def observe(self, token: int) -> None:
        piece, followed = self.pieces[token], self.followed
        if not piece:
            return
        path, floor = path_to(self.tree, token), self.plan.floor
        learn_weights(
            followed.nodes, self.tree, path, floor, self.shares, self.contexts, self.weights, self.seen
        )
        followed.make_room(len(piece) * (self.plan.order + 1))
        for byte in piece:
            followed.used, self.context = count_byte(
                followed.nodes, followed.used, self.context, byte, self.plan.order
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BytePpm(Mixer):
    """Prediction by partial matching over the bytes so far, mixed in byte by byte along the tokens.

    What: at each byte of a token, (1 - w) p_model + w p_ppm over the next bytes and the token's end, where
        p_model sums over tokens; a token has the product; w is learnt for classes of length, count and
        distinct bytes of the context. Contexts of up to `order` bytes, method D, blended; prefixes of tokens
        less likely than `floor` keep the model's probabilities
    Source: PR #1916 (marginals by bytes; 1.5430 to 1.5221), in place of PR #1835's p^(1/n); Cleary and Witten
        1984, Howard 1993
    Cost: no bytes; some 700 microseconds and half a kB of memory a token, with numba
    Not for: machines without numba, where it is a hundred times slower
    Neutral: start=0
    """

    order: int = setting(6, at_least=0, at_most=32)
    start: float = setting(0.05, at_least=0.0, below=1.0)
    floor: float = setting(1e-3, at_least=0.0, at_most=1.0)

    @property
    def on(self) -> bool:
        return self.start > 0

    def memory(self, vocabulary_size: int, tokenizer: Tokenizer) -> Memory:
        return _Bytes(self, vocabulary_size, tokenizer.pieces)
