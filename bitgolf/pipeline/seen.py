"""The share of a scored text that is in the model's training text."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bitgolf.base.errors import BitgolfError
from bitgolf.inputs.typed import Origin, read_as
from bitgolf.score.score import Scores
from bitgolf.text.shards import Dataset, TokenStream
from bitgolf.text.tokenizer import Tokenizer

MOST_TOKENS = 200_000_000  # of training text that are looked through
RUN = 32  # tokens, a power of two; shorter ones come again in texts that have nothing to do with each other
BLOCK = 1 << 22  # training tokens that are hashed at a time
FACTOR = 0xD1B54A32D192ED03  # odd: of a polynomial hash modulo 2^64
FILTER_BITS = 20  # of a hash, looked up in a table before anything is searched for


def tokens_trained_on(scores: Scores, artifact: Path, tokenizer: Tokenizer) -> tuple[int, int]:
    """How many scored tokens, taken by runs of 32, the training text of the model has too; of how many.

    Where documents begin does not count, so a text that was cut into parts before training is found.
    (0, 0) where the training text is not known, not there, of another tokenizer or very large, and where
    fewer than 32 tokens were scored.
    """
    trained = _training_of(artifact)
    if trained is None or trained.tokenizer.identity != tokenizer.identity:
        return 0, 0
    if trained.train.tokens > MOST_TOKENS:
        return 0, 0
    scored, counts = np.unique(hashes_of_runs(scores.target)[::RUN], return_counts=True)
    seen = np.zeros(len(scored), bool)
    mask = np.uint64((1 << FILTER_BITS) - 1)
    likely = np.zeros(1 << FILTER_BITS, bool)
    likely[scored & mask] = True
    for hashes in _blocks(trained.train):
        there = np.unique(hashes[likely[hashes & mask]])
        seen |= np.isin(scored, there)
    return RUN * int(counts[seen].sum()), RUN * int(counts.sum())


def hashes_of_runs(tokens: np.ndarray) -> np.ndarray:
    """A 64-bit hash (uint64) of each run of `RUN` tokens, from every place at which one begins."""
    hashes, length = tokens.astype(np.uint64), 1
    if len(hashes) < RUN:
        return hashes[:0]
    while length < RUN:
        factor = np.uint64(pow(FACTOR, length, 1 << 64))
        hashes = hashes[:-length] + factor * hashes[length:]
        length *= 2
    return hashes


def _blocks(stream: TokenStream) -> Iterator[np.ndarray]:
    """Hashes of all runs of a stream, a block at a time."""
    for start in range(0, max(1, stream.tokens - RUN + 1), BLOCK):
        yield hashes_of_runs(stream.read(start, min(BLOCK + RUN - 1, stream.tokens - start)))


def _training_of(artifact: Path) -> Dataset | None:
    """The dataset of a run, if it is known and still there."""
    recorded = artifact.parent / "result.json"
    try:
        dataset = read_as(recorded, Origin).get("dataset") if recorded.is_file() else None
        return Dataset.open(Path(dataset)) if dataset else None
    except BitgolfError:
        return None
