"""The vocabulary as a prefix tree of bytes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class ByteTree(NamedTuple):
    """All prefixes of tokens, level by level: a parent comes before its children, which are adjacent.

    byte: the last byte of each node, int32 (nodes). parent: int32 (nodes), -1 for the empty prefix. child:
    int32 (nodes + 1), the children of node v are child[v] to child[v + 1] - 1. ends: whether a token ends
    there, bool (nodes). node_of: the node of each token, int32 (vocabulary), -1 for one without bytes.
    """

    byte: np.ndarray
    parent: np.ndarray
    child: np.ndarray
    ends: np.ndarray
    node_of: np.ndarray


def byte_tree(pieces: Sequence[bytes]) -> ByteTree:
    """The tree of a vocabulary, given the bytes of its tokens."""
    starts = {piece[:length] for piece in pieces for length in range(len(piece) + 1)} | {b""}
    nodes = sorted(starts, key=lambda start: (len(start), start))
    number = {start: node for node, start in enumerate(nodes)}
    parent = np.array([-1, *(number[start[:-1]] for start in nodes[1:])], np.int32)
    ends = np.zeros(len(nodes), bool)
    node_of = np.array([number[piece] if piece else -1 for piece in pieces], np.int32)
    ends[node_of[node_of >= 0]] = True
    return ByteTree(
        byte=np.array([0, *(start[-1] for start in nodes[1:])], np.int32),
        parent=parent,
        child=np.searchsorted(parent, np.arange(len(nodes) + 1)).astype(np.int32),
        ends=ends,
        node_of=node_of,
    )


def path_to(tree: ByteTree, token: int) -> np.ndarray:
    """The nodes of a token, int32, from the empty prefix to its own; only the first if it has no bytes."""
    path = [int(tree.node_of[token])]
    while path[-1] > 0:
        path.append(int(tree.parent[path[-1]]))
    return np.array([max(node, 0) for node in reversed(path)], np.int32)
