"""A compressed file, read back."""

from bitgolf.cli.compress import (
    CodeWith,
    Files,
    Force,
    Listed,
    To,
    ToPipe,
    one_of,
    show_list,
    target_of,
)
from bitgolf.cli.options import Json, Processes
from bitgolf.inputs.resolve import SHIPPED
from bitgolf.pipeline.coding import PIPE, decompress_file
from bitgolf.report import screen


def decompress(
    files: Files,
    model: CodeWith = SHIPPED,
    out: To = None,
    stdout: ToPipe = False,
    force: Force = False,
    processes: Processes = 0,
    list_only: Listed = False,
    as_json: Json = False,
) -> None:
    """Restore a file that `bitgolf compress` wrote.

    It needs the model that the file was written with.

    Example: bitgolf decompress speech.txt.golf -m runs/demo -o speech.txt
    """
    if list_only:
        show_list(files, as_json)
        return
    file = one_of(files)
    target = target_of(out, stdout, file, as_json)
    facts = screen.follow(decompress_file(model, file, target, force, processes))
    if facts["out"] != PIPE:
        screen.close(facts, as_json=as_json)
