"""From a user's input to a scorer and a text: a run, a packed model, a user's file, a program."""

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
from bitgolf.base.plan import parse_overrides
from bitgolf.catalog.behaviour import base_of
from bitgolf.catalog.own import example_of, techniques_in
from bitgolf.catalog.probes import PLAIN, perturbed
from bitgolf.catalog.small import make_dataset, with_technique
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


class ProbeOptions(NamedTuple):
    """What the user says beside the subject; 0 and None leave it to the subject.

    bos: of a program that keeps documents apart, the id that opens one; -1 if it claims nothing.
    seconds, vocabulary_size, tolerance: of a program, see `Program`.
    """

    text: Path | None = None
    data: Path | None = None
    overrides: Sequence[str] = ()
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
    target: Sequence[str], options: ProbeOptions
) -> Generator[Event, None, tuple[str, int, list[Finding]]]:
    """All probes of what the target names: its name, how many tokens it was probed on, and the findings."""
    if not (math.isfinite(options.seconds) and math.isfinite(options.tolerance)):
        numbers = {"--seconds": options.seconds, "--tolerance": options.tolerance}
        raise BitgolfError("expected finite numbers", value=numbers)
    with subject(target, options) as probed:
        num_tokens = len(probed.text.tokens)
        if num_tokens < LEAST_TOKENS:
            raise DataError(
                f"at least {LEAST_TOKENS} tokens are probed", where=probed.scorer.name, value=num_tokens
            )
        findings = yield from probing(probed.scorer, probed.text, options.positions, probed.not_apart)
        return probed.scorer.name, num_tokens, findings


@contextmanager
def subject(target: Sequence[str], options: ProbeOptions) -> Iterator[Probed]:
    """What the target names, ready to be probed. A program is ended afterwards."""
    command = _command_of(target)
    if command is not None:
        with Program(command, options.seconds, options.vocabulary_size, options.tolerance) as program:
            apart = "it does not claim it; --apart BOS if it does" if options.bos < 0 else ""
            yield Probed(program, _text_for(program, options), apart)
        return
    path, _, name = target[0].partition(".py:")
    if name or target[0].endswith(".py"):
        with tempfile.TemporaryDirectory() as folder:
            yield _own(
                _small(Path(f"{path}.py" if name else target[0]), name, Path(folder), options), options
            )
        return
    artifact, unpacked = find_artifact(target[0], options.data, options.overrides)
    model, plan, _ = model_to_score(artifact, unpacked, options.overrides)
    scorer = OwnScorer(model, unpacked.tokenizer, plan, target[0])
    if options.text is not None:
        content = text_to_score(options.text)
        tokens = next(Encoder(unpacked.tokenizer).encode_documents([content]))
        yield _own((scorer, tokens, len(content)), options)
    else:
        dataset = finish(dataset_of(artifact, unpacked.tokenizer, options.data))
        yield _own(
            (scorer, dataset.scored_tokens(), dataset.passport["splits"]["val"]["text_bytes"]), options
        )


def _command_of(target: Sequence[str]) -> list[str] | None:
    """The words of a command; None for what bitgolf knows."""
    if len(target) > 1:
        return list(target)
    word = target[0]
    if Path(word).exists():
        runs = Path(word).is_file() and os.access(word, os.X_OK) and not word.endswith(".py")
        return [word] if runs else None
    try:
        parts = shlex.split(word)
    except ValueError:
        return None
    return parts if parts and shutil.which(parts[0]) else None


def _own(probed: tuple[OwnScorer, np.ndarray, int], options: ProbeOptions) -> Probed:
    scorer, whole, text_bytes = probed
    count = options.tokens or scorer.tokens_needed(whole, MOST_TOKENS)
    text = Text(whole[:count].astype(np.int64), scorer.tokenizer.bos, scorer.tokenizer, (whole, text_bytes))
    return Probed(scorer, text, scorer.not_apart())


def _small(path: Path, name: str, folder: Path, options: ProbeOptions) -> tuple[OwnScorer, np.ndarray, int]:
    """A user's technique in a small recipe, or a user's recipe; weights as they start, shaken."""
    recipe = _recipe_of(path, name, options.overrides)
    vocabulary_size = recipe.network().vocabulary_size
    dataset = (
        make_dataset(folder)
        if options.data is None
        else finish(find_dataset(str(options.data), vocabulary_size))
    )
    plan = recipe.network().replace(vocabulary_size=dataset.tokenizer.vocabulary_size)
    model = perturbed(plan).use(PLAIN)
    vocabulary_size = dataset.passport["splits"]["val"]["text_bytes"]
    where = f"{path}:{name}" if name else str(path)
    return OwnScorer(model, dataset.tokenizer, recipe.score, where), dataset.scored_tokens(), vocabulary_size


def _recipe_of(path: Path, name: str, overrides: Sequence[str]) -> Recipe:
    """A technique in the small recipe of checks; or what a function of that name returns."""
    if name and path.is_file():
        with mending(path, str(path)):
            value = getattr(module_of(path), name, None)
        if inspect.isfunction(value):
            return parse_overrides(from_python(path, name, Recipe), overrides)
    techniques = techniques_in(path, name)
    if len(techniques) > 1:
        names = ", ".join(each.name for each in techniques)
        raise BitgolfError(
            "several techniques in this file", where=str(path), way_out=f"{path}:NAME, one of {names}"
        )
    member = parse_overrides(example_of(techniques[0]), overrides)
    return with_technique(base_of(techniques[0]), techniques[0], member)


def _text_for(program: Program, options: ProbeOptions) -> Text:
    """The validation tokens of a dataset, or drawn phrases that come again and again."""
    count = options.tokens or PROGRAM_TOKENS
    if options.data is not None:
        dataset = finish(find_dataset(str(options.data), program.vocabulary_size))
        tokenizer = dataset.tokenizer
        if tokenizer.vocabulary_size > program.vocabulary_size:
            raise BitgolfError(
                f"the vocabulary of the data has {tokenizer.vocabulary_size:,} ids",
                where=str(options.data),
                value=f"{program.vocabulary_size:,} in the program's",
                way_out="give the dataset made with its tokenizer",
            )
        tokens = dataset.scored_tokens()[:count].astype(np.int64)
        return Text(tokens, options.bos, tokenizer, (tokens, len(tokenizer.decode(tokens))))
    if options.text is not None:
        raise BitgolfError(
            "a program is asked in ids", value="--text", way_out="give --data FOLDER, which has both"
        )
    return Text(drawn_phrases(program.vocabulary_size, count, options.bos), options.bos)


def drawn_phrases(vocabulary_size: int, count: int, bos: int) -> np.ndarray:
    """Token ids (count) of a few phrases that come again and again, so that caches find something.

    Where documents are opened by `bos`, there are three of them.
    """
    rng = np.random.default_rng(3)
    ordinary = np.flatnonzero(np.arange(vocabulary_size) != bos)
    phrases = rng.choice(ordinary, (3, 4))
    tokens = phrases[rng.integers(0, len(phrases), count)].reshape(-1)[:count].copy()
    if bos >= 0:
        tokens[[0, count // 4, 3 * count // 4]] = bos
    return tokens.astype(np.int64)
