"""Tokens to bits and back by frequencies, with the range coder of constriction.

A token is coded in two steps, the group it is in and its index there. Each step has frequencies of 24 bits,
so the smallest probability is 2^-48, and tokens that do not occur cost hardly anything.
"""

import math

import constriction
import numpy as np

from bitgolf.base.errors import ArtifactError

CATEGORICAL = constriction.stream.model.Categorical(perfect=False)


def grouped(frequencies: np.ndarray) -> np.ndarray:
    """Frequencies (rows, vocabulary) as (rows, groups, group size), about as many groups as tokens in one."""
    rows, vocabulary_size = frequencies.shape
    group_size = 1 << math.ceil(math.log2(vocabulary_size) / 2)
    groups = max(2, -(-vocabulary_size // group_size))  # the coder needs at least two symbols
    if groups * group_size > vocabulary_size:
        frequencies = np.pad(frequencies, ((0, 0), (0, groups * group_size - vocabulary_size)))
    return frequencies.reshape(rows, groups, group_size)


class TokenEncoder:
    """Writes tokens into bits."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def write(self, tokens: np.ndarray, frequencies: np.ndarray) -> None:
        """Write one token per row; frequencies: (rows, vocabulary), whole numbers in float64."""
        parts = grouped(frequencies)
        group, index = np.divmod(tokens.astype(np.int32), np.int32(parts.shape[2]))
        self._coder.encode(group, CATEGORICAL, parts.sum(2))
        self._coder.encode(index, CATEGORICAL, parts[np.arange(len(group)), group])

    def finish(self) -> bytes:
        """The bits of all tokens."""
        return self._coder.get_compressed().astype("<u4").tobytes()


class TokenDecoder:
    """Reads what `TokenEncoder` wrote, given the same frequencies."""

    def __init__(self, data: bytes) -> None:
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def read(self, frequencies: np.ndarray) -> np.ndarray:
        """Read one token per row, int64. Raises ArtifactError if the bits are no token."""
        parts = grouped(frequencies)
        group = self._coder.decode(CATEGORICAL, parts.sum(2))
        index = self._coder.decode(CATEGORICAL, parts[np.arange(len(group)), group])
        tokens = group.astype(np.int64) * parts.shape[2] + index
        if (tokens >= frequencies.shape[1]).any():
            raise ArtifactError("the coded bits mean no token", value=int(tokens.max()))
        return tokens
