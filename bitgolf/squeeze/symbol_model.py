"""Spreads of the codes of a matrix by row and column, and the expected frequency of each code.

A log2_std stands for a standard deviation of 2 ** (log2_std / 4). A decoder computes only whole numbers, and
values from them in a fixed order by operations that IEEE 754 rounds exactly (no exp, no log). So a stream
decodes to the same codes on every machine. Encoders sum whole numbers that float64 holds exactly, so the
order of a sum does not matter and packing gives the same bytes everywhere too. Products are einsum's, in one
thread: the threads of numpy's BLAS spin, and beside a busy process these small products wait for them.
"""

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from bitgolf.squeeze.trellis_states import trellis_grids

Shapes = Sequence[tuple[int, ...]]  # rows and columns of concatenated matrices of one-byte codes
SideInformation = list[tuple[np.ndarray, ...]]  # for each matrix, the side information of its codes
SMALLEST_LOG2_STD, LARGEST_LOG2_STD = -8, 28  # of a code
FARTHEST_LOG2_STD = 40  # of a row or column factor, in either direction
LOG2_STDS_OF_SIDE = (4, 4, 0, 12)  # spread of log2_stds of rows and columns, of marks, and of templates


@functools.cache  # about a hundred spreads occur; a coder counts in a copy
def prior_counts(log2_std: int, below: float = 0.0) -> np.ndarray:
    """Counts for the codes -128 to 127 of a spread, some 500 codes in all, rounded alike on every machine.

    below: how much less the value is than the code. Student's density of 63 degrees is nearly normal, and
    needs only arithmetic.
    """
    deviation = math.sqrt(math.sqrt(math.ldexp(1.0, log2_std)))
    points = (np.arange(2048) - 1027.5) / 8 - below  # eight per code
    narrow, wide = (1 + x * x / 64 for x in (points / deviation, points / (4 * deviation)))
    for _ in range(5):
        narrow, wide = narrow * narrow, wide * wide
    density = 1 / narrow + 0.03 / 4 / wide
    masses = sum((density[i::8] for i in range(8)), np.zeros(256))
    return (masses * (50_000 / deviation)).astype(np.int64) + 1


def variances_of(log2_stds: np.ndarray) -> np.ndarray:
    """2 ** (log2_std / 2) for whole numbers; the root of a power of two has the same bits everywhere."""
    return np.sqrt(np.ldexp(1.0, log2_stds))


def nearest_log2_stds(variances: np.ndarray) -> np.ndarray:
    """The log2_stds with the nearest variances, int32."""
    between = np.sqrt(variances_of(2 * np.arange(-FARTHEST_LOG2_STD, FARTHEST_LOG2_STD) + 1))
    return np.searchsorted(between, variances) - FARTHEST_LOG2_STD


def upper_median(log2_stds: np.ndarray) -> int:
    """The upper median; 0 of nothing."""
    return int(np.sort(log2_stds)[len(log2_stds) // 2]) if len(log2_stds) else 0


def measure_log2_stds(codes: np.ndarray, shapes: Shapes, by_column: bool) -> tuple[int, SideInformation]:
    """The log2_std of the median row, and those of all rows (relative to it) and columns of each matrix.

    codes: whole numbers or halves, of any type.
    """
    log2_stds = []
    for matrix in matrices_in(codes, shapes):
        squares = matrix.astype(np.float64) ** 2
        rows, columns = matrix.shape
        column = np.zeros(columns, np.int64)
        for _ in range(3 if by_column else 1):
            sums = np.einsum("ij,j", squares, np.floor(2**16 / variances_of(column)))
            row = nearest_log2_stds(sums / 2**16 / max(1, columns))
            if by_column:
                sums = np.einsum("i,ij", np.floor(2**16 / variances_of(row)), squares)
                column = nearest_log2_stds(sums / 2**16 / max(1, rows))
        middle = upper_median(column)
        log2_stds.append((row + middle, column - middle))
    base = upper_median(np.concatenate([row for row, _ in log2_stds]))
    return base, [(row - base, column) for row, column in log2_stds]


def subtract_templates(codes: np.ndarray, shapes: Shapes) -> tuple[np.ndarray, SideInformation]:
    """The codes minus templates, and for each matrix the marks of rows with the template, and itself.

    The template is the mean of the rows that resemble their own sum, found by iteration from all rows.
    """
    codes, templates = codes.copy(), SideInformation()
    for matrix in matrices_in(codes, shapes):
        exact = matrix.astype(np.float64)
        squares, alike = (exact**2).sum(1), np.ones(len(matrix), bool)
        weights = np.floor(2**8 / np.sqrt(variances_of(nearest_log2_stds(squares / max(1, matrix.shape[1])))))
        for _ in range(8):
            # rows scaled to equal size, so that large ones do not dominate
            total = np.einsum("i,ij", alike * weights, exact)
            along, square = np.einsum("ij,j", exact, total), int((total.astype(np.int64) ** 2).sum())
            alike = (along > 0) & (along**2 > squares * square / 2)
        template = np.round(np.einsum("i,ij", alike, exact) / max(1, alike.sum())).clip(-128, 127)
        alike = squares - 2 * np.einsum("ij,j", exact, template) + (template**2).sum() < squares / 2
        templates.append((alike.astype(np.int64), template.astype(np.int64)))
        matrix -= np.outer(alike, template).astype(np.int8)
    return codes, templates


def grids_of(codes: np.ndarray, shapes: Shapes, states: int = 8) -> np.ndarray:
    """The grid, 0 or 1, of every code, for rows that are paths on a trellis."""
    matrices = matrices_in((codes & 1).astype(np.uint8), shapes)
    return np.concatenate([trellis_grids(matrix, states).ravel() for matrix in matrices])


def add_templates(values: np.ndarray, shapes: Shapes, side: np.ndarray) -> None:
    """The inverse of `subtract_templates`, in place, from the side information after the log2_stds."""
    for matrix, (_, _, marks, template) in zip(
        matrices_in(values, shapes), side_information_in(side, shapes, 4)
    ):
        matrix += (marks == 129)[:, None] * (template - 128)


def matrices_in(codes: np.ndarray, shapes: Shapes) -> Iterator[np.ndarray]:
    """Views of concatenated matrices."""
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    return (part.reshape(shape) for part, shape in zip(np.split(codes, ends[:-1]), shapes))


def side_information_in(side: np.ndarray, shapes: Shapes, parts: int) -> Iterator[list[np.ndarray]]:
    """For each matrix the log2_stds of rows and columns; with 4 parts also row marks and template."""
    lengths = np.cumsum([length for shape in shapes for length in shape * (parts // 2)])
    split = np.split(side, lengths[:-1])
    return (split[i : i + parts] for i in range(0, len(split), parts))
