"""From what the user typed to a scorer and a text: a run, a packed model, a file of theirs, a program."""

import inspect
import math
import os
import shlex
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bitgolf.base.errors import BitgolfError, DataError
from bitgolf.base.events import Event, finish
from bitgolf.base.plan import parse_changes
from bitgolf.catalog.behaviour import PLAIN, base_of, make_dataset, perturbed, with_technique
from bitgolf.catalog.own import example_of, techniques_in
from bitgolf.corpus.textfile import text_to_score
from bitgolf.inputs.resolve import find_artifact, find_dataset, from_python, mending, module_of
from bitgolf.pipeline.work import dataset_of, model_to_score
from bitgolf.probe.foreign import Program
from bitgolf.probe.own import OwnScorer
from bitgolf.probe.probes import Finding, Text, probing
from bitgolf.probe.scorer import Scorer
from bitgolf.recipe import Recipe
from bitgolf.text.encoder import Encoder

MOST_TOKENS = 4096  # of a text that is probed, where the user does not say
PROGRAM_TOKENS = 64
LEAST_TOKENS = 24


class Asked(NamedTuple):
    """What the user says beside the subject; 0 and None leave it to the subject.

    bos: of a program that keeps documents apart, the id that opens one; -1 if it claims nothing.
    seconds, vocabulary_size, tolerance: of a program, see `Program`.
    """

    text: Path | None = None
    data: Path | None = None
    changes: Sequence[str] = ()
    positions: int = 4
    tokens: int = 0
    bos: int = -1
    seconds: float = 60.0
    vocabulary_size: int = 0
    tolerance: float = 0.0


class Probed(NamedTuple):
    """A scorer and its text; not_apart: why its documents need not be apart, '' if they must."""

    scorer: Scorer
    text: Text
    not_apart: str


def probe_subject(
    words: Sequence[str], asked: Asked
) -> Generator[Event, None, tuple[str, int, list[Finding]]]:
    """All probes of what the words name: its name, how many tokens it was probed on, and the findings."""
    if not (math.isfinite(asked.seconds) and math.isfinite(asked.tolerance)):
        said = {"--seconds": asked.seconds, "--tolerance": asked.tolerance}
        raise BitgolfError("expected finite numbers", value=said)
    with subject(words, asked) as probed:
        size = len(probed.text.tokens)
        if size < LEAST_TOKENS:
            raise DataError(
                f"at least {LEAST_TOKENS} tokens are probed", where=probed.scorer.name, value=size
            )
        found = yield from probing(probed.scorer, probed.text, asked.positions, probed.not_apart)
        return probed.scorer.name, size, found


@contextmanager
def subject(words: Sequence[str], asked: Asked) -> Iterator[Probed]:
    """What the words name, ready to be probed. A program is ended afterwards."""
    command = _command_of(words)
    if command is not None:
        with Program(command, asked.seconds, asked.vocabulary_size, asked.tolerance) as program:
            apart = "it does not claim it; --apart BOS if it does" if asked.bos < 0 else ""
            yield Probed(program, _text_for(program, asked), apart)
        return
    path, _, name = words[0].partition(".py:")
    if name or words[0].endswith(".py"):
        with tempfile.TemporaryDirectory() as folder:
            yield _own(_small(Path(f"{path}.py" if name else words[0]), name, Path(folder), asked), asked)
        return
    found, unpacked = find_artifact(words[0], asked.data, asked.changes)
    model, plan, _ = model_to_score(found, unpacked, asked.changes)
    scorer = OwnScorer(model, unpacked.tokenizer, plan, words[0])
    if asked.text is not None:
        content = text_to_score(asked.text)
        tokens = next(Encoder(unpacked.tokenizer).encode_documents([content]))
        yield _own((scorer, tokens, len(content)), asked)
    else:
        dataset = finish(dataset_of(found, unpacked.tokenizer, asked.data))
        yield _own((scorer, dataset.scored_tokens(), dataset.passport["splits"]["val"]["text_bytes"]), asked)


def _command_of(words: Sequence[str]) -> list[str] | None:
    """The words of a command; None for what bitgolf knows."""
    if len(words) > 1:
        return list(words)
    word = words[0]
    if Path(word).exists():
        runs = Path(word).is_file() and os.access(word, os.X_OK) and not word.endswith(".py")
        return [word] if runs else None
    try:
        parts = shlex.split(word)
    except ValueError:
        return None
    return parts if parts and shutil.which(parts[0]) else None


def _own(found: tuple[OwnScorer, np.ndarray, int], asked: Asked) -> Probed:
    scorer, whole, size = found
    count = asked.tokens or scorer.tokens_needed(whole, MOST_TOKENS)
    text = Text(whole[:count].astype(np.int64), scorer.tokenizer.bos, scorer.tokenizer, (whole, size))
    return Probed(scorer, text, scorer.not_apart())


def _small(path: Path, name: str, folder: Path, asked: Asked) -> tuple[OwnScorer, np.ndarray, int]:
    """A user's technique in a small recipe, or a user's recipe; weights as they start, shaken."""
    recipe = _recipe_of(path, name, asked.changes)
    size = recipe.network().vocabulary_size
    dataset = make_dataset(folder) if asked.data is None else finish(find_dataset(str(asked.data), size))
    plan = recipe.network().replace(vocabulary_size=dataset.tokenizer.vocabulary_size)
    model = perturbed(plan).use(PLAIN)
    size = dataset.passport["splits"]["val"]["text_bytes"]
    where = f"{path}:{name}" if name else str(path)
    return OwnScorer(model, dataset.tokenizer, recipe.score, where), dataset.scored_tokens(), size


def _recipe_of(path: Path, name: str, changes: Sequence[str]) -> Recipe:
    """A technique in the small recipe of checks; or what a function of that name returns."""
    if name and path.is_file():
        with mending(path, str(path)):
            found = getattr(module_of(path), name, None)
        if inspect.isfunction(found):
            return parse_changes(from_python(path, name, Recipe), changes)
    techniques = techniques_in(path, name)
    if len(techniques) > 1:
        names = ", ".join(each.name for each in techniques)
        raise BitgolfError(
            "several techniques in this file", where=str(path), way_out=f"{path}:NAME, one of {names}"
        )
    member = parse_changes(example_of(techniques[0]), changes)
    return with_technique(base_of(techniques[0]), techniques[0], member)


def _text_for(program: Program, asked: Asked) -> Text:
    """The validation tokens of a dataset, or drawn phrases that come again and again."""
    count = asked.tokens or PROGRAM_TOKENS
    if asked.data is not None:
        dataset = finish(find_dataset(str(asked.data), program.vocabulary_size))
        tokenizer = dataset.tokenizer
        if tokenizer.vocabulary_size > program.vocabulary_size:
            raise BitgolfError(
                f"the vocabulary of the data has {tokenizer.vocabulary_size:,} ids",
                where=str(asked.data),
                value=f"{program.vocabulary_size:,} in the program's",
                way_out="give the dataset made with its tokenizer",
            )
        tokens = dataset.scored_tokens()[:count].astype(np.int64)
        return Text(tokens, asked.bos, tokenizer, (tokens, len(tokenizer.decode(tokens))))
    if asked.text is not None:
        raise BitgolfError(
            "a program is asked in ids", value="--text", way_out="give --data FOLDER, which has both"
        )
    return Text(drawn_phrases(program.vocabulary_size, count, asked.bos), asked.bos)


def drawn_phrases(vocabulary_size: int, count: int, bos: int) -> np.ndarray:
    """Token ids (count) of a few phrases that come again and again, so that caches find something.

    Where documents are opened by `bos`, there are three of them.
    """
    draw = np.random.default_rng(3)
    ordinary = np.flatnonzero(np.arange(vocabulary_size) != bos)
    phrases = draw.choice(ordinary, (3, 4))
    tokens = phrases[draw.integers(0, len(phrases), count)].reshape(-1)[:count].copy()
    if bos >= 0:
        tokens[[0, count // 4, 3 * count // 4]] = bos
    return tokens.astype(np.int64)
