"""Whether a result can be written to its place, tested before the work begins."""

import os
from pathlib import Path

from bitgolf.base.errors import BitgolfError

WAY_OUT = "give another --out"
PAGE_START = b"<!doctype html"


def refuse_folder(path: Path, way_out: str = WAY_OUT) -> None:
    """Raise BitgolfError unless a folder can be made there, or is there and can be written to."""
    if os.path.lexists(path) and not path.is_dir():
        raise BitgolfError("a folder is to be written, and a file is there", where=str(path), way_out=way_out)
    _refuse_unwritable(path, path, way_out)


def refuse_file(path: Path, way_out: str = WAY_OUT) -> None:
    """Raise BitgolfError unless a file can be written there; one that is there may be replaced."""
    if path.is_dir():
        raise BitgolfError("a file is to be written, and a folder is there", where=str(path), way_out=way_out)
    _refuse_unwritable(path, path.parent, way_out)


def refuse_page(path: Path, way_out: str = WAY_OUT) -> None:
    """Raise BitgolfError unless a page can be written there; of what is there only a page is replaced."""
    refuse_file(path, way_out)
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        if not file.read(64).lstrip().lower().startswith(PAGE_START):
            raise BitgolfError(
                "a page is to be written, and another file is there", where=str(path), way_out=way_out
            )


def _refuse_unwritable(path: Path, folder: Path, way_out: str) -> None:
    there = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
    if not there.is_dir():
        raise BitgolfError(f"{there} is not a folder", where=str(path), way_out=way_out)
    if not os.access(there, os.W_OK | os.X_OK):
        raise BitgolfError(f"nothing can be written in {there}", where=str(path), way_out=way_out)
