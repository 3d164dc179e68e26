"""However a command ends: one line on stderr, an exit code, and nothing on stdout unless it did its work.

With --json stdout has one object all the same: {"status": "error", "error": ..., "exit_code": ...}.

Exit codes: 2 for input that cannot be used, 3 for a fault of bitgolf itself, 130 and 143 if it was stopped.
"""

import errno
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.report.screen import escaped
from bitgolf.report.trace import SHOW_TRACE, kept_trace

BAD_INPUT, OUR_FAULT, INTERRUPTED, BROKEN_PIPE = 2, 3, 130, 141
MOST_LINES, MOST_LETTERS = 40, 3000  # of a message; names and values can be endless
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # torch says it with RuntimeError
LEFT_ALONE = ("Connection closed by peer", "Connection reset by peer")  # gloo says it with RuntimeError too


class Stopped(KeyboardInterrupt):
    """A signal asked to end: Ctrl-C or SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def ended(command: Callable[[], Any], as_json: bool = False) -> int:
    """Do a command to whatever end it comes to, say so, and return its exit code.

    as_json: an error is an object on stdout too.
    """
    held = None if _is_terminal(sys.stdout) else _Held(sys.stdout)
    messages: list[str] = []
    with stop_signals():
        try:
            command()
            code = 0
        except SystemExit as end:
            # The library of the command line ends in its own way what was stopped or has no reader.
            causes = [each for each in chain(end) if isinstance(each, (KeyboardInterrupt, BrokenPipeError))]
            code = report_error(causes[0], messages) if causes else _code_of(end)
            # Of wrong use it has told the reader itself.
            formatted = (each.format_message() for each in chain(end) if hasattr(each, "format_message"))
            messages += [" ".join(text.split()) for text in formatted]
        except BaseException as error:
            code = report_error(error, messages)
        finally:
            if held:
                held.give_back()
        if held and code < BAD_INPUT:
            try:
                held.write_out()
            except OSError as error:
                code = report_error(error)
    if as_json and code >= BAD_INPUT and code != BROKEN_PIPE and not (held and held.is_out):
        problem = {"status": "error", "error": "; ".join(messages), "exit_code": code}
        with suppress(OSError, ValueError):
            print(json.dumps(problem), flush=True)
    return code


def report_error(error: BaseException, messages: list[str] | None = None) -> int:
    """Say an error in one line on stderr, keep the trace of a fault of ours, and return the exit code.

    said: takes up what was said.
    """
    line, code = in_one_line(error)
    notes = list(getattr(error, "__notes__", ()))
    if code == OUR_FAULT and not notes:
        notes = [kept_trace(error)]
    if messages is not None:
        messages.append("; ".join([line.removeprefix("error: "), *notes]))
    with suppress(OSError, ValueError):  # there may be nobody to hear it
        if os.environ.get(SHOW_TRACE):
            sys.stderr.write(escaped("".join(traceback.format_exception(error)), keep="\n"))
        if line:
            print(escaped("; ".join([line, *notes]), keep="\n"), file=sys.stderr, flush=True)
    if code == BROKEN_PIPE:
        _forget_stdout()
    return code


def in_one_line(error: BaseException) -> tuple[str, int]:
    """What happened, for a user, and the exit code. Settings with several faults take more lines."""
    text = in_few_lines(error) if isinstance(error, PlanError) else cut(" ".join(str(error).split()))
    kind = type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        return "stopped", getattr(error, "exit_code", INTERRUPTED)
    if isinstance(error, BitgolfError):
        return f"error: {text}", BAD_INPUT
    if isinstance(error, BrokenPipeError):
        return "", BROKEN_PIPE
    if (
        isinstance(error, MemoryError)
        or kind == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(phrase in text for phrase in NO_MEMORY))
    ):
        return f"error: not enough memory ({text or kind}); take a smaller model or shorter passes", BAD_INPUT
    if isinstance(error, RuntimeError) and any(phrase in text for phrase in LEFT_ALONE):
        return "error: another process of this run has ended; its own error says why", BAD_INPUT
    if isinstance(error, RecursionError):
        return f"error: something is nested too deeply to be read ({text})", BAD_INPUT
    if isinstance(error, UnicodeError):
        return f"error: text that cannot be read or written here ({text})", BAD_INPUT
    if isinstance(error, OSError):
        return f"error: {in_words(error)}", BAD_INPUT
    return f"error: a fault of bitgolf, not of yours: {kind}: {text}", OUR_FAULT


def in_few_lines(error: PlanError) -> str:
    """Every problem of some settings in a line; the first of very many."""
    lines = str(error).split("\n")
    more = [f"  and {len(lines) - MOST_LINES:,} more"] if len(lines) > MOST_LINES else []
    return "\n".join([*map(cut, lines[:MOST_LINES]), *more])


def cut(line: str) -> str:
    """A line with its middle left out where nobody would read it; what was wrong stands at either end."""
    half = MOST_LETTERS // 2
    return line if len(line) <= MOST_LETTERS else f"{line[:half]} ... {line[-half:]}"


def in_words(error: OSError) -> str:
    """What the system refused, the file first."""
    names = [
        os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))
    ]
    what = error.strerror or str(error) or type(error).__name__
    advice = "; free some space, then go on with --resume" if error.errno == errno.ENOSPC else ""
    return ": ".join([*names, what]) + advice


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def stop_signals() -> Iterator[None]:
    """Within it Ctrl-C and SIGTERM raise Stopped, so that files are closed and folders freed."""

    def stop(number: int, _frame: Any) -> None:
        raise Stopped(number)

    before = {}
    with suppress(ValueError):  # only the main thread may
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Held(io.TextIOWrapper):
    """Stands for a stdout that a program reads, which gets everything or nothing.

    is_out: some of it was given already, by a verb that goes on.
    """

    def __init__(self, real: Any) -> None:
        self.real, self.is_out, self._bytes = real, False, io.BytesIO()
        encoding = getattr(real, "encoding", None) or "utf-8"
        super().__init__(self._bytes, encoding, "backslashreplace", "", write_through=True)
        sys.stdout = self

    def give_back(self) -> None:
        """End standing for it."""
        sys.stdout = self.real

    def write_out(self) -> None:
        """Everything that was written, and not given yet."""
        content = self._bytes.getvalue()
        self._bytes.seek(0)
        self._bytes.truncate()
        if hasattr(self.real, "buffer"):
            self.real.flush()
            self.real.buffer.write(content)
        else:
            self.real.write(content.decode(errors="backslashreplace"))
        self.real.flush()


def show_now() -> None:
    """Give what was printed to its reader, as the verb goes on: it was said, whatever comes after it."""
    if isinstance(sys.stdout, _Held):
        sys.stdout.is_out = True
        sys.stdout.write_out()


def _is_terminal(stream: Any) -> bool:
    return bool(getattr(stream, "isatty", bool)())


def _code_of(end: SystemExit) -> int:
    if isinstance(end.code, int):
        return end.code
    return 0 if end.code is None else 1


def _forget_stdout() -> None:
    """Nobody reads it any more; the last flush of the interpreter must not complain about that."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
