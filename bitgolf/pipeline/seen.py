"""Whether a text that was scored is one that the model was trained on."""

from pathlib import Path

import numpy as np

from bitgolf.base.errors import BitgolfError
from bitgolf.inputs.typed import Origin, read_as
from bitgolf.score.score import Scores
from bitgolf.text.shards import Dataset
from bitgolf.text.tokenizer import Tokenizer

MOST_TOKENS = 200_000_000  # of training text that are looked through


def documents_trained_on(scores: Scores, artifact: Path, tokenizer: Tokenizer) -> tuple[int, int]:
    """How many of the scored documents were in the training text of the model, token by token; of how many.

    (0, 0) where that text is not known or not there, is very large, or has no document starts.
    """
    trained = _training_of(artifact)
    bos = tokenizer.bos
    if trained is None or bos < 0 or trained.tokenizer.identity != tokenizer.identity:
        return 0, 0
    if trained.train.tokens > MOST_TOKENS:
        return 0, 0
    edges = np.flatnonzero(np.diff(scores.document)) + 1
    asked = {_key(part, bos) for part in np.split(scores.target, edges)} - {b""}
    starts = [*trained.train.documents(bos).tolist(), trained.train.tokens]
    pairs = zip(starts[:-1], starts[1:])
    read = (_key(trained.train.read(start, end - start), bos) for start, end in pairs)
    return len({key for key in read if key in asked}), len(asked)


def _key(tokens: np.ndarray, bos: int) -> bytes:
    """A document without its start and without that of the next one."""
    return tokens[tokens != bos].astype("<u2").tobytes()


def _training_of(artifact: Path) -> Dataset | None:
    """The dataset of a run, if it is known and still there."""
    recorded = artifact.parent / "result.json"
    try:
        known = read_as(recorded, Origin).get("dataset") if recorded.is_file() else None
        return Dataset.open(Path(known)) if known else None
    except BitgolfError:
        return None
