"""Files of strangers: no more of one is read than is looked at, and nothing of a pipe or a device."""

from pathlib import Path

from bitgolf.base.errors import BitgolfError
from bitgolf.corpus.textfile import refuse_special

MOST_TEXT_BYTES = 2**22  # of a README, a shell script, and a text file that may be a log


def start_of(path: Path, most_bytes: int = MOST_TEXT_BYTES) -> bytes:
    """The first bytes of a file. Raises BitgolfError for what is no file or cannot be read."""
    refuse_special(path)
    try:
        with path.open("rb") as file:
            return file.read(most_bytes)
    except OSError as error:
        raise BitgolfError(f"cannot read: {error.strerror}", where=str(path)) from None


def text_at(path: Path) -> str:
    """The start of a text file, whatever cannot be decoded replaced."""
    return start_of(path).decode("utf-8", "replace")
