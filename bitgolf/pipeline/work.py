"""A whole run from the command line: data, forecast, stages, sample, report."""

import math
import os
import shlex
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from bitgolf.base.errors import BitgolfError, DataError, TokenizerError
from bitgolf.base.events import NOTE, Event, is_first_process, mapped
from bitgolf.base.files import write_json
from bitgolf.base.plan import parse_overrides
from bitgolf.corpus.passport import differing_bytes
from bitgolf.corpus.textfile import refuse_special, text_to_score
from bitgolf.forecast.budget import forecast, memory_of_machine, refuse_over_budget, refuse_over_memory
from bitgolf.inputs.folder import held
from bitgolf.inputs.machine import other_machine
from bitgolf.inputs.recorded import recording, refuse_changed
from bitgolf.inputs.resolve import SHIPPED_MODEL, SHIPPED_TEXT, beside, find_dataset
from bitgolf.inputs.typed import Origin, Result, read_as, read_plan
from bitgolf.net.backend import Backend, choose_backend
from bitgolf.net.model import Model, model_with, parameter_shapes
from bitgolf.net.native import native
from bitgolf.pipeline.overfit import overfitting
from bitgolf.pipeline.repack import dtype_of, findings, open_run
from bitgolf.recipe import Recipe
from bitgolf.report.report import write_report
from bitgolf.report.sample import sample
from bitgolf.report.trace import kept_trace
from bitgolf.run.evaluation import Evaluated, evaluate
from bitgolf.run.folder import CHECKPOINT, claim_folder
from bitgolf.run.packer import Packing
from bitgolf.run.positions import query_positions, trained_length
from bitgolf.run.result import Outcome, RunResult, Sums
from bitgolf.run.scoring import score_split
from bitgolf.run.spec import training_identity
from bitgolf.run.stages import run
from bitgolf.run.start import Start
from bitgolf.score.adapter import NoAdapter
from bitgolf.score.score import ScorePlan, Scores
from bitgolf.script.ahead import Ahead
from bitgolf.script.counted import script_of, whole_ledger
from bitgolf.squeeze.artifact import Unpacked, load_model, unpack
from bitgolf.text.encoder import Encoder
from bitgolf.text.shards import Dataset
from bitgolf.text.tokenizer import Tokenizer
from bitgolf.train.loop import Stage, State
from bitgolf.train.world import World, join_world, leave_world

OWN_FILES = ("recipe.json", "environment.json", "result.json", "metrics.jsonl", CHECKPOINT)
SAMPLE_TOKENS, SAMPLE_LETTERS, SAMPLE_TRIES = 160, 200, 5
SCORED_TOKEN_BYTES = 64  # of memory: nats, sizes and places of each token of a text, its share of a window
OPENING_TOKENS, OPENING_BYTES = 8, 80  # where a tokenizer has no document start


def work(
    recipe: Recipe,
    data: str,
    folder: Path,
    seed: int,
    *,
    resume: bool = False,
    variables: Mapping[str, str] | None = None,
    start: Start | None = None,
    chosen: Sequence[str] = (),
) -> Generator[Event, None, RunResult]:
    """Run a recipe on a dataset or text source and write its report; yields events, returns the result.

    variables: the public variables that the recipe was changed with, for the record. start: weights that the
    training starts from. chosen: why the recipe is as it is, for the record.
    """
    record: RunResult = {}
    if variables:
        record["public_variables"] = dict(variables)
    if chosen:
        record["chosen"] = [*chosen]
    if start:
        record["continued_from"] = start.name
    if not is_first_process():
        return (yield from _work(recipe, data, folder, seed, resume, start, record))
    with held(folder):
        try:
            return (yield from _work(recipe, data, folder, seed, resume, start, record))
        except KeyboardInterrupt as stop:
            stop.add_note(_going_on(data, folder, seed))
            raise
        except BitgolfError:
            raise
        except Exception as error:
            if (folder / "recipe.json").is_file():
                error.add_note(kept_trace(error, folder))
            raise


def _going_on(data: str, folder: Path, seed: int) -> str:
    """What someone can do who stopped a run."""
    if not (folder / "recipe.json").is_file():
        return "nothing was trained yet; the same command begins again"
    command = ("bitgolf", "run", folder, "--data", data, "--out", folder, "--seed", seed, "--resume")
    return f"go on with --resume: {shlex.join(map(str, command))}"


def _work(
    recipe: Recipe,
    data: str,
    folder: Path,
    seed: int,
    resume: bool,
    start: Start | None,
    record: RunResult,
) -> Generator[Event, None, RunResult]:
    """record: what else the result says."""
    clock = Stopwatch()
    for path in (folder / name for name in OWN_FILES if resume):
        if path.exists():
            refuse_special(path)
    if is_first_process() and not resume:
        claim_folder(folder, recipe, resume)  # refused before minutes of tokenizing, not after
    refuse_uneven_batches(recipe)
    ahead = Ahead(recipe)
    made = find_dataset(data, recipe.model.vocabulary_size, recipe.data.case_ops)
    dataset = yield from mapped(made, ahead.beside)
    clock.lap("data")
    ahead.wait(first=True)
    code = _code_that_fits(recipe, dataset)
    if recipe.score.eval_seconds:
        ahead.wait()  # the speed of an evaluation is measured before the training
    clock.lap("prepare")
    opening = opening_of(dataset)
    if resume and (finished := finished_result(folder, recipe, dataset, seed)):
        yield Event("finished already", 1, 1, {})
        return finished
    if resume:
        refuse_changed(recipe, folder)
    elsewhere = other_machine(folder, recipe) if resume else ""
    if elsewhere:
        yield Event(NOTE, 1, 1, {NOTE: elsewhere})

    def try_out(unpacked: Unpacked) -> None:
        sample_text(unpacked, prompt=opening, tokens=1, seed=seed)  # as the report will
        ahead.wait()  # nothing runs beside the training

    try:
        steps = run(recipe, dataset, folder, seed, code=code, resume=resume, start=start, try_out=try_out)
        outcome = yield from recording(steps, recipe, folder)
    except Exception:
        if (folder / "result.json").is_file():  # what is known of a run that failed
            write_report(folder)
        raise
    result = outcome.result
    if not is_first_process():
        return result
    clock.lap("run")
    result |= yield from _looked_at(recipe, dataset, folder, code, outcome, clock, (seed, opening))
    if sentence := overfitting(folder / "metrics.jsonl"):
        result["overfitting"] = sentence
    seconds = {name: spent for name, spent in clock.laps.items() if name != "run"} | result["seconds"]
    result |= {"seconds": seconds, "run": str(folder), "report": str(folder / "report.html")}
    result |= record
    if elsewhere:
        result["resumed"] = elsewhere
    write_json(folder / "result.json", result)
    write_report(folder)
    yield Event("report", 1, 1, {})
    return result


def refuse_uneven_batches(recipe: Recipe) -> None:
    """Raise PlanError where a batch cannot be shared out among micro-batches and processes."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    for stage in (Stage(), *recipe.train.stages):
        recipe.train.rows(stage.sequence_length or recipe.data.sequence_length, processes, stage.batch_tokens)


def _code_that_fits(recipe: Recipe, dataset: Dataset) -> bytes:
    """The script of a recipe. Raises BudgetError where bytes or memory are too few for the run."""
    code = script_of(recipe)
    facts = forecast(recipe, len(code), len(dataset.tokenizer.to_bytes()))
    refuse_over_budget(facts)
    refuse_over_memory(facts)
    return code


def _looked_at(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    code: bytes,
    outcome: Outcome,
    clock: "Stopwatch",
    sample: tuple[int, bytes],
) -> Generator[Event, None, RunResult]:
    """What the packed model is made of, and a text that it writes; nothing where none was packed.

    sample: the seed and the opening of that text.
    """
    if outcome.packing is None:
        return {}
    yield Event("inspect", 0, 1, {})
    looked_at: RunResult = inspected(recipe, dataset, folder, code, outcome.packing, outcome.sums)
    clock.lap("inspect")
    yield Event("sample", 0, 1, {})
    looked_at["sample"] = shown_sample(unpack((folder / "model.bin").read_bytes()), *sample)
    clock.lap("sample")
    return looked_at


def finished_result(folder: Path, recipe: Recipe, dataset: Dataset, seed: int) -> RunResult | None:
    """The result of a run that has nothing left to do, its report included; None of any other.

    Raises BitgolfError where the folder is another run's.
    """
    path = folder / "result.json"
    result = read_as(path, Result) if path.is_file() else None
    if result is None or "report" not in result or result.get("seed") != seed:
        return None
    claim_folder(folder, recipe, resume=True)
    if (folder / CHECKPOINT).is_file():
        State.load(folder / CHECKPOINT, training_identity(recipe, dataset, seed))
    write_report(folder)  # it is written last, so it alone may be missing
    return cast(RunResult, result)


def inspected(
    recipe: Recipe, dataset: Dataset, folder: Path, code: bytes, packing: Packing, sums: Mapping[str, Sums]
) -> RunResult:
    """What packing cost, what became of each tensor, and what the code is for; see `findings`."""
    trained = open_run(folder, data=dataset.folder)
    base = sums.get("averaged", sums["live"])
    facts: Any = findings(trained, packing, sums["quantized"], base)
    return {**facts, "ledger": whole_ledger(recipe, code, packing.artifact)}


class Stopwatch:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Put the seconds since the last lap under a name."""
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


def sample_text(unpacked: Unpacked, *, prompt: bytes = b"", tokens: int = SAMPLE_TOKENS, seed: int) -> str:
    """Text from a packed model, in float32."""
    model = load_model(unpacked, Backend())
    return "".join(sample(model, unpacked.tokenizer, prompt, tokens=tokens, seed=seed))


def opening_of(dataset: Dataset) -> bytes:
    """What a sample goes on from: a document's start, or the first words of the text where there is none."""
    if dataset.tokenizer.bos >= 0:
        return b""
    tokens = dataset.scored_tokens()
    counts = (OPENING_TOKENS, len(tokens))
    texts = (dataset.tokenizer.decode(tokens[:count]).lstrip()[:OPENING_BYTES] for count in counts)
    encoder = Encoder(dataset.tokenizer)
    return next((text for text in texts if len(encoder.encode(text))), b"a")


def shown_sample(unpacked: Unpacked, seed: int, opening: bytes = b"") -> str:
    """A document that the model begins, or goes on with; the first of a few that does not end at once."""
    texts = [""]
    while len(texts) <= SAMPLE_TRIES and len(texts[-1]) < SAMPLE_LETTERS:
        written = sample_text(unpacked, prompt=opening, seed=seed + len(texts) - 1)
        texts.append(opening.decode(errors="replace") + written)
    return max(texts, key=len) if len(texts[-1]) < SAMPLE_LETTERS else texts[-1]


def score_artifact(
    path: Path, unpacked: Unpacked, text: Path | None, data: Path | None, overrides: Sequence[str]
) -> Generator[Event, None, tuple[Scores, dict[str, Any]]]:
    """Score a packed model on a file, on a dataset, or on the data of its run; and what is to say of it.

    Changes may reach the model too, as long as its weights fit: more loops, another window, a rescaled base.
    """
    model, plan, trained = model_to_score(path, unpacked, overrides, as_its_run=text is None and data is None)
    part, world = beside(path) / f"{path.name}.scores.part", join_world(model.backend.device.type)
    try:
        if text is not None:
            evaluation = yield from score_text(model, unpacked.tokenizer, text, plan, part, world)
        else:
            dataset = yield from dataset_of(path, unpacked.tokenizer, data)
            evaluation = yield from score_split(model, dataset, plan, "score", part, world)
    finally:
        leave_world(world)
    facts = {"dtype": model.backend.dtype_name, "seconds": evaluation.seconds}
    if plan.adapter != NoAdapter():
        facts["learning_seconds"] = evaluation.learning_seconds
    return evaluation.scores, {**facts, **query_positions(evaluation.scores, trained)}


def model_to_score(
    path: Path, unpacked: Unpacked, overrides: Sequence[str], as_its_run: bool = False
) -> tuple[Model, ScorePlan, int]:
    """A packed model, how the recipe beside it has it scored after these changes of settings, and on how many
    tokens at once it was trained; 0 where no recipe says it.

    as_its_run: unless something is changed, what its run has scored is scored again, by the run's own kernels
    (and those of its script) to the same bits. All else is computed as fast as it can be; see `native`.
    """
    recipe_file = path.parent / "recipe.json"
    recipe = read_plan(recipe_file, Recipe) if recipe_file.is_file() else Recipe()
    trained = trained_length(recipe) if recipe_file.is_file() else 0
    as_packed = recipe.replace(model=unpacked.model)
    recipe = parse_overrides(as_packed, overrides)
    repeated = as_its_run and recipe_file.is_file() and recipe == as_packed
    if parameter_shapes(recipe.model) != parameter_shapes(unpacked.model):
        raise BitgolfError(
            "these settings of the model need other weights",
            where=str(path),
            value=[change for change in overrides if change.startswith("model.")],
            way_out="train with them; scoring can change windows, loops outside training, RoPE and the like",
        )
    backend = choose_backend(recipe.backend, dtype_of(path.parent))
    model = model_with(recipe.model, unpacked.weights, backend)
    return model if repeated else native(model), recipe.score, trained


def dataset_of(artifact: Path, tokenizer: Tokenizer, data: Path | None) -> Generator[Event, None, Dataset]:
    """The dataset or text that is given, or that of the artifact's run. Text is tokenized as the model does.

    data: what `--data` takes everywhere. Raises BitgolfError if none is known, or it has another tokenizer.
    """
    if data is None and artifact == SHIPPED_MODEL:
        data = Path(SHIPPED_TEXT)
    if data is None:
        recorded = artifact.parent / "result.json"
        recorded_data = read_as(recorded, Origin).get("dataset") if recorded.is_file() else None
        if recorded_data is None:
            raise BitgolfError(
                "no text is known", where=str(artifact), way_out="give --text FILE or --data FOLDER"
            )
        dataset = Dataset.open(Path(recorded_data))
    else:
        dataset = yield from find_dataset(str(data), tokenizer.vocabulary_size, tokenizer=tokenizer)
    if dataset.tokenizer.identity != tokenizer.identity:
        raise TokenizerError(
            "the dataset was made with another tokenizer than the model's",
            where=str(dataset.folder),
            value=dataset.tokenizer.identity[:16],
            way_out="take the text itself with --text FILE",
        )
    return dataset


def score_text(
    model: Model,
    tokenizer: Tokenizer,
    path: Path,
    plan: ScorePlan,
    part: Path | None = None,
    world: World = World(),
) -> Generator[Event, None, Evaluated]:
    """Score one file as one document; what is packed as its ending says is unpacked.

    part, world: see `evaluate`.
    """
    content = text_to_score(path)
    if not content:
        raise DataError("the file is empty", where=str(path))
    return (yield from score_bytes(model, tokenizer, content, plan, part, world))


def tokens_of(
    content: bytes, tokenizer: Tokenizer, start: Sequence[int] = (), most: float = math.inf
) -> Generator[Event, None, np.ndarray]:
    """Ids (uint16) of some bytes after those of `start`; of a long text this takes minutes.

    Raises DataError for more than `most`, as soon as they are known.
    """
    pieces, count = [np.array(start, np.uint16)], 0
    for piece, share in Encoder(tokenizer).encode_pieces(content):
        pieces.append(piece)
        count += len(piece)
        if count > most:
            raise DataError(
                "too long to be scored at once",
                value=f"more than {count:,} tokens of {SCORED_TOKEN_BYTES} bytes of memory each",
                way_out="score parts of it, a file each",
            )
        yield Event("tokenize", share, 1, {})
    return np.concatenate(pieces)


def score_bytes(
    model: Model,
    tokenizer: Tokenizer,
    content: bytes,
    plan: ScorePlan,
    part: Path | None = None,
    world: World = World(),
) -> Generator[Event, None, Evaluated]:
    """Score some bytes as one document. part, world: see `evaluate`."""
    start = [tokenizer.bos] if tokenizer.bos >= 0 else []
    most = memory_of_machine() // SCORED_TOKEN_BYTES
    tokens = yield from tokens_of(content, tokenizer, start, most)
    differing = differing_bytes(content, tokenizer.decode(tokens))
    sizes = len(content), differing
    return (
        yield from evaluate(model, tokens, tokenizer, plan, *sizes, stage="score", part=part, world=world)
    )
