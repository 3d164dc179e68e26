"""Text from a packed model."""

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.cli.faults import show_now
from bitgolf.cli.options import LARGEST_SEED, Json, ModelName
from bitgolf.cli.shown import TEXT
from bitgolf.inputs.resolve import SHIPPED, find_artifact
from bitgolf.net.backend import Backend
from bitgolf.report import screen
from bitgolf.report.sample import sample as sampled
from bitgolf.squeeze.artifact import load_model


def sample(
    model: ModelName = SHIPPED,
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Largest number of tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Only this many of the likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Only the likeliest tokens that have this probability together.")
    ] = 0.95,
    min_p: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Only tokens with at least this share of the largest probability."
        ),
    ] = 0.0,
    stop: Annotated[
        list[str] | None, typer.Option(help="Ends before this text; may be given several times.")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option("--data", help="For a public checkpoint: the dataset with its tokenizer.")
    ] = None,
    window: Annotated[int, typer.Option(min=1, max=2**20, help="Tokens of context at most.")] = 256,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="The same seed writes the same text.")
    ] = 1337,
    interactive: Annotated[
        bool, typer.Option("-i", "--interactive", help="Continues what you type, line by line.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write text with a packed model.

    On a terminal the text appears as it is written. With -i each line that you type is added to the text and
    continued; an empty line continues the text, Ctrl-D ends.

    Example: bitgolf sample --prompt "My fellow citizens"
    Example: bitgolf sample runs/demo --prompt "My fellow citizens"
    Example: bitgolf sample runs/demo -i --stop "." --temperature 0.6
    """
    if interactive and as_json:
        raise BitgolfError("two forms at once", where="sample", value="-i --json", way_out="give one")
    path, unpacked = find_artifact(model, dataset)
    loaded = load_model(unpacked, Backend())
    drawn = functools.partial(sampled, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    texts = functools.partial(
        drawn, loaded, unpacked.tokenizer, tokens=tokens, stop=stop or (), window=window
    )
    # The shell may have given any bytes; for Python they are half characters then.
    opening = os.fsencode(prompt)
    if interactive:
        for turn, line in enumerate(_typed(prompt)):
            opening += os.fsencode(line)
            opening += _shown(texts(opening, seed=seed + turn)).encode()
            print(flush=True)
            show_now()  # a program that types waits for it
        return
    if not as_json:
        _shown_bytes(opening)
    text = "".join(texts(opening, seed=seed)) if as_json else _shown(texts(opening, seed=seed))
    if not as_json:
        print("\n")
    facts = {"artifact": str(path), "tokens": tokens, "temperature": temperature, "seed": seed}
    screen.close(facts | ({"prompt": prompt, "text": text} if as_json else {}), as_json=as_json)


def _typed(prompt: str) -> Iterator[str]:
    """What is continued: the prompt first, if there is one, then each line."""
    if prompt:
        _shown_bytes(os.fsencode(prompt))
        yield ""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line.rstrip("\n")


def _shown(pieces: Iterator[str]) -> str:
    """Write pieces as they come; the text."""
    text = ""
    for piece in pieces:
        _shown_bytes(piece.encode())
        text += piece
    return text


def _shown_bytes(content: bytes) -> None:
    """Text of a model or prompt: escaped on a terminal, as it is for a program."""
    if sys.stdout.isatty():
        print(screen.escaped(content.decode(errors="surrogateescape"), keep=TEXT), end="", flush=True)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
