"""From texts to a packed model: choices and reasons, then the run, its rivals and a proof."""

import lzma
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

from bitgolf.base.errors import BitgolfError, DataError, TokenizerError
from bitgolf.base.events import NOTE, Event
from bitgolf.base.plan import parse_overrides
from bitgolf.base.tensors import read_tensors
from bitgolf.corpus.gathered import Gathered, text_sources
from bitgolf.corpus.sources import Files, TextSource
from bitgolf.forecast.choice import VOCABULARIES, Choice, Text, choose, text_line
from bitgolf.forecast.speed import training_speed
from bitgolf.inputs.resolve import find_artifact, find_recipe, made_once
from bitgolf.inputs.typed import read_plan
from bitgolf.net.model import ModelPlan, count_parameters
from bitgolf.pipeline.beside import RIVAL_BYTES
from bitgolf.pipeline.demo import demonstrate
from bitgolf.recipe import Recipe
from bitgolf.run.folder import claim_folder
from bitgolf.run.result import RunResult
from bitgolf.run.start import Start
from bitgolf.text.shards import Dataset
from bitgolf.text.tokenizer import Tokenizer

BASE = "demo"  # the recipe whose optimizer, packing and windows are taken
VALIDATION_SHARE, VALIDATION_BYTES = 0.1, 1_200_000  # of the text, and at most
SHORT_BYTES = 100_000  # a text that may be too short to be split
XZ_BYTES = 8_000_000  # of a text are compressed to know how well it can be
LEAST_TRAINING = 0.5  # of the time
# What follows the training, in seconds: rough, from runs of some minutes on two cores.
AFTER_SECONDS = 10.0
PACK_SECONDS = 30e-6  # a weight
RIVAL_SECONDS = 2e-6  # a byte of text, of RIVAL_BYTES at most
SCORE_PASSES = 4.0  # over the validation text, in tokens of training
MIX_SECONDS = 80e-6  # a token of it, by mixers
PROVEN_BYTES = 20_000


class Continued(NamedTuple):
    """Another run that a training starts from: its weights, its model, its tokenizer."""

    start: Start
    model: ModelPlan
    tokenizer: Tokenizer


class Request(NamedTuple):
    """What is asked for. seconds: for all of it, training and what follows."""

    sources: tuple[TextSource, ...]
    budget_bytes: int
    seconds: float
    overrides: Sequence[str] = ()
    begin: Continued | None = None


class Plan(NamedTuple):
    """What will be done: the recipe, the text as a source that can be split, and why, a line each."""

    recipe: Recipe
    source: TextSource
    lines: list[str]


def requested(
    texts: Sequence[str], budget_bytes: int, seconds: float, overrides: Sequence[str], continue_from: str
) -> Request:
    """What was typed, looked at before any work. Raises BitgolfError for what cannot be used."""
    begin = continued(continue_from) if continue_from else None
    return Request(text_sources(texts), budget_bytes, seconds, overrides, begin)


def continued(run: str) -> Continued:
    """A finished run to start from: its averaged weights where it has them."""
    folder = Path(run)
    path = folder / "weights.safetensors"
    if not path.is_file():
        raise BitgolfError(
            "no weights to start from", where=str(path), way_out="give the folder of a finished run"
        )
    tensors, _ = read_tensors(path)
    kinds = {name.partition("/")[0] for name in tensors}
    kind = "averaged" if "averaged" in kinds else "live"
    weights = {
        name.removeprefix(f"{kind}/"): each for name, each in tensors.items() if name.startswith(f"{kind}/")
    }
    recipe = read_plan(folder / "recipe.json", Recipe)
    return Continued(Start(str(path), weights), recipe.model, find_artifact(run)[1].tokenizer)


def make(request: Request, folder: Path, seed: int) -> Generator[Event, None, RunResult]:
    """Choose, tokenize, train, pack, score, compare and prove; everything lands in one run folder."""
    claim_folder(folder, Recipe(), resume=False)
    plan = yield from planned(request)
    recipe, dataset = yield from tokenized(plan, request.begin)
    start = request.begin.start if request.begin else None
    return (
        yield from demonstrate(
            recipe, str(dataset.folder), folder, seed, PROVEN_BYTES, start=start, chosen=plan.lines
        )
    )


def planned(request: Request) -> Generator[Event, None, Plan]:
    """Read the texts, measure a second, choose, and say in five notes what and why; nothing is written."""
    yield Event("read", 0, 1, {})
    text = yield from looked_at(request.sources)
    source = divided(request.sources, text)
    if text.num_bytes <= SHORT_BYTES:
        source.split([*source.documents()], VALIDATION_SHARE)  # before the work: there may be too little
    about = text_line(text, request.budget_bytes)
    yield Event(NOTE, 1, 1, {NOTE: about})
    yield Event("measure", 0, 1, {})
    choice = chosen(request, text, getattr(source, "fraction", VALIDATION_SHARE))
    for line in choice.lines:
        yield Event(NOTE, 1, 1, {NOTE: line})
    return Plan(parse_overrides(choice.recipe, request.overrides), source, [about, *choice.lines])


def chosen(request: Request, text: Text, validation_share: float) -> Choice:
    """The recipe for a text in the time that packing, scoring and compressors are expected to leave."""
    speeds: dict[ModelPlan, float] = {}

    def speed_of(recipe: Recipe) -> float:
        if recipe.model not in speeds:
            speeds[recipe.model] = training_speed(recipe)
        return speeds[recipe.model]

    base, shape = find_recipe(BASE), request.begin.model if request.begin else None
    seconds = request.seconds
    for _ in range(2):
        choice = choose(base, text, request.budget_bytes, seconds, speed_of, shape)
        after = AFTER_SECONDS + PACK_SECONDS * count_parameters(choice.recipe.model)
        after += RIVAL_SECONDS * min(text.num_bytes, RIVAL_BYTES)
        after += (
            validation_share * text.tokens(choice.recipe.model) * (SCORE_PASSES / choice.speed + MIX_SECONDS)
        )
        seconds = max(LEAST_TRAINING * request.seconds, request.seconds - after)
    choice = choose(base, text, request.budget_bytes, seconds, speed_of, shape)
    choice.lines[-1] += f"; about {after:,.0f} s more to pack, score, compare and prove"
    return choice


def looked_at(sources: Sequence[TextSource]) -> Generator[Event, None, Text]:
    """How large some texts are, and how small xz makes them (their beginning, where they are long)."""
    num_bytes, documents, head = 0, 0, bytearray()
    for source in sources:
        for document in source.documents():
            num_bytes, documents = num_bytes + len(document), documents + bool(document)
            head += document[: max(0, XZ_BYTES - len(head))]
    if not num_bytes:
        raise DataError("no text in there", where=" and ".join(each.name for each in sources))
    yield Event("xz", 0, 1, {})
    packed = len(lzma.compress(bytes(head), preset=9 | lzma.PRESET_EXTREME))
    return Text(num_bytes, documents, packed / len(head), num_bytes == len(head))


def divided(sources: tuple[TextSource, ...], text: Text) -> TextSource:
    """The texts as one source; one that is no file has a split of its own."""
    if len(sources) == 1 and not isinstance(sources[0], Files):
        return sources[0]
    return Gathered(sources, round(min(VALIDATION_SHARE, VALIDATION_BYTES / text.num_bytes), 6))


def tokenized(plan: Plan, begin: Continued | None) -> Generator[Event, None, tuple[Recipe, Dataset]]:
    """The dataset, made once and kept, and the recipe; with fewer pieces where the text has no more."""
    recipe, tokenizer = plan.recipe, begin.tokenizer if begin else None
    while True:
        pieces = recipe.model.vocabulary_size
        try:
            folder = yield from made_once(plan.source, pieces, recipe.data.case_ops, tokenizer)
            return recipe, Dataset.open(folder)
        except TokenizerError:
            fewer = [each for each in VOCABULARIES if each < pieces]
            if tokenizer or not fewer:
                raise
            recipe = recipe.replace({"model.vocabulary_size": fewer[-1]})
            note = f"the text has fewer than {pieces:,} pieces; {fewer[-1]:,} are tried"
            yield Event(NOTE, 1, 1, {NOTE: note})
