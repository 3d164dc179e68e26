"""The weights of a packed model as bytes for a browser: codes and steps if there are any.

A browser has no arithmetic decoder, but it inflates. A matrix whose weights are codes times a step for each
row and column keeps its codes, in two planes of a byte each before compression; what has no such form stays
float32.
"""

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitgolf.squeeze.form import QuantizedTensor, join_wide, split_wide
from bitgolf.squeeze.grid import Grid
from bitgolf.squeeze.rate import Stepped, power_of_two


def written(
    tensors: Mapping[str, QuantizedTensor], weights: Mapping[str, Tensor], constants: Mapping[str, Tensor]
) -> tuple[list[dict[str, Any]], str]:
    """A row for each tensor (name, sizes, kind, first byte), and all bytes deflated, in base64.

    Of the kind "codes" are two planes of int8, codes and carries of 256, then float32 steps of rows and of
    columns, whose products, rounded to float32, multiply the codes.
    """
    rows: list[dict[str, Any]] = []
    body = bytearray()
    for name, weight in {**weights, **constants}.items():
        kind, content = "float32", b""
        if name in tensors and (coded := codes_and_steps(tensors[name], weight)):
            kind, content = "codes", b"".join(np.ascontiguousarray(each).tobytes() for each in coded)
        elif weight.dtype.is_floating_point:
            content = weight.float().numpy().tobytes()
        else:
            kind, content = "int64", weight.long().numpy().tobytes()
        rows.append({"name": name, "sizes": list(weight.shape), "kind": kind, "start": len(body)})
        body += content
    return rows, base64.b64encode(zlib.compress(bytes(body), 9)).decode()


def codes_and_steps(packed: QuantizedTensor, weight: Tensor) -> list[np.ndarray] | None:
    """Codes and carries (rows, columns), int8, and float32 steps of rows and columns; None if they differ."""
    form, pieces = packed.form, packed.pieces
    if weight.ndim != 2 or "codes" not in pieces or pieces["codes"].shape != weight.shape:
        return None
    across = torch.ones(weight.shape[1])
    if isinstance(form, Stepped):
        values = 2 * form.values(form.whole_codes(pieces))  # the grids of a trellis are half a step apart
        down = pieces["base"] * power_of_two(pieces["rows"], form.octave_parts) / 2
        across = power_of_two(pieces["columns"], form.octave_parts)
    elif isinstance(form, Grid) and pieces["scales"].shape == weight.shape[:1]:
        values, down = pieces["codes"].float(), pieces["scales"].float()
    else:
        return None
    rest, carries = split_wide(values)
    exact = torch.equal(join_wide(rest, carries).float(), values)
    if not (exact and torch.equal(values * (down[:, None] * across), weight)):
        return None
    return [each.numpy() for each in (rest, carries, down, across)]
