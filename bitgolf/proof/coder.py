"""Tokens to bits and back by shares, with the range coder of constriction.

A token is coded in two steps, the group it is in and its place there. Each step has shares of 24 bits, so the
smallest probability is 2^-48, and hardly anything is wasted on tokens that do not come.
"""

import math

import constriction
import numpy as np

from bitgolf.base.errors import ArtifactError

CATEGORICAL = constriction.stream.model.Categorical(perfect=False)


def grouped(shares: np.ndarray) -> np.ndarray:
    """Shares (rows, vocabulary) as (rows, groups, places), about as many groups as places."""
    rows, size = shares.shape
    places = 1 << math.ceil(math.log2(size) / 2)
    groups = max(2, -(-size // places))  # the coder knows no choice of one
    if groups * places > size:
        shares = np.pad(shares, ((0, 0), (0, groups * places - size)))
    return shares.reshape(rows, groups, places)


class TokenEncoder:
    """Writes tokens."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def write(self, tokens: np.ndarray, shares: np.ndarray) -> None:
        """One token a row; shares: (rows, vocabulary), whole numbers in float64."""
        parts = grouped(shares)
        group, place = np.divmod(tokens.astype(np.int32), np.int32(parts.shape[2]))
        self._coder.encode(group, CATEGORICAL, parts.sum(2))
        self._coder.encode(place, CATEGORICAL, parts[np.arange(len(group)), group])

    def finish(self) -> bytes:
        """All that was written."""
        return self._coder.get_compressed().astype("<u4").tobytes()


class TokenDecoder:
    """Reads what `TokenEncoder` wrote, given the same shares."""

    def __init__(self, data: bytes) -> None:
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def read(self, shares: np.ndarray) -> np.ndarray:
        """One token a row, int64. Raises ArtifactError where the bits mean no token."""
        parts = grouped(shares)
        group = self._coder.decode(CATEGORICAL, parts.sum(2))
        place = self._coder.decode(CATEGORICAL, parts[np.arange(len(group)), group])
        tokens = group.astype(np.int64) * parts.shape[2] + place
        if (tokens >= shares.shape[1]).any():
            raise ArtifactError("the coded bits mean no token", value=int(tokens.max()))
        return tokens
