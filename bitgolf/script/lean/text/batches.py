"""Token streams to batches. The position in the data is a number that can be saved and gone back to."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Batch(NamedTuple):
    """rows x length, int64."""

    inputs: Tensor
    targets: Tensor


def make_batch(inputs: np.ndarray, targets: np.ndarray, bos: int) -> Batch:  # noqa: ARG001
    """Rows of tokens; where documents start, nobody asks here."""
    return Batch(*(torch.from_numpy(rows.astype(np.int64)) for rows in (inputs, targets)))
