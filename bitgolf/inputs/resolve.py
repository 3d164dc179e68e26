"""Resolves a user's input to a recipe, a dataset, a run or an artifact."""

import importlib
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType

from bitgolf import import_core
from bitgolf.base.errors import BitgolfError, PlanError, nearest
from bitgolf.base.events import NOTE, Event, is_first_process
from bitgolf.base.plan import P, parse_overrides
from bitgolf.corpus.build import build_dataset, dataset_name
from bitgolf.corpus.sources import Source, TextSource, path_of, source_from
from bitgolf.forecast.laptop import laptop
from bitgolf.inputs.recorded import remember, techniques_of
from bitgolf.inputs.renamed import refuse_old_names
from bitgolf.inputs.typed import read_plan
from bitgolf.public.checkpoints import (
    PASSED_AGAIN,
    as_weights,
    first_attention_at_rest,
    infer_model_plan,
    lacks_first_attention,
    passes_again,
    read_public,
    renamed,
    unbanked,
)
from bitgolf.recipe import Recipe
from bitgolf.recipes import recipe_names
from bitgolf.report.screen import note
from bitgolf.run.cache import cache_folder
from bitgolf.script.own import OWN_FILES, kinds_of, load_own
from bitgolf.squeeze.artifact import Unpacked, unpack
from bitgolf.squeeze.sections import ARTIFACT_MAGIC
from bitgolf.text.shards import PASSPORT_FILE, Dataset
from bitgolf.text.tokenizer import Tokenizer

NOTES_SHOWN = 8  # of a passport
PUBLIC_ENDINGS = (".pt", ".ptz", ".pth", ".ckpt", ".safetensors")
# Techniques without tensors, by the setting that has them: how people call one, and how it is given.
UNSEEN = {
    "model.heads_out": ("XSA", "=(Xsa(last=4),)"),
    "model.position": ("partial RoPE", ".dims=16"),
    "model.input_scale": ("LN scale", "=LnScale()"),
    "model.activation": ("a leaky activation", "=LeakyReluSquared()"),
}
SHIPPED = "demo"  # the name of the packed model that ships, where no run or file is called so
SHIPPED_MODEL = Path(__file__).parents[1] / "shipped" / "model.bin"
SHIPPED_LINE = "the model that ships with bitgolf, trained on presidents' addresses"
SHIPPED_TEXT = "sotu"  # what that model was trained on
LAPTOP = "-laptop"  # after the name of a recipe: that recipe at the size of a laptop


def find_recipe(text: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name, `file.py:function`, `recipe.json` or run folder, with `path=value` changes."""
    import_core()
    return parse_overrides(_read_recipe(text), overrides)


def _read_recipe(text: str) -> Recipe:
    name = text.removesuffix(LAPTOP)
    if name in recipe_names():  # before any folder that happens to have the same name
        made = getattr(importlib.import_module(f"bitgolf.recipes.{name}"), name)()
        return laptop(made) if text.endswith(LAPTOP) else made
    path, colon, function = text.rpartition(":")
    if colon and path.endswith(".py"):
        return from_python(Path(path), function, Recipe)
    if Path(text).is_dir():
        return read_plan(Path(text) / "recipe.json", Recipe)
    if text.endswith(".json"):
        return read_plan(Path(text), Recipe)
    names = [name + ending for name in recipe_names() for ending in ("", LAPTOP)]
    raise BitgolfError(
        "no such recipe",
        where=text,
        way_out=f"{nearest(text, names)}; or give file.py:function or a recipe.json",
    )


def from_python(path: Path, function: str, kind: type[P]) -> P:
    """What a function in a user's file returns. Raises BitgolfError, naming both, for whatever goes wrong."""
    if not path.is_file():
        raise BitgolfError(f"no such {kind.__name__.lower()} file", where=str(path))
    with mending(path, f"{path}:{function}"):
        made = getattr(module_of(path), function)()
    if not isinstance(made, kind):
        raise BitgolfError(
            f"does not return a {kind.__name__}", where=f"{path}:{function}", value=type(made).__name__
        )
    return made


def module_of(path: Path) -> ModuleType:
    """The module of a file that the user has named; from now on its techniques are found."""
    module = load_own(path)
    refuse_old_names(kinds_of(module))
    if own := OWN_FILES.get(module.__name__):
        remember(own.text)
    return module


@contextmanager
def mending(path: Path, where: str) -> Iterator[None]:
    """Whatever goes wrong within it is a fault of a user's file: a BitgolfError that names its line."""
    try:
        with redirect_stdout(sys.stderr):  # stdout is for the answer
            yield
    except (Exception, SystemExit) as error:  # a user's file can fail in any way; say which and where
        message = str(error) if isinstance(error, BitgolfError) else f"{type(error).__name__}: {error}"
        line = line_in(str(path.absolute()), error)
        raise BitgolfError(
            f"line {line}: {message}" if line else message, where=where, way_out="mend the file"
        ) from error


def line_in(file: str, error: BaseException) -> int:
    """The line of a user's file that an error came from; 0 if none of it did."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno or 0
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == file]
    return lines[-1] if lines else 0


def find_dataset(
    text: str, vocabulary_size: int, case_ops: bool = False, tokenizer: Tokenizer | None = None
) -> Generator[Event, None, Dataset]:
    """A dataset folder as it stands, or a source of text tokenized once and kept; yields progress, notes.

    tokenizer: the one that text is tokenized by; without it one of that size is made for it.
    """
    folder = path_of(text)
    if folder is None or not (folder / PASSPORT_FILE).is_file():
        folder = yield from made_once(source_from(text), vocabulary_size, case_ops, tokenizer)
    dataset = Dataset.open(folder)
    notes = dataset.passport.get("notes")
    for each in notes[:NOTES_SHOWN] if isinstance(notes, list) else []:
        yield Event(NOTE, 1, 1, {NOTE: str(each)})
    return dataset


def made_once(
    source: Source, vocabulary_size: int, case_ops: bool = False, tokenizer: Tokenizer | None = None
) -> Generator[Event, None, Path]:
    """The folder where the dataset of a source is kept; made if it is not there. tokenizer: of text alone."""
    given = tokenizer if isinstance(source, TextSource) else None
    folder = cache_folder() / dataset_name(source, vocabulary_size, case_ops)
    folder = folder.with_name(f"{folder.name}-{given.identity[:12]}") if given else folder
    while not is_first_process() and not (folder / PASSPORT_FILE).is_file():
        time.sleep(0.1)  # the first process is making it
    if not (folder / PASSPORT_FILE).is_file():
        steps = build_dataset(
            source,
            folder,
            vocabulary_size=vocabulary_size,
            tokenizer=given,
            case_ops=case_ops and given is None,
        )
        for step in steps:
            yield Event(*step, {})
    return folder


def find_artifact(
    text: str,
    data: Path | None = None,
    overrides: Sequence[str] = (),
    again: Sequence[int] = (),
    first_attention: bool = True,
) -> tuple[Path, Unpacked]:
    """A packed model by its file or its run folder, read and checked.

    `demo` is the model that ships, unless a run or file has that name; one note says so. A public checkpoint
    or artifact is taken too, known by its ending or content; it has no tokenizer, so it gets that of the
    dataset. overrides: settings that the caller names, PATH=VALUE; a note says which settings
    weights do not show and nobody named. again: the layers that a public checkpoint passes once more.
    first_attention: whether its first layer has attention, where its weights do not show it.
    """
    path = Path(text) / "model.bin" if Path(text).is_dir() else Path(text)
    if not path.is_file() and text == SHIPPED:
        note(SHIPPED_LINE)
        path = SHIPPED_MODEL
    if not path.is_file():
        way_out = f"give a run folder, a model.bin, or {SHIPPED} for the model that ships"
        raise BitgolfError("no packed model", where=str(path), way_out=way_out)
    with path.open("rb") as file:
        start = file.read(len(ARTIFACT_MAGIC))
    if start == ARTIFACT_MAGIC or not (path.suffix.lower() in PUBLIC_ENDINGS or start[:2] == b"PK"):
        return path, read_artifact(path)
    if data is None:
        raise BitgolfError(
            "a public checkpoint carries no tokenizer",
            where=str(path),
            way_out="give its dataset with --data",
        )
    unpacked = _public_artifact(path, Dataset.open(data).tokenizer, again, first_attention)
    if unseen := [
        setting for setting in UNSEEN if not any(override.startswith(setting) for override in overrides)
    ]:
        what = ", ".join(UNSEEN[setting][0] for setting in unseen)
        ways = " ".join(f"--set '{setting}{UNSEEN[setting][1]}'" for setting in unseen)
        note(f"{path.name}: weights do not show {what}; taken as without. If its script has them: {ways}")
    return path, unpacked


def beside(model: Path) -> Path:
    """The folder for what is made of a packed model: its own, or the current one for the model that ships."""
    return Path() if model == SHIPPED_MODEL else model.parent


def _public_artifact(
    path: Path, tokenizer: Tokenizer, again: Sequence[int], first_attention: bool
) -> Unpacked:
    """A public checkpoint with the tokenizer of the data that it is to be scored on."""
    notes: list[str] = []
    state = read_public(path, notes)
    try:
        weights = as_weights(state, again or PASSED_AGAIN, first_attention)
        model = infer_model_plan(weights)
    except PlanError as error:
        raise PlanError(f"{path}: {problem}" for problem in error.problems) from None
    except BitgolfError as error:
        raise BitgolfError(str(error), where=str(path)) from None
    if model.vocabulary_size != tokenizer.vocabulary_size:
        raise BitgolfError(
            f"its vocabulary has {model.vocabulary_size:,} entries, the data's {tokenizer.vocabulary_size:,}",
            where=str(path),
            way_out="give the dataset made with the tokenizer that it was trained with",
        )
    if first_attention_at_rest(state) or lacks_first_attention(renamed(unbanked(state))):
        notes.append("its first layer has no attention (DISABLE_LAYER0_ATTN), as its tensors show")
    if passes_again(state) and not again:
        named = ",".join(map(str, PASSED_AGAIN))
        notes.append(
            f"layers {named} are taken to be passed twice, as in the records; else give --recur-layers"
        )
    elif again and not passes_again(state):
        raise BitgolfError(
            "no weights of its own for layers passed again",
            where=str(path),
            value=",".join(map(str, again)),
            way_out="name passes that share everything with --set 'model.recurrence=Looped(first=4, last=5)'",
        )
    for each in notes:
        note(f"{path.name}: {each}")
    return Unpacked(model, weights, tokenizer, {})


def read_artifact(path: Path) -> Unpacked:
    """A packed model's file, read and checked; whatever is wrong with it, the file is named."""
    import_core()
    with techniques_of(path.parent):
        try:
            return unpack(path.read_bytes())
        except BitgolfError as error:
            raise BitgolfError(str(error), where=str(path)) from error
