"""Files made small by a packed model."""

from pathlib import Path
from typing import Annotated

import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.cli.options import Json, Portable, Processes
from bitgolf.inputs.resolve import SHIPPED
from bitgolf.pipeline.coding import MODEL_VARIABLE, PIPE, compress_file, list_files
from bitgolf.report import screen

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE", help="A file, or - for the pipe; several with --list."),
]
CodeWith = Annotated[
    str,
    typer.Option(
        "-m",
        "--model",
        metavar="RUN|ARTIFACT",
        envvar=MODEL_VARIABLE,
        help="The packed model; demo is the one that ships.",
    ),
]
To = Annotated[Path | None, typer.Option("-o", "--out", help="The file to write; - for the pipe.")]
ToPipe = Annotated[bool, typer.Option("-c", "--stdout", help="Write to the pipe; the file stays.")]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite an existing file.")]
Listed = Annotated[bool, typer.Option("--list", help="List the contents of compressed files.")]


def one_of(files: list[str]) -> str:
    """The file. Raises BitgolfError for several."""
    if len(files) > 1:
        raise BitgolfError(
            "several files", value=", ".join(files), way_out="one at a time; --list takes several"
        )
    return files[0]


def show_list(files: list[str], as_json: bool) -> None:
    """What compressed files hold: of one as lines, of several as a table with totals."""
    facts = list_files(files)
    if len(files) > 1:
        columns = ("file", "way", "text_bytes", "file_bytes", "bits_per_byte")
        total = {"file": f"{len(files)} files", "way": "", **facts}
        rows = [[each[name] for name in columns] for each in (*facts["files"], total)]
        header = [name.replace("_", " ") for name in columns]
        screen.table("Compressed files", header, rows, as_json=as_json)
    screen.close(facts, as_json=as_json)


def target_of(out: Path | None, stdout: bool, file: str, as_json: bool) -> Path | None:
    """Where the result goes; None if the file says it. Raises BitgolfError for two answers to that."""
    if stdout and out is not None and str(out) != PIPE:
        raise BitgolfError("a file and the pipe", where="-o -c", value=str(out), way_out="give one of them")
    target = Path(PIPE) if stdout else out
    if as_json and (str(target) == PIPE or (target is None and file == PIPE)):
        raise BitgolfError(
            "stdout cannot have the bytes and a JSON object", where="--json", way_out="name a file with -o"
        )
    return target


def compress(
    files: Files,
    model: CodeWith = SHIPPED,
    out: To = None,
    stdout: ToPipe = False,
    force: Force = False,
    window: Annotated[int, typer.Option(min=0, max=2**20, help="Tokens of context; 0: as in training.")] = 0,
    portable: Portable = False,
    processes: Processes = 0,
    list_only: Listed = False,
    as_json: Json = False,
) -> None:
    """Compress any file with a packed model.

    FILE.golf is written. If the model does not make a text smaller, LZMA or the plain text is stored.

    Example: bitgolf compress speech.txt -m runs/demo
    """
    if list_only:
        show_list(files, as_json)
        return
    file = one_of(files)
    target = target_of(out, stdout, file, as_json)
    facts = screen.follow(compress_file(model, file, target, window, force, portable, processes))
    if facts["out"] != PIPE:
        screen.close(facts, as_json=as_json)
