"""Text from a packed model."""

import os
import sys
from typing import Annotated

import typer

from bitgolf.cli.options import Json, ModelName, Seed
from bitgolf.cli.shown import TEXT
from bitgolf.inputs.resolve import find_artifact
from bitgolf.pipeline.work import sample_text
from bitgolf.report import screen


def sample(
    model: ModelName,
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.8,
    seed: Seed = 1337,
    as_json: Json = False,
) -> None:
    """Text from a packed model.

    Example: bitgolf sample runs/demo --prompt "My fellow citizens"
    """
    path, unpacked = find_artifact(model)
    # The shell may have given any bytes; for Python they are half characters then.
    opening = os.fsencode(prompt)
    text = sample_text(unpacked, prompt=opening, tokens=tokens, temperature=temperature, seed=seed)
    if not as_json and sys.stdout.isatty():
        print(screen.escaped(prompt + text, keep=TEXT) + "\n")
    elif not as_json:
        sys.stdout.buffer.write(opening + text.encode() + b"\n\n")
    screen.close(
        {"artifact": str(path), "tokens": tokens, "temperature": temperature, "seed": seed}
        | ({"prompt": prompt, "text": text} if as_json else {}),
        as_json=as_json,
    )
