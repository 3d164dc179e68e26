"""A tree of the byte strings in a text, up to a length, with exact counts of the bytes that followed.

A node is a string, stored as a row of eight numbers. Counts follow PPM's update exclusion: a byte is counted
in the longest contexts, down to the first that has seen it. So a shorter context counts in how many longer
contexts a byte occurred.
Source: Cleary and Witten 1984; Moffat 1990 (exclusion); Howard 1993 (method D)
"""

import numpy as np

from bitgolf.base.compiled import compiled

TIMES, FIRST, NEXT, SHORTER, BYTE, TOTAL, DISTINCT, DEPTH = range(8)
ESCAPE = 0.5  # subtracted from the count of each distinct byte of a context, for unseen bytes: method D


class ContextTree:
    """The tree, with free rows. nodes: int32 (room, 8), the empty string first. used: number of nodes."""

    def __init__(self, room: int = 1 << 12) -> None:
        self.nodes, self.used = np.zeros((room, 8), np.int32), 1
        self.nodes[0, [FIRST, NEXT, SHORTER]] = -1

    def make_room(self, count: int) -> None:
        """Make room for `count` more nodes."""
        while self.used + count > len(self.nodes):
            self.nodes = np.concatenate([self.nodes, np.zeros_like(self.nodes)])


@compiled
def followed_by(nodes: np.ndarray, node: int, byte: int) -> int:
    """The node of a context plus one byte, -1 if it never occurred."""
    child = nodes[node, FIRST]
    while child >= 0 and nodes[child, BYTE] != byte:
        child = nodes[child, NEXT]
    return child


@compiled
def counted_context(nodes: np.ndarray, node: int) -> int:
    """The longest suffix of a context that has counts; the empty context if there is none."""
    while node > 0 and nodes[node, TOTAL] == 0:
        node = nodes[node, SHORTER]
    return node


@compiled
def context_after(nodes: np.ndarray, node: int, byte: int, order: int) -> int:
    """After one more byte: the longest context of at most `order` bytes that has counts."""
    while node >= 0:
        child = followed_by(nodes, node, byte)
        if child >= 0:
            return counted_context(nodes, child if nodes[child, DEPTH] <= order else nodes[child, SHORTER])
        node = nodes[node, SHORTER]
    return 0


@compiled
def count_byte(nodes: np.ndarray, used: int, node: int, byte: int, order: int) -> tuple[int, int]:
    """Count a byte after its context `node`; returns the number of used nodes, and the next context.

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
    """Write into `expected` (256,), float64, the probability of each byte after a context.

    A context with N counts of d distinct bytes gives each (n - 1/2) / N, and d / 2N to the next shorter
    context; the empty one gives it to all bytes equally: the escapes of method D, blended.
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
