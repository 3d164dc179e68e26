"""Anyone's program as a scorer: questions and answers as JSON lines on its stdin and stdout."""

import json
import os
import queue
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Annotated, Any, Required, Self

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from bitgolf.base.errors import BitgolfError, displayed
from bitgolf.inputs.typed import STRICT
from bitgolf.probe.scorer import Rows, Scorer

LONGEST_LINE = 2**26  # bytes of an answer
TRY_SECONDS = 10.0  # for what a program may not know; it has been started by then
PROTOCOL = "docs/probe.md has the protocol"
Figure = Annotated[float, Field(allow_inf_nan=False)]


@STRICT
class Answer(TypedDict, total=False):
    """To a question about one token."""

    nats: Required[Figure]
    distribution: list[Figure]


@STRICT
class StreamAnswer(TypedDict, total=False):
    """To a question about a whole stream."""

    nats: Required[list[Figure]]
    bytes: int


class Program(Scorer):
    """A program that answers questions; what one question leaves in it must not change another.

    {"prefix": ids, "target": id, "distribution": true or false} asks for {"nats": x, "distribution": [p of
    every id]}. {"tokens": ids} asks for {"nats": [of every id after the first]}, and a list of questions for
    the list of their answers; a program need not know these two.
    """

    sum_tolerance = 1e-5
    shape_tolerance = 1e-3

    def __init__(
        self, command: Sequence[str], seconds: float, vocabulary_size: int = 0, tolerance: float = 0
    ):
        """seconds: how long an answer may take. vocabulary_size: 0 takes the length of a distribution."""
        self.command, self.seconds, self.tolerance = list(command), seconds, tolerance
        self.name = shlex.join(command)
        self._pipe: _Pipe | None = None
        try:
            self._meet(vocabulary_size)
        except BaseException:  # who gets no scorer cannot close it
            self.close()
            raise

    def _meet(self, vocabulary_size: int) -> None:
        """Ask what it knows."""
        first = self._answer({"prefix": [0], "target": 0, "distribution": True})
        self.gives_distributions = "distribution" in first
        self.vocabulary_size = vocabulary_size or len(first.get("distribution", ()))
        if self.vocabulary_size < 2:
            raise BitgolfError(
                "it gives no distribution, so the size of its vocabulary is not known",
                where=self.name,
                way_out="--vocabulary N",
            )
        self._check_length(first)
        self.knows_streams = self._knows({"tokens": [0, 1, 0]})
        self.knows_lists = self._knows([{"prefix": [0], "target": 0, "distribution": False}] * 2)

    def rows(self, tokens: np.ndarray) -> Rows:
        ids = tokens.tolist()
        if self.knows_streams:
            return Rows.in_order(self._stream(ids)["nats"], len(ids) - 1)
        answers = (self._answer(_question(ids, position, False))["nats"] for position in range(len(ids) - 1))
        return Rows.in_order(list(answers), len(ids) - 1)

    def rows_one_by_one(self, tokens: np.ndarray) -> Rows | None:
        """Every position in a question of its own, where `rows` or lists of questions take them together."""
        if not self.knows_lists:
            return None
        ids = tokens.tolist()
        questions = [_question(ids, position, False) for position in range(len(ids) - 1)]
        answers = self._ask(questions)
        return Rows.in_order([each["nats"] for each in self._typed(answers, list[Answer])], len(ids) - 1)

    def distributions(self, tokens: np.ndarray, positions: Sequence[int]) -> np.ndarray | None:
        if not self.gives_distributions:
            return None
        answers = [self._answer(_question(tokens.tolist(), position, True)) for position in positions]
        for answer in answers:
            self._check_length(answer)
        return np.array([answer["distribution"] for answer in answers], np.float64)

    def nats_after(self, tokens: np.ndarray, position: int) -> float:
        if self.knows_streams:
            return super().nats_after(tokens, position)
        return self._answer(_question(tokens.tolist(), position, False))["nats"]

    def counted_bytes(self, tokens: np.ndarray) -> int | None:
        return self._stream(tokens.tolist()).get("bytes") if self.knows_streams else None

    def close(self) -> None:
        """End the program."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _knows(self, question: Any) -> bool:
        """Whether it answers a question that it need not know; it is started again if it ends over it."""
        seconds, self.seconds = self.seconds, min(self.seconds, TRY_SECONDS)
        try:
            if isinstance(question, list):
                return len(self._typed(self._ask(question), list[Answer])) == len(question)
            self._stream(question["tokens"])
            return True
        except BitgolfError:
            self.close()
            return False
        finally:
            self.seconds = seconds

    def _answer(self, question: dict[str, Any]) -> Answer:
        return self._typed(self._ask(question), Answer)

    def _stream(self, ids: list[int]) -> StreamAnswer:
        return self._typed(self._ask({"tokens": ids}), StreamAnswer)

    def _typed(self, answer: Any, shape: Any) -> Any:
        try:
            return TypeAdapter(shape).validate_python(answer)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key, message = ".".join(map(str, first["loc"])) or "the whole", first["msg"]
            raise BitgolfError(
                f"an answer of another form: {key}: {message[:1].lower()}{message[1:]}",
                where=self.name,
                value=answer,
                way_out=PROTOCOL,
            ) from None

    def _check_length(self, answer: Answer) -> None:
        length = len(answer.get("distribution", ()))
        if self.gives_distributions and length != self.vocabulary_size:
            raise BitgolfError(
                f"a distribution over {self.vocabulary_size:,} tokens was asked for",
                where=self.name,
                value=length,
            )

    def _ask(self, question: Any) -> Any:
        if self._pipe is None:
            self._pipe = _Pipe(self.command, self.name)
        try:
            line = self._pipe.ask(json.dumps(question), self.seconds)
        except BitgolfError:
            self.close()
            raise
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            self.close()
            raise BitgolfError(
                "its answer is no JSON",
                where=self.name,
                value=line.decode(errors="replace").strip(),
                way_out="answers alone go to stdout, all else to stderr",
            ) from None


def _question(ids: list[int], position: int, distribution: bool) -> dict[str, Any]:
    return {"prefix": ids[: position + 1], "target": ids[position + 1], "distribution": distribution}


class _Pipe:
    """A running program, asked line by line; a thread reads it, so that nothing is waited for too long."""

    def __init__(self, command: list[str], name: str) -> None:
        self.name = name
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the program
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.stderr,
                start_new_session=True,  # so that it ends with all that it has started
            )
        except (OSError, ValueError) as error:
            self.stderr.close()
            text = getattr(error, "strerror", None) or str(error)
            raise BitgolfError(
                f"cannot be started: {text}", where=name, way_out="one run at a time; or -- and a command"
            ) from None
        self.lines: queue.Queue[bytes] = queue.Queue()
        assert self.process.stdout is not None
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()

    def _read(self, stream: IO[bytes]) -> None:
        with suppress(ValueError, OSError):  # closed while it is read
            while line := stream.readline(LONGEST_LINE):
                self.lines.put(line)
        self.lines.put(b"")

    def ask(self, question: str, seconds: float) -> bytes:
        """The line that answers a line. Raises BitgolfError if there is none in time."""
        assert self.process.stdin is not None
        if not self.lines.empty():
            if more := self.lines.get():
                raise BitgolfError(
                    "it answers more than it was asked", where=self.name, value=displayed(more[:99])
                )
            raise self._ended(question)  # before it was asked
        writer = threading.Thread(target=self._write, args=(question,), daemon=True)
        writer.start()  # a program that does not read must not stop us
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise BitgolfError(
                f"no answer within {seconds:g} seconds",
                where=self.name,
                value=question,
                way_out="--seconds N",
            ) from None
        if line.endswith(b"\n"):
            return line
        if line:
            raise BitgolfError("its answer is no whole line", where=self.name, value=displayed(line[:99]))
        raise self._ended(question)

    def _ended(self, question: str) -> BitgolfError:
        return BitgolfError(f"it ended{self._last_words()}", where=self.name, value=question)

    def _write(self, question: str) -> None:
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):  # it has ended, which is said where its answer is missing
            self.process.stdin.write(question.encode() + b"\n")
            self.process.stdin.flush()

    def _last_words(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").strip().splitlines()
        code = self.process.poll()
        return f" with code {code}" + (f": {lines[-1].strip()[:300]}" if lines else "")

    def close(self) -> None:
        """End it, and what it has started."""
        deadline = time.monotonic() + 1
        with suppress(OSError):
            self.process.stdin and self.process.stdin.close()
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if self.process.poll() is None:
            with suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.stderr.close()
