"""Coding and decoding of frames by one or several processes; a file keeps finished frames."""

import hashlib
import math
import multiprocessing
import struct
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch

import bitgolf
from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import NOTE, Event, finish
from bitgolf.net.backend import Backend, keep_freed_memory
from bitgolf.net.model import Model
from bitgolf.proof.arithmetic import NATIVE, PORTABLE, Arithmetic, arithmetic_here
from bitgolf.proof.finished import Finished
from bitgolf.proof.frames import Frame, Layout, decode_frame, encode_frame
from bitgolf.proof.portable import Portable
from bitgolf.run.child import leave_ctrl_c_and_end_with_parent
from bitgolf.squeeze.artifact import load_model, unpack
from bitgolf.text.tokenizer import Tokenizer

CODED = struct.Struct("<Id")  # the checksum of a frame's tokens, and their nats
LOOK_SECONDS = 1.0  # between two checks of the workers
Value = TypeVar("Value")
if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized


class Coder(NamedTuple):
    """A packed model that codes. identity: the first 8 bytes of the SHA-256 of its file, the artifact."""

    model: Model
    tokenizer: Tokenizer
    identity: bytes
    window: int
    portable: bool = False
    artifact: bytes = b""

    @property
    def first(self) -> int:
        """The token before every lane, which is not coded."""
        return max(self.tokenizer.bos, 0)

    @property
    def arithmetic(self) -> Arithmetic:
        """The arithmetic for coding; a file to decode names its own."""
        return PORTABLE if self.portable else NATIVE


class Crew:
    """How frames are processed: the number of processes, and the file of finished frames, if any."""

    def __init__(self, processes: int = 1, part: Path | None = None) -> None:
        self.processes, self.part = processes, part
        self._is_open, self._notes, self._kept = False, list[str](), Finished()

    def finished(self) -> Finished:
        """The finished frames; without a file those of one text, else of all texts."""
        if self.part is None:
            return Finished()
        if self._kept.path is None:
            self._kept = Finished(self.part)
        return self._kept

    def open(self, is_found: bool, fits: bool) -> None:
        """Called once the file was read: makes a note if its content belongs to another coding."""
        if is_found and not fits and not self._is_open and self.part is not None:
            self._notes.append(
                f"{self.part.name}: it is damaged, or of another text, model or version of bitgolf; "
                "all is coded anew"
            )
        self._is_open = True

    def follow(
        self, steps: Generator[tuple[float, float], None, Value], stage: str
    ) -> Generator[Event, None, Value]:
        """The (done, total) steps as events of a stage, together with notes."""
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            while self._notes:
                yield Event(NOTE, 1, 1, {NOTE: self._notes.pop()})
            yield Event(stage, *step, {"bytes": int(step[0])} if step[1] == math.inf else {})

    def disband(self) -> None:
        """Remove the file; its content is no longer needed."""
        if self.part is not None:
            self.part.unlink(missing_ok=True)
            self._kept = Finished()


ALONE = Crew()


class Encoding(NamedTuple):
    """A job: code the tokens of a frame."""

    tokens: np.ndarray
    layout: Layout
    arithmetic: Arithmetic

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    def content(self) -> bytes:
        """Its identity among jobs of one model, as bytes."""
        return self.tokens.astype("<u4").tobytes()

    def result(self, coder: Coder) -> Generator[int, None, bytes]:
        """The coded frame, as bytes; yields how many tokens are done."""
        frame = yield from encode_frame(coder.model, self.tokens, self.layout, self.arithmetic)
        return CODED.pack(frame.tokens_crc, frame.nats) + frame.data


class Decoding(NamedTuple):
    """A job: decode a frame with `count` tokens. where: its name in messages."""

    frame: Frame
    num_tokens: int
    layout: Layout
    where: str
    arithmetic: Arithmetic

    def content(self) -> bytes:
        """Its identity among jobs of one model, as bytes."""
        return self.frame.data

    def result(self, coder: Coder) -> Generator[int, None, bytes]:
        """The tokens, as bytes; yields how many are done."""
        arguments = self.frame, self.num_tokens, self.layout, self.where, self.arithmetic
        steps = decode_frame(coder.model, *arguments)
        return (yield from steps).astype("<u4").tobytes()


Job = Encoding | Decoding


def encoded(
    coder: Coder, jobs: Sequence[Encoding], crew: Crew, most_bytes: float = math.inf
) -> Generator[tuple[int, int], None, list[Frame]]:
    """The frames of some tokens; yields (done, to do) in tokens. Ends as soon as they take most_bytes."""
    frames = []
    for result in (yield from run_jobs(coder, jobs, crew, most_bytes + CODED.size * len(jobs))):
        crc, nats = CODED.unpack_from(result)
        frames.append(Frame(result[CODED.size :], crc, nats))
    return frames


def decoded(
    coder: Coder, jobs: Sequence[Decoding], crew: Crew
) -> Generator[tuple[int, int], None, list[np.ndarray]]:
    """The tokens of some frames, int64; yields (done, to do) in tokens."""
    results = yield from run_jobs(coder, jobs, crew)
    return [np.frombuffer(result, "<u4").astype(np.int64) for result in results]


def run_jobs(
    coder: Coder, jobs: Sequence[Job], crew: Crew, most_bytes: float = math.inf
) -> Generator[tuple[int, int], None, list[bytes]]:
    """The results of all jobs; yields (done, to do) in tokens. Ends early if results exceed most_bytes."""
    keys = [key_of(coder, job) for job in jobs]
    finished, total = crew.finished(), sum(job.num_tokens for job in jobs)
    unfinished = [(key, job) for key, job in zip(keys, jobs, strict=True) if key not in finished]
    crew.open(finished.is_found, len(unfinished) < len(jobs))
    done = total - sum(job.num_tokens for _, job in unfinished)
    processes = min(crew.processes, len(unfinished))
    if processes > 1:
        steps = _side_by_side(coder, unfinished, processes)
    else:
        steps = _one_by_one(coder, unfinished)
    if unfinished:
        yield done, total
    with closing(steps):
        spent = sum(finished.bytes_of(key) for key in set(keys) if key in finished)
        while unfinished and spent < most_bytes and (step := next(steps, None)) is not None:
            newly_done, finished_job = step
            if finished_job is not None:
                finished.add(*finished_job)
                spent += finished.bytes_of(finished_job[0])
            if newly_done:
                done += newly_done
                yield done, total
    return [finished[key] for key in keys if key in finished] if spent < most_bytes else []


Step = tuple[int, tuple[bytes, bytes] | None]  # tokens done, and key and result of a finished job


def _one_by_one(coder: Coder, todo: Sequence[tuple[bytes, Job]]) -> Generator[Step, None, None]:
    for key, job in todo:
        done_before, steps = 0, job.result(coder)
        while True:
            try:
                done = next(steps)
            except StopIteration as end:
                yield job.num_tokens - done_before, (key, end.value)
                break
            yield done - done_before, None
            done_before = done


def _side_by_side(
    coder: Coder, todo: Sequence[tuple[bytes, Job]], processes: int
) -> Generator[Step, None, None]:
    children_before = set(multiprocessing.active_children())
    spawn, told = multiprocessing.get_context("spawn"), 0
    passed = spawn.Value("q", 0)  # tokens, by all processes together
    arguments = coder.artifact, coder.window, coder.portable, passed
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_begin, initargs=arguments)
    try:
        futures = {pool.submit(_result, job): key for key, job in todo}
        while futures:
            for future in wait(futures, LOOK_SECONDS, FIRST_COMPLETED).done:
                yield 0, (futures.pop(future), future.result())
            count = passed.value
            yield count - told, None
            told = count
    except BrokenProcessPool:
        raise BitgolfError(
            "a process was killed", value=f"{processes} of them", way_out="too little memory? --processes 1"
        ) from None
    finally:
        for child in set(multiprocessing.active_children()) - children_before:
            child.terminate()
        pool.shutdown(cancel_futures=True)


_coder: Coder  # of a worker process
_passed: "Synchronized[int]"  # tokens passed by all workers


def _begin(artifact: bytes, window: int, portable: bool, passed: "Synchronized[int]") -> None:
    """In a worker: open the model, and leave Ctrl-C to the parent."""
    global _coder, _passed
    leave_ctrl_c_and_end_with_parent()
    torch.set_num_threads(1)
    bitgolf.import_core()
    _coder, _passed = coder_of(artifact, window, portable), passed


def _result(job: Job) -> bytes:
    told = 0

    def tell(done: int) -> None:
        nonlocal told
        with _passed.get_lock():
            _passed.value += done - told
        told = done

    return finish(job.result(_coder), tell)


def coder_of(artifact: bytes, window: int, portable: bool = False) -> Coder:
    """The coder of a packed model, from its bytes; in float32, which every processor has.

    window: tokens that it sees.
    """
    keep_freed_memory()
    with Portable() if portable else nullcontext():
        unpacked = unpack(artifact)
    model = load_model(unpacked, Backend())
    return Coder(model, unpacked.tokenizer, identity_of(artifact), window, portable, artifact)


def identity_of(artifact: bytes) -> bytes:
    """The first bytes of a model's SHA-256, by which a compressed file names its model."""
    return hashlib.sha256(artifact).digest()[:8]


def key_of(coder: Coder, job: Job) -> bytes:
    """A 16-byte hash of a job and of everything that its bits depend on."""
    arithmetic = arithmetic_here(job.arithmetic)
    description = f"{type(job).__name__} {job.layout} {job.num_tokens} {coder.identity.hex()} {arithmetic} "
    return hashlib.sha256(description.encode() + job.content()).digest()[:16]
