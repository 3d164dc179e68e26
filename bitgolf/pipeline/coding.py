"""Files compressed by a packed model, and proofs of scores by them."""

import errno
import functools
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from bitgolf.base.errors import ArtifactError, BitgolfError, DataError
from bitgolf.base.events import Event
from bitgolf.base.plan import parse_overrides
from bitgolf.corpus.textfile import refuse_special, text_to_score
from bitgolf.inputs.resolve import beside, find_artifact
from bitgolf.inputs.typed import Certificate, read_as, read_plan
from bitgolf.inputs.writable import refuse_file, refuse_folder
from bitgolf.pipeline.work import dataset_of, tokens_of
from bitgolf.proof.adapted import AdaptedPlan
from bitgolf.proof.crew import Coder, Crew, coder_of
from bitgolf.proof.file import METHODS, Header, read_header
from bitgolf.proof.pieces import (
    UNKNOWN,
    Part,
    Write,
    compress_stream,
    decompress_stream,
    file_bytes_of,
    parts_of,
)
from bitgolf.proof.prove import Text, check, prove
from bitgolf.recipe import Recipe
from bitgolf.text.tokenizer import Tokenizer

ENDING = ".golf"
PART = ".part"  # beside a file that is being made: frames that are finished
MADE = ".made"  # and what is written of it
PIPE = "-"
MODEL_VARIABLE = "BITGOLF_MODEL"
UNHEEDED = ("batch_tokens", "limit_tokens", "eval_seconds")  # settings of scoring that a proof has no use for
WINDOW = 256  # of a model whose recipe is not beside it


def open_coder(model: str, window: int = 0, portable: bool = False) -> tuple[Coder, Path]:
    """A packed model that codes, and its file.

    window: tokens that it sees; 0 takes those that it was trained on.
    """
    path, _ = find_artifact(model)
    artifact, recipe = path.read_bytes(), path.parent / "recipe.json"
    trained = read_plan(recipe, Recipe).data.sequence_length if recipe.is_file() and not window else WINDOW
    torch.set_num_threads(1)  # a step is so small that threads wait for each other longer than they work
    return coder_of(artifact, window or trained, portable), path


def _coder_for(model: str, header: Header) -> Coder | None:
    """The model as a file was written with it; None where it was written without one."""
    if header.layout is None:
        return None
    return open_coder(model, header.layout.window, header.portable)[0]


def processes_of(requested: int) -> int:
    """How many processes work off frames; 0 is one a core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return requested or cores


def crew_for(target: Path | None, processes: int) -> Crew:
    """Who codes into a file; finished frames stand beside it."""
    named = target is not None and str(target) != PIPE
    part = target.with_name(target.name + PART) if named and target else None
    return Crew(processes_of(processes), part)


def compress_file(
    model: str, source: str, out: Path | None, window: int, force: bool, portable: bool, processes: int
) -> Generator[Event, None, dict[str, Any]]:
    """Compress a file, or what comes through the pipe, into a file or the pipe; returns the figures."""
    target = out or _target(source, source + ENDING)
    with _opened(source) as (text, text_bytes):
        _refuse_written(source, target, force)
        coder, path = open_coder(model, window, portable)
        crew = crew_for(target, processes)
        with _written(target) as (write, _):
            steps = compress_stream(coder, text, text_bytes, write, crew)
            parts = yield from crew.follow(steps, "compress")
    crew.disband()
    return {**facts_of(parts, source), "model": str(path), "out": str(target or PIPE)}


def decompress_file(
    model: str, source: str, out: Path | None, force: bool, processes: int
) -> Generator[Event, None, dict[str, Any]]:
    """The text of a compressed file into a file or the pipe; returns the figures."""
    named = source.removesuffix(ENDING) if source.endswith(ENDING) else source + ".out"
    target = out or _target(source, named)
    opened = functools.cache(lambda window, portable: open_coder(model, window, portable)[0])
    with _opened(source) as (stream, file_bytes):
        _refuse_written(source, target, force)
        crew = crew_for(target, processes)
        with _written(target) as (write, kept):
            steps = decompress_stream(opened, stream, file_bytes, source, write, crew, kept)
            parts = yield from crew.follow(steps, "decompress")
    return {**facts_of(parts, source), "out": str(target or PIPE)}


def facts_of(parts: Sequence[Part], source: str) -> dict[str, Any]:
    """What the heads of a compressed file say, beside its size."""
    headers = [part.header for part in parts]
    facts = {
        "file": source,
        "way": "; ".join(dict.fromkeys(METHODS[each.method] for each in headers)),
        **sizes_of(sum(each.text_bytes for each in headers), file_bytes_of(parts)),
    }
    if len(parts) > 1:
        facts["pieces"] = len(parts)
    by_model = [(each.identity, each.layout) for each in headers if each.layout is not None]
    if by_model:
        layouts = [layout for _, layout in by_model]
        facts |= {
            "model_sha256": by_model[0][0].hex(),
            "tokens": sum(each.tokens for each in layouts),
            "lanes": max(each.lanes for each in layouts),
            "frames": sum(len(each.frames()) for each in layouts),
            "window": layouts[0].window,
        }
    return facts


def sizes_of(text_bytes: int, file_bytes: int) -> dict[str, Any]:
    """How large a text is, before and after."""
    bits = 8 * file_bytes / text_bytes if text_bytes else None
    return {"text_bytes": text_bytes, "file_bytes": file_bytes, "bits_per_byte": bits}


def list_files(sources: Sequence[str]) -> dict[str, Any]:
    """The figures of compressed files, without a model: of one, or of each and all."""
    files = []
    for source in sources:
        with _opened(source) as (stream, _):
            files.append(facts_of(list(parts_of(stream, source)), source))
    if len(files) == 1:
        return files[0]
    sums = [sum(each[name] for each in files) for name in ("text_bytes", "file_bytes")]
    return {"files": files, **sizes_of(*sums)}


def prove_artifact(
    model: str,
    text: Path | None,
    data: Path | None,
    most_bytes: int,
    out: Path | None,
    portable: bool = False,
    processes: int = 0,
    overrides: Sequence[str] = (),
) -> Generator[Event, None, dict[str, Any]]:
    """Prove the score of a packed model on a file, a dataset's validation text, or that of its run.

    overrides: of the recipe's way to score, as `score.mixers=(NgramCache(),)`; what adapts or is mixed in
    there is proven as well.
    """
    coder, path = open_coder(model, portable=portable)
    folder = out or beside(path) / "proof"
    refuse_folder(folder)
    adapted = _adapted_plan(path.parent / "recipe.json", overrides)
    if adapted is not None and portable:
        raise BitgolfError("portable arithmetic is for models that do not adapt", where="--portable")
    if text is not None:
        chosen = yield from _file_text(coder.tokenizer, text)
    else:
        chosen = yield from _split_text(path, coder.tokenizer, data)
    chosen = _cut(chosen, coder.tokenizer, most_bytes)
    certificate = yield from prove(coder, chosen, folder, processes_of(processes), adapted)
    return {**certificate, "certificate": str(folder / "certificate.json")}


def _adapted_plan(recipe: Path, overrides: Sequence[str]) -> AdaptedPlan | None:
    """How a run's model adapts while it is scored; None where it does not, or where that is switched off.

    Raises BitgolfError for changes that a proof would not heed.
    """
    before = read_plan(recipe, Recipe) if recipe.is_file() else Recipe()
    after = parse_overrides(before, overrides)
    if after == before.replace(score=before.score.fixed()) != before:
        return None
    adapts = after.score != after.score.fixed()
    unheeded = any(getattr(after.score, name) != getattr(before.score, name) for name in UNHEEDED)
    if overrides and (not adapts or unheeded or after.replace(score=before.score) != before):
        raise BitgolfError(
            "a proof without adapter and mixers has windows of its own, and the model is as it was packed",
            where="--set",
            value=", ".join(overrides),
            way_out="set score.adapter or score.mixers, and score.windows beside them; --bytes for a part",
        )
    return AdaptedPlan.of(after.score) if adapts else None


def check_certificate(
    model: str, path: Path, share: float, seed: int, processes: int = 0
) -> Generator[Event, None, dict[str, Any]]:
    """Verify a certificate and the coded file beside it with the packed model that they are of."""
    certificate, where = read_as(path, Certificate), str(path.parent / "coded.bin")
    coded = _read(where)
    coder = _coder_for(model, read_header(coded, where))
    if coder is None:
        raise ArtifactError("no model wrote it", where=where)
    checked = yield from check(coder, coded, certificate, share, seed, processes_of(processes), where)
    return {
        "holds": True,
        "bits_per_byte": certificate["bits_per_byte"],
        "text_bytes": certificate["text_bytes"],
        "coded_bytes": certificate["coded_bytes"],
        **checked,
    }


def _file_text(tokenizer: Tokenizer, path: Path) -> Generator[Event, None, Text]:
    content = text_to_score(path)
    if not content:
        raise DataError("the file is empty", where=str(path))
    return Text((yield from tokens_of(content, tokenizer)), content, str(path))


def _split_text(path: Path, tokenizer: Tokenizer, data: Path | None) -> Generator[Event, None, Text]:
    dataset = yield from dataset_of(path, tokenizer, data)
    tokens = dataset.scored_tokens()
    return Text(tokens, tokenizer.decode(tokens), f"{dataset.folder}, validation")


def _cut(text: Text, tokenizer: Tokenizer, most_bytes: int) -> Text:
    """The first tokens of a text that stand for no more than so many bytes; 0 is all of it."""
    if not most_bytes or most_bytes >= len(text.data):
        return text
    sizes = tokenizer.token_bytes(text.tokens[1:], text.tokens[:-1]).cumsum()
    count = 1 + int(np.searchsorted(sizes, most_bytes - len(tokenizer.decode(text.tokens[:1])), side="right"))
    tokens = text.tokens[:count]
    cut = tokenizer.decode(tokens)
    if not cut:
        raise DataError("no token is so short", where=text.name, value=f"--bytes {most_bytes}")
    return Text(tokens, cut, f"{text.name}, first {len(cut):,} bytes")


@contextmanager
def _opened(source: str) -> Iterator[tuple[BinaryIO, float]]:
    """A file or the pipe, and how many bytes there are."""
    if source == PIPE:
        yield sys.stdin.buffer, UNKNOWN
        return
    with ExitStack() as stack:
        try:
            refuse_special(Path(source))
            file = stack.enter_context(Path(source).open("rb"))
        except OSError as error:
            raise BitgolfError(f"cannot read: {error.strerror}", where=source) from None
        yield file, os.fstat(file.fileno()).st_size


def _read(source: str) -> bytes:
    with _opened(source) as (file, _):
        return file.read()


def _target(source: str, named: str) -> Path | None:
    """Where the result goes; None is the pipe."""
    return None if source == PIPE else Path(named)


def _refuse_written(source: str, target: Path | None, force: bool) -> None:
    """Raise BitgolfError for a result that would replace something; its own source even where forced."""
    if target is not None and source != PIPE and target.exists() and target.samefile(source):
        raise BitgolfError(
            "the result would replace what it is made of", where=source, way_out="another name with -o"
        )
    if target is not None and target.exists() and not force:
        raise BitgolfError(
            "it is there already", where=str(target), way_out="--force, or another name with -o"
        )
    if target is not None and str(target) != PIPE:
        refuse_file(target, "give another name with -o")


@contextmanager
def _written(target: Path | None) -> Iterator[tuple[Write, Callable[[int], bytes]]]:
    """Writes a file, which is whole or absent, or to the pipe as it comes; and reads what stood there before.

    What was written before a stop stays beside the file until the same command is given again.
    """
    if target is None or str(target) == PIPE:
        yield sys.stdout.buffer.write, lambda num_bytes: b""
        sys.stdout.buffer.flush()
        return
    made = target.with_name(target.name + MADE)
    with _saying_how_to_go_on(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with made.open("r+b" if made.is_file() else "w+b") as file:

            def kept(num_bytes: int) -> bytes:
                start = file.tell()
                content = file.read(num_bytes)
                file.seek(start)
                return content

            def write(content: bytes) -> None:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # before frames of it are forgotten

            try:
                yield write, kept
            except ArtifactError:
                made.unlink()
                raise
            file.truncate()
        made.replace(target)


@contextmanager
def _saying_how_to_go_on(target: Path) -> Iterator[None]:
    """Within it a full disk raises BitgolfError with what to do then, and a stop is told what to do too."""
    again = "free some space, then give the same command again; what is finished is kept"
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note("the same command goes on from here")
        raise
    except BitgolfError as error:
        if "no space" not in error.what:
            raise
        raise BitgolfError(error.what, where=error.where, value=error.value, way_out=again) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "no space left on the disk" if full else f"cannot write: {error.strerror}"
        way_out = again if full else "check the path and its rights"
        raise BitgolfError(what, where=str(target), way_out=way_out) from None
