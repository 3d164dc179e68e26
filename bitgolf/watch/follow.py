"""Follows metrics.jsonl and gives each line to a board once.

What was given stands in RUN/watch-BOARD.json, so a watch that was stopped goes on where it was.
"""

import json
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from bitgolf.base.errors import BitgolfError, nearest
from bitgolf.base.files import is_number, read_json, write_json
from bitgolf.inputs.typed import STRICT, Size, read_as
from bitgolf.public.optional import needs
from bitgolf.watch.boards import BOARDS, Board

PAUSE = 1.0  # seconds between two looks at the file
NOT_METRICS = ("step", "steps")


@STRICT
class Place(TypedDict):
    """What a board has had: the lines before this byte."""

    byte: Size


def follow(run: Path, board_name: str, once: bool = False) -> int:
    """Give a board the lines that it has not had, until the run or Ctrl-C ends it; returns how many.

    once: only those that are there. Raises BitgolfError for another board, a package that is missing, and a
    folder that is no run.
    """
    if board_name not in BOARDS:
        raise BitgolfError("no such board", value=board_name, way_out=nearest(board_name, BOARDS))
    kind = BOARDS[board_name]
    needs("watch" if board_name == "tensorboard" else board_name, kind.package)
    recipe_file, file = run / "recipe.json", run / "metrics.jsonl"
    if not recipe_file.is_file():
        raise BitgolfError("no run folder", where=str(run), way_out="expected a folder with a recipe.json")
    state_file = run / f"watch-{board_name}.json"
    start = read_as(state_file, Place)["byte"] if state_file.is_file() else 0
    board, count = kind.open(run, read_json(recipe_file)), 0
    with closing(board), suppress(KeyboardInterrupt):
        for end, row in lines(file, start, once):
            give(board, row)
            write_json(state_file, {"byte": end})
            count += 1
    return count


def give(board: Board, row: dict[str, Any]) -> None:
    """The numbers of a line."""
    numbers = {
        name: float(value) for name, value in row.items() if name not in NOT_METRICS and is_number(value)
    }
    board.log(int(row["step"]), numbers)


def lines(file: Path, start: int, once: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each whole line from byte `start` on, and where it ends; waits for more until one says the run is over.

    A file that has become shorter is read from its beginning: the run was begun anew. A line that a kill has
    cut is left out.
    """
    while True:
        file_bytes = file.stat().st_size if file.is_file() else 0
        start = start if file_bytes >= start else 0
        over = False
        if file_bytes > start:
            with file.open("rb") as stream:
                stream.seek(start)
                for line in stream:
                    if not line.endswith(b"\n"):
                        break  # it is being written
                    start += len(line)
                    if (row := read_line(line)) is not None:
                        over = row.get("status") not in (None, "running")
                        yield start, row
        elif file_bytes:
            over = ended(file, start)
        if over or once:
            return
        time.sleep(PAUSE)


def read_line(line: bytes) -> dict[str, Any] | None:
    """The object of a line of metrics; None for what is none, or has no step."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def ended(file: Path, end: int) -> bool:
    """Whether the last whole line says that the run is over."""
    last = file.read_bytes()[:end].splitlines()[-1:]
    row = read_line(last[0]) if last else None
    return row is not None and row.get("status") not in (None, "running")
