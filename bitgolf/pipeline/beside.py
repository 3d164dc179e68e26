"""What others make of the text of a run, measured while its score is proven, which takes one core."""

from collections.abc import Generator
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from bitgolf.base.events import NOTE, Event, with_progress
from bitgolf.rivals.compressors import measure_compressors, missing_ones, quick_ones
from bitgolf.rivals.known import known_scores
from bitgolf.run.result import RunResult
from bitgolf.text.shards import Dataset

RIVAL_BYTES = 64_000_000  # of training text that compressors are given, which would else take hours
Value = TypeVar("Value")


class Beside(Generic[Value]):
    """A piece of work whose steps a thread takes from the beginning of a context; it stops at its end."""

    def __init__(self, work: Generator[Event, None, Value]) -> None:
        self._work, self._stopped = work, False
        self._taken: SimpleQueue[Event | None] = SimpleQueue()
        self._ended: Value | BaseException

    def __enter__(self) -> Self:
        Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._taken.put(next(self._work))
            self._work.close()
        except StopIteration as end:
            self._ended = end.value
        except BaseException as error:  # it is the caller's, who asks for the end
            self._ended = error
        self._taken.put(None)

    def rest(self) -> Generator[Event, None, Value]:
        """All steps, those that were taken before too; returns what the work does, or raises its error."""
        while (event := self._taken.get()) is not None:
            yield event
        if isinstance(self._ended, BaseException):
            raise self._ended
        return self._ended


def stood_beside(dataset: Dataset, budget_bytes: int) -> Generator[Event, None, RunResult]:
    """What others make of the validation text: compressors, and public models that were scored before."""
    rivals = yield from measure_compression(dataset, budget_bytes)
    known = known_scores(dataset.tokenizer.decode(dataset.val.all()))
    return {"rivals": rivals, "public_models": [dict(row) for row in known]}


def measure_compression(dataset: Dataset, budget_bytes: int) -> Generator[Event, None, list[dict[str, Any]]]:
    """The general compressors on the text of a dataset; kept beside it, since the text does not change."""
    texts = [dataset.tokenizer.decode(stream.all()) for stream in (dataset.train, dataset.val)]
    if len(texts[0]) > RIVAL_BYTES:
        texts[0] = texts[0][-RIVAL_BYTES:]
        note = f"the compressors are given the last {RIVAL_BYTES:,} bytes of the training text"
        yield Event(NOTE, 1, 1, {NOTE: note})
    if missing := missing_ones():
        names = ", ".join(one.name for one in missing)
        note = f"not installed, so not compared with: {names}; pip install 'bitgolf[rivals]'"
        yield Event(NOTE, 1, 1, {NOTE: note})
    kept_rows = dataset.folder / "rivals.json"
    steps = measure_compressors(texts[0], texts[1], budget_bytes, quick_ones(), kept_rows)
    return (yield from with_progress(steps, "rivals"))
