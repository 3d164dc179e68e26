"""A tree of the byte strings that a text holds, up to a length, with exact counts of what followed each.

A node is a string and a row of eight numbers. Counts are kept as PPM keeps them (update exclusion): a byte
counts in the longest contexts down to the first that knows it, so shorter ones count in how many contexts it
came.
Source: Cleary and Witten 1984; Moffat 1990 (exclusion); Howard 1993 (method D)
"""

import numpy as np

from bitgolf.base.compiled import compiled

TIMES, FIRST, NEXT, SHORTER, BYTE, TOTAL, DISTINCT, DEPTH = range(8)
ESCAPE = 0.5  # what each kind of byte that followed a context gives up for those that did not: method D


class ContextTree:
    """The tree, with room to grow. nodes: int32 (room, 8), the empty string first. used: how many it has."""

    def __init__(self, room: int = 1 << 12) -> None:
        self.nodes, self.used = np.zeros((room, 8), np.int32), 1
        self.nodes[0, [FIRST, NEXT, SHORTER]] = -1

    def make_room(self, count: int) -> None:
        """For so many more nodes."""
        while self.used + count > len(self.nodes):
            self.nodes = np.concatenate([self.nodes, np.zeros_like(self.nodes)])


@compiled
def followed_by(nodes: np.ndarray, node: int, byte: int) -> int:
    """The node of a context and one more byte, -1 if it never came."""
    child = nodes[node, FIRST]
    while child >= 0 and nodes[child, BYTE] != byte:
        child = nodes[child, NEXT]
    return child


@compiled
def counted_context(nodes: np.ndarray, node: int) -> int:
    """The longest end of a context that something has followed; the empty one if there is none."""
    while node > 0 and nodes[node, TOTAL] == 0:
        node = nodes[node, SHORTER]
    return node


@compiled
def context_after(nodes: np.ndarray, node: int, byte: int, order: int) -> int:
    """The longest context of at most `order` bytes that something followed, once a byte is added."""
    while node >= 0:
        child = followed_by(nodes, node, byte)
        if child >= 0:
            return counted_context(nodes, child if nodes[child, DEPTH] <= order else nodes[child, SHORTER])
        node = nodes[node, SHORTER]
    return 0


@compiled
def count_byte(nodes: np.ndarray, used: int, node: int, byte: int, order: int) -> tuple[int, int]:
    """Count a byte after its context `node`; returns how many nodes are used, and the context that is next.

    nodes: with room for order + 1 more.
    """
    first, longer, exists = -1, -1, False
    while node >= 0 and not exists:
        child = followed_by(nodes, node, byte)
        exists = child >= 0
        if not exists:
            child, used = used, used + 1
            nodes[child, FIRST], nodes[child, NEXT] = -1, nodes[node, FIRST]
            nodes[child, BYTE], nodes[child, DEPTH] = byte, nodes[node, DEPTH] + 1
            nodes[node, FIRST] = child
            nodes[node, DISTINCT] += 1
        nodes[child, TIMES] += 1
        nodes[node, TOTAL] += 1
        if longer >= 0:
            nodes[longer, SHORTER] = child
        if first < 0:
            first = child
        longer, node = child, nodes[node, SHORTER]
    return used, first if nodes[first, DEPTH] <= order else nodes[first, SHORTER]


@compiled
def expect_bytes(nodes: np.ndarray, node: int, expected: np.ndarray) -> None:
    """Write into `expected` (256), float64, how likely each byte is after a context.

    A context with N bytes counted, of d kinds, gives each (n - 1/2) / N and passes d / 2N on to the next
    shorter one, the empty one to all bytes alike: the escapes of method D, blended.
    """
    passed = 1.0
    for byte in range(256):
        expected[byte] = 0.0
    while node >= 0 and nodes[node, TOTAL] > 0:
        share = passed / nodes[node, TOTAL]
        child = nodes[node, FIRST]
        while child >= 0:
            expected[nodes[child, BYTE]] += share * (nodes[child, TIMES] - ESCAPE)
            child = nodes[child, NEXT]
        passed = share * ESCAPE * nodes[node, DISTINCT]
        node = nodes[node, SHORTER]
    for byte in range(256):
        expected[byte] += passed / 256
