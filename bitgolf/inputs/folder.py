"""Run folders: locked by one process at a time, and removed if the run left nothing."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bitgolf.base.errors import BitgolfError

LOCK = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder for this process alone, made if it is not there. Raises BitgolfError where that cannot be.

    A folder that was made for it and in which nothing was written is taken away at the end.
    """
    made: list[Path] = []
    lock = FileLock(folder / LOCK)
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise BitgolfError(
            "another process is writing to this folder",
            where=str(folder),
            way_out="wait, or give another --out",
        ) from None
    except (OSError, ValueError) as error:
        _take_away(made)
        reason = getattr(error, "strerror", None) or str(error)
        raise BitgolfError(
            f"cannot be a run folder: {reason}", where=str(folder), way_out="give another --out"
        ) from None
    try:
        yield
    finally:
        if made and [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
        lock.release()
        _take_away(made)


def _take_away(made: list[Path]) -> None:
    """Remove folders that are empty, the innermost first."""
    with suppress(OSError, ValueError):
        for path in made:
            path.rmdir()
