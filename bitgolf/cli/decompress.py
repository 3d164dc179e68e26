"""A compressed file, read back."""

from pathlib import Path

from bitgolf.cli.compress import CodeWith, File, Force, To, ToPipe
from bitgolf.cli.options import Json
from bitgolf.pipeline.coding import PIPE, decompress_file
from bitgolf.report import screen


def decompress(
    file: File,
    model: CodeWith = "",
    out: To = None,
    stdout: ToPipe = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """The bytes of a file that `bitgolf compress` wrote.

    It takes the model that it was written with.

    Example: bitgolf decompress speech.txt.golf -m runs/demo -o speech.txt
    """
    facts = screen.follow(decompress_file(model, file, Path(PIPE) if stdout else out, force))
    if facts["out"] != PIPE:
        screen.close(facts, as_json=as_json)
