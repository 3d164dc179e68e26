"""One exception family. Every message says what is wrong, where, with which value, and the way out."""

import difflib
from collections.abc import Iterable

MOST_SHOWN = 300  # characters of a value in a message
MOST_PROBLEMS = 20  # of settings in a message


class BitgolfError(Exception):
    """Bad input or wrong use. The command line prints it as one line and exits with code 2.

    what: the fault in a few words. where: a path, file, tensor or byte offset. value: what was found.
    way_out: what the reader can do now.
    """

    def __init__(self, what: str, *, where: str = "", value: object = None, way_out: str = "") -> None:
        self.what, self.where, self.value, self.way_out = what, where, value, way_out
        text = f"{where}: {what}" if where else what
        if value is not None:
            text += f" (found {displayed(value)})"
        if way_out:
            text += f"; {way_out}"
        super().__init__(text)


class PlanError(BitgolfError):
    """Settings that are wrong alone or together; carries every problem found, not only the first."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        shown, more = self.problems[:MOST_PROBLEMS], len(self.problems) - MOST_PROBLEMS
        shown += [f"and {more:,} more"] if more > 0 else []
        super().__init__(("\n  " if len(shown) > 1 else " ").join(["invalid settings:", *shown]))


class DataError(BitgolfError):
    """A text source, dataset or passport cannot be used."""


class ShardError(DataError):
    """A token file is not what its header says."""


class TokenizerError(DataError):
    """A tokenizer cannot be read, trained or does not belong to the data."""


class CodecError(BitgolfError):
    """A compressor is missing or its stream is damaged."""


class ArtifactError(BitgolfError):
    """A packed model is refused; subclasses name the check that failed."""


class CheckpointError(BitgolfError):
    """A saved training state cannot be continued."""


class BudgetError(BitgolfError):
    """A byte budget cannot be met."""


def displayed(value: object) -> str:
    """A value as a message shows it, cut to MOST_SHOWN characters; values from files may be endless."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # of numbers with thousands of digits
        return "something endless"
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."


def nearest(word: str, options: Iterable[str]) -> str:
    """'did you mean X?' for the closest option, or the list of all options if none is close."""
    names = sorted(options)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
