"""Scores of runs by document, from the columns that runs leave."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitgolf.base.errors import DataError
from bitgolf.study.stats import OverDocuments, over_documents

COLUMNS = {"target": np.uint16, "nats": np.float32, "bytes": np.int32, "document": np.int32}  # of those there
Columns = dict[str, np.ndarray]


def over_pairs(pairs: Sequence[tuple[Path, Path]]) -> OverDocuments | None:
    """The bootstrap over documents of runs and their references, the mean over pairs of folders.

    None where a run was not scored, or a pair not on the same tokens.
    """
    sums = []
    for pair in pairs:
        if not all((folder / "scores.npz").is_file() for folder in pair):
            return None
        left, right = (read_columns(folder / "scores.npz") for folder in pair)
        if not np.array_equal(left["target"], right["target"]):
            return None
        sums.append(by_document(left, right))
    return over_documents(*np.mean(sums, axis=0)) if sums else None


def by_document(left: Columns, right: Columns) -> np.ndarray:
    """Nats of both sides and bytes of text by document, (3, documents)."""
    _, number = np.unique(left["document"], return_inverse=True)
    return np.array([np.bincount(number, each) for each in (left["nats"], right["nats"], left["bytes"])])


def read_columns(path: Path) -> Columns:
    """The columns of a run's scores, one row a token. Raises DataError for a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in COLUMNS}
            tokens_sha256 = json.loads(str(file["facts"]))["tokens_sha256"]
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds for damaged files
        raise DataError(f"not a scores file: {error}", where=str(path)) from None
    for name, column in columns.items():
        if column.dtype != COLUMNS[name] or column.shape != columns["target"].shape:
            raise DataError(f"column {name!r} does not fit", where=str(path), value=str(column.dtype))
    if hashlib.sha256(columns["target"].astype("<u2").tobytes()).hexdigest() != tokens_sha256:
        raise DataError("these scores are of other tokens", where=str(path), way_out="score the data again")
    return columns
