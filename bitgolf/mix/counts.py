"""Exact counts of the tokens that followed each context; contexts are never replaced by hashes.

Contexts are a tree: a node is a context, and its child by a token is the context extended by that token. A
hash table of slots finds a child; on a collision the next slot is tried, so contexts are never confused.
"""

import copy
from typing import Self

import numpy as np

from bitgolf.base.compiled import kept_compiled
from bitgolf.score.mixer import Memory

# Of a node: how it came about, its place among its parent's children, and what followed it.
PARENT, TOKEN, CAME, SIBLING, CHILD, FOLLOWED, UNIQUE, TOP, ROW = range(9)
NOTHING, BEGINNING = 0, 1  # the nodes of the empty context, and of a token that nothing is counted before
FEW = 1 / 16  # of the vocabulary: contexts with more distinct tokens have a dense row of counts
SPREAD, TURN = 1_000_003, 7919  # multipliers of parent and token in the hash


class Counts:
    """How often each token followed each context. rows: float64 (rows, vocabulary), dense counts.

    nodes: int32 (nodes, 9). slots: int32, -1 for a free one. used: int64, the numbers of nodes and rows.
    """

    def __init__(self, vocabulary_size: int) -> None:
        self.nodes, self.slots = np.zeros((1 << 12, 9), np.int32), np.full(1 << 13, -1, np.int32)
        self.nodes[:2, [PARENT, CHILD, SIBLING, TOP, ROW]] = -1
        self.rows, self.used = np.zeros((8, vocabulary_size)), np.array([2, 0])

    def make_room(self, count: int) -> None:
        """Make room for `count` more nodes and rows."""
        if self.used[0] + count > len(self.nodes):
            self.nodes = np.concatenate([self.nodes, np.zeros_like(self.nodes)])
            self.slots = np.full(2 * len(self.slots), -1, np.int32)
            fill_slots(self.nodes, int(self.used[0]), self.slots)
        if self.used[1] + count > len(self.rows):
            self.rows = np.concatenate(
                [self.rows, np.zeros((max(count, len(self.rows)), self.rows.shape[1]))]
            )


@kept_compiled
def fill_slots(nodes: np.ndarray, used: int, slots: np.ndarray) -> None:
    """Enter all nodes into an empty table of slots."""
    mask = len(slots) - 1
    for node in range(BEGINNING + 1, used):
        slot = (np.int64(nodes[node, PARENT]) * SPREAD + np.int64(nodes[node, TOKEN]) * TURN) & mask
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = node


@kept_compiled
def count_token(
    token: int,
    contexts: np.ndarray,
    nodes: np.ndarray,
    slots: np.ndarray,
    rows: np.ndarray,
    used: np.ndarray,
    shares: np.ndarray,
) -> None:
    """Count a token after its contexts (int64, shortest first, -1 for none), and set those of the next token.

    shares: float64, output: this token's share of the counts of each context before.
    """
    mask, after = len(slots) - 1, np.int64(NOTHING)
    for length in range(len(contexts)):
        node = contexts[length]
        contexts[length] = after
        if node < 0:
            break
        slot = (node * SPREAD + token * TURN) & mask
        child = np.int64(slots[slot])
        while child >= 0 and (nodes[child, PARENT] != node or nodes[child, TOKEN] != token):
            slot = (slot + 1) & mask
            child = np.int64(slots[slot])
        if child < 0:
            child = used[0]
            used[0] += 1
            slots[slot] = child
            nodes[child, PARENT], nodes[child, TOKEN], nodes[child, SIBLING] = node, token, nodes[node, CHILD]
            nodes[child, CHILD] = nodes[child, TOP] = nodes[child, ROW] = -1
            nodes[node, CHILD] = child
            nodes[node, UNIQUE] += 1
        times, top = nodes[child, CAME], nodes[node, TOP]
        shares[length] = times / max(nodes[node, FOLLOWED], 1)
        if top < 0 or (top != child and times >= nodes[top, CAME]):
            nodes[node, TOP] = child
        nodes[child, CAME] += 1
        nodes[node, FOLLOWED] += 1
        if nodes[node, ROW] >= 0:
            rows[nodes[node, ROW], token] += 1
        elif nodes[node, UNIQUE] > FEW * rows.shape[1]:
            nodes[node, ROW] = used[1]
            used[1] += 1
            other = nodes[node, CHILD]
            while other >= 0:
                rows[nodes[node, ROW], nodes[other, TOKEN]] = nodes[other, CAME]
                other = nodes[other, SIBLING]
        after = child


@kept_compiled
def add_counts(
    contexts: np.ndarray, factors: np.ndarray, nodes: np.ndarray, rows: np.ndarray, weights: np.ndarray
) -> None:
    """Add the counts of contexts, each times its factor, to weights (vocabulary,); the last context first."""
    for number in range(len(contexts) - 1, -1, -1):
        node, factor = contexts[number], factors[number]
        if nodes[node, ROW] >= 0:
            counts = rows[nodes[node, ROW]]
            for token in range(len(weights)):
                weights[token] += factor * counts[token]
        else:
            child = nodes[node, CHILD]
            while child >= 0:
                weights[nodes[child, TOKEN]] += factor * nodes[child, CAME]
                child = nodes[child, SIBLING]


class ContextCounts(Memory):
    """Counts after the last 0 to `longest` tokens, for each of these lengths.

    contexts: int64 (longest + 1,), the contexts of the next token, the shortest first; -1 for none.
    shares: float64 (longest + 1,), the last token's share of the counts of its contexts.
    """

    def __init__(self, vocabulary_size: int, longest: int) -> None:
        self.longest, self.counts = longest, Counts(vocabulary_size)
        self.contexts, self.shares = np.full(longest + 1, -1), np.zeros(longest + 1)
        self.contexts[0] = NOTHING

    def beside(self) -> Self:
        lane = copy.copy(self)
        lane.contexts, lane.shares = np.full_like(self.contexts, -1), np.zeros_like(self.shares)
        lane.contexts[0] = NOTHING
        return lane

    def longest_seen(self) -> int:
        """The node of the longest context, -1 if it has no counts."""
        node = int(self.contexts[-1])
        return node if node >= 0 and self.counts.nodes[node, FOLLOWED] else -1

    def observe(self, token: int) -> None:
        counts = self.counts
        counts.make_room(self.longest + 1)
        count_token(token, self.contexts, counts.nodes, counts.slots, counts.rows, counts.used, self.shares)
