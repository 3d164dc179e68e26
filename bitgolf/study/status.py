"""Where runs stand, read from their folders alone: nothing that could run one is imported."""

import time
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from bitgolf.base.errors import BitgolfError
from bitgolf.inputs.typed import Progress, Result, Score, read_as, read_outside, typed
from bitgolf.study.receipt import arm_folders

LOST_SECONDS = 5.0  # progress older than this, with no process behind it, is of a run that was killed
UNREADABLE = "unreadable"  # the status of a run whose result.json is no result


class RunStatus(NamedTuple):
    """Where a run stands. state: waiting, running, stopped, failed, or done."""

    state: str
    stage: str = ""
    share: float = 0.0
    result: dict[str, Any] | None = None


def run_status(folder: Path) -> RunStatus:
    """Where a run stands, read from its folder alone. One with an unreadable result has failed."""
    result = folder / "result.json"
    if result.is_file():
        try:
            return _ended(result)
        except BitgolfError as error:
            return RunStatus("failed", UNREADABLE, 1.0, {"status": UNREADABLE, "error": str(error)})
    try:
        progress = read_as(folder / "progress.json", Progress)
    except BitgolfError:
        return RunStatus("stopped" if (folder / "recipe.json").is_file() else "waiting")
    alive = abs(time.time() - progress["time"]) < LOST_SECONDS or _is_locked(folder)
    return RunStatus("running" if alive else "stopped", progress["stage"], progress["share"])


def _ended(path: Path) -> RunStatus:
    """How a run ended. Raises BitgolfError for what is no result.json, or says a score and has none."""
    result = read_as(path, Result)
    good = result["status"] in ("ok", "over budget")
    if good:
        typed(result, Score, path)
    return RunStatus("done" if good else "failed", result["status"], 1.0, dict(result))


def run_folders(text: str) -> list[Path]:
    """The runs that a word names: a run folder, a folder of them, an arm as STUDY/ARM; several with commas.

    Of folders the finished runs alone, without those packed again; of an arm all that were planned. Raises
    BitgolfError for no such arm.
    """
    whole = arm_folders(text) if "," in text else []  # the name of an arm may hold commas
    return whole or [folder for part in text.split(",") for folder in _folders_of(part)]


def _folders_of(word: str) -> list[Path]:
    path = Path(word)
    if not path.exists():
        return arm_folders(word)
    if (path / "result.json").is_file():
        return [path]
    return sorted(each.parent for each in path.glob("*/result.json") if not packed_from(each.parent))


def packed_from(folder: Path) -> str:
    """The run that `bitgolf pack` made a folder of; empty for a run that was trained there."""
    try:
        result = read_outside(folder / "result.json")
    except BitgolfError:
        return ""
    return str(result.get("packed_from", "")) if isinstance(result, dict) else ""


def _is_locked(folder: Path) -> bool:
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True
