"""The users' files of a run: copied into its folder, and read from there with its settings.

A folder may come from anybody. Of the files in it only those are executed that this user has named on a
command line before, by their content.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event, is_first_process, mapped
from bitgolf.base.files import write_bytes
from bitgolf.base.plan import Plan
from bitgolf.run.cache import cache_folder
from bitgolf.script.own import OWN_FILES, OwnFile, load_own, own_files, parts_of, plans_in

Result = TypeVar("Result")
OWN = "own"  # of a run folder: users' files; of the cache: what of them was named


def remember(text: str) -> None:
    """Note that this user has named a file with this text, as far as anything can be written."""
    with suppress(OSError, BitgolfError):
        folder = cache_folder() / OWN
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _identity(text)).touch()


def _identity(text: str) -> str:
    return OwnFile(Path(), text).identity


def files_of(plan: Plan) -> list[OwnFile]:
    """The users' files that hold techniques of these settings."""
    return [*own_files({type(each) for each in plans_in(plan)}).values()]


def record(plan: Plan, folder: Path) -> None:
    """Keep the users' files of a run in its folder, with their names; nothing is written over."""
    for file in files_of(plan):
        if _is_recorded(plan, file, folder):
            continue
        path = folder / OWN / file.path.name
        path = path.with_stem(f"{path.stem}-{file.identity[:8]}") if path.exists() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, file.text.encode())


def recording(
    steps: Generator[Event, None, Result], plan: Plan, folder: Path
) -> Generator[Event, None, Result]:
    """The events of a run; once its folder says of which recipe it is, users' files are kept there too."""

    def keep(event: Event) -> Event:
        if (folder / "recipe.json").is_file() and is_first_process():
            record(plan, folder)
        return event

    return mapped(steps, keep)


def recorded(folder: Path) -> list[Path]:
    """The users' files kept in a folder."""
    return sorted((folder / OWN).glob("*.py"))


@contextmanager
def techniques_of(folder: Path) -> Iterator[None]:
    """Within it settings of a run folder are read: the classes of its users' files are there.

    An error about a class that is not known says what became of its file.
    """
    strangers = []
    for path in recorded(folder):
        text = path.read_text(encoding="utf-8")
        own_files = [file for file in OWN_FILES.values() if file.text == text]
        if own_files:
            load_own(own_files[-1].path, text)
        elif (cache_folder() / OWN / _identity(text)).is_file():
            load_own(path, text)
        else:
            strangers.append(path)
    try:
        yield
    except BitgolfError as error:
        if "unknown class" in str(error):
            error.add_note(_what_became(folder, strangers))
        raise


def _what_became(folder: Path, strangers: list[Path]) -> str:
    if strangers:
        return (
            f"{strangers[0]} was never named here, so it is not executed; read it, and if you trust it: "
            f"bitgolf techniques {strangers[0]}"
        )
    return f"a technique of a user's file is read from {folder / OWN}, which does not hold it"


def refuse_changed(plan: Plan, folder: Path) -> None:
    """Raise BitgolfError where the run in a folder was begun with other techniques of the same names."""
    if not recorded(folder):
        return
    for file in files_of(plan):
        if not _is_recorded(plan, file, folder):
            raise BitgolfError(
                "its techniques have changed since the run began",
                where=str(file.path),
                value=", ".join(_names(plan, file)),
                way_out=f"go on with what they were: bitgolf run {folder / 'recipe.json'} --out {folder} "
                "--resume",
            )


def _is_recorded(plan: Plan, file: OwnFile, folder: Path) -> bool:
    """Whether a folder has a file in which the techniques of these settings are the same."""
    texts = [path.read_text(encoding="utf-8") for path in recorded(folder)]
    return any(
        parts_of(text, _names(plan, file)) == parts_of(file.text, _names(plan, file)) for text in texts
    )


def _names(plan: Plan, file: OwnFile) -> list[str]:
    kinds = {type(each) for each in plans_in(plan)}
    return sorted(kind.__name__ for kind in kinds if OWN_FILES.get(kind.__module__) == file)
